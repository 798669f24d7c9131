"""Declarations of collections: what is understood, and what is refused by name."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from engines.records.fields import Field, Table
from handlers.collections import Collection, InvalidCollection, parse_collection, properties_of
from handlers.collections.patterns import PatternRefused, python_pattern
from handlers.collections.properties import Property
from handlers.collections.ready import READY


def declared(properties: dict[str, Any], *, key: str = "id", required: tuple[str, ...] = (), **more: Any) -> Collection:
    """A collection on `demo` with a text key `id` beside these properties."""
    record = {"type": "object", "properties": {"id": {"type": "string", "maxLength": 20}} | properties}
    if required:
        record["required"] = list(required)
    return parse_collection("things", {"connection": "demo", "key": key, "schema": record} | more)


def refused(name: str = "things", **document: Any) -> dict[str, str]:
    """Pointer to sentence of every fault."""
    good = {"connection": "demo", "key": "id", "schema": {"properties": {"id": {"type": "string"}}}}
    with pytest.raises(InvalidCollection) as raised:
        parse_collection(name, good | document)
    return {fault.pointer: fault.detail for fault in raised.value.faults}


def refused_property(schema: Any) -> list[str]:
    """Pointers below the property."""
    found = refused(schema={"properties": {"id": {"type": "string"}, "x": schema}})
    return sorted(pointer.removeprefix("/schema/properties/x") for pointer in found)


def field(schema: dict[str, Any], **more: Any) -> Field:
    return declared({"x": schema}, **more).table.field("x")


def rule(schema: dict[str, Any]) -> Property:
    return next(one for one in properties_of(declared({"x": schema})) if one.field.name == "x")


def test_the_ready_customers_are_the_table_that_their_users_know() -> None:
    made = parse_collection("customers", {**READY["customers"], "connection": "demo"})
    assert made.table == Table(
        "customers",
        "customer_id",
        (
            Field("customer_id", "text", required=True, max_length=50),
            Field("first_name", "text", required=True, max_length=100),
            Field("last_name", "text", required=True, max_length=100),
            Field("email", "text", required=True, max_length=255),
            Field("phone", "text", max_length=20),
            Field("address", "text"),
            Field("date_of_birth", "date"),
            Field("account_balance", "decimal", precision=15, scale=2),
            Field("created_at", "timestamp", stamped=True),
        ),
    )


def test_the_ready_courses_get_their_id_from_the_database() -> None:
    made = parse_collection("courses", {**READY["courses"], "connection": "demo"})
    assert made.table.generated and made.table.key == "id"
    assert made.table.field("price") == Field("price", "decimal", precision=10, scale=2)
    assert [one.name for one in made.table.fields if one.required] == ["id", "title"]


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "string"}, Field("x", "text")),
        ({"type": ["string", "null"], "maxLength": 5}, Field("x", "text", max_length=5)),
        ({"type": "string", "format": "email"}, Field("x", "text", max_length=254)),
        ({"type": "string", "format": "uuid"}, Field("x", "text", max_length=36)),
        ({"type": "string", "format": "date"}, Field("x", "date")),
        ({"type": "string", "format": "date-time"}, Field("x", "timestamp")),
        ({"type": "string", "format": "date-time", "default": "now"}, Field("x", "timestamp", stamped=True)),
        ({"type": "string", "format": "decimal"}, Field("x", "decimal")),
        ({"type": "integer", "default": 3}, Field("x", "integer", default=3)),
        ({"type": "number"}, Field("x", "float")),
        ({"type": "number", "format": "decimal"}, Field("x", "decimal")),
        ({"type": "number", "multipleOf": 0.01}, Field("x", "decimal", precision=15, scale=2)),
        ({"type": "number", "multipleOf": 1, "precision": 20}, Field("x", "decimal", precision=20, scale=0)),
        ({"type": "number", "precision": 34, "scale": 4}, Field("x", "decimal", precision=34, scale=4)),
        ({"type": "boolean"}, Field("x", "boolean")),
        ({"type": "object"}, Field("x", "json")),
        ({"type": "array", "title": "t", "description": "d", "examples": [1]}, Field("x", "json")),
    ],
)
def test_a_property_becomes_a_field(schema: dict[str, Any], wanted: Field) -> None:
    assert field(schema) == wanted


def test_a_column_takes_no_null_only_where_the_record_must_have_a_value() -> None:
    assert field({"type": "string"}, required=("x",)).required
    assert not field({"type": ["string", "null"]}, required=("x",)).required
    assert not field({"type": "string"}).required


def test_a_text_key_has_a_length() -> None:
    made = declared({"name": {"type": "string"}}, key="name")
    assert made.table.field("name") == Field("name", "text", required=True, max_length=255)


@pytest.mark.parametrize(
    ("schema", "pointers"),
    [
        ({}, ["/type"]),
        ({"type": "strnig"}, ["/type"]),
        ({"type": ["string", "integer"]}, ["/type"]),
        ({"type": "null"}, ["/type"]),
        ("string", [""]),
        ({"type": "string", "format": "hostname"}, ["/format"]),
        ({"type": "string", "items": {}, "$ref": "#"}, ["/$ref", "/items"]),
        ({"type": "string", "minimum": 3}, ["/minimum"]),
        ({"type": "string", "maxLength": "5"}, ["/maxLength"]),
        ({"type": "string", "maxLength": 2, "minLength": 3}, ["/minLength"]),
        ({"type": "string", "format": "date", "maxLength": 10}, ["/maxLength"]),
        ({"type": "object", "properties": {}}, ["/properties"]),
        ({"type": "number", "multipleOf": 0.05}, ["/multipleOf"]),
        ({"type": "number", "precision": 5}, [""]),
        ({"type": "number", "precision": 5, "scale": 6}, [""]),
        ({"type": "number", "precision": 35, "scale": 0}, ["", "/precision"]),
        ({"type": "integer", "default": "many"}, ["/default"]),
        ({"type": "integer", "minimum": 1, "default": 0}, ["/default"]),
        ({"type": "integer", "minimum": float("nan")}, ["/minimum"]),
        ({"type": "integer", "maximum": Decimal("1e999999")}, ["/maximum"]),
        ({"type": "integer", "enum": []}, ["/enum"]),
        ({"type": "integer", "enum": [1, "x"]}, ["/enum"]),
        ({"type": "string", "pattern": "^(a+)+$", "maxLength": 10}, ["/pattern"]),
        ({"type": "string", "pattern": "^a$"}, ["/pattern"]),
    ],
)
def test_what_would_not_be_checked_is_refused_by_name(schema: Any, pointers: list[str]) -> None:
    assert refused_property(schema) == pointers


def test_every_fault_of_a_declaration_is_told_at_once() -> None:
    assert set(refused(connection="Not A Name", columns=[], key=3)) == {"/connection", "/columns", "/key"}
    assert set(
        refused(
            key="other",
            schema={
                "type": "array",
                "properties": {"id": {"type": "string"}, "ID": {"type": "string"}, 'x"; DROP': {"type": "string"}},
                "required": ["gone"],
                "additionalProperties": True,
                "allOf": [],
            },
        )
    ) == {
        "/key",
        "/schema/type",
        "/schema/properties/ID",
        '/schema/properties/x"; DROP',
        "/schema/required/0",
        "/schema/additionalProperties",
        "/schema/allOf",
    }


@pytest.mark.parametrize("name", ["", "Things", "-x", "a b", "a;drop table a", "x" * 64, "ingest", "a\n"])
def test_a_name_that_looks_like_something_else_is_refused(name: str) -> None:
    assert refused(name) == {"": refused(name)[""]}


@pytest.mark.parametrize("table", ["a b", "a;b", 'a"b', "a.b.c", "1a", "", "x" * 64, "a\n"])
def test_a_table_is_named_plainly(table: str) -> None:
    assert set(refused(table=table)) == {"/table"}


def test_a_table_is_named_as_its_collection_unless_said_otherwise() -> None:
    document = {"connection": "demo", "key": "id", "schema": {"properties": {"id": {"type": "string"}}}}
    assert parse_collection("my-things", document).table.name == "my_things"
    assert parse_collection("2026", document).table.name == "_2026"
    assert parse_collection("x", document | {"table": "public.things"}).table.name == "public.things"


@pytest.mark.parametrize(
    ("key", "more", "pointer"),
    [
        ({"type": "number"}, {}, "/key"),
        ({"type": "object"}, {}, "/key"),
        ({"type": ["string", "null"]}, {}, "/schema/properties/id/type"),
        ({"type": "string", "default": "x"}, {}, "/schema/properties/id/default"),
        ({"type": "string", "maxLength": 256}, {}, "/schema/properties/id/maxLength"),
        ({"type": "string"}, {"generated": True}, "/generated"),
    ],
)
def test_not_everything_can_be_a_key(key: dict[str, Any], more: dict[str, Any], pointer: str) -> None:
    assert set(refused(schema={"properties": {"id": key}}, **more)) == {pointer}


def test_a_source_is_checked_and_a_string_is_short_for_one() -> None:
    assert declared({}, source="https://shop.example/customers").source == {"url": "https://shop.example/customers"}
    assert declared({}, source="crm").source == {"feed": "crm"}
    assert set(refused(source={"url": "ftp://shop.example"})) == {"/source/url"}
    assert set(refused(source={"feed": "crm", "colour": 1})) == {"/source/colour"}


def test_the_digest_changes_with_the_declaration() -> None:
    assert declared({"x": {"type": "integer"}}).digest == declared({"x": {"type": "integer"}}).digest
    assert declared({"x": {"type": "integer"}}).digest != declared({"x": {"type": "integer", "title": "X"}}).digest


def test_rules_beyond_the_column_are_kept() -> None:
    assert rule({"type": "integer", "minimum": 1, "exclusiveMaximum": 9}).refusal(9) is not None
    assert rule({"type": "number", "precision": 5, "scale": 1, "maximum": 1.1}).refusal(Decimal("1.2")) is not None
    assert rule({"type": "string", "enum": ["a", "b"]}).refusal("c") is not None
    assert rule({"type": "string", "format": "date", "const": "2026-01-31"}).value("2026-01-31") == date(2026, 1, 31)
    assert rule({"type": "string", "pattern": "^[a-z]+$", "maxLength": 9}).refusal("abc\n") is not None


@pytest.mark.parametrize(
    "pattern",
    ["(", "[", "a**", "(a|a)*", "(a+)+", "(?=a)", r"(a)\1", r"\p{L}", "a{2000}", ".*.*.*.*x", "a" * 201, "a++"],
)
def test_a_pattern_that_may_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused):
        python_pattern(pattern, 1000)


@pytest.mark.parametrize(
    "pattern", [r"^[A-Z]{2}\d+$", r"^[^@\s]+@[^@\s]+$", r"^(?:ab|cd)?[[\]()]x{1,3}$", r"^\+?[0-9 ()-]{5,20}$"]
)
def test_plain_patterns_are_understood(pattern: str) -> None:
    python_pattern(pattern, 100)

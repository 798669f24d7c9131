"""Collections: a named table with a JSON Schema, on a connection."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engines.records.fields import Table
from handlers.base import ConnectionName, Fault
from handlers.collections.properties import IGNORED, Property, Understanding, escaped

COLLECTION_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
TABLE_NAME = r"^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}$"
RESERVED = frozenset({"ingest"})
"""Names whose path in `/api/` is another door."""
MOST_FIELDS = 500
KEY_KINDS = ("text", "integer", "date")
_SCHEMA_WORDS = frozenset({"type", "properties", "required", "additionalProperties", "$schema", "$id"}) | IGNORED


@dataclass(frozen=True, slots=True)
class Collection:
    """A declared collection, its schema understood."""

    name: str
    connection: str
    table: Table
    schema: Mapping[str, Any]
    """The JSON Schema of one record, as it was declared."""
    source: Mapping[str, Any] | None
    """An ingest's `source` for those who name none."""
    digest: str
    """SHA-256 over the declaration: another one after every change."""


class InvalidCollection(ValueError):
    """A declaration that cannot be used. `faults` point into it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.pointer or '/'}: {fault.detail}" for fault in faults))
        self.faults = list(faults)


def collection_key(name: str) -> str:
    """The claim key of a collection."""
    return f"collection:{name}"


def _source(value: object) -> object:
    # imported here because handlers.sources speaks of collections itself
    from handlers.sources import SourceRequest, short_form

    if value is None:
        return None
    return SourceRequest.model_validate(short_form(value)).model_dump(mode="json", exclude_unset=True)


class CollectionDocument(BaseModel):
    """How a collection is declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    connection: ConnectionName
    table: str | None = Field(
        default=None,
        pattern=TABLE_NAME,
        description="Default: the collection's name, - as _. On PostgreSQL it may begin with `schema.`.",
    )
    key: str = Field(description="The field by which a record is known.")
    generated: bool = Field(default=False, description="The key is an integer that the database gives new records.")
    record: dict[str, Any] = Field(alias="schema", description="JSON Schema of one record.")
    source: Annotated[dict[str, Any] | None, BeforeValidator(_source)] = Field(
        default=None, description="What an ingest reads that names no source: an object, a URL, or a feed's name."
    )
    description: str | None = Field(default=None, max_length=10_000)


def parse_collection(name: str, document: Mapping[str, Any]) -> Collection:
    """Understand a declaration. Raises `InvalidCollection` with every fault; its pointers go into the document.

    Of JSON Schema it takes: `type` (string, integer, number, boolean, object, array, one of them or null), `format`
    (email, uri, uuid, date, date-time, decimal), `maxLength`, `minLength`, `pattern`, `minimum`, `maximum`,
    `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf` (powers of ten), `enum`, `const`, `default` (for a date-time
    also "now": the time of the write), `required`, and for exact decimals the additions `precision` and `scale`.
    Titles, descriptions, examples are for people; every other word is a fault, because nothing would check it.
    """
    faults: list[Fault] = []
    if not COLLECTION_NAME.match(name):
        faults.append(Fault("", "A collection's name holds a-z, 0-9, _ and -, at most 63, and begins with a-z or 0-9."))
    elif name in RESERVED:
        faults.append(Fault("", f"No collection can be named {name!r}: /api/{name} is something else."))
    try:
        parsed = CollectionDocument.model_validate(dict(document))
    except ValidationError as error:
        raise InvalidCollection([*faults, *_document_faults(error)]) from None
    properties, found = understood(parsed.record, parsed.key, generated=parsed.generated)
    faults += found
    table_name = parsed.table or re.sub(r"^(?=[0-9])", "_", name.replace("-", "_"))[:63]
    if faults:
        raise InvalidCollection(faults)
    table = Table(table_name, parsed.key, tuple(one.field for one in properties), parsed.generated)
    digest = hashlib.sha256(json.dumps([name, document], sort_keys=True, default=str).encode()).hexdigest()
    return Collection(name, parsed.connection, table, parsed.record, parsed.source, digest)


def properties_of(collection: Collection) -> tuple[Property, ...]:
    """The rules of its fields, in the table's order."""
    table = collection.table
    return understood(collection.schema, table.key, generated=table.generated)[0]


def understood(schema: Mapping[str, Any], key: str, *, generated: bool) -> tuple[tuple[Property, ...], list[Fault]]:
    """The properties of a record's schema, and what is wrong with it (pointers begin with `/schema`, or `/key`)."""
    faults = _outer_faults(schema)
    declared = schema.get("properties")
    if not isinstance(declared, Mapping) or not 1 <= len(declared) <= MOST_FIELDS:
        return (), [*faults, Fault("/schema/properties", f"Expected an object with 1 to {MOST_FIELDS} fields.")]
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        return (), [*faults, Fault("/schema/required", "Expected an array of names of fields.")]
    for position, one in enumerate(required):
        if one not in declared:
            faults.append(Fault(f"/schema/required/{position}", f"There is no field {one!r} among the properties."))
    reader = Understanding(frozenset(required) | {key}, key)
    found = [reader.property(one, declared[one], f"/schema/properties/{escaped(one)}") for one in declared]
    faults += reader.faults + _alike(declared)
    properties = tuple(one for one in found if one is not None)
    faults += _key_faults(declared, properties, key, generated=generated)
    return properties, faults


def _outer_faults(schema: Mapping[str, Any]) -> list[Fault]:
    faults = [
        Fault(f"/schema/{escaped(word)}", f"{word!r} says nothing that FlexDB checks; leave it out.")
        for word in schema
        if word not in _SCHEMA_WORDS
    ]
    if schema.get("type", "object") != "object":
        faults.append(Fault("/schema/type", 'A record is an object: give "object", or nothing.'))
    if schema.get("additionalProperties", False) is not False:
        faults.append(
            Fault(
                "/schema/additionalProperties", "Records have only the fields that are named: give false, or nothing."
            )
        )
    return faults


def _alike(declared: Mapping[str, Any]) -> list[Fault]:
    """Databases do not tell names apart that differ in upper and lower case only."""
    seen: dict[str, str] = {}
    faults = []
    for one in declared:
        other = seen.setdefault(one.lower(), one)
        if other != one:
            faults.append(Fault(f"/schema/properties/{escaped(one)}", f"Databases take this for {other!r}; rename it."))
    return faults


def _key_faults(
    declared: Mapping[str, Any], properties: Sequence[Property], key: str, *, generated: bool
) -> list[Fault]:
    if key not in declared:
        return [Fault("/key", "There is no such field among the schema's properties.")]
    for one in properties:
        if one.field.name != key:
            continue
        if one.field.kind not in KEY_KINDS:
            return [Fault("/key", f"A key is a {', '.join(KEY_KINDS)}; this field is {one.field.kind}.")]
        if generated and one.field.kind != "integer":
            return [Fault("/generated", "Only an integer key can be generated.")]
        if one.has_default or one.field.stamped:
            return [Fault(f"/schema/properties/{escaped(key)}/default", "A key has no default.")]
        if not one.field.required:
            return [Fault(f"/schema/properties/{escaped(key)}/type", "A key cannot be null.")]
    return []


def _document_faults(error: ValidationError) -> list[Fault]:
    """Where pydantic found something, as JSON pointers; what it found, without the values."""
    faults = []
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        pointer = "".join(f"/{escaped(str(step))}" for step in one["loc"])
        faults.append(Fault(pointer, one["msg"]))
    return faults

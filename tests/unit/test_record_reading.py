"""Records from JSON to rows and back: exact, with a reason for everything that does not fit."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.collections import parse_collection
from handlers.collections.reading import RecordInvalid, RecordReader, decode
from handlers.collections.ready import READY

EVERYTHING: dict[str, Any] = {
    "id": {"type": "integer"},
    "name": {"type": "string", "maxLength": 5},
    "price": {"type": "number", "precision": 6, "scale": 2},
    "large": {"type": "string", "precision": 34, "scale": 4, "format": "decimal"},
    "any": {"type": "number", "format": "decimal"},
    "ratio": {"type": "number"},
    "open": {"type": "boolean", "default": False},
    "day": {"type": "string", "format": "date"},
    "at": {"type": "string", "format": "date-time"},
    "more": {"type": "object"},
    "kind": {"type": "string", "enum": ["a", "b"]},
    "mail": {"type": "string", "format": "email"},
    "count": {"type": "integer", "minimum": 0, "maximum": 9},
}


def reader_of(properties: dict[str, Any], **document: Any) -> RecordReader:
    base = {"connection": "demo", "key": "id", "schema": {"properties": properties}}
    return RecordReader(parse_collection("things", base | document))


def customers() -> RecordReader:
    return RecordReader(parse_collection("customers", {**READY["customers"], "connection": "demo"}))


THINGS = reader_of(EVERYTHING)


def value(name: str, given: Any) -> Any:
    """What becomes of one field, by both ways; they must agree."""
    position = list(EVERYTHING).index(name)
    row = THINGS.record({"id": 1, name: given})
    page = THINGS.read([json.dumps({"id": 1, name: given}).encode()])
    assert repr(page.rows) == repr([row]) and page.rejected == []
    return row[position]


def fault(name: str, given: Any) -> str:
    with pytest.raises(RecordInvalid) as raised:
        THINGS.record({"id": 1, name: given})
    page = THINGS.read([msgspec.json.encode({"id": 1, name: given})])
    assert page.rows == [] and [one.pointer for _, _, faults in page.rejected for one in faults] == [f"/{name}"]
    assert [one.pointer for one in raised.value.faults] == [f"/{name}"]
    return raised.value.faults[0].detail


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("name", "Müüü\U0001f600", "Müüü\U0001f600"),
        ("count", 3.0, 3),
        ("count", "3", 3),
        ("price", 1234.5, Decimal("1234.50")),
        ("price", "1234.5000", Decimal("1234.50")),
        ("price", -0.0, Decimal("0.00")),
        ("price", 7, Decimal("7.00")),
        ("large", "123456789012345678901234567890.1234", Decimal("123456789012345678901234567890.1234")),
        ("any", "1e3", Decimal(1000)),
        ("any", "0.1000", Decimal("0.1000")),
        ("ratio", 1, 1.0),
        ("open", True, True),
        ("day", "0001-01-01", date(1, 1, 1)),
        ("at", "2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("at", "2026-01-31T12:00:00.25", datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=UTC)),
        ("more", {"a": [1, {"b": None}]}, '{"a":[1,{"b":null}]}'),
        ("kind", "a", "a"),
        ("mail", "ann@example.com", "ann@example.com"),
        ("name", None, None),
    ],
)
def test_a_value_that_fits_is_taken_by_both_ways(name: str, given: Any, wanted: Any) -> None:
    found = value(name, given)
    assert (found, type(found), str(found)) == (wanted, type(wanted), str(wanted))


@pytest.mark.parametrize(
    ("name", "given", "word"),
    [
        ("name", "abcdef", "6 characters"),
        ("name", "a\0b", "U+0000"),
        ("name", 5, "a string"),
        ("count", 1.5, "an integer"),
        ("count", True, "an integer"),
        ("count", 10, "at most 9"),
        ("id", 2**63, "64 bits"),
        ("price", 0.125, "not rounded"),
        ("price", "10000", "before the point"),
        ("price", 12345678901234567, "before the point"),
        ("price", "ten", "decimal number"),
        ("price", True, "decimal number"),
        ("price", "NaN", "decimal number"),
        ("any", "1e40", "34 digits"),
        ("any", "1e-40", "34 digits"),
        ("ratio", "1.5", "a number"),
        ("open", 1, "true or false"),
        ("day", "0000-01-01", "years 1 to 9999"),
        ("day", "2026-02-30", "date"),
        ("at", "2026-01-31", "a time"),
        ("at", "0001-01-01T00:00:00+05:00", "years 1 to 9999"),
        ("more", "text", "object or an array"),
        ("more", {"a": "\0"}, "U+0000"),
        ("kind", "c", "none of those"),
        ("mail", "ann", "e-mail"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_place(name: str, given: Any, word: str) -> None:
    assert word in fault(name, given)


def test_a_float_is_taken_for_a_decimal_only_while_no_digit_can_be_lost() -> None:
    reader = reader_of({"id": {"type": "integer"}, "x": {"type": "number", "precision": 34, "scale": 6}})
    assert reader.record({"id": 1, "x": 123456789.123456})[1] == Decimal("123456789.123456")
    for lossy in (1234567890.1234567, 1e15):
        with pytest.raises(RecordInvalid, match="as a string"):
            reader.record({"id": 1, "x": lossy})
    exact = decode(b'{"id": 1, "x": 1234567890123456789012345678.123456}')
    assert reader.record(exact)[1] == Decimal("1234567890123456789012345678.123456")


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(RecordInvalid, match="surrogate"):
        THINGS.record({"id": 1, "name": "\ud800"})


def test_all_faults_of_a_record_are_told_at_once() -> None:
    with pytest.raises(RecordInvalid) as raised:
        customers().record({"customer_id": "", "first_name": 1, "e/mail": "x", "email": None})
    assert {one.pointer for one in raised.value.faults} == {
        "/customer_id",
        "/first_name",
        "/last_name",
        "/email",
        "/e~1mail",
    }


@pytest.mark.parametrize("record", [None, 3, "x", [], [{}]])
def test_a_record_is_an_object(record: Any) -> None:
    with pytest.raises(RecordInvalid, match="Expected an object"):
        THINGS.record(record)


def test_defaults_stand_in_for_what_is_not_there() -> None:
    assert value("open", None) is False
    assert THINGS.record({"id": 1})[6] is False
    strict = reader_of({"id": {"type": "integer"}, "x": {"type": ["integer", "null"], "default": 3}})
    assert strict.record({"id": 1}) == (1, 3) and strict.record({"id": 1, "x": None}) == (1, None)
    assert strict.read([b'{"id":1}', b'{"id":1,"x":null}']).rows == [(1, 3), (1, None)]


def test_a_required_field_that_may_be_null_must_still_be_there() -> None:
    reader = reader_of(
        {"id": {"type": "integer"}, "x": {"type": ["integer", "null"]}},
        schema={
            "properties": {"id": {"type": "integer"}, "x": {"type": ["integer", "null"]}},
            "required": ["x"],
        },
    )
    assert reader.record({"id": 1, "x": None}) == (1, None)
    page = reader.read([b'{"id":1,"x":null}', b'{"id":2}'])
    assert page.rows == [(1, None)] and page.rejected[0][2][0].pointer == "/x"


def test_a_generated_key_may_be_left_out() -> None:
    reader = RecordReader(parse_collection("courses", {**READY["courses"], "connection": "demo"}))
    assert reader.record({"title": "Python"})[0] is None
    assert reader.read([b'{"title":"Python"}', b'{"id":7,"title":"SQL"}']).rows[1][0] == 7


GOOD = b'{"customer_id":"C1","first_name":"Ann","last_name":"Lee","email":"a@b.c","account_balance":12.5}'


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"12",
        GOOD[:-1],
        GOOD + b",{}",
        GOOD.replace(b"12.5", b"NaN"),
        GOOD.replace(b"12.5", b'"NaN"'),
        GOOD.replace(b"12.5", b'"Infinity"'),
        GOOD.replace(b"12.5", b"1e999999999999"),
        GOOD.replace(b"12.5", b"1" * 5000),
        GOOD.replace(b"12.5", b"[" * 5000 + b"]" * 5000),
        GOOD.replace(b"Ann", b"\xff"),
        GOOD.replace(b"Ann", rb"\ud800"),
        GOOD.replace(b"Ann", rb"\u0000"),
        GOOD.replace(b'"Ann"', b"null"),
        GOOD.replace(b'"C1"', b'""'),
        GOOD.replace(b"first_name", b"firstname"),
    ],
)
def test_one_bad_item_is_rejected_and_its_neighbours_are_taken(bad: bytes) -> None:
    page = customers().read([GOOD, bad, GOOD.replace(b"C1", b"C2")])
    assert [row[0] for row in page.rows] == ["C1", "C2"] and page.positions == [0, 2]
    ((position, text, faults),) = page.rejected
    assert position == 1 and faults and text == bad.decode(errors="replace")[:65536]


def test_what_the_collection_does_not_know_is_counted_on_a_page() -> None:
    drifted = GOOD.replace(b"{", b'{"loyalty":{"a":1},"x":1,', 1)
    page = customers().read([GOOD, drifted, drifted.replace(b'"x":1,', b""), b'{"y":1}'])
    assert page.unknown == {"loyalty": 2, "x": 1} and len(page.rows) == 3 and len(page.rejected) == 1
    only_drifted = customers().read([drifted, GOOD, drifted])
    assert (
        only_drifted.unknown == {"loyalty": 2, "x": 2} and only_drifted.rows == [customers().record(decode(GOOD))] * 3
    )


def test_a_backslash_before_u0000_is_only_text() -> None:
    page = customers().read([GOOD.replace(b"Ann", rb"\\u0000")])
    assert page.rows == [] or page.rows[0][1] == r"\u0000"
    assert customers().record(json.loads(GOOD.replace(b"Ann", rb"\\u0000")))[1] == r"\u0000"


def test_rejected_text_is_cut() -> None:
    page = customers().read([b'{"first_name":"' + b"x" * 100_000 + b'"}'])
    assert len(page.rejected[0][1]) == 65536


def test_values_are_shown_as_they_are_promised() -> None:
    row = THINGS.record(
        decode(
            b'{"id": "9007199254740993", "price": 1234.5, "large": "1.5", "any": 1.10, "at": "2026-01-31T12:00:00.25",'
            b'"day": "0099-12-31", "more": {"b": 1.0, "a": null}}'
        )
    )
    shown = THINGS.encode_one(row)
    assert shown == (
        b'{"id":"9007199254740993","name":null,"price":1234.50,"large":"1.5000","any":"1.10","ratio":null,'
        b'"open":false,"day":"0099-12-31","at":"2026-01-31T12:00:00.250000Z","more":{"b":1.0,"a":null},'
        b'"kind":null,"mail":null,"count":null}'
    )
    assert THINGS.encode([row, row]) == b"[" + shown + b"," + shown + b"]"
    assert THINGS.encode_lines([row, row]) == (shown + b"\n") * 2
    assert msgspec.json.Encoder(decimal_format="number").encode(THINGS.shown(row)) == shown


def test_the_tag_is_that_of_the_record_not_of_its_json_text() -> None:
    one, same, other = (
        THINGS.record({"id": 1, "more": more}) for more in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3})
    )
    assert THINGS.etag(one) == THINGS.etag(same) != THINGS.etag(other)
    assert THINGS.etag(one).startswith('"') and len(THINGS.etag(one)) == 34


def test_keys_and_values_come_from_text() -> None:
    assert THINGS.key_of("7") == 7 and THINGS.key_text(THINGS.record({"id": 7})) == "7"
    assert THINGS.value_of("open", "true") is True and THINGS.value_of("ratio", "1e2") == 100.0
    assert THINGS.value_of("at", "2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert THINGS.value_of("at", "2026-01-31T02:00:00 02:00") == datetime(2026, 1, 31, tzinfo=UTC)
    for name, text in {"id": "x", "gone": "1", "open": "yes", "more": "{}", "day": "today", "name": "a\0"}.items():
        with pytest.raises(RecordInvalid) as raised:
            THINGS.value_of(name, text)
        assert raised.value.faults[0].pointer == f"/{name}"


def test_a_merge_patch_reaches_into_fields_that_hold_json() -> None:
    row = THINGS.record({"id": 1, "name": "a", "open": True, "more": {"a": {"b": 1, "c": 2}, "d": 3}})
    patched = THINGS.merged(row, {"name": None, "open": None, "more": {"a": {"b": None}, "e": 4}})
    assert dict(zip(EVERYTHING, patched, strict=True)) == {
        **dict(zip(EVERYTHING, row, strict=True)),
        "name": None,
        "open": False,
        "more": '{"a":{"c":2},"d":3,"e":4}',
    }
    assert THINGS.merged(row, {"more": None})[9] is None


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
_records = st.fixed_dictionaries(
    {"id": st.integers(-(2**63), 2**63 - 1)},
    optional={
        "name": _texts,
        "price": st.decimals(-9999, 9999, places=2),
        "large": st.decimals(-(10**29), 10**29, places=4, allow_nan=False),
        "ratio": st.floats(allow_nan=False, allow_infinity=False),
        "day": st.dates(),
        "at": st.datetimes(timezones=st.just(UTC)),
        "more": st.dictionaries(_texts, st.integers() | _texts | st.none(), max_size=3),
        "open": st.booleans(),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_records, min_size=1, max_size=3))
def test_what_is_shown_reads_back_as_the_same_rows(records: list[dict[str, Any]]) -> None:
    items = [msgspec.json.Encoder(decimal_format="number").encode(record) for record in records]
    first = THINGS.read(items)
    assert not first.rejected and not first.unknown
    assert first.rows == [THINGS.record(decode(item)) for item in items]
    shown = msgspec.json.decode(THINGS.encode(first.rows), type=list[msgspec.Raw])
    assert THINGS.read(shown).rows == first.rows
    assert [THINGS.etag(row) for row in THINGS.read(shown).rows] == [THINGS.etag(row) for row in first.rows]
    for record, row in zip(records, first.rows, strict=True):
        assert row[1:4] == (record.get("name"), record.get("price"), record.get("large"))
        assert (row[7], row[8]) == (record.get("day"), record.get("at"))

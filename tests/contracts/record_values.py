"""Values of every kind that databases are known to change, and what it means that they came back exactly."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from engines.records.fields import Field, Row

KINDS: tuple[Field, ...] = (
    Field("a_text", "text"),
    Field("an_integer", "integer"),
    Field("a_decimal", "decimal", precision=34, scale=10),
    Field("a_float", "float"),
    Field("a_boolean", "boolean"),
    Field("a_date", "date"),
    Field("a_timestamp", "timestamp"),
    Field("a_json", "json"),
)
TEXTS = (
    "",
    "plain",
    " leading and trailing  ",
    'it\'s "quoted" `so` [and so] $here {x} %s %(a)s ? :b',
    "tab\tnewline\nreturn\rboth\r\n",
    "back\\slash \\N \\. \\n \\\\",
    "\\N",
    "\\.",
    "NULL",
    "1234",
    "Grüße 日本 \U0001f600\U0001f468\u200d\U0001f469",
    "cafe\u0301 café",
    "\x01\x1f\x7f\x80\ufffd\uffff\U0010ffff\u2028",
    "x" * 70_000,
)
INTEGERS = (0, 1, -1, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63))
DECIMALS = tuple(
    Decimal(digits)
    for digits in (
        "0.0000000000",
        "1.5000000000",
        "-1.5000000000",
        "0.0000000001",
        "-0.0000000001",
        "123456789012345678901234.0123456789",
        "-999999999999999999999999.9999999999",
        "999999999999999999999999.9999999999",
        "9007199254740993.0000000000",
    )
)
FLOATS = (0.0, 0.1, -2.5, 1 / 3, 1e-7, 5e-324, 1.7976931348623157e308, -1e22, 123456789.12345679)
DATES = tuple(date.fromisoformat(day) for day in ("0001-01-01", "0099-12-31", "1582-10-10", "2024-02-29", "9999-12-31"))
TIMESTAMPS = (
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 3, 31, 1, 30, 0, 1, tzinfo=UTC),
    datetime(2024, 10, 27, 0, 30, tzinfo=UTC),
    datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)
JSONS = (
    "{}",
    "[]",
    '{"a": [1, {"b": null, "": "x"}, [[]], true], "ü": "\\"Grüße\\" \\\\ \\n 日本 \U0001f600"}',
    "[0.1, 1e-7, 9007199254740993, 12345678901234567890, -9223372036854775808]",
    '{"$set": 1, "a.b": {"$oid": "0123456789abcdef01234567"}, "_id": 5}',
)
VALUES = (TEXTS, INTEGERS, DECIMALS, FLOATS, (True, False), DATES, TIMESTAMPS, JSONS)


def all_values() -> list[Row]:
    """Every value of every kind, and NULL, with a key of its own."""
    longest = max(len(values) for values in VALUES)
    rows = [tuple(values[n % len(values)] for values in VALUES) for n in range(longest)]
    return [(n, *row) for n, row in enumerate([*rows, (None,) * len(VALUES)])]


def exactly(rows: list[Row]) -> list[tuple[Any, ...]]:
    """With types, digits of decimals, zones, and JSON as what it says."""

    def shown(field: Field, value: Any) -> Any:
        if value is None:
            return None
        if field.kind == "json":
            return json.loads(value, parse_float=Decimal)
        if field.kind == "timestamp":
            return (type(value), value.isoformat())
        return (type(value), value.as_tuple() if field.kind == "decimal" else value)

    fields = (Field("id", "integer"), *KINDS)
    return [tuple(shown(field, value) for field, value in zip(fields, row, strict=True)) for row in rows]


SAMPLES: dict[str, tuple[Any, ...]] = {
    "a_text": ("a", "B", "b", "b ", "", "10", "9", "é", "\uffff", "\U0001f600", "a"),
    "an_integer": (0, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 10, 9),
    "a_decimal": DECIMALS,
    "a_float": FLOATS,
    "a_boolean": (True, False),
    "a_date": DATES,
    "a_timestamp": TIMESTAMPS,
}

"""Exports: exact, piece by piece, readable by others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from engines.errors import UnsupportedOperation
from engines.records.fields import Row
from handlers.collections import parse_collection
from handlers.collections.exporting import ROW_GROUP, exported
from handlers.collections.reading import RecordReader

READER = RecordReader(
    parse_collection(
        "things",
        {
            "connection": "demo",
            "key": "id",
            "schema": {
                "properties": {
                    "id": {"type": "integer"},
                    "name": {"type": ["string", "null"]},
                    "price": {"type": "number", "precision": 20, "scale": 2},
                    "any": {"type": "number", "format": "decimal"},
                    "ratio": {"type": "number"},
                    "open": {"type": "boolean"},
                    "day": {"type": "string", "format": "date"},
                    "at": {"type": "string", "format": "date-time"},
                    "more": {"type": "object"},
                }
            },
        },
    )
)
FULL = (
    2**53,
    'a "b", c\r\nd',
    Decimal("123456789012345678.90"),
    Decimal("0.1000"),
    0.1,
    True,
    date(1, 2, 3),
    datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC),
    '{"a":1}',
)
EMPTY = (1, None, None, None, None, None, None, None, None)


def written(form: str, *batches: list[Row]) -> bytes:
    return b"".join(exported(READER, batches, form).blocks)


def test_csv_is_what_others_read() -> None:
    text = written("csv", [FULL], [], [EMPTY, (2, "", *EMPTY[2:]), (3, "=1+1", *EMPTY[2:])]).decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["id", "name", "price", "any", "ratio", "open", "day", "at", "more"]
    assert rows[1] == [
        "9007199254740992",
        'a "b", c\r\nd',
        "123456789012345678.90",
        "0.1000",
        "0.1",
        "true",
        "0001-02-03",
        "2026-01-31T12:00:00.000005Z",
        '{"a":1}',
    ]
    assert [row[1] for row in rows[2:]] == ["", "", "=1+1"]
    assert text.splitlines(keepends=True)[-3:-1] == ["1,,,,,,,,\r\n", '2,"",,,,,,,\r\n']  # NULL is not the empty text


def test_ndjson_is_one_record_a_line() -> None:
    lines = written("ndjson", [FULL, EMPTY]).splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["9007199254740992", 1]
    assert written("ndjson") == b""


def test_a_csv_of_nothing_has_its_header() -> None:
    assert written("csv") == b"id,name,price,any,ratio,open,day,at,more\r\n"


def test_parquet_has_exact_types() -> None:
    pa = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(written("parquet", [FULL], [EMPTY])))
    wanted = {
        "id": pa.int64(),
        "name": pa.string(),
        "price": pa.decimal128(20, 2),
        "any": pa.string(),
        "ratio": pa.float64(),
        "open": pa.bool_(),
        "day": pa.date32(),
        "at": pa.timestamp("us", tz="UTC"),
        "more": pa.string(),
    }
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == wanted
    assert not table.schema.field("id").nullable and table.schema.field("name").nullable
    first, second = table.to_pylist()
    assert tuple(first.values()) == (*FULL[:3], "0.1000", *FULL[4:]) and tuple(second.values()) == EMPTY
    assert parquet.read_table(io.BytesIO(written("parquet"))).num_rows == 0


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet"])
def test_an_export_reads_on_only_as_it_is_written_out(form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow.parquet")
    taken = 0

    def batches() -> Iterator[list[Row]]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield [(number * 10_000 + one, *EMPTY[1:]) for one in range(10_000)]

    export = exported(READER, batches(), form)
    blocks = iter(export.blocks)
    while sum(map(len, (next(blocks), next(blocks)))) == 0:
        pass
    assert taken * 10_000 <= 3 * ROW_GROUP


def test_a_form_there_is_not_is_refused() -> None:
    with pytest.raises(UnsupportedOperation):
        exported(READER, [], "xlsx")

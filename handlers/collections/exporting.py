"""Records written out as CSV, NDJSON or Parquet, piece by piece.

What a spreadsheet program may take for a formula (text that begins with =, +, - or @) is written as it is: an export
holds the data exactly. Open files from strangers' data as text, or import them by a program that knows no formulas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from engines.errors import UnsupportedOperation
from engines.records.fields import Field, Row, Value
from handlers.collections.reading import RecordReader
from handlers.collections.values import text_of

FORMS = ("csv", "ndjson", "parquet")
ROW_GROUP = 20_000
_QUOTED = re.compile(r'[",\r\n]')


@dataclass(frozen=True, slots=True)
class Export:
    """A file in the making. `blocks` is read once, in a thread; close it (`.close()`) when you stop before its end."""

    media_type: str
    filename: str
    blocks: Iterator[bytes]


def exported(reader: RecordReader, batches: Iterable[Sequence[Row]], form: str) -> Export:
    """The records as a file of that form; no more than one batch (Parquet: one row group) is in memory.

    Raises `UnsupportedOperation` for a form there is not, or whose library is not installed.
    """
    name = reader.collection.name
    if form == "csv":
        return Export("text/csv; charset=utf-8; header=present", f"{name}.csv", _csv(reader, batches))
    if form == "ndjson":
        lines = (reader.encode_lines(rows) for rows in batches if rows)
        return Export("application/x-ndjson", f"{name}.ndjson", lines)
    if form == "parquet":
        return Export("application/vnd.apache.parquet", f"{name}.parquet", _parquet(reader, batches, _pyarrow()))
    raise UnsupportedOperation(f"There is no export as {form[:20]!r}.", hint=f"There are: {', '.join(FORMS)}.")


# ---------------------------------------------------------------- CSV (RFC 4180)


def _csv(reader: RecordReader, batches: Iterable[Sequence[Row]]) -> Iterator[bytes]:
    """NULL is nothing between two commas, an empty text is ""."""
    fields = reader.collection.table.fields
    yield (",".join(field.name for field in fields) + "\r\n").encode()
    cells = [_cells(field) for field in fields]
    for rows in batches:
        if rows:
            columns = [cell(column) for cell, column in zip(cells, zip(*rows, strict=True), strict=True)]
            lines = map(",".join, zip(*columns, strict=True))
            yield ("\r\n".join(lines) + "\r\n").encode()


def _cells(field: Field) -> Callable[[Sequence[Value]], list[str]]:
    if field.kind in ("text", "json"):
        return lambda column: ["" if text is None else _quoted(text) for text in column]
    return lambda column: ["" if value is None else text_of(field, value) for value in column]


def _quoted(text: str) -> str:
    if text and not _QUOTED.search(text):
        return text
    return '"' + text.replace('"', '""') + '"'


# ---------------------------------------------------------------- Parquet


def _pyarrow() -> Any:
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise UnsupportedOperation(
            "Exports as Parquet need the package pyarrow, which is not installed here.",
            hint="pip install 'flexible-database[parquet]', or export as csv or ndjson.",
        ) from None


class _Pieces:
    """A file that hands over what is written to it."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._written += len(piece)
        return len(piece)

    def taken(self) -> bytes:
        """What was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _parquet(reader: RecordReader, batches: Iterable[Sequence[Row]], pa: Any) -> Iterator[bytes]:
    fields = reader.collection.table.fields
    schema = pa.schema([pa.field(one.name, _arrow_type(one, pa), nullable=not one.required) for one in fields])
    file = _Pieces()
    with pa.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _row_groups(batches):
            columns = [_arrow_column(one, values) for one, values in zip(fields, zip(*rows, strict=True), strict=True)]
            arrays = [pa.array(values, type=one.type) for values, one in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            yield file.taken()
    yield file.taken()


def _row_groups(batches: Iterable[Sequence[Row]]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for rows in batches:
        group.extend(rows)
        if len(group) >= ROW_GROUP:
            yield group
            group = []
    if group:
        yield group


def _arrow_type(field: Field, pa: Any) -> Any:
    if field.kind == "decimal":
        if field.precision is None:
            return pa.string()  # a column of Parquet has one scale, these numbers have many
        return pa.decimal128(field.precision, field.scale)
    types = {
        "integer": pa.int64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    return types.get(field.kind, pa.string())


def _arrow_column(field: Field, values: Sequence[Value]) -> Sequence[Value]:
    if field.kind == "decimal" and field.precision is None:
        return [None if value is None else text_of(field, value) for value in values]
    return values

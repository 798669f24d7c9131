"""Rows shown as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import starmap
from typing import Any

import msgspec

from engines.records.fields import Row, Table, Value
from handlers.collections.values import canonical_json, shower

_ENCODER = msgspec.json.Encoder(decimal_format="number")


class RowShower:
    """Encodes rows of one table. Dates and times are text already in msgspec's own form: RFC 3339, in UTC."""

    def __init__(self, table: Table) -> None:
        self._names = table.names
        self._json = [position for position, field in enumerate(table.fields) if field.kind == "json"]
        changed = [(position, shower(field)) for position, field in enumerate(table.fields)]
        self._changed = [(position, show) for position, show in changed if show is not None]
        # a struct per table, because msgspec writes structs twice as fast as dictionaries
        self._struct = msgspec.defstruct(
            "Record",
            [(f"f{position}", Any) for position in range(len(self._names))],
            rename={f"f{position}": name for position, name in enumerate(self._names)},
            gc=False,
        )

    def shown(self, row: Row) -> dict[str, Any]:
        return dict(zip(self._names, self._ready(row), strict=True))

    def encode(self, rows: Sequence[Row]) -> bytes:
        return _ENCODER.encode(self._structs(rows))

    def encode_one(self, row: Row) -> bytes:
        return _ENCODER.encode(self._struct(*self._ready(row)))

    def encode_lines(self, rows: Sequence[Row]) -> bytes:
        return _ENCODER.encode_lines(self._structs(rows))

    def canonical(self, row: Row) -> bytes:
        """Equal records give equal bytes, others do not."""
        ready = list(self._ready(row))
        for position in self._json:
            if row[position] is not None:
                ready[position] = msgspec.Raw(canonical_json(row[position]))
        return _ENCODER.encode(self._struct(*ready))

    def _structs(self, rows: Sequence[Row]) -> list[Any]:
        ready: Iterable[Sequence[Value]] = map(self._ready, rows) if self._changed else rows
        return list(starmap(self._struct, ready))

    def _ready(self, row: Row) -> Sequence[Any]:
        if not self._changed:
            return row
        ready = list(row)
        for position, show in self._changed:
            if ready[position] is not None:
                ready[position] = show(ready[position])
        return ready

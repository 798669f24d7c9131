"""How far an incremental source has come: the largest value of one field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from engines.records.fields import Row, Table, Value
from handlers.sources import IncrementalRequest, Source


def bookmark_key(collection: str, source: Source) -> str:
    """Under which the mark of a collection and a source is kept."""
    return f"ingest:{collection}:{source.digest}"


class HighWater:
    """The largest value seen, by the field's own order. Without `asked` it does nothing."""

    def __init__(self, asked: IncrementalRequest | None, table: Table, value: Value = None) -> None:
        self._position = None if asked is None else table.names.index(asked.field)
        self.value = value

    def rise(self, rows: Sequence[Row]) -> None:
        if self._position is None:
            return
        values = [row[self._position] for row in rows if row[self._position] is not None]
        if values:
            highest = max(values)
            self.value = highest if self.value is None else max(self.value, highest)

    def kept(self) -> str | None:
        """As text: what a query parameter takes, and a field's reader understands."""
        return None if self.value is None else as_text(self.value)

    def next_start(self) -> str | None:
        """Where the next run begins. Times are kept in whole microseconds, rounded: a source with finer ones has
        records behind the largest that was kept and yet before its rounded value, so it is asked from just below."""
        if isinstance(self.value, datetime) and self.value.microsecond % 1000:
            return as_text(self.value - timedelta(microseconds=1))
        return self.kept()


def as_text(value: Any) -> str:
    """A value of a field in its JSON form, without quotes."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool):
        return json.dumps(value)
    return format(value, "f") if isinstance(value, Decimal) else str(value)

"""Two databases compared, row by row, without holding either in memory."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol


class Differs(Exception):
    """The restored database is not the one that was backed up; the message says where."""


class Interrupted(Exception):
    """The demo was asked to stop."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What was compared and found the same."""

    tables: dict[str, int]
    """Rows by table."""
    schema_objects: int

    @property
    def rows(self) -> int:
        return sum(self.tables.values())


class Side(Protocol):
    """A database to look at, opened for reading."""

    def schema(self) -> set[tuple[Any, ...]]:
        """Everything that is not rows, as text."""

    def tables(self) -> list[str]: ...

    def rows(self, table: str) -> Generator[tuple[Any, ...]]:
        """All rows, ordered by key."""


def compare(source: Side, restored: Side, stop: threading.Event) -> Compared:
    """Raises `Differs` at the first difference."""
    if difference := sorted(source.schema() ^ restored.schema(), key=repr):
        raise Differs(f"the structure differs, first in {difference[0]!r}")
    counts = {}
    for table in source.tables():
        with closing(source.rows(table)) as expected, closing(restored.rows(table)) as found:
            counts[table] = _same_rows(table, expected, found, stop)
    return Compared(counts, len(source.schema()))


def _same_rows(
    table: str, source: Iterable[tuple[Any, ...]], restored: Iterable[tuple[Any, ...]], stop: threading.Event
) -> int:
    count = 0
    for count, (expected, found) in enumerate(zip_longest(source, restored), start=1):
        if expected != found or _types(expected) != _types(found):
            raise Differs(f"row {count} of {table} was {expected!r:.300} and came back as {found!r:.300}")
        if count % 1000 == 0 and stop.is_set():
            raise Interrupted
    return count


def _types(row: tuple[Any, ...] | None) -> list[type]:
    return [type(value) for value in row or ()]  # 1, 1.0 and True are equal in Python, not in a database

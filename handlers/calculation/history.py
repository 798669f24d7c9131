"""Histories of calculations: one table on any connection that keeps records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from engines.errors import CollectionMismatch, FlexError, UnknownConnection
from engines.records.base import Condition, Order, PageQuery, RecordTable
from engines.records.fields import Field, Row, Table
from handlers.collections import Collection
from handlers.ports import Connections
from handlers.supplies import Tables

Flavor = Literal["INDEPENDENT", "STACK"]
FLAVORS: tuple[Flavor, ...] = ("INDEPENDENT", "STACK")
DEMO = "demo"
"""Keeps histories that nobody gave a place: there is such a connection when nothing is configured."""
TABLE = Table(
    "flexdb_calculations",
    "id",
    (
        Field("id", "text", required=True, max_length=100),
        Field("flavor", "text", required=True, max_length=16),
        Field("operation", "text", required=True, max_length=32),
        Field("arguments", "json", required=True),
        Field("result", "text", required=True),
        Field("exact", "boolean", required=True),
        Field("stack", "text", max_length=63),
        Field("created_at", "timestamp", required=True),
    ),
)
MOST_BYTES = 8 * 1024 * 1024
PIECE = 25
_CREATED = TABLE.names.index("created_at")


@dataclass(frozen=True, slots=True)
class Entry:
    """One calculation that was answered."""

    id: str
    """Sorts by the time it was made."""
    flavor: Flavor
    operation: str
    arguments: tuple[str, ...]
    result: str
    exact: bool
    stack: str | None
    created_at: datetime

    @property
    def size(self) -> int:
        """Digits in it, nearly."""
        return len(self.result) + sum(map(len, self.arguments))

    def row(self) -> Row:
        arguments = json.dumps(self.arguments)
        return (
            *(self.id, self.flavor, self.operation, arguments),
            *(self.result, self.exact, self.stack, self.created_at),
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, the oldest first, and whether there are older ones (there may be none after all)."""

    entries: tuple[Entry, ...]
    more: bool


def _entry(row: Row) -> Entry:
    key, flavor, operation, arguments, result, exact, stack, created_at = row
    return Entry(key, flavor, operation, tuple(json.loads(arguments)), result, exact, stack, created_at)


class History:
    """Writes entries to the connections named, and reads them back. Blocks for databases."""

    def __init__(self, connections: Connections, tables: Tables, defaults: Sequence[str] = ()) -> None:
        """`defaults`: the connections that keep calculations which name none."""
        self._connections = connections
        self._tables = tables
        self._defaults = tuple(defaults)

    def names(self, wished: Sequence[str] | None) -> tuple[str, ...]:
        """The connections wished for, each once; for None the configured ones, else `demo` where there is one."""
        if wished is not None:
            return tuple(dict.fromkeys(wished))
        if self._defaults:
            return self._defaults
        return (DEMO,) if DEMO in self._connections.names() else ()

    def of_kind(self, kind: str, *, single: bool) -> tuple[str, ...]:
        """The configured connections of one kind of engine, else all there are of it.

        Raises `UnknownConnection` when there is none, or with `single` when the choice is not clear.
        """
        found = self._of_kind(self._defaults, kind)
        if found:
            return found
        found = self._of_kind(self._connections.names(), kind)
        if not found:
            raise UnknownConnection(f"No connection is a {kind} database.")
        if single and len(found) > 1:
            hint = "Name one with `connection`, or set FLEXDB_CALCULATION_HISTORY."
            raise UnknownConnection(f"Several connections are {kind} databases: {', '.join(found)}.", hint=hint)
        return found

    def _of_kind(self, names: Sequence[str], kind: str) -> tuple[str, ...]:
        found = []
        for name in names:
            with suppress(FlexError):  # a connection whose URL cannot be used is of no kind
                if self._connections.target(name).engine == kind:
                    found.append(name)
        return tuple(found)

    def write(self, entry: Entry, names: Sequence[str]) -> None:
        """To all of them or none; one with the same id is written over and keeps its time. The error says where."""
        row = entry.row()
        for done, name in enumerate(names):
            try:
                self._tables.prepared(_collection(name)).change(entry.id, lambda before: _at_first_time(row, before))
            except FlexError as error:
                self.forget(entry.id, names[:done])
                raise _told(error, name, "written") from error

    def forget(self, entry_id: str, names: Sequence[str]) -> None:
        """Remove what a calculation left that failed in the end, as far as the databases can be reached."""
        for name in names:
            with suppress(FlexError):
                self._tables.table(_collection(name)).delete([entry_id])

    def read(
        self,
        names: Sequence[str],
        *,
        flavor: Flavor | None = None,
        before: str | None = None,
        limit: int = 100,
        most_bytes: int = MOST_BYTES,
    ) -> Page:
        """The latest of all these connections, at most `limit` and about so many bytes of numbers, the oldest first.

        `before` an id: those before it.
        """
        found: dict[str, Entry] = {}
        complete_from = ""
        for name in names:
            try:
                latest, more = self._latest(name, flavor, before, limit, most_bytes)
            except FlexError as error:
                raise _told(error, name, "read") from error
            found |= {entry.id: entry for entry in latest}
            if more:  # older ones of another connection would stand beside a gap
                complete_from = max(complete_from, latest[-1].id)
        entries = [found[key] for key in sorted(found) if key >= complete_from]
        return Page(tuple(entries[-limit:]), more=complete_from != "" or len(entries) > limit)

    def _latest(
        self, name: str, flavor: Flavor | None, before: str | None, limit: int, most_bytes: int
    ) -> tuple[list[Entry], bool]:
        """Of one connection, the newest first, and whether there are more; read in small pieces, because an entry may
        be megabytes."""
        table = self._tables.table(_collection(name))
        found: list[Entry] = []
        size = 0
        while len(found) < limit and size < most_bytes:
            where = [Condition("flavor", "eq", flavor)] if flavor else []
            if before is not None:
                where.append(Condition("id", "lt", before))
            wanted = min(PIECE, limit - len(found))
            query = PageQuery(where=tuple(where), order=(Order("id", descending=True),), limit=wanted)
            entries = [_entry(row) for row in _page(table, query)]
            found += entries
            size += sum(entry.size for entry in entries)
            if len(entries) < wanted:
                return found, False
            before = found[-1].id
        return found, True


def _collection(connection: str) -> Collection:
    digest = hashlib.sha256(f"{TABLE}".encode()).hexdigest()
    return Collection(f"calculations on {connection}", connection, TABLE, {}, None, digest)


def _at_first_time(row: Row, before: Row | None) -> Row:
    return row if before is None else (*row[:_CREATED], before[_CREATED], *row[_CREATED + 1 :])


def _page(table: RecordTable, query: PageQuery) -> list[Row]:
    """Nothing where no calculation was ever kept: the table is made by the first."""
    try:
        return table.page(query)
    except CollectionMismatch:
        if table.prepare(change=False).created:
            return []
        raise


def _told(error: FlexError, name: str, done: str) -> FlexError:
    """The same kind of error, saying which history it was about."""
    if type(error).__init__ is not FlexError.__init__:
        return error
    message = f"The history of calculations on connection {name!r} cannot be {done}: {error.message}"
    return type(error)(message, hint=error.hint, details=error.details)

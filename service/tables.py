"""The tables of collections, open and kept open for as long as a collection stays what it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from engines.errors import CollectionMismatch
from engines.records.base import (
    Condition,
    Decide,
    PageQuery,
    Prepared,
    RecordEngine,
    RecordTable,
    RecordWriter,
)
from engines.records.fields import Row, Value
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.collections import Collection
from handlers.ports import Connections

log = structlog.get_logger(__name__)

Form = tuple[str, str]
"""A collection as it is now: its connection and the digest of its declaration."""


def form_of(collection: Collection) -> Form:
    return collection.connection, collection.digest


@dataclass(slots=True)
class _Open:
    """One table that is open. `prepared` is set under `lock`, and read without it."""

    form: Form
    table: RecordTable
    prepared: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class OpenTables:
    """Opens tables when they are first asked for. Safe in any thread; may block for a database."""

    def __init__(self, connections: Connections, engines: EngineRegistry) -> None:
        self._connections = connections
        self._engines = engines
        self._open: dict[str, _Open] = {}
        """By the collection's name: a changed one takes the place of what it was."""
        self._lock = threading.Lock()

    def table(self, collection: Collection) -> RecordTable:
        """Not prepared: see `prepared`. No I/O. Raises `UnknownConnection`, `InvalidTarget`, and
        `UnsupportedOperation` where the engine keeps no records."""
        return self._opened(collection).table

    def prepared(self, collection: Collection) -> RecordTable:
        """Made or checked, once for each form of the collection; who asks meanwhile waits for the one that does it.

        Done again after an operation found the table to be another. Raises what `prepare` raises, and
        `TargetProtected` for FlexDB's own files.
        """
        found = self._opened(collection)
        if not found.prepared:
            with found.lock:
                if not found.prepared:
                    self._prepare(collection, found)
        return found.table

    def prepare(self, collection: Collection, *, change: bool = True) -> Prepared:
        """Made or checked whatever was before, and what was done; with `change=False`, what would be done.

        The collection need not be one that is declared: tables that are open are left alone. Raises as `prepared`.
        """
        self._connections.guard_write(self._connections.target(collection.connection))
        table = self._engine_table(collection)
        try:
            done = table.prepare(change=change)
        finally:
            table.close()
        if change:
            _log(collection, done)
        return done

    def retain(self, collections: Iterable[Collection]) -> None:
        """Close the tables of all others."""
        kept = {collection.name: form_of(collection) for collection in collections}
        with self._lock:
            gone = [name for name, found in self._open.items() if kept.get(name) != found.form]
            closing = [self._open.pop(name) for name in gone]
        for found in closing:
            found.table.close()

    def close(self) -> None:
        """Close all of them; what is in use is closed when it comes back."""
        self.retain(())

    def _opened(self, collection: Collection) -> _Open:
        form = form_of(collection)
        found = self._open.get(collection.name)
        if found is not None and found.form == form:
            return found
        table = self._engine_table(collection)
        with self._lock:
            before = self._open.get(collection.name)
            if before is not None and before.form == form:  # another thread was quicker; `table` has connected nowhere
                return before
            opened = self._open[collection.name] = _Open(form, table)
            opened.table = WatchedTable(table, lambda: self._forget(opened))
        if before is not None:
            before.table.close()
        return opened

    def _engine_table(self, collection: Collection) -> RecordTable:
        target = self._connections.target(collection.connection)
        engine = self._engines.for_target(target, RecordEngine, "records")
        return engine.open_table(target, collection.table)

    def _prepare(self, collection: Collection, found: _Open) -> None:
        self._connections.guard_write(self._connections.target(collection.connection))
        done = found.table.prepare()
        found.prepared = True
        _log(collection, done)

    def _forget(self, found: _Open) -> None:
        found.prepared = False


def _log(collection: Collection, done: Prepared) -> None:
    if done.created or done.added:
        log.info("table_prepared", collection=collection.name, created=done.created, added=list(done.added))


class WatchedTable(RecordTable):
    """A table that tells when an operation finds it to be another than it was prepared as."""

    def __init__(self, table: RecordTable, mismatched: Callable[[], None]) -> None:
        self._table = table
        self._mismatched = mismatched

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except CollectionMismatch:
            self._mismatched()
            raise

    def prepare(self, *, change: bool = True) -> Prepared:
        return self._table.prepare(change=change)

    def page(self, query: PageQuery) -> list[Row]:
        with self._watching():
            return self._table.page(query)

    def count(self, where: Sequence[Condition] = ()) -> int:
        with self._watching():
            return self._table.count(where)

    def get(self, key: Value) -> Row | None:
        with self._watching():
            return self._table.get(key)

    def insert(self, row: Row) -> Row:
        with self._watching():
            return self._table.insert(row)

    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        with self._watching():
            return self._table.change(key, decide)

    def delete(self, keys: Sequence[Value]) -> int:
        with self._watching():
            return self._table.delete(keys)

    def scan(self, query: PageQuery, size: int = 1000) -> Iterator[list[Row]]:
        with self._watching():
            yield from self._table.scan(query, size)

    @contextmanager
    def writing(self, run: Run, *, whole: bool) -> Iterator[RecordWriter]:
        with self._watching(), self._table.writing(run, whole=whole) as writer:
            yield writer

    def close(self) -> None:
        self._table.close()

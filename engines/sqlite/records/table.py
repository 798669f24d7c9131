"""One table of records in a SQLite file: pages, single records, scans; writing many is in `writing`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.errors import RecordExists, RecordRefused
from engines.records.base import Condition, Decide, PageQuery, Prepared, RecordTable, RecordWriter
from engines.records.fields import Row, Table, Value
from engines.run import Run
from engines.sqlite import structure
from engines.sqlite.records import queries
from engines.sqlite.records.preparing import prepare
from engines.sqlite.records.queries import Query
from engines.sqlite.records.sessions import Session, Sessions, reason
from engines.sqlite.records.shape import Shape
from engines.sqlite.records.writing import writing

SCAN_SECONDS = 600.0
"""For reading and ordering everything, where that must be done before the first batch."""
SCANNED = "temp.flexdb_scanned"


class SQLiteTable(RecordTable):
    """`busy_seconds`: how long to wait for locks that other programs hold."""

    def __init__(self, path: Path, table: Table, busy_seconds: float) -> None:
        self._table = table
        self._sessions = Sessions(path, busy_seconds)

    def prepare(self, *, change: bool = True) -> Prepared:
        return prepare(self._sessions, self._table, self.STATEMENT_SECONDS, change=change)

    def page(self, query: PageQuery) -> list[Row]:
        with self._reading() as (session, shape):
            found = _asked(session, queries.page(shape, query)).fetchall()
        return [shape.decoded(row) for row in found]

    def count(self, where: Sequence[Condition] = ()) -> int:
        with self._reading() as (session, shape):
            return int(_asked(session, queries.count(shape, where)).fetchone()[0])

    def get(self, key: Value) -> Row | None:
        with self._reading() as (session, shape):
            return _stored(session, shape, key)

    def insert(self, row: Row) -> Row:
        with self._changing() as (session, shape):
            key = row[self._table.key_position]
            if key is None and not self._table.generated:
                raise _without_key(self._table)
            if key is not None and _stored(session, shape, key) is not None:
                raise RecordExists(f"There is a record of that key in {self._table.name} already.")
            given = _inserted(session, shape, row)
            stored = _stored(session, shape, given if key is None else key)
            if stored is None:  # a trigger of the user's took it away again
                raise RecordRefused("The database did not keep the record.")
            return stored

    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        """The user's file is locked while `decide` is asked, so it is asked once."""
        with self._changing() as (session, shape):
            before = _stored(session, shape, key)
            after = decide(before)
            if after is None:
                if before is not None:
                    _deleted(session, shape, [key])
                return before, None
            if before is None:
                _inserted(session, shape, after)
            else:
                _updated(session, shape, before, after)
            return before, _stored(session, shape, key)

    def delete(self, keys: Sequence[Value]) -> int:
        with self._changing() as (session, shape):
            return _deleted(session, shape, keys)

    def scan(self, query: PageQuery, size: int = 1000) -> Iterator[list[Row]]:
        """In WAL mode a reader is in nobody's way. Else all of it is first copied to a temporary file, because
        a reader would keep others from committing for as long as whoever asked takes to read it."""
        with closing(self._sessions.own()) as session, session.translating():
            session.limit(SCAN_SECONDS)
            session.begin_surely("BEGIN")
            shape = session.shape(self._table)
            everything = queries.everything(shape, query)
            if structure.in_wal_mode(session.connection):
                cursor = _asked(session, everything)
            else:
                cursor = _copied(session, everything)
            while found := cursor.fetchmany(size):
                yield [shape.decoded(row) for row in found]
                session.limit(SCAN_SECONDS)

    def writing(self, run: Run, *, whole: bool) -> AbstractContextManager[RecordWriter]:
        return writing(self._sessions, self._table, run, whole=whole)

    def close(self) -> None:
        self._sessions.close()

    def _reading(self) -> AbstractContextManager[tuple[Session, Shape]]:
        return self._within("BEGIN")

    def _changing(self) -> AbstractContextManager[tuple[Session, Shape]]:
        return self._within("BEGIN IMMEDIATE")

    @contextmanager
    def _within(self, how: str) -> Iterator[tuple[Session, Shape]]:
        with self._sessions.transaction(how, self.STATEMENT_SECONDS) as session:
            yield session, session.shape(self._table)


def _asked(session: Session, query: Query) -> sqlite3.Cursor:
    return session.connection.execute(query.text, query.values)


def _copied(session: Session, query: Query) -> sqlite3.Cursor:
    session.connection.execute(f"CREATE TABLE {SCANNED} AS {query.text}", query.values)
    session.commit()
    return session.connection.execute(f"SELECT * FROM {SCANNED} ORDER BY rowid")  # noqa: S608  a constant


def _stored(session: Session, shape: Shape, key: Value) -> Row | None:
    found = _asked(session, queries.one(shape, key)).fetchone()
    return None if found is None else shape.decoded(found)


def _without_key(table: Table) -> RecordRefused:
    return RecordRefused(f"The record has no {table.key}, and the database gives none.")


def _inserted(session: Session, shape: Shape, row: Row) -> int | None:
    """The number SQLite gave the row."""
    places = ", ".join("?" * len(shape.columns))
    values = shape.encoded(stamped(shape.table, row, None))
    text = f"INSERT INTO {shape.sql} ({shape.names}) VALUES ({places})"  # noqa: S608  names are quoted
    return _taken(session, text, values).lastrowid


def _updated(session: Session, shape: Shape, before: Row, after: Row) -> None:
    after = stamped(shape.table, after, before)
    key = shape.table.key_position
    values = shape.encoded(after)
    changed = [n for n in range(len(after)) if n != key and after[n] != before[n]]
    if not changed:
        return
    settings = ", ".join(f"{shape.columns[n].sql} = ?" for n in changed)
    text = f"UPDATE {shape.sql} SET {settings} WHERE {shape.key_sql} = ?"  # noqa: S608  names are quoted
    _taken(session, text, [*(values[n] for n in changed), values[key]])


def _deleted(session: Session, shape: Shape, keys: Sequence[Value]) -> int:
    text = f"DELETE FROM {shape.sql} WHERE {shape.key_sql} = ?"  # noqa: S608  names are quoted
    try:
        cursor = session.connection.executemany(text, ((shape.encoded_key(key),) for key in keys))
    except sqlite3.IntegrityError as error:
        raise RecordRefused(reason(error)) from error
    return max(cursor.rowcount, 0)


def _taken(session: Session, text: str, values: list[Any]) -> sqlite3.Cursor:
    try:
        return session.connection.execute(text, values)
    except sqlite3.IntegrityError as error:
        raise RecordRefused(reason(error)) from error


def stamped(table: Table, row: Row, before: Row | None) -> Row:
    """With the times set that it comes without."""
    if not any(field.stamped and value is None for field, value in zip(table.fields, row, strict=True)):
        return row
    now = datetime.now(UTC)
    old = before or (None,) * len(row)
    return tuple(
        (was or now) if field.stamped and value is None else value
        for field, value, was in zip(table.fields, row, old, strict=True)
    )

"""Upserts of many records: in pieces, each a transaction of its own, or whole, staged in a file beside."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.errors import RecordRefused
from engines.records.base import RecordWriter, Refusal, Written
from engines.records.fields import Row, Table
from engines.run import Run
from engines.sqlite.cutting import private_file, remove
from engines.sqlite.records.sessions import Session, Sessions, reason
from engines.sqlite.records.shape import Shape

LOOKED_UP = 500
"""Keys asked for in one statement; SQLite takes 32,766 parameters, and 999 in old versions."""
STAGED = "flexdb_stage.staged"


@contextmanager
def writing(sessions: Sessions, table: Table, run: Run, *, whole: bool) -> Iterator[RecordWriter]:
    """See `RecordTable.writing`."""
    with closing(sessions.own(run)) as session:
        with session.translating():
            session.begin_surely("BEGIN")
            shape = session.shape(table)
            session.commit()
        if not whole:
            yield Pieces(session, table)
            return
        staged = run.workspace / f"staged_{secrets.token_hex(8)}.sqlite"
        private_file(staged)
        try:
            yield Whole(session, shape, staged, run)
        finally:
            session.close()
            remove(staged)


class Pieces(RecordWriter):
    def __init__(self, session: Session, table: Table) -> None:
        self._session = session
        self._table = table

    def write(self, rows: Sequence[Row]) -> Written:
        if not rows:
            return Written()
        with self._session.translating():
            self._session.begin_surely("BEGIN IMMEDIATE")
            try:
                written = _upserted(self._session, self._session.shape(self._table), rows)
                self._session.commit()
            except BaseException:
                self._session.roll_back()
                raise
            return written

    def finish(self) -> Written:
        return Written()


class Whole(RecordWriter):
    """What is staged lies in a file of the run's workspace; the user's file is locked at the end only."""

    def __init__(self, session: Session, shape: Shape, file: Path, run: Run) -> None:
        self._session = session
        self._table = shape.table
        self._run = run
        columns = [f"c{number}" for number in range(len(shape.columns))]
        columns[shape.table.key_position] += " NOT NULL PRIMARY KEY"
        places = ", ".join("?" * len(columns))
        self._staging = f"INSERT OR REPLACE INTO {STAGED} VALUES ({places})"  # noqa: S608  a constant
        self._shape = shape
        with session.translating():
            session.connection.execute("ATTACH ? AS flexdb_stage", (str(file),))
            for setting in ("journal_mode = MEMORY", "synchronous = OFF", "cache_size = -8000"):
                session.connection.execute(f"PRAGMA flexdb_stage.{setting}")
            session.connection.execute(f"CREATE TABLE {STAGED} ({', '.join(columns)}) WITHOUT ROWID")

    def write(self, rows: Sequence[Row]) -> Written:
        connection = self._session.connection
        with self._session.translating():
            self._run.stop.check()
            connection.execute("BEGIN")
            try:
                connection.executemany(self._staging, _rows(self._shape, rows))
                connection.execute("COMMIT")
            except BaseException:
                self._session.roll_back()
                raise
        return Written()

    def finish(self) -> Written:
        self._run.stop.check()
        self._run.confirm()
        with self._session.translating():
            self._session.begin_surely("BEGIN IMMEDIATE")
            try:
                written = _applied(self._session, self._session.shape(self._table))
                self._run.stop.check()
                self._session.commit()
            except BaseException:
                self._session.roll_back()
                raise
            return written


def _applied(session: Session, shape: Shape) -> Written:
    key = f"c{shape.table.key_position}"
    there = f"SELECT 1 FROM {shape.sql} AS cur WHERE {shape.key_sql} = s.{key}"  # noqa: S608  names are quoted
    asked = f"SELECT count(*), count(*) FILTER (WHERE NOT EXISTS ({there})) FROM {STAGED} AS s"  # noqa: S608  as above
    total, inserted = session.connection.execute(asked).fetchone()
    changed = session.connection.execute(_upsert_staged(shape), _now(shape)).rowcount
    return Written(inserted, max(changed, 0) - inserted, total - max(changed, 0))


def _upserted(session: Session, shape: Shape, rows: Sequence[Row]) -> Written:
    key = shape.table.key_position
    last = {row[key]: index for index, row in enumerate(rows)}
    chosen = list(rows) if len(last) == len(rows) else [rows[index] for index in last.values()]
    connection = session.connection
    connection.execute("SAVEPOINT flexdb_piece")
    try:
        before = _there(session, shape, list(last))
        changed = connection.executemany(_upsert(shape), _parameters(shape, chosen)).rowcount
    except (sqlite3.IntegrityError, OverflowError, UnicodeEncodeError):
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO flexdb_piece")
        return _one_by_one(session, shape, rows, last)
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE flexdb_piece")
    inserted = len(chosen) - before
    return Written(inserted, max(changed, 0) - inserted, len(chosen) - max(changed, 0))


def _one_by_one(session: Session, shape: Shape, rows: Sequence[Row], last: dict[Any, int]) -> Written:
    """After one of them was refused: each told by itself."""
    statement = _upsert(shape)
    inserted = updated = unchanged = 0
    refused = []
    for key, index in last.items():
        try:
            before = _there(session, shape, [key])
            (values,) = _parameters(shape, [rows[index]])
            changed = session.connection.execute(statement, values).rowcount
        except sqlite3.IntegrityError as error:
            if not session.connection.in_transaction:  # the user's constraint rolls everything back
                raise
            refused.append(Refusal(index, reason(error)))
        except (OverflowError, UnicodeEncodeError):
            refused.append(Refusal(index, "A value is no text or integer that SQLite can hold."))
        else:
            inserted += 1 - before
            updated += before if changed else 0
            unchanged += 0 if changed else before
    return Written(inserted, updated, unchanged, tuple(refused))


def _there(session: Session, shape: Shape, keys: list[Any]) -> int:
    """How many of these keys have a record."""
    found = 0
    for begin in range(0, len(keys), LOOKED_UP):
        asked = [shape.encoded_key(key) for key in keys[begin : begin + LOOKED_UP]]
        places = ", ".join("?" * len(asked))
        text = f"SELECT count(*) FROM {shape.sql} WHERE {shape.key_sql} IN ({places})"  # noqa: S608  names are quoted
        found += session.connection.execute(text, asked).fetchone()[0]
    return found


def _parameters(shape: Shape, rows: Sequence[Row]) -> Iterator[list[Any]]:
    """As the numbered parameters of `_upsert`: the fields, then the time for what is stamped."""
    now = _now(shape)
    for stored in _rows(shape, rows):
        yield stored + now


def _rows(shape: Shape, rows: Sequence[Row]) -> Iterator[list[Any]]:
    key = shape.table.key_position
    for row in rows:
        if row[key] is None:
            raise RecordRefused(f"A record has no {shape.table.key}.")
        yield shape.encoded(row)


def _now(shape: Shape) -> list[Any]:
    """The time as it is stored, when there is a field that may need it."""
    for column in shape.columns:
        if column.field.stamped and column.storage.encode is not None:
            return [column.storage.encode(datetime.now(UTC))]
    return []


def _upsert(shape: Shape) -> str:
    """One record; `cur` is the one that is there."""
    now = len(shape.columns) + 1
    values, settings, differs = [], [], []
    for number, column in enumerate(shape.columns, start=1):
        given = f"?{number}"
        values.append(f"coalesce({given}, ?{now})" if column.field.stamped else given)
        if column is not shape.key:
            new = f"coalesce({given}, cur.{column.sql})" if column.field.stamped else f"excluded.{column.sql}"
            settings.append(f"{column.sql} = {new}")
            differs.append(_differs(column.sql, new))
    return _insert(shape, f"VALUES ({', '.join(values)})", settings, differs)


def _upsert_staged(shape: Shape) -> str:
    """All that is staged, in the order of the key."""
    values, settings, differs = [], [], []
    key = f"c{shape.table.key_position}"
    for number, column in enumerate(shape.columns):
        values.append(f"coalesce(c{number}, ?1)" if column.field.stamped else f"c{number}")
        if column is not shape.key:
            staged = f"(SELECT s.c{number} FROM {STAGED} AS s WHERE s.{key} = excluded.{shape.key.sql})"  # noqa: S608  names are quoted
            new = f"coalesce({staged}, cur.{column.sql})" if column.field.stamped else f"excluded.{column.sql}"
            settings.append(f"{column.sql} = {new}")
            differs.append(_differs(column.sql, new))
    return _insert(shape, f"SELECT {', '.join(values)} FROM {STAGED} WHERE true", settings, differs)  # noqa: S608  as above


def _differs(column: str, new: str) -> str:
    return f"cur.{column} COLLATE BINARY IS NOT {new}"


def _insert(shape: Shape, source: str, settings: list[str], differs: list[str]) -> str:
    done = f"UPDATE SET {', '.join(settings)} WHERE {' OR '.join(differs)}" if settings else "NOTHING"
    return f"INSERT INTO {shape.sql} AS cur ({shape.names}) {source} ON CONFLICT ({shape.key.sql}) DO {done}"

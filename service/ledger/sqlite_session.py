"""A session on a SQLite ledger's file, and what SQLite's errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from service.ledger.queries import Query, sql
from service.ledger.records import Change, LedgerUnavailable
from service.ledger.rows import Row
from service.ledger.sqlite_bulk import BulkInsert
from service.ledger.transaction import Session
from service.ledger.writer import Faults

_GIVE_UP_BATCH = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
    }
)
"""Primary result codes (https://www.sqlite.org/rescode.html) that speak of the file, not of one statement."""


def is_unavailable(error: BaseException) -> bool:
    """Whether an error means that the ledger's file cannot be used now."""
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _GIVE_UP_BATCH


def unavailable(error: BaseException) -> LedgerUnavailable:
    """The error callers get; its cause is kept."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    found = LedgerUnavailable(f"The ledger's file cannot be written now ({name}). Nothing was changed.")
    found.__cause__ = error
    return found


FAULTS = Faults(is_unavailable, unavailable)


class SQLiteSession(Session):
    """One process has the file (see `ProcessLock`), so locks between processes have nothing to do."""

    def __init__(self, db: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.db = db
        self._clock = clock
        self._inserts: dict[str, BulkInsert] = {}

    def all(self, query: Query, **values: Any) -> list[Row]:
        return self.db.execute(query.sqlite, values).fetchall()

    def run(self, query: Query, **values: Any) -> int:
        return self.db.execute(query.sqlite, values).rowcount

    def insert(self, query: Query, rows: Sequence[Sequence[Any]]) -> int:
        prepared = self._inserts.get(query.name)
        if prepared is None:
            prepared = self._inserts[query.name] = BulkInsert(query.sqlite)
        return prepared.run(self.db, rows)

    def now(self) -> float:
        return self._clock()

    def begin(self) -> float:
        self.db.execute("BEGIN IMMEDIATE")
        return self._clock()

    def commit(self, changes: Sequence[Change]) -> None:
        self.db.execute("COMMIT")

    def rollback(self) -> None:
        self.db.execute("ROLLBACK")

    def mark(self) -> None:
        self.db.execute("SAVEPOINT operation")

    def release(self) -> None:
        self.db.execute("RELEASE operation")

    def undo(self) -> None:
        self.db.execute("ROLLBACK TO operation")
        self.db.execute("RELEASE operation")

    @property
    def in_transaction(self) -> bool:
        return self.db.in_transaction

    def lock(self, names: Sequence[str]) -> None:
        return

    def try_lock(self, names: Sequence[str]) -> bool:
        return True

    def tokens(self, number: int) -> Sequence[int]:
        last = self.all(sql.next_tokens, number=number)[0]["value"]
        return range(last - number + 1, last + 1)

    def close(self) -> None:
        self.db.close()

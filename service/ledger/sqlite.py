"""The ledger in one SQLite file: nothing to install, one process, on disk before it is answered."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog

from service.ledger import moves
from service.ledger.agreements import agree_on_exchange
from service.ledger.migrations import migrate_sqlite
from service.ledger.queries import sql
from service.ledger.readers import Readers
from service.ledger.records import LedgerUnavailable, Rules
from service.ledger.sql_ledger import JOB_BULKS, OUTBOX_BULKS, SQLLedger
from service.ledger.sqlite_file import ProcessLock, connect_reader, connect_writer, make_private
from service.ledger.sqlite_session import FAULTS, SQLiteSession
from service.ledger.transaction import Session, Transaction
from service.ledger.writer import Bulk, Writer

log = structlog.get_logger(__name__)
T = TypeVar("T")


class SQLiteLedger(SQLLedger):
    """See `Ledger`. `clock` gives seconds since the epoch."""

    BUSY_SECONDS = 5.0
    """How long a write waits while another program (a shell, a copy tool) has the file locked."""

    def __init__(self, path: Path, rules: Rules, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.path = path
        self._rules = rules
        self._clock = clock
        self._lock = ProcessLock(path)
        self._open: tuple[Writer, Readers] | None = None

    async def open(self) -> None:
        try:
            await asyncio.to_thread(make_private, self.path)
            self._lock.take()
            await asyncio.to_thread(self._migrate)
            writer = Writer(self._writing_session, JOB_BULKS + OUTBOX_BULKS, self._rules, FAULTS, self._tell)
            await asyncio.to_thread(writer.connect)
            writer.start()
            self._open = writer, Readers(self._reading_session, FAULTS)
            moved = await self._write(_recover)
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise LedgerUnavailable(f"The ledger {self.path} cannot be opened: {error}") from error
            raise
        log.info("ledger_opened", path=str(self.path), leases_ended=moved)

    def _writing_session(self) -> SQLiteSession:
        return SQLiteSession(connect_writer(self.path, self.BUSY_SECONDS), self._clock)

    def _reading_session(self) -> SQLiteSession:
        return SQLiteSession(connect_reader(self.path), self._clock)

    def _migrate(self) -> None:
        db = connect_writer(self.path)
        try:
            migrate_sqlite(db, self._clock())
        finally:
            db.close()

    async def close(self) -> None:
        if self._open is not None:
            writer, readers = self._open
            self._open = None
            await asyncio.to_thread(readers.close)
            await writer.close()  # last, because the last connection puts the WAL away
        self._lock.release()

    @property
    def commits(self) -> int:
        """Transactions committed since the opening."""
        return self._parts()[0].commits

    def _parts(self) -> tuple[Writer, Readers]:
        if self._open is None:
            raise LedgerUnavailable("The ledger is not open.")
        return self._open

    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        return await self._parts()[0].run(operation)

    async def _gather(self, bulk: Bulk, item: Any) -> Any:
        return await self._parts()[0].gather(bulk, item)

    async def _read(self, question: Callable[[Session], T]) -> T:
        return await self._parts()[1].ask(question)

    async def tell_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        """Nobody else is on this ledger."""


def _recover(tx: Transaction) -> int:
    """What a dead predecessor left: its leases end, the deliveries it had taken are due again."""
    agree_on_exchange(tx, shared=False)
    tx.run(sql.release_deliveries, now=tx.now)
    return moves.end_all_leases(tx)

"""The ledger in a PostgreSQL database: many processes on many machines, one truth."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import psycopg2
import structlog
from psycopg2.extensions import connection

from service.ledger.agreements import agree_on_exchange
from service.ledger.migrations import migrate_postgres
from service.ledger.postgres_address import shown
from service.ledger.postgres_listener import Listener
from service.ledger.postgres_look import loose_settings
from service.ledger.postgres_session import FAULTS, PostgresSession, connect, reason
from service.ledger.readers import Readers
from service.ledger.records import Change, LedgerUnavailable, Rules
from service.ledger.sql_ledger import JOB_BULKS, OUTBOX_BULKS, SQLLedger
from service.ledger.transaction import Session, Transaction
from service.ledger.writer import Bulk, Writer

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What works while the ledger is open."""

    jobs: Writer
    outbox: Writer
    readers: Readers
    listener: Listener


class PostgresLedger(SQLLedger):
    """See `Ledger`. Its clock is the server's; `clock` stands in for it in tests.

    Takes up to five connections: a writer for jobs, one for deliveries, two readers, a listener. They must reach the
    server itself: what pools transactions (pgbouncer in that mode) breaks LISTEN and session settings.
    """

    RECOUNT_SECONDS = 1.0
    """How old the number of open jobs may get: other processes change it too."""

    def __init__(self, url: str, rules: Rules, clock: Callable[[], float] | None = None) -> None:
        super().__init__()
        self._url = url
        self._rules = rules
        self._clock = clock
        self._origin = secrets.token_hex(6)
        self._open: Parts | None = None

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._migrate)
            jobs, outbox = self._writer("jobs", JOB_BULKS), self._writer("outbox", OUTBOX_BULKS)
            for writer in (jobs, outbox):
                await asyncio.to_thread(writer.connect)
        except psycopg2.Error as error:
            raise LedgerUnavailable(f"{shown(self._url)}: {reason(error)}") from error
        jobs.start()
        outbox.start()
        listener = Listener(lambda: self._connect("listener"), self._origin, self._tell)
        listener.start()
        self._open = Parts(jobs, outbox, Readers(lambda: self._session("reader"), FAULTS), listener)
        await self._write(partial(agree_on_exchange, shared=True))
        log.info("ledger_opened", server=shown(self._url))

    def _writer(self, part: str, bulks: Sequence[Bulk]) -> Writer:
        return Writer(
            lambda: self._session(part),
            bulks,
            self._rules,
            FAULTS,
            self._tell,
            recount_seconds=self.RECOUNT_SECONDS,
        )

    def _connect(self, part: str) -> connection:
        return connect(self._url, f"flexdb ledger {part}")

    def _session(self, part: str) -> PostgresSession:
        return PostgresSession(self._connect(part), self._origin, self._clock)

    def _migrate(self) -> None:
        opened = self._connect("migrations")
        try:
            migrate_postgres(opened)
            _warn_of_loose_settings(opened)
        finally:
            opened.close()

    async def close(self) -> None:
        if self._open is None:
            return
        parts, self._open = self._open, None
        await parts.listener.stop()
        await asyncio.to_thread(parts.readers.close)
        await parts.jobs.close()
        await parts.outbox.close()

    @property
    def commits(self) -> int:
        """Transactions committed since the opening."""
        return self._parts.jobs.commits + self._parts.outbox.commits

    @property
    def _parts(self) -> Parts:
        if self._open is None:
            raise LedgerUnavailable("The ledger is not open.")
        return self._open

    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        return await self._parts.jobs.run(operation)

    async def _write_beside(self, operation: Callable[[Transaction], T]) -> T:
        return await self._parts.outbox.run(operation)

    async def _gather(self, bulk: Bulk, item: Any) -> Any:
        writer = self._parts.outbox if bulk in OUTBOX_BULKS else self._parts.jobs
        return await writer.gather(bulk, item)

    async def _read(self, question: Callable[[Session], T]) -> T:
        return await self._parts.readers.ask(question)

    async def tell_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        change = Change("progress", job_id, json.dumps(progress))
        await self._write(lambda tx: tx.changes.setdefault(change))


def _warn_of_loose_settings(opened: connection) -> None:
    """A server that does not sync cannot keep the promise that accepted means on disk."""
    for name in loose_settings(opened):
        log.warning("ledger_may_lose_data", setting=name, value="off", hint=f"Set {name} = on on the server.")

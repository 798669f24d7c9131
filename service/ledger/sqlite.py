"""The ledger in one SQLite file: nothing to install, one process, on disk before it is answered."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from handlers.base import CatalogueChange
from handlers.ports import CatalogueEntry
from service.jobs import Job, Problem, Status
from service.ledger import sqlite_catalogue, sqlite_deliveries, sqlite_jobs, sqlite_reads
from service.ledger.base import (
    Acceptance,
    Accepted,
    BackupFilter,
    CancelOutcome,
    Change,
    Delivery,
    Heartbeat,
    HistoryEntry,
    Ledger,
    LedgerUnavailable,
    Page,
    Rules,
    Submission,
    Subscription,
    Verdict,
)
from service.ledger.migrations import migrate_sqlite
from service.ledger.queries import sql
from service.ledger.sqlite_file import ProcessLock, connect_reader, connect_writer, make_private
from service.ledger.sqlite_intake import accept_many
from service.ledger.sqlite_retries import retry_job
from service.ledger.sqlite_sweep import sweep
from service.ledger.writer import Transaction, Writer, is_unavailable, unavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Readers:
    """A few threads with a read-only connection each: reading never waits for the writer, nor it for them."""

    THREADS = 2

    def __init__(self, path: Path) -> None:
        self._pool = ThreadPoolExecutor(self.THREADS, thread_name_prefix="ledger-reader")
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for _ in range(self.THREADS):
            self._idle.put(connect_reader(path))

    async def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, question)
        except sqlite3.Error as error:
            if is_unavailable(error):
                raise unavailable(error) from error
            raise

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        db = self._idle.get()
        try:
            return question(db)
        finally:
            self._idle.put(db)

    def close(self) -> None:
        """Wait for what is being read, then close."""
        self._pool.shutdown()
        for _ in range(self.THREADS):
            self._idle.get().close()


class SQLiteLedger(Ledger):
    """See `Ledger`. `clock` gives seconds since the epoch."""

    BUSY_SECONDS = 5.0
    """How long a write waits while another program (a shell, a copy tool) has the file locked."""
    REAP_BATCH = 200
    SWEEP_BATCH = 100
    """Jobs in one transaction, so that acceptances need not wait long behind it."""

    def __init__(self, path: Path, rules: Rules, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._rules = rules
        self._clock = clock
        self._watchers: list[Callable[[Change], None]] = []
        self._lock = ProcessLock(path)
        self._open: tuple[Writer, Readers] | None = None

    # ------------------------------------------------------------ life of the ledger itself

    async def open(self) -> None:
        try:
            await asyncio.to_thread(make_private, self.path)
            self._lock.take()
            await asyncio.to_thread(self._migrate)
            writer = Writer(
                lambda: connect_writer(self.path, self.BUSY_SECONDS),
                accept_many,
                self._rules,
                self._clock,
                self._tell,
            )
            writer.start()
            try:
                self._open = writer, await asyncio.to_thread(Readers, self.path)
            except BaseException:
                await writer.close()
                raise
            moved = await self._write(_recover)
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise LedgerUnavailable(f"The ledger {self.path} cannot be opened: {error}") from error
            raise
        log.info("ledger_opened", path=str(self.path), leases_ended=moved)

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

    def watch(self, watcher: Callable[[Change], None]) -> None:
        self._watchers.append(watcher)

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for watcher in self._watchers:
                watcher(change)

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

    async def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        return await self._parts()[1].ask(question)

    async def ping(self) -> None:
        await self._write(lambda tx: tx.run(sql.ping))

    # ------------------------------------------------------------ intake

    async def accept(self, submission: Submission) -> Acceptance:
        return await self._parts()[0].accept(submission)

    # ------------------------------------------------------------ the worker's side

    async def claim(self, worker_id: str, limit: int) -> list[Job]:
        return await self._write(lambda tx: sqlite_jobs.claim(tx, worker_id, limit))

    async def next_due(self) -> float | None:
        return await self._read(lambda db: sqlite_reads.next_due(db, self._clock()))

    async def renew(self, worker_id: str, leases: Mapping[str, int]) -> dict[str, Heartbeat]:
        return await self._write(lambda tx: sqlite_jobs.renew(tx, worker_id, leases))

    async def hold(self, job_id: str, token: int, key: str) -> bool:
        return await self._write(lambda tx: sqlite_jobs.hold(tx, job_id, token, key))

    async def finish_job(
        self,
        job_id: str,
        token: int,
        status: Status,
        result: dict[str, Any] | None = None,
        problem: Problem | None = None,
        changes: Sequence[CatalogueChange] = (),
    ) -> Job | None:
        sqlite_jobs.check_end(status)
        return await self._write(lambda tx: sqlite_jobs.finish(tx, job_id, token, status, result, problem, changes))

    async def retry_later(self, job_id: str, token: int, delay: float, problem: Problem) -> bool:
        return await self._write(lambda tx: sqlite_jobs.retry_later(tx, job_id, token, delay, problem))

    async def give_back(self, job_id: str, token: int) -> bool:
        return await self._write(lambda tx: sqlite_jobs.give_back(tx, job_id, token))

    async def reap(self) -> int:
        """Looks first without writing: most of the time nothing has run out."""
        moved = 0
        while True:
            moment = await self._read(sqlite_reads.next_ending)
            if moment is None or moment > self._clock():
                return moved
            reaped = await self._write(lambda tx: sqlite_jobs.reap(tx, self.REAP_BATCH))
            if not reaped:
                return moved
            moved += reaped

    # ------------------------------------------------------------ the caller's side

    async def job(self, job_id: str) -> Job | None:
        return await self._read(lambda db: sqlite_reads.job(db, job_id))

    async def jobs(
        self,
        *,
        status: str | None = None,
        operation: str | None = None,
        connection: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        return await self._read(lambda db: sqlite_reads.jobs(db, status, operation, connection, cursor, limit))

    async def live_jobs(self) -> set[str]:
        return await self._read(sqlite_reads.live_jobs)

    async def known_jobs(self, job_ids: Sequence[str]) -> set[str]:
        return await self._read(lambda db: sqlite_reads.known_jobs(db, job_ids))

    async def history(self, job_id: str, after_seq: int = 0) -> list[HistoryEntry]:
        return await self._read(lambda db: sqlite_reads.history(db, job_id, after_seq))

    async def request_cancel(self, job_id: str) -> CancelOutcome | None:
        return await self._write(lambda tx: sqlite_jobs.request_cancel(tx, job_id))

    async def retry_job(self, job_id: str, new_job_id: str) -> Accepted | Status | None:
        return await self._write(lambda tx: retry_job(tx, job_id, new_job_id))

    # ------------------------------------------------------------ deliveries

    async def take_deliveries(
        self, limit: int, per_host: int, busy_hosts: Mapping[str, int], lease_seconds: float
    ) -> list[Delivery]:
        return await self._write(lambda tx: sqlite_deliveries.take(tx, limit, per_host, busy_hosts, lease_seconds))

    async def next_delivery_due(self) -> float | None:
        return await self._read(lambda db: sqlite_reads.next_delivery_due(db, self._clock()))

    async def settle_delivery(self, delivery_id: str, verdict: Verdict) -> bool:
        return await self._write(lambda tx: sqlite_deliveries.settle(tx, delivery_id, verdict))

    async def deliveries(
        self,
        *,
        job_id: str | None = None,
        status: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        return await self._read(lambda db: sqlite_deliveries.page(db, job_id, status, cursor, limit))

    async def redeliver(self, delivery_id: str) -> Delivery | None:
        return await self._write(lambda tx: sqlite_deliveries.redeliver(tx, delivery_id))

    async def pending_deliveries(self) -> int:
        return await self._read(sqlite_reads.pending_deliveries)

    # ------------------------------------------------------------ subscriptions

    async def put_subscription(self, name: str, url: str, types: Sequence[str]) -> bool:
        return await self._write(lambda tx: sqlite_deliveries.put_subscription(tx, name, url, types))

    async def subscriptions(self) -> list[Subscription]:
        return await self._read(sqlite_deliveries.subscriptions)

    async def delete_subscription(self, name: str) -> bool:
        return await self._write(lambda tx: sqlite_deliveries.delete_subscription(tx, name))

    # ------------------------------------------------------------ catalogue

    async def backup(self, backup_id: str) -> CatalogueEntry | None:
        return await self._read(lambda db: sqlite_catalogue.backup(db, backup_id))

    async def backups(self, wanted: BackupFilter, *, cursor: str | None = None, limit: int = 50) -> Page:
        return await self._read(lambda db: sqlite_catalogue.page(db, wanted, cursor, limit))

    async def adopt_backup(self, entry: CatalogueEntry) -> bool:
        return await self._write(lambda tx: sqlite_catalogue.adopt(tx, entry))

    # ------------------------------------------------------------ keeping

    async def sweep(self, keep_seconds: float, limit: int = 500) -> int:
        swept = 0
        while swept < limit:
            size = min(self.SWEEP_BATCH, limit - swept)
            gone = await self._write(partial(sweep, keep_seconds=keep_seconds, limit=size))
            swept += gone
            if gone < size:
                break
        return swept

    async def counts(self) -> dict[str, int]:
        return await self._read(sqlite_reads.counts)


def _recover(tx: Transaction) -> int:
    """What a dead predecessor left: its leases end, the deliveries it had taken are due again."""
    tx.run(sql.release_deliveries, now=tx.now)
    return sqlite_jobs.end_all_leases(tx)

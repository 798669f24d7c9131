"""The ledger on a database that speaks SQL: every promise as a transaction, whichever database runs it."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from handlers.base import CatalogueChange, Later
from handlers.ports import CatalogueEntry
from handlers.supplies import Rejected, Taken
from service.jobs import Job, Problem, Status
from service.ledger import bookmarks, catalogue, collections, deliveries, moves, reads, schedules, stacks
from service.ledger.base import Ledger
from service.ledger.intake import accept_many
from service.ledger.queries import sql
from service.ledger.records import (
    Acceptance,
    Accepted,
    BackupFilter,
    CancelOutcome,
    Change,
    Delivery,
    Heartbeat,
    HistoryEntry,
    LedgerUnavailable,
    Page,
    Schedule,
    ScheduleStep,
    StoredCollection,
    Submission,
    Subscription,
    Transport,
    Verdict,
)
from service.ledger.retries import retry_job
from service.ledger.sweep import sweep
from service.ledger.transaction import Session, Transaction
from service.ledger.writer import Bulk

log = structlog.get_logger(__name__)
T = TypeVar("T")

JOB_BULKS: tuple[Bulk, ...] = (accept_many, moves.finish_many)
OUTBOX_BULKS: tuple[Bulk, ...] = (deliveries.settle_many,)
"""What many callers ask for at once."""


class SQLLedger(Ledger):
    """All of `Ledger` but its opening and closing; a database's ledger says how to write and how to read."""

    REAP_BATCH = 200
    SWEEP_BATCH = 100
    """Jobs in one transaction, so that acceptances need not wait long behind it."""

    def __init__(self) -> None:
        self._watchers: list[Callable[[Change], None]] = []

    @abstractmethod
    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        """Run it in a transaction; returns when that is on disk."""

    async def _write_beside(self, operation: Callable[[Transaction], T]) -> T:
        """As `_write`, for what must not wait behind acceptances and ends: deliveries, and the renewal of leases."""
        return await self._write(operation)

    @abstractmethod
    async def _gather(self, bulk: Bulk, item: Any) -> Any:
        """Run one of the bulks on this item and on all others that wait for the same."""

    @abstractmethod
    async def _read(self, question: Callable[[Session], T]) -> T: ...

    def watch(self, watcher: Callable[[Change], None]) -> None:
        self._watchers.append(watcher)

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for watcher in self._watchers:
                watcher(change)

    async def ping(self) -> None:
        await self._write(lambda tx: tx.run(sql.ping))

    async def room(self) -> int:
        return await self._write(lambda tx: max(0, tx.rules.queue_limit - tx.open_jobs) * tx.run(sql.ping))

    async def now(self) -> float:
        return await self._read(lambda session: session.now())

    # ------------------------------------------------------------ intake

    async def accept(self, submission: Submission) -> Acceptance:
        answer: Acceptance = await self._gather(accept_many, submission)
        return answer

    # ------------------------------------------------------------ the worker's side

    async def claim(self, worker_id: str, limit: int) -> list[Job]:
        return await self._write(lambda tx: moves.claim(tx, worker_id, limit))

    async def next_due(self) -> float | None:
        return await self._read(reads.next_due)

    async def renew(self, worker_id: str, leases: Mapping[str, int]) -> dict[str, Heartbeat]:
        return await self._write_beside(lambda tx: moves.renew(tx, worker_id, leases))

    async def hold(self, job_id: str, token: int, key: str) -> bool:
        return await self._write(lambda tx: moves.hold(tx, job_id, token, key))

    async def finish_job(
        self,
        job_id: str,
        token: int,
        status: Status,
        result: dict[str, Any] | None = None,
        problem: Problem | None = None,
        changes: Sequence[CatalogueChange] = (),
        later: Sequence[Later] = (),
    ) -> Job | None:
        moves.check_end(status)
        end = moves.End(job_id, token, status, result, problem, tuple(changes), tuple(later))
        job: Job | None = await self._gather(moves.finish_many, end)
        return job

    async def retry_later(self, job_id: str, token: int, delay: float, problem: Problem) -> bool:
        return await self._write(lambda tx: moves.retry_later(tx, job_id, token, delay, problem))

    async def give_back(self, job_id: str, token: int) -> bool:
        return await self._write(lambda tx: moves.give_back(tx, job_id, token))

    async def reap(self) -> int:
        """Looks first without writing: most of the time nothing has run out."""
        moved = 0
        while due := await self._read(lambda session: moves.to_reap(session, self.REAP_BATCH)):
            outcomes = await asyncio.gather(*(self._write(reaping) for _, reaping in due), return_exceptions=True)
            reaped = 0
            for (job_id, _), outcome in zip(due, outcomes, strict=True):
                if isinstance(outcome, LedgerUnavailable):
                    raise outcome
                if isinstance(outcome, BaseException):
                    log.error("job_not_reaped", job_id=job_id, error=type(outcome).__name__)
                else:
                    reaped += outcome
            moved += reaped
            if not reaped:
                break
        return moved

    # ------------------------------------------------------------ the caller's side

    async def job(self, job_id: str) -> Job | None:
        return await self._read(lambda session: reads.job(session, job_id))

    async def jobs(
        self,
        *,
        status: str | None = None,
        operation: str | None = None,
        connection: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        return await self._read(lambda session: reads.jobs(session, status, operation, connection, cursor, limit))

    async def live_jobs(self) -> set[str]:
        return await self._read(reads.live_jobs)

    async def known_jobs(self, job_ids: Sequence[str]) -> set[str]:
        return await self._read(lambda session: reads.known_jobs(session, job_ids))

    async def history(self, job_id: str, after_seq: int = 0) -> list[HistoryEntry]:
        return await self._read(lambda session: reads.history(session, job_id, after_seq))

    async def request_cancel(self, job_id: str) -> CancelOutcome | None:
        return await self._write(lambda tx: moves.request_cancel(tx, job_id))

    async def retry_job(self, job_id: str, new_job_id: str) -> Accepted | Status | None:
        return await self._write(lambda tx: retry_job(tx, job_id, new_job_id))

    # ------------------------------------------------------------ deliveries

    async def take_deliveries(
        self, limit: int, per_host: int, busy_hosts: Mapping[str, int], lease_seconds: float
    ) -> list[Delivery]:
        return await self._write_beside(lambda tx: deliveries.take(tx, limit, per_host, busy_hosts, lease_seconds))

    async def take_messages(self, limit: int, lease_seconds: float) -> list[Delivery]:
        return await self._write_beside(lambda tx: deliveries.take_messages(tx, limit, lease_seconds))

    async def next_delivery_due(self, transport: Transport = "http") -> float | None:
        return await self._read(lambda session: deliveries.next_due(session, transport))

    async def settle_delivery(self, delivery_id: str, verdict: Verdict) -> bool:
        settled: bool = await self._gather(deliveries.settle_many, (delivery_id, verdict))
        return settled

    async def deliveries(
        self,
        *,
        job_id: str | None = None,
        status: str | None = None,
        started: bool = True,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        return await self._read(
            lambda session: deliveries.page(session, job_id, status, cursor, limit, started=started)
        )

    async def redeliver(self, delivery_id: str) -> Delivery | None:
        return await self._write(lambda tx: deliveries.redeliver(tx, delivery_id))

    async def pending_deliveries(self) -> dict[Transport, int]:
        return await self._read(deliveries.pending)

    # ------------------------------------------------------------ subscriptions

    async def put_subscription(self, name: str, url: str, types: Sequence[str]) -> bool:
        return await self._write(lambda tx: deliveries.put_subscription(tx, name, url, types))

    async def subscriptions(self) -> list[Subscription]:
        return await self._read(deliveries.subscriptions)

    async def delete_subscription(self, name: str) -> bool:
        return await self._write(lambda tx: deliveries.delete_subscription(tx, name))

    # ------------------------------------------------------------ schedules

    async def put_schedule(self, schedule: Schedule) -> bool:
        return await self._write(lambda tx: schedules.put(tx, schedule))

    async def schedule(self, name: str) -> Schedule | None:
        return await self._read(lambda session: schedules.one(session, name))

    async def schedules(self) -> list[Schedule]:
        return await self._read(schedules.every)

    async def delete_schedule(self, name: str) -> bool:
        return await self._write(lambda tx: schedules.delete(tx, name))

    async def due_schedules(self, limit: int) -> list[Schedule]:
        return await self._read(lambda session: schedules.due(session, limit))

    async def next_schedule_due(self) -> float | None:
        return await self._read(schedules.next_due)

    async def fire_schedule(self, step: ScheduleStep, submission: Submission) -> Acceptance | None:
        return await self._write(lambda tx: schedules.fire(tx, step, submission))

    async def advance_schedule(self, step: ScheduleStep, refusal: dict[str, Any]) -> bool:
        return await self._write(lambda tx: schedules.advance(tx, step, refusal))

    # ------------------------------------------------------------ catalogue

    async def backup(self, backup_id: str) -> CatalogueEntry | None:
        return await self._read(lambda session: catalogue.backup(session, backup_id))

    async def backups(self, wanted: BackupFilter, *, cursor: str | None = None, limit: int = 50) -> Page:
        return await self._read(lambda session: catalogue.page(session, wanted, cursor, limit))

    async def adopt_backup(self, entry: CatalogueEntry) -> bool:
        return await self._write(lambda tx: catalogue.adopt(tx, entry))

    # ------------------------------------------------------------ collections

    async def put_collection(self, name: str, document: dict[str, Any]) -> bool:
        return await self._write(lambda tx: collections.put(tx, name, document))

    async def collections(self) -> list[StoredCollection]:
        return await self._read(collections.every)

    async def delete_collection(self, name: str) -> bool:
        return await self._write(lambda tx: collections.delete(tx, name))

    # ------------------------------------------------------------ what jobs remember

    async def bookmark(self, key: str) -> dict[str, Any] | None:
        return await self._read(lambda session: bookmarks.one(session, key))

    async def keep_bookmark(
        self, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected] = ()
    ) -> bool:
        return await self._write(lambda tx: bookmarks.keep(tx, job_id, token, key, value, rejected))

    async def rejected(self, job_id: str, *, cursor: str | None = None, limit: int = 50) -> Page:
        return await self._read(lambda session: bookmarks.rejected(session, job_id, cursor, limit))

    # ------------------------------------------------------------ stacks of numbers

    async def stack_size(self, name: str) -> int:
        return await self._read(lambda session: stacks.size(session, name))

    async def stack_top(self, name: str, count: int) -> Taken:
        return await self._write(lambda tx: stacks.top(tx, name, count))

    async def stack_push(self, name: str, values: Sequence[str], step: str | None = None) -> int:
        return await self._write(lambda tx: stacks.push(tx, name, values, step))

    async def stack_pop(self, name: str, count: int, revision: int, step: str | None = None, outcome: str = "") -> bool:
        return await self._write(lambda tx: stacks.pop(tx, name, count, revision, step, outcome))

    async def stack_step(self, step: str) -> str | None:
        return await self._read(lambda session: stacks.step(session, step))

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
        return await self._read(reads.counts)

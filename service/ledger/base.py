"""What a ledger promises: jobs, claims, deliveries and catalogue, each change one durable transaction.

Every method is a coroutine that returns after the commit is on disk. Times are by the ledger's own clock.
A method whose guard did not hold returns None or False: "no row came back" is an answer.
`LedgerUnavailable` means that nothing was changed, or that nobody knows (see there).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handlers.base import CatalogueChange, Later
from handlers.ports import CatalogueEntry
from handlers.supplies import Rejected, Taken
from service.jobs import Job, Problem, Status
from service.ledger.records import (
    Acceptance,
    Accepted,
    BackupFilter,
    CancelOutcome,
    Change,
    Delivery,
    Heartbeat,
    HistoryEntry,
    Page,
    Schedule,
    ScheduleStep,
    StoredCollection,
    Submission,
    Subscription,
    Transport,
    Verdict,
)


class Ledger(ABC):
    """One store of events, jobs, claims, history, deliveries, subscriptions and the catalogue."""

    # -- life of the ledger itself

    @abstractmethod
    async def open(self) -> None:
        """Migrate, take the process lock where there is one, end a dead predecessor's leases at once.

        Raises `LedgerInUse` or `LedgerUnavailable`.
        """

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def watch(self, watcher: Callable[[Change], None]) -> None:
        """Have `watcher` called in the event loop after commits. It must not block or raise."""

    @abstractmethod
    async def ping(self) -> None:
        """Prove the ledger can be written to; raises `LedgerUnavailable`."""

    @abstractmethod
    async def room(self) -> int:
        """How many more jobs would be taken now; raises `LedgerUnavailable`."""

    @abstractmethod
    async def now(self) -> float:
        """Seconds since the epoch by the ledger's clock, which all its processes share."""

    # -- intake

    @abstractmethod
    async def accept(self, submission: Submission) -> Acceptance:
        """Record an event, and its job unless it is a duplicate or joins one.

        Same (source, event_id) and digest: the first acceptance again, `duplicate=True`, with the job's present
        status. `join`: when an open job has the same join_digest, the event is attached to it and its callback
        added. `reject`: `Busy` when an open job holds or wants an excluding claim. Concurrent calls share a commit.
        A repeated event's `reply` is told of the end as well, at once when the job has ended.
        """

    # -- the worker's side

    @abstractmethod
    async def claim(self, worker_id: str, limit: int) -> list[Job]:
        """Take up to `limit` due jobs whose claims are free, oldest first: `queued → running`.

        Takes all of a job's claims or none; attempts + 1; a new fencing token, greater than any before;
        history and `.started` deliveries in the same transaction. Jobs past their deadline or expiry are
        not taken (see `reap`).
        """

    @abstractmethod
    async def next_due(self) -> float | None:
        """Seconds until something may be claimed or reaped by time alone; None: nothing waits for time."""

    @abstractmethod
    async def renew(self, worker_id: str, leases: Mapping[str, int]) -> dict[str, Heartbeat]:
        """Extend leases, job_id → token."""

    @abstractmethod
    async def tell_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        """Let other processes on this ledger know how far a job is. Nothing is stored; it may be lost."""

    @abstractmethod
    async def hold(self, job_id: str, token: int, key: str) -> bool:
        """Add a shared claim to a running job; False when the lease is gone or an excluder has the key."""

    @abstractmethod
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
        """`running → succeeded | failed | canceled`, guarded by the token.

        One transaction: state, result, history with the terminal event, one delivery per callback, reply, matching
        subscription and for the exchange, catalogue changes, the jobs that follow `later`, claims freed. None when
        the token no longer holds: nothing was changed. Concurrent calls share statements and a commit.
        """

    @abstractmethod
    async def retry_later(self, job_id: str, token: int, delay: float, problem: Problem) -> bool:
        """`running → queued`, due after `delay` seconds; claims freed; the error is kept on the row."""

    @abstractmethod
    async def give_back(self, job_id: str, token: int) -> bool:
        """`running → queued`, due now, as if the attempt had not been made (drain)."""

    @abstractmethod
    async def reap(self) -> int:
        """End what time has ended; how many jobs moved.

        Expired leases: `running → queued`, crashes + 1, claims freed (the `crash_limit`th: `failed` with
        `worker_lost`; a job whose cancel was asked for: `canceled`). Queued jobs past `deadline_at`: `queued →
        running → failed` with `deadline_exceeded`, past `expires_at`: `canceled` with `expired`.
        """

    # -- the caller's side

    @abstractmethod
    async def job(self, job_id: str) -> Job | None: ...

    @abstractmethod
    async def jobs(
        self,
        *,
        status: str | None = None,
        operation: str | None = None,
        connection: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Newest first, without what is long in them: `data` is empty then, and `result_omitted` set.

        Raises `InvalidCursor`."""

    @abstractmethod
    async def live_jobs(self) -> set[str]:
        """Ids of all queued and running jobs."""

    @abstractmethod
    async def known_jobs(self, job_ids: Sequence[str]) -> set[str]:
        """Those of `job_ids` this ledger has a row of."""

    @abstractmethod
    async def history(self, job_id: str, after_seq: int = 0) -> list[HistoryEntry]: ...

    @abstractmethod
    async def request_cancel(self, job_id: str) -> CancelOutcome | None:
        """Cancel a queued job with its terminal event in one transaction, or note the wish on a running one.

        None: no such job.
        """

    @abstractmethod
    async def retry_job(self, job_id: str, new_job_id: str) -> Accepted | Status | None:
        """A new job like a failed or canceled one: event id `<id>/retry/N`, `retry_of`, same claims and callbacks.

        The present status when it is neither failed nor canceled; None: no such job.
        """

    # -- deliveries

    @abstractmethod
    async def take_deliveries(
        self, limit: int, per_host: int, busy_hosts: Mapping[str, int], lease_seconds: float
    ) -> list[Delivery]:
        """Due deliveries by HTTP for hosts with room, oldest first; each is hidden from others for `lease_seconds`.

        A host gets at most `per_host` less its number in `busy_hosts`; no host can crowd out another.
        """

    @abstractmethod
    async def take_messages(self, limit: int, lease_seconds: float) -> list[Delivery]:
        """Due deliveries by RabbitMQ, oldest first; each is hidden from others for `lease_seconds`."""

    @abstractmethod
    async def next_delivery_due(self, transport: Transport = "http") -> float | None:
        """Seconds until a pending delivery is due (0: now), None when there is none."""

    @abstractmethod
    async def settle_delivery(self, delivery_id: str, verdict: Verdict) -> bool:
        """Log an attempt and set what follows; False when it was settled meanwhile.

        Concurrent calls share statements and a commit.
        """

    @abstractmethod
    async def deliveries(
        self,
        *,
        job_id: str | None = None,
        status: str | None = None,
        started: bool = True,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Newest first, bodies included, logs filled; `started`: those of `.started`, too. Raises `InvalidCursor`."""

    @abstractmethod
    async def redeliver(self, delivery_id: str) -> Delivery | None:
        """Make it pending and due now, whatever it was; its attempts start anew, its log is kept."""

    @abstractmethod
    async def pending_deliveries(self) -> dict[Transport, int]:
        """How many are on their way by each transport."""

    # -- subscriptions

    @abstractmethod
    async def put_subscription(self, name: str, url: str, types: Sequence[str]) -> bool:
        """Create or replace; True when it is new."""

    @abstractmethod
    async def subscriptions(self) -> list[Subscription]: ...

    @abstractmethod
    async def delete_subscription(self, name: str) -> bool: ...

    # -- schedules

    @abstractmethod
    async def put_schedule(self, schedule: Schedule) -> bool:
        """Create or replace, by its fields from `name` to `next_at`; True when it is new.

        A replaced one that keeps cron line, time zone and `enabled` keeps its next tick, which may be due by now.
        """

    @abstractmethod
    async def schedule(self, name: str) -> Schedule | None: ...

    @abstractmethod
    async def schedules(self) -> list[Schedule]:
        """All of them by name."""

    @abstractmethod
    async def delete_schedule(self, name: str) -> bool: ...

    @abstractmethod
    async def due_schedules(self, limit: int) -> list[Schedule]:
        """Those whose next tick has come, longest due first."""

    @abstractmethod
    async def next_schedule_due(self) -> float | None:
        """Seconds until a schedule is due (0: now), None when none has a next tick."""

    @abstractmethod
    async def fire_schedule(self, step: ScheduleStep, submission: Submission) -> Acceptance | None:
        """Accept the tick's event and move the schedule on, in one transaction.

        None when the schedule was replaced, removed or moved on meanwhile, by whomever: nothing was changed.
        An event that is not `Accepted` leaves the schedule where it is.
        """

    @abstractmethod
    async def advance_schedule(self, step: ScheduleStep, refusal: dict[str, Any]) -> bool:
        """Move the schedule on past a tick whose event was refused; False as None of `fire_schedule`."""

    # -- catalogue

    @abstractmethod
    async def backup(self, backup_id: str) -> CatalogueEntry | None: ...

    @abstractmethod
    async def backups(self, wanted: BackupFilter, *, cursor: str | None = None, limit: int = 50) -> Page:
        """Newest first. Raises `InvalidCursor`."""

    @abstractmethod
    async def adopt_backup(self, entry: CatalogueEntry) -> bool:
        """Add an artefact found in storage; False when the catalogue has it."""

    # -- collections

    @abstractmethod
    async def put_collection(self, name: str, document: dict[str, Any]) -> bool:
        """Create or replace; True when it is new."""

    @abstractmethod
    async def collections(self) -> list[StoredCollection]:
        """All of them by name."""

    @abstractmethod
    async def delete_collection(self, name: str) -> bool: ...

    # -- what jobs remember

    @abstractmethod
    async def bookmark(self, key: str) -> dict[str, Any] | None: ...

    @abstractmethod
    async def keep_bookmark(
        self, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected] = ()
    ) -> bool:
        """Set a bookmark and add rejected records of the job; False when the token no longer holds: nothing changed.

        A rejected record that is told again is the same. A bookmark `job:<job_id>` goes with its job.
        """

    @abstractmethod
    async def rejected(self, job_id: str, *, cursor: str | None = None, limit: int = 50) -> Page:
        """Rejected records of a job, by page and position. Raises `InvalidCursor`."""

    # -- stacks of numbers

    @abstractmethod
    async def stack_size(self, name: str) -> int: ...

    @abstractmethod
    async def stack_top(self, name: str, count: int) -> Taken:
        """At most `count` values, the topmost first, with the state this was true in."""

    @abstractmethod
    async def stack_push(self, name: str, values: Sequence[str], step: str | None = None) -> int:
        """The new size; the same `step` once more changes nothing and answers what it did then."""

    @abstractmethod
    async def stack_pop(self, name: str, count: int, revision: int, step: str | None = None, outcome: str = "") -> bool:
        """False when the stack is in another state; the same `step` once more changes nothing: True."""

    @abstractmethod
    async def stack_step(self, step: str) -> str | None:
        """The outcome of a step that was made."""

    # -- keeping

    @abstractmethod
    async def sweep(self, keep_seconds: float, limit: int = 500) -> int:
        """Remove ended jobs older than that with events, history and settled deliveries; how many jobs went.

        A job with a pending delivery stays. Catalogue rows always stay.
        """

    @abstractmethod
    async def counts(self) -> dict[str, int]:
        """Jobs by status, for metrics."""

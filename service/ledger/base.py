"""What a ledger promises: jobs, claims, deliveries and catalogue, each change one durable transaction.

Every method is a coroutine that returns after the commit is on disk. Times are by the ledger's own clock.
A method whose guard did not hold returns None or False: "no row came back" is an answer.
`LedgerUnavailable` means nothing was changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from handlers.base import CatalogueChange, Claim
from handlers.ports import CatalogueEntry
from service.jobs import Job, Problem, Status


class LedgerUnavailable(Exception):
    """The ledger cannot be reached or written now (503); nothing was changed."""


class LedgerInUse(Exception):
    """Another process holds this SQLite ledger."""


# ---------------------------------------------------------------- intake


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid event on its way in. `job_id` is used when it becomes a job of its own."""

    job_id: str
    source: str
    event_id: str
    operation: str
    connection: str | None
    data: str
    """The request's data as JSON text."""
    digest: str
    join_digest: str
    claims: tuple[Claim, ...] = ()
    callback_url: str | None = None
    on_conflict: str = "queue"
    max_attempts: int = 3
    deadline_seconds: float | None = None
    expires_at: float | None = None
    retry_of: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    job_id: str
    status: Status
    duplicate: bool = False
    joined: bool = False


@dataclass(frozen=True, slots=True)
class IdReused:
    """The same (source, id) came before with another digest."""

    job_id: str
    digest: str
    """Digest of the event accepted first."""


@dataclass(frozen=True, slots=True)
class Busy:
    """`on_conflict: reject`, and this job is open on the same target."""

    job_id: str


@dataclass(frozen=True, slots=True)
class QueueFull:
    open_jobs: int


Acceptance = Accepted | IdReused | Busy | QueueFull


# ---------------------------------------------------------------- life of a job


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a renewal found for one lease."""

    held: bool
    cancel_requested: bool


class CancelOutcome(StrEnum):
    CANCELED = "canceled"
    """It was queued and is canceled now."""
    REQUESTED = "requested"
    """It runs; the wish is noted."""
    ENDED = "ended"
    """It had ended before."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One transition. `event` is the outgoing event it made, as JSON text, if any."""

    seq: int
    job_id: str
    at: float
    from_status: str | None
    to_status: str
    attempt: int
    token: int
    event_id: str | None
    event_type: str | None
    event: str | None


# ---------------------------------------------------------------- deliveries


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"
    """The receiver said it wants no more, or the schedule ran out."""


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    at: float
    http_status: int | None
    error: str | None
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one destination."""

    delivery_id: str
    job_id: str
    event_id: str
    event_type: str
    kind: str
    """`callback` or `subscription`."""
    destination: str
    """Name of the subscription; for a callback its host (the URL may hold a token)."""
    url: str
    host: str
    body: bytes
    status: DeliveryStatus
    attempts: int
    created_at: float
    due_at: float
    delivered_at: float | None
    last_error: str | None
    log: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt at a delivery came to. Exactly one of the three follows."""

    attempt_at: float
    http_status: int | None
    error: str | None
    milliseconds: float
    status: DeliveryStatus
    """PENDING: tried again after `retry_after` seconds."""
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """Events whose type matches one of `types` (`*` stands for one word: `backup.*`, `*.failed`, `*`) go to `url`."""

    name: str
    url: str
    types: tuple[str, ...]
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """Items newest first, and the opaque cursor of the next page (None: this was the last)."""

    items: Sequence[Any]
    next_cursor: str | None


class InvalidCursor(ValueError):
    """A cursor that no page of this ledger gave out."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened that somebody may wait for. Only a hint: it may be lost, so watchers also poll."""

    kind: str
    """`queue` (a job may be claimable), `job` (a transition of job_id), `outbox` (a delivery may be due),
    `cancel` (a wish to cancel job_id)."""
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings a ledger enforces."""

    queue_limit: int = 100_000
    lease_seconds: float = 30.0
    crash_limit: int = 10
    callback_delay: float = 0.3
    """Seconds between a job's end and the first try of its callback."""


@dataclass(frozen=True, slots=True)
class BackupFilter:
    connection: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    min_level: int = 0
    listed_only: bool = False
    undamaged_only: bool = False


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

    # -- intake

    @abstractmethod
    async def accept(self, submission: Submission) -> Acceptance:
        """Record an event, and its job unless it is a duplicate or joins one.

        Same (source, event_id) and digest: the first acceptance again, `duplicate=True`, with the job's present
        status. `join`: when an open job has the same join_digest, the event is attached to it and its callback
        added. `reject`: `Busy` when an open job holds or wants an excluding claim. Concurrent calls share a commit.
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
    ) -> Job | None:
        """`running → succeeded | failed | canceled`, guarded by the token.

        One transaction: state, result, history with the terminal event, one delivery per callback and matching
        subscription, catalogue changes, claims freed. None when the token no longer holds: nothing was changed.
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
        """Newest first. Raises `InvalidCursor`."""

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
        """Due deliveries for hosts with room, oldest first; each is hidden from others for `lease_seconds`.

        A host gets at most `per_host` less its number in `busy_hosts`; no host can crowd out another.
        """

    @abstractmethod
    async def next_delivery_due(self) -> float | None:
        """Seconds until a pending delivery is due (0: now), None when there is none."""

    @abstractmethod
    async def settle_delivery(self, delivery_id: str, verdict: Verdict) -> bool:
        """Log an attempt and set what follows; False when it was settled meanwhile."""

    @abstractmethod
    async def deliveries(
        self, *, job_id: str | None = None, status: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page:
        """Newest first, bodies included, logs filled. Raises `InvalidCursor`."""

    @abstractmethod
    async def redeliver(self, delivery_id: str) -> Delivery | None:
        """Make it pending and due now, whatever it was; its attempts start anew, its log is kept."""

    @abstractmethod
    async def pending_deliveries(self) -> int: ...

    # -- subscriptions

    @abstractmethod
    async def put_subscription(self, name: str, url: str, types: Sequence[str]) -> bool:
        """Create or replace; True when it is new."""

    @abstractmethod
    async def subscriptions(self) -> list[Subscription]: ...

    @abstractmethod
    async def delete_subscription(self, name: str) -> bool: ...

    # -- catalogue

    @abstractmethod
    async def backup(self, backup_id: str) -> CatalogueEntry | None: ...

    @abstractmethod
    async def backups(self, wanted: BackupFilter, *, cursor: str | None = None, limit: int = 50) -> Page:
        """Newest first. Raises `InvalidCursor`."""

    @abstractmethod
    async def adopt_backup(self, entry: CatalogueEntry) -> bool:
        """Add an artefact found in storage; False when the catalogue has it."""

    # -- keeping

    @abstractmethod
    async def sweep(self, keep_seconds: float, limit: int = 500) -> int:
        """Remove ended jobs older than that with events, history and settled deliveries; how many jobs went.

        A job with a pending delivery stays. Catalogue rows always stay.
        """

    @abstractmethod
    async def counts(self) -> dict[str, int]:
        """Jobs by status, for metrics."""

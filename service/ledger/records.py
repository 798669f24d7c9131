"""What ledgers speak of: submissions and their answers, history, deliveries, hints, the rules they enforce."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from engines.artefacts.manifest import ANY_EXTENT
from handlers.base import Claim
from service.jobs import Status


class LedgerUnavailable(Exception):
    """The ledger cannot be reached or written now (503).

    Nothing was changed; but when a server is lost in the moment of a commit, nobody knows. So whatever is asked again
    after this must be safe to be done twice, as accepting an event is and ending a job.
    """


class LedgerInUse(Exception):
    """Another process holds this SQLite ledger."""


class InvalidLedgerURL(ValueError):
    """No ledger can be kept there; the text holds no secret and says what to do."""


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
    reply: str | None = None
    """Where a message asked for the terminal event: a `destinations.reply_url`."""
    on_conflict: str = "queue"
    max_attempts: int = 3
    deadline_seconds: float | None = None
    expires_at: float | None = None
    retry_of: str | None = None
    wait: float = 0.0
    """Seconds from acceptance until it is due."""


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


Transport = Literal["http", "amqp"]
"""What carries a delivery; each has a relay of its own, so neither holds up the other."""

AMQP_KINDS = frozenset({"exchange", "reply"})


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
    """By HTTP: `callback` or `subscription`. By RabbitMQ: `exchange` or `reply`."""
    destination: str
    """Name of the subscription, exchange or reply queue; for a callback its host (the URL may hold a token)."""
    url: str
    """What to call; for `reply` a `destinations.reply_url`."""
    host: str
    """What deliveries by HTTP share room by."""
    body: bytes
    status: DeliveryStatus
    attempts: int
    created_at: float
    due_at: float
    delivered_at: float | None
    last_error: str | None
    log: tuple[Attempt, ...] = ()
    taken_at: float | None = None
    """For one just taken: the moment by the ledger's clock, which `created_at` is counted by."""

    @property
    def age(self) -> float:
        """Seconds it is on its way."""
        return (time.time() if self.taken_at is None else self.taken_at) - self.created_at

    @property
    def transport(self) -> Transport:
        return "amqp" if self.kind in AMQP_KINDS else "http"


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
class Schedule:
    """A cron line that makes an event at each of its ticks."""

    name: str
    cron: str
    timezone: str
    operation: str
    data: dict[str, Any]
    enabled: bool = True
    next_at: float | None = None
    """The tick that comes next, or is due and not fired yet; None: there is none, or it is not enabled."""
    revision: str = ""
    """Another one after every `put_schedule`: what was read before it is recognised as out of date."""
    last_at: float | None = None
    """The last tick that made an event."""
    last_job_id: str | None = None
    last_refusal: dict[str, Any] | None = None
    """Why a later tick made none: `at`, `code`, `detail`."""
    created_at: float = 0.0
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ScheduleStep:
    """A schedule's way past a tick; taken only while it is of that revision and stands at `from_tick`."""

    name: str
    revision: str
    from_tick: float
    """The first tick that has not been fired."""
    tick: float
    """The one that fires: the newest that is due."""
    to_tick: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """Items newest first, and the opaque cursor of the next page (None: this was the last)."""

    items: Sequence[Any]
    next_cursor: str | None


class InvalidCursor(ValueError):
    """A cursor that no page of this ledger gave out."""


@dataclass(frozen=True, slots=True)
class StoredCollection:
    """A collection as a caller has put it; times in seconds since the epoch."""

    name: str
    document: Mapping[str, Any]
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened that somebody may wait for. Only a hint: it may be lost, so watchers also poll."""

    kind: str
    """`queue` (a job may be claimable), `job` (a transition of job_id), `outbox` (a delivery may be due),
    `cancel` (a wish to cancel job_id), `progress` (of job_id, by another process), `schedule` or `collection` (one
    was changed)."""
    job_id: str | None = None
    progress: str | None = None
    """For `progress`: the progress as JSON text."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings a ledger enforces."""

    queue_limit: int = 100_000
    lease_seconds: float = 30.0
    crash_limit: int = 10
    callback_delay: float = 0.3
    """Seconds between a job's end and the first try of its callback."""
    exchange: str | None = None
    """RabbitMQ exchange that every event goes to, as this process was told; None: it was told of none
    (see `agreements`)."""


@dataclass(frozen=True, slots=True)
class BackupFilter:
    connection: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    min_level: int = 0
    whole: Collection[bool | None] = ANY_EXTENT
    """What `Manifest.whole` may be."""
    listed_only: bool = False
    undamaged_only: bool = False

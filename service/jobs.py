"""A job's life: its states, the moves between them, and the job as callers see it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
}
"""The whole state machine. Every UPDATE of a status names the state it leaves; this table is what it obeys."""

ENDED = frozenset(status for status, onward in MOVES.items() if not onward)

STAGE = {Status.SUCCEEDED: "completed", Status.FAILED: "failed", Status.CANCELED: "canceled"}
"""The stage that a terminal status is announced by."""

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)
_SHIFTS = tuple(range(120, -1, -10))


_randomness: list[bytes] = []


def _random_bytes() -> bytes:
    """10 of them; fetched many at a time, since each call to the system gives the interpreter lock away."""
    try:
        return _randomness.pop()
    except IndexError:
        fetched = os.urandom(10 * 256)
        _randomness.extend(fetched[at : at + 10] for at in range(10, len(fetched), 10))
        return fetched[:10]


def new_id() -> str:
    """26 characters, sortable by time of making (a lower-case ULID, https://github.com/ulid/spec)."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(_random_bytes())
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])


def iso(at: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC with milliseconds."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the ledger. Times are seconds since the epoch by the ledger's clock."""

    job_id: str
    source: str
    event_id: str
    operation: str
    connection: str | None
    data: dict[str, Any]
    status: Status
    attempts: int
    crashes: int
    max_attempts: int
    created_at: float
    due_at: float
    started_at: float | None
    ended_at: float | None
    deadline_at: float | None
    expires_at: float | None
    cancel_requested: bool
    fencing_token: int
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    retry_of: str | None = None
    seq: int = 0
    taken_at: float = 0.0
    """For a job just claimed: the moment of it by the ledger's clock, which `deadline_at` is counted by."""
    result_omitted: bool = False
    """It has a result, which is too long for the list that this was read for."""

    def as_json(self, progress: dict[str, Any] | None = None) -> dict[str, Any]:
        """The job as `GET /jobs/{id}` shows it; in lists `result_omitted` tells of a result that is only there."""
        shown = {
            "job_id": self.job_id,
            "event_id": self.event_id,
            "source": self.source,
            "operation": self.operation,
            "connection": self.connection,
            "status": self.status.value,
            "attempts": self.attempts,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "progress": progress if self.status is Status.RUNNING else None,
            "result": self.result,
            "error": self.error,
            "links": links(self.job_id, self.retry_of),
        }
        return shown | {"result_omitted": True} if self.result_omitted else shown


def links(job_id: str, retry_of: str | None = None) -> dict[str, str]:
    """Where a job's resources are."""
    found = {
        "self": f"/jobs/{job_id}",
        "events": f"/jobs/{job_id}/events",
        "cancel": f"/jobs/{job_id}/cancel",
        "retry": f"/jobs/{job_id}/retry",
    }
    if retry_of:
        found["retry_of"] = f"/jobs/{retry_of}"
    return found


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job failed or was canceled, as events carry it in `data.error`."""

    code: str
    message: str
    retryable: bool = False
    hint: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    """Extra fields of the terminal event's data, beside `error`."""

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "retryable": self.retryable, "hint": self.hint}

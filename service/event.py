"""The event: a CloudEvent 1.0, coming in as a model and going out as bytes.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from service.jobs import STAGE, Job, Problem, Status, iso


@dataclass(frozen=True, slots=True)
class Event:
    """An event that came in. Transport ends here: doors turn bytes into this, nothing below sees bytes."""

    id: str
    source: str
    operation: str
    data: dict[str, Any]
    expires_at: float | None = None
    """Seconds since the epoch; a job not started by then is canceled (`expirytime` extension)."""
    extensions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutEvent:
    """An event to deliver: the same bytes to every destination on every try."""

    id: str
    type: str
    body: bytes


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False)


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only: equal values give equal text. The value was parsed from JSON."""
    return _CANONICAL.encode(value)


def digest(operation: str, data: dict[str, Any]) -> str:
    """SHA-256 (hex) over operation and data as canonical JSON, nothing else."""
    return hashlib.sha256(canonical([operation, data]).encode()).hexdigest()


JOIN_LEAVES_OUT = frozenset({"callback_url", "on_conflict"})


def join_digest(operation: str, data: dict[str, Any]) -> str:
    """What two requests must share for the second to join the first: all but where the answer goes."""
    return digest(operation, {key: value for key, value in data.items() if key not in JOIN_LEAVES_OUT})


def digests(operation: str, data: dict[str, Any]) -> tuple[str, str]:
    """`digest` and `join_digest`, made once where they are the same."""
    own = digest(operation, data)
    return own, own if JOIN_LEAVES_OUT.isdisjoint(data) else join_digest(operation, data)


def _out(job: Job, stage: str, event_id: str, at: float, data: dict[str, Any]) -> OutEvent:
    own = {
        "job_id": job.job_id,
        "event_id": job.event_id,
        "operation": job.operation,
        "connection": job.connection,
    }
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/flexdb",
        "type": f"{job.operation}.{stage}",
    }
    if job.connection is not None:
        event["subject"] = job.connection
    event |= {
        "time": iso(at),
        "datacontenttype": "application/json",
        "jobid": job.job_id,
        "causationid": job.event_id,
        "data": own | {key: value for key, value in data.items() if key not in own},
    }
    text = json.dumps(event, ensure_ascii=False)
    return OutEvent(event_id, event["type"], text.encode("utf-8", "replace"))  # a tool's words may hold lone surrogates


def started_event(job: Job, at: float) -> OutEvent:
    """`<operation>.started`, one per claim. `job` is the row as it is after the claim."""
    data = {"status": Status.RUNNING.value, "attempts": job.attempts}
    return _out(job, "started", f"{job.job_id}/started/{job.fencing_token}", at, data)


def progressed_event(job: Job, at: float, progress: dict[str, Any], number: int) -> OutEvent:
    """`<operation>.progressed`: never stored, on the event stream only."""
    data = {"status": Status.RUNNING.value, "attempts": job.attempts, "progress": progress}
    return _out(job, "progressed", f"{job.job_id}/progressed/{job.attempts}/{number}", at, data)


def terminal_event(
    job: Job, status: Status, at: float, result: dict[str, Any] | None = None, problem: Problem | None = None
) -> OutEvent:
    """The one event that ends a job: its id is `<job>/terminal`, whatever the outcome."""
    data: dict[str, Any] = {"status": status.value, "attempts": job.attempts}
    if problem is not None:
        data["error"] = problem.as_json()
        data |= {key: value for key, value in problem.details.items() if key not in data}
    data |= {key: value for key, value in (result or {}).items() if key not in data}
    return _out(job, STAGE[status], f"{job.job_id}/terminal", at, data)

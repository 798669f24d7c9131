"""What follows when an attempt at a job is over: one table from how it ended to the job's next move."""

from __future__ import annotations

import json
import random
import re
import traceback
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from engines.errors import ArtefactDamaged, FlexError, Stopped
from engines.run import StopReason
from handlers.base import CatalogueChange, Later, Outcome, Verified
from service.jobs import Job, Problem, Status
from service.ledger.endings import CANCELED


@dataclass(frozen=True, slots=True)
class Finish:
    """`running → succeeded | failed | canceled`."""

    status: Status
    result: dict[str, Any] | None = None
    problem: Problem | None = None
    changes: tuple[CatalogueChange, ...] = ()
    later: tuple[Later, ...] = ()


@dataclass(frozen=True, slots=True)
class RetryLater:
    """`running → queued`, due after `delay` seconds."""

    delay: float
    problem: Problem


@dataclass(frozen=True, slots=True)
class GiveBack:
    """`running → queued`, as if this attempt had not been made."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """The lease is another's by now: nothing may be written."""


Ending = Finish | RetryLater | GiveBack | LetGo

DEADLINE = Problem(
    "deadline_exceeded",
    "The job did not end before its deadline.",
    hint="Give it a later deadline with `deadline_seconds`.",
)

WHEN_STOPPED: dict[str, Ending] = {
    StopReason.CANCEL: Finish(Status.CANCELED, problem=CANCELED),
    StopReason.DEADLINE: Finish(Status.FAILED, problem=DEADLINE),
    StopReason.SHUTDOWN: GiveBack(),
    StopReason.LEASE_LOST: LetGo(),
}


LONGEST_WAIT = 86400.0
"""Seconds that a retry is put off at most because a source asked for it."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before the next attempt: doubles from `base` up to `cap`, times a random number in `spread`."""

    base: float = 2.0
    cap: float = 600.0
    spread: tuple[float, float] = (0.5, 1.5)

    def delay(self, failures: int) -> float:
        """After that many failed attempts (1 or more)."""
        planned = min(self.base * 2.0 ** min(failures - 1, 60), self.cap)
        return planned * random.uniform(*self.spread)  # noqa: S311  no secret is made of it


def completed(outcome: Outcome) -> Finish:
    """A result that was returned is a success, even when a wish to stop came while it was on its way."""
    return Finish(
        Status.SUCCEEDED, outcome.result.model_dump(mode="json"), changes=outcome.changes, later=outcome.later
    )


def ending_of(error: BaseException, stopped: StopReason | None, job: Job, backoff: Backoff, now: float) -> Ending:
    """What an attempt that raised leads to.

    `stopped` is the wish the work was told of. Once told, whatever is raised counts as the stop: a tool that
    was killed fails in its own words.
    """
    reason = error.reason if isinstance(error, Stopped) else stopped
    if reason is not None and reason in WHEN_STOPPED:
        return WHEN_STOPPED[reason]
    if isinstance(error, FlexError):
        return _failed(error, job, backoff, now)
    return internal(error)


def internal(error: BaseException) -> Finish:
    """A fault of ours. The error's own text stays out: it may quote anything."""
    message = f"FlexDB failed unexpectedly ({type(error).__name__})."
    return Finish(Status.FAILED, problem=Problem("internal_error", message, hint=FlexError.default_hint))


def _failed(error: FlexError, job: Job, backoff: Backoff, now: float) -> Ending:
    problem = problem_of(error)
    tries = job.attempts - job.crashes
    if error.retryable and tries < job.max_attempts:
        delay = max(backoff.delay(max(tries, 1)), _asked_for(error))
        if job.deadline_at is None or now + delay < job.deadline_at:
            return RetryLater(delay, problem)
    return Finish(Status.FAILED, problem=problem, changes=learnt(error))


def _asked_for(error: FlexError) -> float:
    """Seconds after which whoever failed asked to come back; earlier attempts would be wasted."""
    seconds = error.details.get("retry_after")
    return min(float(seconds), LONGEST_WAIT) if isinstance(seconds, int | float) else 0.0


def problem_of(error: FlexError) -> Problem:
    return Problem(error.code, error.message, error.retryable, error.hint, _plain(error.details))


def learnt(error: FlexError) -> tuple[CatalogueChange, ...]:
    """What the catalogue learns from a failure: a backup found damaged is marked so."""
    backup_id = error.details.get("backup_id")
    if isinstance(error, ArtefactDamaged) and isinstance(backup_id, str):
        return (Verified(backup_id, 0, damaged=True),)
    return ()


def unreadable(error: ValidationError) -> Finish:
    """A stored request that this version does not understand. Names the fields, never their values."""
    fields = sorted({".".join(str(part) for part in fault["loc"]) for fault in error.errors(include_input=False)})
    message = f"The stored request is not valid: {', '.join(fields) or 'as a whole'}."
    hint = "Send the event again in the form this version asks for."
    return Finish(Status.FAILED, problem=Problem("invalid_request", message, hint=hint))


def unknown(operation: str) -> Finish:
    """A job for an operation this worker has no handler of."""
    message = f"This worker does not know the operation {operation!r}."
    return Finish(
        Status.FAILED,
        problem=Problem("unknown_operation", message, hint="Run a version that has the operation."),
    )


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    """Details as JSON values, whatever an engine put there."""
    plain: dict[str, Any] = json.loads(to_json(details, fallback=str, inf_nan_mode="null"))
    return plain


_CREDENTIALS = re.compile(r"(?i)(://[^/\s:@]*:)[^\s]*@|((?:password|passwd|secret|token)['\"]?\s*[=:]\s*)\S+")


def traceback_without_secrets(error: BaseException) -> str:
    """The traceback for the log; foreign errors may quote a URL or a setting: credentials are struck out."""
    text = "".join(traceback.format_exception(error))
    return _CREDENTIALS.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)

"""Takes events in: new, repeated, joining a job, or refused; many of them in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from handlers.base import Claim, Later
from service.event import digests
from service.jobs import Status, new_id
from service.ledger.deliveries import reply_too
from service.ledger.queries import sql
from service.ledger.records import Acceptance, Accepted, Busy, IdReused, QueueFull, Submission
from service.ledger.rows import Row, storable
from service.ledger.transaction import Transaction

OWN_SOURCE = "/flexdb"
"""Of events that FlexDB makes itself; no caller may speak for it."""


def accept_many(tx: Transaction, submissions: Sequence[Submission]) -> list[Acceptance]:
    """The answers in the order of the submissions."""
    room = tx.rules.queue_limit - tx.open_jobs
    if len(submissions) <= room and all(submission.on_conflict == "queue" for submission in submissions):
        return _record_all(tx, submissions)
    tx.session.lock(_contested(submissions))
    return [_accept_one(tx, submission) for submission in submissions]


def _contested(submissions: Sequence[Submission]) -> list[str]:
    """What two processes must not decide at once: who is the first to ask for something."""
    names = {"join:" + submission.join_digest for submission in submissions if submission.on_conflict == "join"}
    rejecting = (submission for submission in submissions if submission.on_conflict == "reject")
    names |= {"reject:" + claim.key for submission in rejecting for claim in submission.claims}
    return sorted(names)


def _record_all(tx: Transaction, submissions: Sequence[Submission]) -> list[Acceptance]:
    """Events first: the primary key decides which are new, repeats inside the batch included.

    They go in by the order of their keys, so that two processes with the same events never wait for each other.
    """
    rows = sorted((s.source, s.event_id, number, s.digest, s.job_id) for number, s in enumerate(submissions))
    if tx.insert(sql.record_events, [(row[0], row[1], row[3], row[4]) for row in rows]) == len(rows):
        record_jobs(tx, submissions)
        return [Accepted(submission.job_id, Status.QUEUED) for submission in submissions]
    fresh = [submission for submission in submissions if _is_fresh(tx, submission)]
    record_jobs(tx, fresh)
    new = {id(submission) for submission in fresh}
    return [
        Accepted(submission.job_id, Status.QUEUED) if id(submission) in new else _repeated(tx, submission)
        for submission in submissions
    ]


def _find(tx: Transaction, submission: Submission) -> Row | None:
    return tx.one(sql.find_event, source=submission.source, event_id=submission.event_id)


def _is_fresh(tx: Transaction, submission: Submission) -> bool:
    """Whether the event row is the one just inserted for this submission."""
    row = _find(tx, submission)
    return row is not None and row["job_id"] == submission.job_id and row["status"] is None


def _accept_one(tx: Transaction, submission: Submission) -> Acceptance:
    if _find(tx, submission) is not None:
        return _repeated(tx, submission)
    if submission.on_conflict == "join" and (joined := _join(tx, submission)):
        return joined
    if submission.on_conflict == "reject" and (busy := _excluding_job(tx, submission.claims)):
        return Busy(busy)
    if tx.open_jobs >= tx.rules.queue_limit:
        return QueueFull(tx.open_jobs)
    if not record_new_event(tx, submission):
        return _repeated(tx, submission)  # another process had it first, in this very moment
    record_jobs(tx, [submission])
    return Accepted(submission.job_id, Status.QUEUED)


def _repeated(tx: Transaction, submission: Submission) -> Acceptance:
    """The first acceptance again, or `IdReused` when the content differs."""
    row = _find(tx, submission)
    assert row is not None  # noqa: S101  for mypy: callers have seen the event
    if row["digest"] != submission.digest:
        return IdReused(row["job_id"], row["digest"])
    if submission.reply is not None:
        reply_too(tx, row["job_id"], submission.reply)
    return Accepted(row["job_id"], Status(row["status"]), duplicate=True, joined=bool(row["joined"]))


def _join(tx: Transaction, submission: Submission) -> Accepted | None:
    row = tx.one(sql.joinable_job, join_digest=submission.join_digest)
    if row is None:
        return None
    joined = (submission.source, submission.event_id, submission.digest, row["job_id"])
    if not tx.insert(sql.record_joined_events, [joined]):
        return None  # another process had the event first, in this very moment: it is a repeated one
    tx.insert(sql.record_callbacks, _callbacks(submission, row["job_id"]))
    return Accepted(row["job_id"], Status(row["status"]), joined=True)


def _excluding_job(tx: Transaction, claims: Sequence[Claim]) -> str | None:
    for claim in claims:
        row = tx.one(sql.excluding_job, key=claim.key, mode=claim.mode)
        if row is not None:
            return str(row["job_id"])
    return None


def record_new_event(tx: Transaction, submission: Submission) -> bool:
    """False when the event is there already."""
    row = (submission.source, submission.event_id, submission.digest, submission.job_id)
    return tx.insert(sql.record_events, [row]) > 0


def follow(tx: Transaction, job_id: str, later: Sequence[Later]) -> None:
    """The jobs that a job's end makes, due later."""
    for one in later:
        digest, join_digest = digests(one.operation, one.data)
        submission = Submission(
            job_id=new_id(),
            source=OWN_SOURCE,
            event_id=f"{job_id}/{one.operation}",
            operation=one.operation,
            connection=one.connection,
            data=json.dumps(one.data),
            digest=digest,
            join_digest=join_digest,
            claims=one.claims,
            max_attempts=one.max_attempts,
            wait=one.seconds,
        )
        if record_new_event(tx, submission):
            record_jobs(tx, [submission])


def record_jobs(tx: Transaction, submissions: Sequence[Submission], retry_root: str | None = None) -> None:
    """Rows of new jobs, their first history, where they answer."""
    if not submissions:
        return
    now = tx.now
    tx.insert(sql.record_jobs, [_job_row(submission, now, retry_root) for submission in submissions])
    tx.insert(sql.record_acceptances, [(submission.job_id, now) for submission in submissions])
    tx.insert(sql.record_callbacks, [row for s in submissions for row in _callbacks(s, s.job_id)])
    tx.open_jobs += len(submissions)
    tx.tell("queue")


def _callbacks(submission: Submission, job_id: str) -> list[tuple[str, str]]:
    return [(job_id, url) for url in (submission.callback_url, submission.reply) if url is not None]


@lru_cache(maxsize=4096)  # most jobs are about a few targets, and this runs for every event
def _claim_columns(claims: tuple[Claim, ...]) -> tuple[str, int, str]:
    """`claims`, `claim_count`, `lane`. One claim per key: exclusive outdoes shared.

    Jobs of one lane wait for the same key: the first exclusive claim's, else the first shared one's.
    """
    modes: dict[str, str] = {}
    for claim in claims:
        key = storable(claim.key) or ""
        if modes.get(key) != "exclusive":
            modes[key] = claim.mode
    lanes = ["x" + key for key, mode in modes.items() if mode == "exclusive"] + ["s" + key for key in modes]
    return json.dumps(modes, ensure_ascii=False), len(modes), lanes[0] if lanes else ""


def _job_row(submission: Submission, now: float, retry_root: str | None) -> tuple[Any, ...]:
    seconds = submission.deadline_seconds
    return (
        submission.job_id,
        submission.source,
        submission.event_id,
        submission.operation,
        submission.connection,
        submission.data,
        submission.join_digest,
        *_claim_columns(submission.claims),
        submission.max_attempts,
        now,
        now + submission.wait,
        seconds,
        None if seconds is None else now + seconds,
        submission.expires_at,
        submission.retry_of,
        retry_root,
    )

"""A job's life: claimed, renewed, ended, queued again, reaped; every move with its history and its events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.base import CatalogueChange
from service.event import OutEvent, started_event, terminal_event
from service.jobs import MOVES, Job, Problem, Status
from service.ledger import sqlite_catalogue
from service.ledger.base import CancelOutcome, Heartbeat
from service.ledger.endings import CANCELED, DEADLINE_EXCEEDED, EXPIRED, worker_lost
from service.ledger.queries import sql
from service.ledger.rows import job_of
from service.ledger.sqlite_deliveries import announce
from service.ledger.writer import Row, Transaction


def _record(tx: Transaction, job: Job, from_status: Status, event: OutEvent | None = None) -> None:
    """The history row of a move that `job` has just made."""
    tx.run(
        sql.record_transition,
        job_id=job.job_id,
        at=tx.now,
        from_status=from_status.value,
        to_status=job.status.value,
        attempt=job.attempts,
        token=job.fencing_token,
        event_id=event.id if event else None,
        event_type=event.type if event else None,
        event=event.body.decode() if event else None,
    )
    tx.tell("job", job.job_id)


# ---------------------------------------------------------------- claiming


def claim(tx: Transaction, worker_id: str, limit: int) -> list[Job]:
    """Candidates come oldest first; each is looked at again: those before it may have taken its claims."""
    taken: list[Job] = []
    for row in tx.all(sql.claimable_jobs, now=tx.now, limit=limit):
        if len(taken) == limit:
            break
        wants = row["claim_count"] > 0
        if wants and tx.one(sql.claim_conflict, job_id=row["job_id"]) is not None:
            continue
        taken.append(_take(tx, row["job_id"], worker_id, wants))
    return taken


def _take(tx: Transaction, job_id: str, worker_id: str, wants: bool) -> Job:
    job = _start(tx, job_id, worker_id, counted=1)
    if wants:
        tx.run(sql.take_claims, job_id=job_id, token=job.fencing_token)
    event = started_event(job, tx.now)
    _record(tx, job, Status.QUEUED, event)
    announce(tx, job_id, event, terminal=False)
    return job


def _start(tx: Transaction, job_id: str, worker_id: str | None, counted: int) -> Job:
    token = tx.all(sql.next_token)[0]["value"]
    lease_until = tx.now + tx.rules.lease_seconds
    row = tx.one(
        sql.start_job,
        job_id=job_id,
        worker_id=worker_id,
        token=token,
        now=tx.now,
        lease_until=lease_until,
        counted=counted,
    )
    assert row is not None  # noqa: S101  for mypy: the row was read as queued in this transaction
    return job_of(row)


def renew(tx: Transaction, worker_id: str, leases: Mapping[str, int]) -> dict[str, Heartbeat]:
    until = tx.now + tx.rules.lease_seconds
    found = {}
    for job_id, token in leases.items():
        row = tx.one(sql.renew, job_id=job_id, token=token, worker_id=worker_id, lease_until=until)
        found[job_id] = Heartbeat(row is not None, row is not None and bool(row["cancel_requested"]))
    return found


def hold(tx: Transaction, job_id: str, token: int, key: str) -> bool:
    if tx.one(sql.running_job, job_id=job_id, token=token) is None:
        return False
    tx.run(sql.hold, key=key, job_id=job_id, token=token)
    return tx.one(sql.claim_of_job, key=key, job_id=job_id) is not None


# ---------------------------------------------------------------- ending


def finish(
    tx: Transaction,
    job_id: str,
    token: int,
    status: Status,
    result: dict[str, Any] | None,
    problem: Problem | None,
    changes: Sequence[CatalogueChange],
    crashed: int = 0,
) -> Job | None:
    row = tx.one(
        sql.finish_job,
        job_id=job_id,
        token=token,
        status=status.value,
        now=tx.now,
        result=_text(result),
        error=_text(problem.as_json() if problem else None),
        crashed=crashed,
    )
    if row is None:
        return None
    sqlite_catalogue.apply(tx, changes)
    return _ended(tx, row, Status.RUNNING, result, problem)


def _ended(
    tx: Transaction, row: Row, from_status: Status, result: dict[str, Any] | None, problem: Problem | None
) -> Job:
    """What every end has: the terminal event, its deliveries, freed claims."""
    job = job_of(row)
    event = terminal_event(job, job.status, tx.now, result, problem)
    _record(tx, job, from_status, event)
    announce(tx, job.job_id, event, terminal=True)
    tx.run(sql.free_claims, job_id=job.job_id)
    tx.open_jobs -= 1
    tx.tell("queue")
    return job


def _text(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def check_end(status: Status) -> None:
    """Raises `ValueError` for a status no running job can end in."""
    if MOVES[status] or status not in MOVES[Status.RUNNING]:
        raise ValueError(f"a job cannot end as {status.value}")


def request_cancel(tx: Transaction, job_id: str) -> CancelOutcome | None:
    row = tx.one(sql.cancel_queued_job, job_id=job_id, now=tx.now, error=_text(CANCELED.as_json()))
    if row is not None:
        _ended(tx, row, Status.QUEUED, None, CANCELED)
        return CancelOutcome.CANCELED
    if tx.one(sql.request_cancel, job_id=job_id) is not None:
        tx.tell("cancel", job_id)
        return CancelOutcome.REQUESTED
    return None if tx.one(sql.job, job_id=job_id) is None else CancelOutcome.ENDED


# ---------------------------------------------------------------- back to the queue


def retry_later(tx: Transaction, job_id: str, token: int, delay: float, problem: Problem) -> bool:
    return _give_up_lease(tx, job_id, token, due_at=tx.now + delay, problem=problem)


def give_back(tx: Transaction, job_id: str, token: int) -> bool:
    return _give_up_lease(tx, job_id, token, due_at=tx.now, undone=1)


def _give_up_lease(
    tx: Transaction, job_id: str, token: int, due_at: float, problem: Problem | None = None, undone: int = 0
) -> bool:
    """A wish to cancel that came meanwhile is granted here: in the queue nobody would look at it."""
    row = tx.one(sql.running_job, job_id=job_id, token=token)
    if row is None:
        return False
    if row["cancel_requested"]:
        return finish(tx, job_id, token, Status.CANCELED, None, CANCELED, ()) is not None
    _requeue(tx, job_id, token, due_at, problem=problem, undone=undone)
    return True


def _requeue(
    tx: Transaction,
    job_id: str,
    token: int,
    due_at: float,
    problem: Problem | None = None,
    undone: int = 0,
    crashed: int = 0,
) -> None:
    row = tx.one(
        sql.requeue_job,
        job_id=job_id,
        token=token,
        due_at=due_at,
        error=_text(problem.as_json() if problem else None),
        undone=undone,
        crashed=crashed,
    )
    assert row is not None  # noqa: S101  for mypy: the row was read as running in this transaction
    tx.run(sql.free_claims, job_id=job_id)
    _record(tx, job_of(row), Status.RUNNING)
    tx.tell("queue")


# ---------------------------------------------------------------- what time ends


def reap(tx: Transaction, limit: int) -> int:
    """At most `limit` of each kind; how many jobs moved."""
    lost = tx.all(sql.lost_leases, now=tx.now, limit=limit)
    for row in lost:
        _lose(tx, row)
    overdue = tx.all(sql.overdue_jobs, now=tx.now, limit=limit)
    for row in overdue:
        job = _start(tx, row["job_id"], None, counted=0)
        _record(tx, job, Status.QUEUED)
        finish(tx, job.job_id, job.fencing_token, Status.FAILED, None, DEADLINE_EXCEEDED, ())
    expired = tx.all(sql.expired_jobs, now=tx.now, limit=limit)
    for row in expired:
        ended = tx.one(sql.cancel_queued_job, job_id=row["job_id"], now=tx.now, error=_text(EXPIRED.as_json()))
        if ended is not None:
            _ended(tx, ended, Status.QUEUED, None, EXPIRED)
    return len(lost) + len(overdue) + len(expired)


def end_all_leases(tx: Transaction) -> int:
    """At the start of a ledger's only process: whoever had a lease is dead."""
    rows = tx.all(sql.all_leases)
    for row in rows:
        _lose(tx, row)
    return len(rows)


def _lose(tx: Transaction, row: Row) -> None:
    """A running job without worker: canceled if so wished, failed after too many crashes, else queued."""
    job_id, token, crashes = row["job_id"], row["fencing_token"], row["crashes"] + 1
    if row["cancel_requested"]:
        finish(tx, job_id, token, Status.CANCELED, None, CANCELED, (), crashed=1)
    elif crashes >= tx.rules.crash_limit:
        finish(tx, job_id, token, Status.FAILED, None, worker_lost(crashes), (), crashed=1)
    else:
        _requeue(tx, job_id, token, tx.now, crashed=1)

"""A job's life: claimed, renewed, ended, queued again, reaped; every move with its history and its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from handlers.base import CatalogueChange, Later
from service.event import OutEvent, started_event, terminal_event
from service.jobs import MOVES, Job, Problem, Status
from service.ledger import catalogue
from service.ledger.deliveries import Announcement, announce
from service.ledger.endings import CANCELED, DEADLINE_EXCEEDED, EXPIRED, worker_lost
from service.ledger.intake import follow
from service.ledger.queries import sql
from service.ledger.records import CancelOutcome, Heartbeat
from service.ledger.rows import Row, job_of
from service.ledger.transaction import Session, Transaction


@dataclass(frozen=True, slots=True)
class Move:
    """A move that a job has just made; `row` is the job's as it is now."""

    row: Row
    job: Job
    from_status: Status
    event: OutEvent | None = None


def _record(tx: Transaction, moves: Sequence[Move]) -> None:
    """History, and the events on their way."""
    tx.insert(sql.record_transitions, [_history_row(tx, move) for move in moves])
    announcements = [
        Announcement(move.job.job_id, move.event, terminal=not MOVES[move.job.status])
        for move in moves
        if move.event is not None
    ]
    if announcements:
        announce(tx, announcements)
    for move in moves:
        tx.tell("job", move.job.job_id)


def _history_row(tx: Transaction, move: Move) -> tuple[Any, ...]:
    job, event = move.job, move.event
    told = (event.id, event.type, event.body.decode()) if event else (None, None, None)
    return (
        job.job_id,
        move.row["moves"],
        tx.now,
        move.from_status.value,
        job.status.value,
        job.attempts,
        job.fencing_token,
        *told,
    )


# ---------------------------------------------------------------- claiming


def claim(tx: Transaction, worker_id: str, limit: int) -> list[Job]:
    """Candidates come oldest first; those that want claims are looked at again: one before may have taken them."""
    free: list[str] = []
    taken: list[Row] = []
    for row in tx.all(sql.claimable_jobs, now=tx.now, limit=limit):
        if len(free) + len(taken) == limit:
            break
        if row["claim_count"] == 0:
            free.append(row["job_id"])
        elif _is_free(tx, row):
            taken += _take_with_claims(tx, row["job_id"], worker_id)
    if free:
        taken += _start(tx, free, worker_id, counted=1)
    taken.sort(key=lambda row: int(row["seq"]))
    jobs = [job_of(row, tx.now) for row in taken]
    if taken:
        moves = zip(taken, jobs, strict=True)
        _record(tx, [Move(row, job, Status.QUEUED, started_event(job, tx.now)) for row, job in moves])
    return jobs


def _is_free(tx: Transaction, row: Row) -> bool:
    """The keys are locked first, so that no other process looks at them at the same time."""
    keys = ["claim:" + key for key in json.loads(row["claims"])]
    return tx.session.try_lock(keys) and tx.one(sql.claim_conflict, job_id=row["job_id"]) is None


def _take_with_claims(tx: Transaction, job_id: str, worker_id: str) -> list[Row]:
    started = _start(tx, [job_id], worker_id, counted=1)
    for row in started:
        tx.run(sql.take_claims, job_id=job_id, token=row["fencing_token"])
    return started


def _start(tx: Transaction, job_ids: Sequence[str], worker_id: str | None, counted: int) -> list[Row]:
    """Those that were still queued, running now."""
    tokens = dict(zip(job_ids, tx.session.tokens(len(job_ids)), strict=True))
    return tx.all(
        sql.start_jobs,
        tokens=json.dumps(tokens),
        worker_id=worker_id,
        now=tx.now,
        lease_until=tx.now + tx.rules.lease_seconds,
        counted=counted,
    )


def renew(tx: Transaction, worker_id: str, leases: Mapping[str, int]) -> dict[str, Heartbeat]:
    rows = tx.all(
        sql.renew,
        leases=json.dumps(dict(leases)),
        worker_id=worker_id,
        lease_until=tx.now + tx.rules.lease_seconds,
    )
    found = {row["job_id"]: Heartbeat(held=True, cancel_requested=bool(row["cancel_requested"])) for row in rows}
    return {job_id: found.get(job_id, Heartbeat(held=False, cancel_requested=False)) for job_id in leases}


def hold(tx: Transaction, job_id: str, token: int, key: str) -> bool:
    tx.session.lock(["claim:" + key])
    if tx.one(sql.running_job, job_id=job_id, token=token) is None:
        return False
    tx.run(sql.hold, key=key, job_id=job_id, token=token)
    return tx.one(sql.claim_of_job, key=key, job_id=job_id) is not None


# ---------------------------------------------------------------- ending


@dataclass(frozen=True, slots=True)
class End:
    """How a running job ends, said by the holder of its token."""

    job_id: str
    token: int
    status: Status
    result: dict[str, Any] | None = None
    problem: Problem | None = None
    changes: Sequence[CatalogueChange] = ()
    later: Sequence[Later] = ()
    crashed: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "token": self.token,
            "status": self.status.value,
            "result": _text(self.result),
            "error": _problem_text(self.problem),
            "crashed": self.crashed,
        }


def finish_many(tx: Transaction, ends: Sequence[End]) -> list[Job | None]:
    """None for those whose token no longer holds."""
    rows = tx.all(sql.finish_jobs, now=tx.now, ends=json.dumps([end.as_json() for end in ends]))
    ended = {(row["job_id"], row["fencing_token"]): row for row in rows}
    moves = {}
    answers: list[Job | None] = []
    for end in ends:
        row = ended.pop((end.job_id, end.token), None)
        answers.append(None if row is None else job_of(row))
        if row is not None:
            catalogue.apply(tx, end.changes)
            follow(tx, end.job_id, end.later)
            moves[end.job_id] = _end(tx, row, Status.RUNNING, end.result, end.problem)
    _close(tx, list(moves.values()))
    return answers


def _end(
    tx: Transaction, row: Row, from_status: Status, result: dict[str, Any] | None, problem: Problem | None
) -> Move:
    job = job_of(row)
    return Move(row, job, from_status, terminal_event(job, job.status, tx.now, result, problem))


def _close(tx: Transaction, moves: Sequence[Move]) -> None:
    """What every end has: the terminal event, its deliveries, freed claims."""
    if not moves:
        return
    _record(tx, moves)
    tx.open_jobs -= len(moves)
    if tx.run(sql.free_claims, job_ids=json.dumps([move.job.job_id for move in moves])):
        tx.tell("queue")  # somebody may have waited for them


def _text(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _problem_text(problem: Problem | None) -> str | None:
    return None if problem is None else json.dumps(problem.as_json())


def check_end(status: Status) -> None:
    """Raises `ValueError` for a status no running job can end in."""
    if MOVES[status] or status not in MOVES[Status.RUNNING]:
        raise ValueError(f"a job cannot end as {status.value}")


def request_cancel(tx: Transaction, job_id: str) -> CancelOutcome | None:
    row = tx.one(sql.job_status, job_id=job_id)
    if row is None:
        return None
    status = Status(row["status"])
    if status is Status.QUEUED:
        _cancel_queued(tx, job_id, CANCELED)
        return CancelOutcome.CANCELED
    if status is Status.RUNNING:
        tx.run(sql.request_cancel, job_id=job_id)
        tx.tell("cancel", job_id)
        return CancelOutcome.REQUESTED
    return CancelOutcome.ENDED


def _cancel_queued(tx: Transaction, job_id: str, problem: Problem) -> None:
    rows = tx.all(sql.cancel_queued_job, job_id=job_id, now=tx.now, error=_problem_text(problem))
    _close(tx, [_end(tx, row, Status.QUEUED, None, problem) for row in rows])


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
        finish_many(tx, [End(job_id, token, Status.CANCELED, problem=CANCELED)])
    else:
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
        error=_problem_text(problem),
        undone=undone,
        crashed=crashed,
    )
    assert row is not None  # noqa: S101  for mypy: the row was read as running, and locked, in this transaction
    tx.run(sql.free_claims, job_ids=json.dumps([job_id]))
    _record(tx, [Move(row, job_of(row), Status.RUNNING)])
    tx.tell("queue")


# ---------------------------------------------------------------- what time ends


Reaping = Callable[[Transaction], bool]


def to_reap(session: Session, limit: int) -> list[tuple[str, Reaping]]:
    """Jobs whose time is over, at most `limit` of each kind, each with the operation that ends or requeues it.

    One operation per job: one that cannot be ended must not keep the others from it. Each looks again, since another
    process may have been quicker; False when it was.
    """
    now = session.now()
    kinds = ((sql.lost_leases, reap_lost), (sql.overdue_jobs, reap_overdue), (sql.expired_jobs, reap_expired))
    return [
        (row["job_id"], partial(reaping, job_id=row["job_id"]))
        for query, reaping in kinds
        for row in session.all(query, now=now, limit=limit)
    ]


def reap_lost(tx: Transaction, job_id: str) -> bool:
    row = tx.one(sql.lost_lease, job_id=job_id, now=tx.now)
    if row is not None:
        _lose(tx, row)
    return row is not None


def reap_overdue(tx: Transaction, job_id: str) -> bool:
    if tx.one(sql.overdue_job, job_id=job_id, now=tx.now) is None:
        return False
    started = _start(tx, [job_id], None, counted=0)
    _record(tx, [Move(row, job_of(row), Status.QUEUED) for row in started])
    ends = [End(row["job_id"], row["fencing_token"], Status.FAILED, problem=DEADLINE_EXCEEDED) for row in started]
    finish_many(tx, ends)
    return True


def reap_expired(tx: Transaction, job_id: str) -> bool:
    if tx.one(sql.expired_job, job_id=job_id, now=tx.now) is None:
        return False
    _cancel_queued(tx, job_id, EXPIRED)
    return True


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
        finish_many(tx, [End(job_id, token, Status.CANCELED, problem=CANCELED, crashed=1)])
    elif crashes >= tx.rules.crash_limit:
        finish_many(tx, [End(job_id, token, Status.FAILED, problem=worker_lost(crashes), crashed=1)])
    else:
        _requeue(tx, job_id, token, tx.now, crashed=1)

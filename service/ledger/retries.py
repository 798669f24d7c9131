"""A new job like one that failed or was canceled."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

from handlers.base import Claim
from service.jobs import Status
from service.ledger.intake import record_jobs, record_new_event
from service.ledger.queries import sql
from service.ledger.records import Accepted, Submission
from service.ledger.rows import Row
from service.ledger.transaction import Transaction


def retry_job(tx: Transaction, job_id: str, new_job_id: str) -> Accepted | Status | None:
    """Its deadline is counted anew; an expiry of the event is left out, since somebody asks for it now."""
    row = tx.one(sql.job, job_id=job_id)
    if row is None:
        return None
    status = Status(row["status"])
    if status not in (Status.FAILED, Status.CANCELED):
        return status
    root = row["retry_root"] or row["event_id"]
    tx.session.lock([f"retry:{row['source']} {root}"])  # two processes number retries one after the other
    submission = _submission(tx, row, new_job_id, _free_id(tx, row["source"], root))
    while not record_new_event(tx, submission):  # another process took the id in this moment, for an event of its own
        submission = replace(submission, event_id=_free_id(tx, row["source"], root))
    record_jobs(tx, [submission], retry_root=root)
    tx.run(sql.copy_callbacks, new_job_id=new_job_id, job_id=job_id)
    return Accepted(new_job_id, Status.QUEUED)


def _free_id(tx: Transaction, source: str, root: str) -> str:
    """`<id>/retry/N` with the first N that is free: a caller may have used such an id itself."""
    for number in count(1):
        event_id = f"{root}/retry/{number}"
        if tx.one(sql.find_event, source=source, event_id=event_id) is None:
            return event_id
    raise AssertionError("counting does not end")


def _submission(tx: Transaction, row: Row, job_id: str, event_id: str) -> Submission:
    original = tx.one(sql.find_event, source=row["source"], event_id=row["event_id"])
    assert original is not None  # noqa: S101  for mypy: a job's own event is kept as long as the job
    return Submission(
        job_id=job_id,
        source=row["source"],
        event_id=event_id,
        operation=row["operation"],
        connection=row["connection"],
        data=row["data"],
        digest=original["digest"],
        join_digest=row["join_digest"],
        claims=tuple(Claim(key, mode) for key, mode in json.loads(row["claims"]).items()),
        max_attempts=row["max_attempts"],
        deadline_seconds=row["deadline_seconds"],
        retry_of=row["job_id"],
    )

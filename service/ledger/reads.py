"""What is asked of jobs without changing them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from service.jobs import Job, Status
from service.ledger.cursors import before, encode
from service.ledger.queries import looking, sql
from service.ledger.records import HistoryEntry, Page
from service.ledger.rows import Row, history_of, job_of
from service.ledger.transaction import Session

LONGEST_LISTED = 16_384
"""Characters of a job's data or result in lists: 500 jobs of a million digits would be half a gigabyte."""
LOOK_FOR_CLAIMABLE = looking(sql.claimable_jobs)


def job(session: Session, job_id: str) -> Job | None:
    row = session.one(sql.job, job_id=job_id)
    return None if row is None else job_of(row)


def jobs(
    session: Session,
    status: str | None,
    operation: str | None,
    connection: str | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """By the index that narrows most: connection, else status, else none. Without data and results that are long."""
    statement = sql.jobs_by_connection if connection else sql.jobs_by_status if status else sql.jobs
    values = {
        "status": status,
        "operation": operation,
        "connection": connection,
        "before": before("jobs", cursor),
        "limit": limit + 1,
        "longest": LONGEST_LISTED,
    }
    rows = session.all(statement, **values)
    more = len(rows) > limit
    rows = rows[:limit]
    return Page([_listed(row) for row in rows], encode("jobs", [rows[-1]["seq"]]) if more else None)


def _listed(row: Row) -> Job:
    return replace(job_of(row), result_omitted=bool(row["result_omitted"]))


def next_due(session: Session) -> float | None:
    """0 when a job can be claimed at once, else the seconds until time alone changes something."""
    now = session.now()
    if session.one(LOOK_FOR_CLAIMABLE, now=now, limit=1) is not None:
        return 0.0
    retry = session.all(sql.next_retry, now=now)[0]["moment"]
    moments = [moment for moment in (retry, next_ending(session)) if moment is not None]
    return max(min(moments) - now, 0.0) if moments else None


def next_ending(session: Session) -> float | None:
    """When a deadline, an expiry or a lease runs out first."""
    moment: float | None = session.all(sql.next_ending)[0]["moment"]
    return moment


def live_jobs(session: Session) -> set[str]:
    return {row["job_id"] for row in session.all(sql.live_jobs)}


def known_jobs(session: Session, job_ids: Sequence[str]) -> set[str]:
    return {row["job_id"] for row in session.all(sql.known_jobs, job_ids=json.dumps(list(job_ids)))}


def history(session: Session, job_id: str, after_seq: int) -> list[HistoryEntry]:
    return [history_of(row) for row in session.all(sql.history, job_id=job_id, after_seq=after_seq)]


def counts(session: Session) -> dict[str, int]:
    """Every status, those without jobs as 0."""
    found = {status.value: 0 for status in Status}
    found.update({row["status"]: row["jobs"] for row in session.all(sql.counts)})
    return found

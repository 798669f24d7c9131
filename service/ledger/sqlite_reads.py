"""What is asked of jobs without changing them; every function takes a read-only connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from service.jobs import Job, Status
from service.ledger.base import HistoryEntry, Page
from service.ledger.cursors import before, encode
from service.ledger.queries import sql
from service.ledger.rows import history_of, job_of


def job(db: sqlite3.Connection, job_id: str) -> Job | None:
    row = db.execute(sql.job, {"job_id": job_id}).fetchone()
    return None if row is None else job_of(row)


def jobs(
    db: sqlite3.Connection,
    status: str | None,
    operation: str | None,
    connection: str | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """By the index that narrows most: connection, else status, else none."""
    statement = sql.jobs_by_connection if connection else sql.jobs_by_status if status else sql.jobs
    values = {
        "status": status,
        "operation": operation,
        "connection": connection,
        "before": before("jobs", cursor),
        "limit": limit + 1,
    }
    rows = db.execute(statement, values).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    return Page([job_of(row) for row in rows], encode("jobs", [rows[-1]["seq"]]) if more else None)


def next_due(db: sqlite3.Connection, now: float) -> float | None:
    """0 when a job can be claimed at once, else the seconds until time alone changes something."""
    if db.execute(sql.claimable_jobs, {"now": now, "limit": 1}).fetchone() is not None:
        return 0.0
    retry: float | None = db.execute(sql.next_retry, {"now": now}).fetchone()["moment"]
    moments = [moment for moment in (retry, next_ending(db)) if moment is not None]
    return max(min(moments) - now, 0.0) if moments else None


def next_ending(db: sqlite3.Connection) -> float | None:
    """When a deadline, an expiry or a lease runs out first."""
    moment: float | None = db.execute(sql.next_ending).fetchone()["moment"]
    return moment


def live_jobs(db: sqlite3.Connection) -> set[str]:
    return {row["job_id"] for row in db.execute(sql.live_jobs)}


def known_jobs(db: sqlite3.Connection, job_ids: Sequence[str]) -> set[str]:
    return {row["job_id"] for row in db.execute(sql.known_jobs, {"job_ids": json.dumps(list(job_ids))})}


def history(db: sqlite3.Connection, job_id: str, after_seq: int) -> list[HistoryEntry]:
    rows = db.execute(sql.history, {"job_id": job_id, "after_seq": after_seq})
    return [history_of(row) for row in rows]


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """Every status, those without jobs as 0."""
    found = {status.value: 0 for status in Status}
    found.update({row["status"]: row["jobs"] for row in db.execute(sql.counts)})
    return found


def next_delivery_due(db: sqlite3.Connection, now: float) -> float | None:
    due_at = db.execute(sql.next_delivery_due).fetchone()["due_at"]
    return None if due_at is None else max(due_at - now, 0.0)


def pending_deliveries(db: sqlite3.Connection) -> int:
    return int(db.execute(sql.pending_deliveries).fetchone()["pending"])

"""How far something has come, and the records of a job that were not taken in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from handlers.supplies import Rejected
from service.ledger.cursors import decode, encode
from service.ledger.queries import sql
from service.ledger.records import InvalidCursor, Page
from service.ledger.rows import Row, storable
from service.ledger.transaction import Session, Transaction

FIRST = (-1, -1)
"""A place no rejected record is before."""
LARGEST = 2**62


def one(session: Session, key: str) -> dict[str, Any] | None:
    row = session.one(sql.bookmark, key=key)
    if row is None:
        return None
    value: dict[str, Any] = json.loads(row["value"])
    return value


def keep(
    tx: Transaction, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected]
) -> bool:
    """The job's row is held meanwhile, so that nobody takes the lease away between the look and the commit."""
    if tx.one(sql.running_job, job_id=job_id, token=token) is None:
        return False
    tx.run(sql.keep_bookmark, key=key, value=json.dumps(value), job_id=job_id, now=tx.now)
    tx.insert(sql.record_rejected, [_values(job_id, item) for item in rejected])
    return True


def _values(job_id: str, item: Rejected) -> tuple[Any, ...]:
    reasons = json.dumps([dict(reason) for reason in item.reasons])
    return job_id, item.page, item.position, storable(item.record), reasons


def rejected(session: Session, job_id: str, cursor: str | None, limit: int) -> Page:
    page, position = FIRST if cursor is None else decode("rejected", cursor, [int, int])
    if max(page, position) > LARGEST or min(page, position) < -1:
        raise InvalidCursor("This cursor is not one that the list of rejected gave out.")
    rows = session.all(sql.rejected_records, job_id=job_id, page=page, position=position, limit=limit + 1)
    more = len(rows) > limit
    rows = rows[:limit]
    last = [rows[-1]["page"], rows[-1]["position"]] if more else []
    return Page([_rejected_of(row) for row in rows], encode("rejected", last) if more else None)


def _rejected_of(row: Row) -> Rejected:
    return Rejected(row["page"], row["position"], row["record"], tuple(json.loads(row["reasons"])))

"""Removes what has been kept long enough."""

from __future__ import annotations

import json

from service.ledger.queries import sql
from service.ledger.transaction import Transaction


def sweep(tx: Transaction, keep_seconds: float, limit: int) -> int:
    """Jobs that ended so long ago, with all that belongs to them; how many jobs went.

    Their event ids are forgotten with them: the same id makes a new job afterwards.
    """
    old = [row["job_id"] for row in tx.all(sql.sweepable_jobs, before=tx.now - keep_seconds, limit=limit)]
    # Asked again now that their rows are locked: another process may have had something delivered again.
    gone = [row["job_id"] for row in tx.all(sql.delivered_jobs, job_ids=json.dumps(old))] if old else []
    if gone:
        job_ids = json.dumps(gone)
        for statement in (
            sql.sweep_joined_events,
            sql.sweep_events,
            sql.sweep_attempts,
            sql.sweep_deliveries,
            sql.sweep_callbacks,
            sql.sweep_rejected,
            sql.sweep_bookmarks,
            sql.sweep_jobs,
            sql.sweep_history,
        ):
            tx.run(statement, job_ids=job_ids)
    tx.run(sql.sweep_steps, before=tx.now - keep_seconds)
    return len(gone)

"""The catalogue: what was published, what was found in storage, which level each backup has reached."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from handlers.base import CatalogueChange, Published
from handlers.ports import CatalogueEntry
from service.ledger.base import BackupFilter, Page
from service.ledger.cursors import decode, encode
from service.ledger.queries import sql
from service.ledger.rows import entry_of, entry_values
from service.ledger.writer import Transaction

NEWEST = (1e15, "")
"""A position no backup is newer than."""


def apply(tx: Transaction, changes: Sequence[CatalogueChange]) -> None:
    for change in changes:
        if isinstance(change, Published):
            tx.run(sql.publish_backup, **entry_values(change.entry))
        elif change.damaged:
            tx.run(sql.mark_damaged, backup_id=change.backup_id)
        else:
            tx.run(sql.mark_verified, backup_id=change.backup_id, level=change.level)


def adopt(tx: Transaction, entry: CatalogueEntry) -> bool:
    return tx.run(sql.adopt_backup, **entry_values(entry)) > 0


def backup(db: sqlite3.Connection, backup_id: str) -> CatalogueEntry | None:
    row = db.execute(sql.backup, {"backup_id": backup_id}).fetchone()
    return None if row is None else entry_of(row)


def page(db: sqlite3.Connection, wanted: BackupFilter, cursor: str | None, limit: int) -> Page:
    ended_at, backup_id = NEWEST if cursor is None else decode("backups", cursor, [float, str])
    values = {
        "connection": wanted.connection,
        "labels": json.dumps(dict(wanted.labels)),
        "min_level": wanted.min_level,
        "listed": wanted.listed_only,
        "damaged": not wanted.undamaged_only,
        "before": ended_at,
        "before_id": backup_id,
        "limit": limit + 1,
    }
    rows = db.execute(sql.backups, values).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    position = [rows[-1]["ended_at"], rows[-1]["backup_id"]] if more else []
    return Page([entry_of(row) for row in rows], encode("backups", position) if more else None)

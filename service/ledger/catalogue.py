"""The catalogue: what was published, what was found in storage, which level each backup has reached."""

from __future__ import annotations

import json
from collections.abc import Sequence

from handlers.base import CatalogueChange, Published
from handlers.ports import CatalogueEntry
from service.ledger.cursors import decode, encode
from service.ledger.queries import sql
from service.ledger.records import BackupFilter, Page
from service.ledger.rows import entry_of, entry_values, storable
from service.ledger.transaction import Session, Transaction

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


def backup(session: Session, backup_id: str) -> CatalogueEntry | None:
    row = session.one(sql.backup, backup_id=backup_id)
    return None if row is None else entry_of(row)


def page(session: Session, wanted: BackupFilter, cursor: str | None, limit: int) -> Page:
    ended_at, backup_id = NEWEST if cursor is None else decode("backups", cursor, [float, str])
    rows = session.all(
        sql.backups,
        connection=wanted.connection,
        labels=json.dumps({name: storable(value) for name, value in wanted.labels.items()}),
        min_level=wanted.min_level,
        listed=int(wanted.listed_only),
        damaged=int(not wanted.undamaged_only),
        before=ended_at,
        before_id=backup_id,
        limit=limit + 1,
    )
    more = len(rows) > limit
    rows = rows[:limit]
    position = [rows[-1]["ended_at"], rows[-1]["backup_id"]] if more else []
    return Page([entry_of(row) for row in rows], encode("backups", position) if more else None)

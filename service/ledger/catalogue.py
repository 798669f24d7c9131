"""The catalogue: what was published, what was found in storage, which level each backup has reached."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from handlers.base import CatalogueChange, Published
from handlers.ports import CatalogueEntry
from service.ledger.cursors import decode, encode
from service.ledger.queries import sql
from service.ledger.records import BackupFilter, Page
from service.ledger.rows import Row, entry_of, entry_values, storable
from service.ledger.transaction import Session, Transaction

NEWEST = (1e15, "")
"""A position no backup is newer than."""
LARGEST_BATCH = 100
"""Rows read at once in search of a match; a manifest may be large."""


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
    before = NEWEST if cursor is None else decode("backups", cursor, [float, str])
    found = list(islice(_matching(session, wanted, before, limit + 1), limit + 1))
    more = len(found) > limit
    found = found[:limit]
    position = [*_position(found[-1][0])] if more else []
    return Page([entry for _, entry in found], encode("backups", position) if more else None)


def _matching(
    session: Session, wanted: BackupFilter, before: Sequence[Any], batch: int
) -> Iterator[tuple[Row, CatalogueEntry]]:
    """Newest first. What is whole the manifest alone knows, not SQL: rows are read on until enough of them match."""
    while True:
        rows = session.all(
            sql.backups,
            connection=wanted.connection,
            labels=json.dumps({name: storable(value) for name, value in wanted.labels.items()}),
            min_level=wanted.min_level,
            listed=int(wanted.listed_only),
            damaged=int(not wanted.undamaged_only),
            before=before[0],
            before_id=before[1],
            limit=batch,
        )
        for row in rows:
            entry = entry_of(row)
            if entry.manifest.whole in wanted.whole:
                yield row, entry
        if len(rows) < batch:
            return
        before, batch = _position(rows[-1]), max(batch, min(2 * batch, LARGEST_BATCH))


def _position(row: Row) -> tuple[Any, Any]:
    return row["ended_at"], row["backup_id"]

"""The catalogue seen from handlers' threads, and kept true to what the storage holds."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from engines.artefacts.manifest import MANIFEST_NAME
from engines.artefacts.reading import read_manifest
from engines.errors import ArtefactDamaged, ObjectMissing, StorageFailed, UnknownBackup
from engines.storage.base import Store, StoredObject
from handlers.base import backup_key
from handlers.incoming import INCOMING, READ_ONCE, incoming_key
from handlers.ports import CatalogueEntry
from service.asking import Asking
from service.connections import NamedStores
from service.ledger.base import Ledger
from service.ledger.records import BackupFilter

log = structlog.get_logger(__name__)
UPLOAD_DEAD = timedelta(days=1)
"""An unfinished upload nobody has written to for so long has no end to come."""


class LedgerCatalogue:
    """`handlers.ports.Catalogue` over the ledger. Its methods block; they are for threads, not for the loop."""

    def __init__(self, ledger: Ledger, stores: NamedStores, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._stores = stores
        self._ask = Asking(loop).ask

    def backup(self, backup_id: str) -> CatalogueEntry:
        entry = self._ask(self._ledger.backup(backup_id))
        if entry is None:
            raise UnknownBackup(f"There is no backup {backup_id!r} in the catalogue.")
        return entry

    def find(
        self,
        *,
        connection: str | None,
        labels: Mapping[str, str],
        min_level: int,
        whole: Collection[bool | None],
        limit: int,
    ) -> list[CatalogueEntry]:
        wanted = BackupFilter(connection, labels, min_level, whole, listed_only=True, undamaged_only=True)
        return list(self._ask(self._ledger.backups(wanted, limit=limit)).items)

    def published_by(self, job_id: str, connection: str, store: str | None) -> CatalogueEntry | None:
        kept = self._stores.store(store)
        for found in kept.list(f"{connection}/"):
            if _is_manifest(found) and _job_of(found.key) == job_id:
                return _entry(kept, found)
        return None

    def remove_unpublished(self, job_id: str, connection: str, store: str | None) -> None:
        kept = self._stores.store(store)
        objects = [*kept.list(f"{connection}/"), *kept.unfinished()]
        published = {_folder(item.key) for item in objects if _is_manifest(item)}
        for item in objects:
            if _job_of(item.key) == job_id and _folder(item.key) not in published:
                kept.delete(item.key)

    def hold(self, backup_id: str, job_id: str, token: int) -> None:
        if not self._ask(self._ledger.hold(job_id, token, backup_key(backup_id))):
            raise UnknownBackup(f"The backup {backup_id!r} is being removed.")


def _is_manifest(item: StoredObject) -> bool:
    return item.key.endswith("/" + MANIFEST_NAME)


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _job_of(key: str) -> str | None:
    """The job an object's folder names: `<connection>/<time>-<job>-<token>/<file>`; None for foreign names."""
    parts = key.split("/")
    if len(parts) != 3:
        return None
    pieces = parts[1].split("-")
    return pieces[1] if len(pieces) == 3 and pieces[2].isdigit() else None


def _entry(store: Store, found: StoredObject, *, listed: bool = True) -> CatalogueEntry:
    folder = _folder(found.key)
    manifest = read_manifest(store, folder)
    return CatalogueEntry(manifest, store.name, folder, manifest.verification.level, listed=listed)


def _remove_unpublished(store: Store, key: str) -> bool:
    """Remove an object of an ended job, unless its manifest came between the listing and the job's end."""
    if next(store.list(f"{_folder(key)}/{MANIFEST_NAME}"), None) is not None:
        return False
    store.delete(key)
    return True


def _everything(store: Store) -> list[StoredObject]:
    """All but uploaded dumps: those wait for somebody to adopt or remove them, however long."""
    return [item for item in (*store.list(), *store.unfinished()) if not _was_uploaded(item)]


def _was_uploaded(item: StoredObject) -> bool:
    return item.key.startswith(f"{INCOMING}/")


def _remove_dead_uploads(store: Store, keep: timedelta) -> int:
    """Remove what uploads left that died with their process, and files that were uploaded for one job, when that has
    not taken them in for so long that it cannot be retried any more."""
    now = datetime.now(UTC)
    dead = [item for item in store.unfinished() if _was_uploaded(item) and item.modified < now - UPLOAD_DEAD]
    before = now - max(keep, UPLOAD_DEAD)
    dead += [item for item in store.list(incoming_key(READ_ONCE)) if item.modified < before]
    for item in dead:
        store.delete(item.key)
    return len(dead)


class StorageSweep:
    """Removes what dead attempts left in storage and adopts artefacts the catalogue does not know."""

    def __init__(self, ledger: Ledger, stores: NamedStores, *, keep: timedelta = timedelta(days=90)) -> None:
        """`keep`: how long ended jobs are kept, and can be retried."""
        self._ledger = ledger
        self._stores = stores
        self._keep = keep

    async def run(self) -> tuple[int, int]:
        """(objects removed, artefacts adopted).

        Only objects that name an ended job of this ledger are removed, and what is left of dead uploads.
        """
        removed = adopted = 0
        for store in self._stores.all():
            try:
                objects = await asyncio.to_thread(_everything, store)
                published = {_folder(item.key) for item in objects if _is_manifest(item)}
                loose = [item for item in objects if _folder(item.key) not in published]
                removed += await self._remove(store, loose)
                removed += await asyncio.to_thread(_remove_dead_uploads, store, self._keep)
                manifests = [item for item in objects if _is_manifest(item)]
                adopted += await self._adopt(store, manifests)
            except StorageFailed as error:
                log.warning("storage_sweep_failed", store=store.name, error=error.message)
        if removed or adopted:
            log.info("storage_swept", removed=removed, adopted=adopted)
        return removed, adopted

    async def _remove(self, store: Store, loose: list[StoredObject]) -> int:
        jobs = {item.key: _job_of(item.key) for item in loose}
        ours = await self._ledger.known_jobs([job for job in jobs.values() if job])
        live = await self._ledger.live_jobs()
        doomed = [key for key, job in jobs.items() if job in ours and job not in live]
        removed = 0
        for key in doomed:
            removed += await asyncio.to_thread(_remove_unpublished, store, key)
        return removed

    async def _adopt(self, store: Store, manifests: list[StoredObject]) -> int:
        adopted = 0
        live = await self._ledger.live_jobs()
        for item in manifests:
            if _job_of(item.key) in live:
                continue  # its job is about to say so itself
            backup_id = _folder(item.key).rpartition("/")[2]
            if await self._ledger.backup(backup_id) is not None:
                continue
            try:
                entry = await asyncio.to_thread(_entry, store, item, listed=False)
            except (ArtefactDamaged, ObjectMissing):
                log.warning("manifest_unreadable", store=store.name, key=item.key)
                continue
            adopted += await self._ledger.adopt_backup(entry)
        return adopted

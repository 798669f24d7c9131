"""Making a backup: dump into storage, prove, publish; whoever asks for it, and wherever the dump comes from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog

from engines.artefacts.manifest import MANIFEST_NAME, Evidence, Manifest, ObjectCount, Verification
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupEngine, BackupOptions, Dump, Target
from engines.errors import ArtefactDamaged, StorageFailed, TargetMissing
from engines.registry import EngineRegistry
from engines.run import Run
from engines.storage.base import Store
from handlers.base import Result
from handlers.ports import Catalogue, CatalogueEntry, Connections, Stores
from handlers.proof import Prover, shown_evidence

log = structlog.get_logger(__name__)
OBJECTS_SHOWN = 200
"""Events stay small: the whole list is in the manifest, GET /backups/{id}."""
SERVER_CONSISTENCY = "Each database on its own, one after the other; of each: "


Dumping = Callable[[ArtefactWriter], Dump]
"""Writes all files of a dump and says what is in it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What backup to make."""

    target: Target
    level: int
    compression: str = "zstd"
    storage: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    made_at: datetime | None = None
    """When a dump that was made elsewhere was made: it is as old as that, and `latest` prefers what is newer."""


class MadeBackup(Result):
    """What a completed event says of a backup that was made."""

    backup_id: str
    bytes: int
    raw_bytes: int
    sha256: str
    level: int
    whole: bool | None
    """Whether all of the database is in it; null: nobody knows, it was made by hand."""
    objects: tuple[ObjectCount, ...]
    objects_total: int
    rows: int | None
    seconds: float
    engine: str
    database: str
    server_version: str
    files: tuple[dict[str, Any], ...]
    evidence: tuple[dict[str, Any], ...]
    evidence_total: int
    consistency: str
    labels: dict[str, str]
    storage: str


class Maker:
    """Makes backups and proves them; a published one is never made again by the same job."""

    def __init__(
        self,
        connections: Connections,
        stores: Stores,
        catalogue: Catalogue,
        engines: EngineRegistry,
        version: str,
    ) -> None:
        self._stores = stores
        self._catalogue = catalogue
        self._engines = engines
        self._prover = Prover(connections, engines)
        self._version = version

    def make(self, wanted: Wanted, dumping: Dumping, run: Run, before_publishing: Callable[[], None]) -> CatalogueEntry:
        """Returns when the manifest is in the store. Raises from `engines.errors`; nothing is left then.

        `before_publishing` has the last word: what it raises ends the backup.
        """
        if run.attempt > 1:
            earlier = self._catalogue.published_by(run.job_id, wanted.target.connection, wanted.storage)
            if earlier is not None:
                self._prove_again(earlier, wanted, run)
                before_publishing()
                return earlier
            self._catalogue.remove_unpublished(run.job_id, wanted.target.connection, wanted.storage)
        store = self._stores.store(wanted.storage)
        backup_id = f"{run.now():%Y%m%dT%H%M%SZ}-{run.job_id}-{run.token}"
        folder = f"{wanted.target.connection}/{backup_id}"
        out = ArtefactWriter(store, folder, Compression.parse(wanted.compression))
        try:
            entry = self._make(wanted, dumping, store, backup_id, out, run)
            before_publishing()
            store.put(f"{folder}/{MANIFEST_NAME}", entry.manifest.to_bytes())
        except BaseException:
            _discard(store, out)
            raise
        return entry

    def discard(self, entry: CatalogueEntry) -> None:
        """Remove a backup that nobody was told of."""
        store = self._stores.store(entry.store)
        for name in (MANIFEST_NAME, *(file.name for file in entry.manifest.files)):
            store.delete(f"{entry.folder}/{name}")

    def _make(
        self, wanted: Wanted, dumping: Dumping, store: Store, backup_id: str, out: ArtefactWriter, run: Run
    ) -> CatalogueEntry:
        began, clock = run.now(), time.monotonic()
        dump = dumping(out)
        manifest = self._manifest(wanted, backup_id, dump, out, run, began, clock)
        evidence = self._prover.prove(Artefact(store, out.folder, manifest), wanted.level, wanted.target, run)
        manifest = manifest.model_copy(
            update={
                "verification": Verification(level=wanted.level, at=run.now(), evidence=evidence),
                "ended_at": wanted.made_at or run.now(),
                "seconds": round(time.monotonic() - clock, 3),
            }
        )
        return CatalogueEntry(manifest, store.name, out.folder, wanted.level)

    def _manifest(
        self,
        wanted: Wanted,
        backup_id: str,
        dump: Dump,
        out: ArtefactWriter,
        run: Run,
        began: datetime,
        clock: float,
    ) -> Manifest:
        target = wanted.target
        return Manifest(
            backup_id=backup_id,
            job_id=run.job_id,
            event_id=run.event_id,
            connection=target.connection,
            engine=target.engine,
            database=target.database,
            server_version=dump.server_version,
            tool={"name": dump.tool.name, "version": dump.tool.version} if dump.tool else None,
            flexdb_version=self._version,
            options=dump.options | {"compression": wanted.compression},
            labels=dict(wanted.labels),
            started_at=wanted.made_at or began,
            ended_at=wanted.made_at or run.now(),
            seconds=round(time.monotonic() - clock, 3),
            consistency=dump.consistency,
            counts="exact" if dump.counts == "exact" else "none",
            objects=dump.objects,
            files=out.all_files,
            verification=Verification(level=0, at=run.now(), evidence=(Evidence(level=0, check="complete"),)),
            restore_by_hand=dump.restore_by_hand,
        )

    def _prove_again(self, earlier: CatalogueEntry, wanted: Wanted, run: Run) -> None:
        """An attempt of this job published an artefact and died before it could say so: prove it again."""
        artefact = Artefact(self._stores.store(earlier.store), earlier.folder, earlier.manifest)
        try:
            self._prover.prove(artefact, wanted.level, wanted.target, run)
        except ArtefactDamaged as error:
            error.details.setdefault("backup_id", earlier.manifest.backup_id)
            raise


def of_database(engine: BackupEngine, target: Target, options: BackupOptions, run: Run) -> Dumping:
    """The target's own database."""
    return lambda out: engine.backup(target, options, out, run)


def of_server(engine: BackupEngine, target: Target, options: BackupOptions, run: Run) -> Dumping:
    """Every database of the target's server."""
    return lambda out: _dump_server(engine, target, options, out, run)


def _dump_server(engine: BackupEngine, target: Target, options: BackupOptions, out: ArtefactWriter, run: Run) -> Dump:
    """Every database of the server, each into a part of its own; what belongs to the server comes with the first."""
    names = engine.databases(target, run)
    dumps: dict[str, Dump] = {}
    for done, name in enumerate(names):
        run.progress("databases", done, len(names), unit="databases")
        asked = replace(options, globals=options.globals and (not dumps or engine.globals_of_database))
        part = out.part(name)
        try:
            dumps[name] = engine.backup(engine.into(target, name), asked, part, run)
        except TargetMissing:
            if name in engine.databases(target, run):
                raise
            part.discard()  # dropped by its owner since it was listed
    if not dumps:
        raise TargetMissing("The server holds no user database.", hint="There is nothing to back up yet.")
    return _together(dumps)


def _together(dumps: dict[str, Dump]) -> Dump:
    """What is said of each database, said of all."""
    first = next(iter(dumps.values()))
    objects: list[ObjectCount] = []
    by_hand: list[str] = []
    for name, dump in dumps.items():
        objects += [item.model_copy(update={"database": name}) for item in dump.objects]
        by_hand += [f"# {' '.join(name.split())}", *dump.restore_by_hand]
    sentences = dict.fromkeys(dump.consistency for dump in dumps.values())
    return Dump(
        server_version=first.server_version,
        objects=tuple(objects),
        counts=first.counts,
        consistency=SERVER_CONSISTENCY + " Or: ".join(sentences),
        restore_by_hand=tuple(by_hand),
        tool=first.tool,
        options={"scope": "server", "databases": {name: dump.options for name, dump in dumps.items()}},
    )


def _discard(store: Store, out: ArtefactWriter) -> None:
    """Leave nothing of a failed attempt: the manifest first, so that no half artefact is ever published."""
    try:
        store.delete(f"{out.folder}/{MANIFEST_NAME}")
        out.discard()
    except StorageFailed:  # the attempt's own error matters more; the sweep removes what stayed
        log.warning("discard_failed", folder=out.folder, store=store.name)


def told(entry: CatalogueEntry) -> dict[str, Any]:
    """The fields of `MadeBackup` for a backup that was made."""
    manifest = entry.manifest
    rows = [item.rows for item in manifest.objects if item.rows is not None]
    return {
        "backup_id": manifest.backup_id,
        "bytes": manifest.bytes,
        "raw_bytes": sum(file.raw_bytes for file in manifest.files),
        "sha256": manifest.sha256,
        "level": entry.level,
        "whole": manifest.whole,
        "objects": manifest.objects[:OBJECTS_SHOWN],
        "objects_total": len(manifest.objects),
        "rows": sum(rows) if manifest.counts == "exact" else None,
        "seconds": manifest.seconds,
        "engine": manifest.engine,
        "database": manifest.database,
        "server_version": manifest.server_version,
        "files": tuple(file.model_dump(mode="json") for file in manifest.files[:OBJECTS_SHOWN]),
        "evidence": shown_evidence(manifest.verification.evidence),
        "evidence_total": len(manifest.verification.evidence),
        "consistency": manifest.consistency,
        "labels": manifest.labels,
        "storage": entry.store,
    }

"""Backup: dump a database into storage, prove it, then publish it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any, Literal

import structlog
from pydantic import Field, StringConstraints

from engines.artefacts.manifest import MANIFEST_NAME, Evidence, Manifest, ObjectCount, Verification
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupEngine, BackupOptions, Dump, Target
from engines.errors import ArtefactDamaged, FlexError, StorageFailed
from engines.registry import EngineRegistry
from engines.run import Run
from engines.storage.base import Store
from handlers.base import (
    Claim,
    ConnectionName,
    Fault,
    Handler,
    Labels,
    Outcome,
    Published,
    Request,
    Result,
    target_claim,
)
from handlers.connections import connection_faults
from handlers.ports import Catalogue, CatalogueEntry, Connections, Stores
from handlers.proof import HIGHEST_LEVEL, Prover, shown_evidence

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=300)]
log = structlog.get_logger(__name__)
OBJECTS_SHOWN = 200
"""Events stay small: the whole list is in the manifest, GET /backups/{id}."""


class BackupRequest(Request):
    connection: ConnectionName
    include: tuple[Pattern, ...] = Field(
        default=(),
        description="Only these: `schema.table`, `schema.*`, `table`; * and ? stand for characters.",
    )
    exclude: tuple[Pattern, ...] = Field(default=(), description="All but these, written like `include`.")
    compression: str = Field(default="zstd", description="`zstd`, `zstd:1` to `zstd:19`, or `none`.")
    encrypt: bool = Field(default=False, description="Not available yet; true is refused.")
    verify: int = Field(default=2, ge=0, le=HIGHEST_LEVEL, description="Level to reach before it counts as completed.")
    labels: Labels = Field(default_factory=dict)
    storage: str | None = Field(default=None, description="Name of a configured store.")
    counts: Literal["exact", "none"] = Field(default="exact", description="Count rows in the dump's own snapshot.")
    jobs: int = Field(default=1, ge=1, le=64, description="Parallel dump jobs, where the engine has them.")
    globals: bool = Field(default=False, description="Roles and tablespaces too, where the engine has them.")


class BackupResult(Result):
    backup_id: str
    bytes: int
    raw_bytes: int
    sha256: str
    level: int
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


class BackupHandler(Handler[BackupRequest]):
    operation = "backup"
    request_model = BackupRequest
    result_model = BackupResult

    def __init__(
        self,
        connections: Connections,
        stores: Stores,
        catalogue: Catalogue,
        engines: EngineRegistry,
        version: str,
    ) -> None:
        self._connections = connections
        self._stores = stores
        self._catalogue = catalogue
        self._engines = engines
        self._prover = Prover(connections, engines)
        self._version = version

    def faults(self, request: BackupRequest) -> list[Fault]:
        faults = connection_faults(self._connections, connection=request.connection)
        if faults:
            return faults
        try:
            Compression.parse(request.compression)
        except ValueError as error:
            faults.append(Fault("/compression", str(error)))
        if request.encrypt:
            faults.append(Fault("/encrypt", "Encryption is not available yet; leave it out or use an encrypted store."))
        if request.verify == HIGHEST_LEVEL and request.counts == "none":
            faults.append(Fault("/verify", "Level 3 compares with exact counts; use counts `exact` or a lower level."))
        return faults + self._option_faults(request)

    def _option_faults(self, request: BackupRequest) -> list[Fault]:
        try:
            self._stores.store(request.storage)
        except FlexError as error:
            return [Fault("/storage", f"{error.message} {error.hint}")]
        target = self._connections.target(request.connection)
        try:
            engine = self._engines.for_target(target, BackupEngine, self.operation)
        except FlexError as error:
            return [Fault("/connection", error.message)]
        return [Fault(f"/{name}", why) for name, why in engine.refuse_options(_options(request)).items()]

    def claims(self, request: BackupRequest) -> tuple[Claim, ...]:
        return (target_claim(self._connections.target(request.connection)),)

    def run(self, request: BackupRequest, run: Run) -> Outcome:
        target = self._connections.target(request.connection)
        engine = self._engines.for_target(target, BackupEngine, self.operation)
        engine.end_older_sessions(target, run)
        if run.attempt > 1:
            earlier = self._catalogue.published_by(run.job_id, target.connection, request.storage)
            if earlier is not None:
                return self._complete_earlier(earlier, request, target, run)
            self._catalogue.remove_unpublished(run.job_id, target.connection, request.storage)
        store = self._stores.store(request.storage)
        backup_id = f"{run.now():%Y%m%dT%H%M%SZ}-{run.job_id}-{run.token}"
        out = ArtefactWriter(store, f"{target.connection}/{backup_id}", Compression.parse(request.compression))
        try:
            return self._make(request, target, engine, store, backup_id, out, run)
        except BaseException:
            _discard(store, out)
            raise

    def _make(
        self,
        request: BackupRequest,
        target: Target,
        engine: BackupEngine,
        store: Store,
        backup_id: str,
        out: ArtefactWriter,
        run: Run,
    ) -> Outcome:
        began, clock = run.now(), time.monotonic()
        dump = engine.backup(target, _options(request), out, run)
        manifest = self._manifest(request, target, backup_id, dump, out, run, began, clock)
        evidence = self._prover.prove(Artefact(store, out.folder, manifest), request.verify, target, run)
        manifest = manifest.model_copy(
            update={
                "verification": Verification(level=request.verify, at=run.now(), evidence=evidence),
                "ended_at": run.now(),
                "seconds": round(time.monotonic() - clock, 3),
            }
        )
        run.point_of_no_return()
        store.put(f"{out.folder}/{MANIFEST_NAME}", manifest.to_bytes())
        entry = CatalogueEntry(manifest, store.name, out.folder, request.verify)
        return _outcome(entry)

    def _manifest(
        self,
        request: BackupRequest,
        target: Target,
        backup_id: str,
        dump: Dump,
        out: ArtefactWriter,
        run: Run,
        began: datetime,
        clock: float,
    ) -> Manifest:
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
            options=dump.options | {"compression": request.compression},
            labels=dict(request.labels),
            started_at=began,
            ended_at=run.now(),
            seconds=round(time.monotonic() - clock, 3),
            consistency=dump.consistency,
            counts="exact" if dump.counts == "exact" else "none",
            objects=dump.objects,
            files=tuple(out.files),
            verification=Verification(level=0, at=run.now(), evidence=(Evidence(level=0, check="complete"),)),
            restore_by_hand=dump.restore_by_hand,
        )

    def _complete_earlier(self, earlier: CatalogueEntry, request: BackupRequest, target: Target, run: Run) -> Outcome:
        """An attempt of this job published an artefact and died before it could say so: prove it again, say so."""
        artefact = Artefact(self._stores.store(earlier.store), earlier.folder, earlier.manifest)
        try:
            self._prover.prove(artefact, request.verify, target, run)
        except ArtefactDamaged as error:
            error.details.setdefault("backup_id", earlier.manifest.backup_id)
            raise
        run.point_of_no_return()
        return _outcome(earlier)


def _discard(store: Store, out: ArtefactWriter) -> None:
    """Leave nothing of a failed attempt: the manifest first, so that no half artefact is ever published."""
    try:
        store.delete(f"{out.folder}/{MANIFEST_NAME}")
        out.discard()
    except StorageFailed:  # the attempt's own error matters more; the sweep removes what stayed
        log.warning("discard_failed", folder=out.folder, store=store.name)


def _options(request: BackupRequest) -> BackupOptions:
    return BackupOptions(
        include=request.include,
        exclude=request.exclude,
        counts=request.counts,
        jobs=request.jobs,
        globals=request.globals,
    )


def _outcome(entry: CatalogueEntry) -> Outcome:
    manifest = entry.manifest
    rows = [item.rows for item in manifest.objects if item.rows is not None]
    result = BackupResult(
        backup_id=manifest.backup_id,
        bytes=manifest.bytes,
        raw_bytes=sum(file.raw_bytes for file in manifest.files),
        sha256=manifest.sha256,
        level=entry.level,
        objects=manifest.objects[:OBJECTS_SHOWN],
        objects_total=len(manifest.objects),
        rows=sum(rows) if manifest.counts == "exact" else None,
        seconds=manifest.seconds,
        engine=manifest.engine,
        database=manifest.database,
        server_version=manifest.server_version,
        files=tuple(file.model_dump(mode="json") for file in manifest.files),
        evidence=shown_evidence(manifest.verification.evidence),
        evidence_total=len(manifest.verification.evidence),
        consistency=manifest.consistency,
        labels=manifest.labels,
        storage=entry.store,
    )
    return Outcome(result, (Published(entry),))

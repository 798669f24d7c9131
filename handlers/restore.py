"""Restore: bring a backup into a database, beside it or in its place, or only list what would come."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.reading import Artefact
from engines.base import RestoreEngine, RestoreOptions
from engines.errors import ArtefactDamaged, FlexError, ObjectMissing, UnknownBackup, UnsupportedOperation
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.base import (
    Claim,
    ConnectionName,
    Fault,
    Handler,
    Labels,
    Outcome,
    Request,
    Result,
    backup_key,
    target_claim,
)
from handlers.connections import connection_faults, written_target
from handlers.ports import Catalogue, CatalogueEntry, Connections, Stores

OBJECTS_SHOWN = 200


class LatestBackup(BaseModel):
    """The newest undamaged backup that matches all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: ConnectionName
    labels: Labels = Field(default_factory=dict)
    min_level: int = Field(default=0, ge=0, le=3)


class RestoreRequest(Request):
    backup_id: str | None = Field(default=None, min_length=1, max_length=200)
    latest: LatestBackup | None = Field(default=None, description="Instead of `backup_id`.")
    connection: ConnectionName = Field(description="The connection to restore into.")
    into: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="Another database on that server (SQLite: a file beside the target).",
    )
    mode: Literal["plan", "create", "replace"] = Field(
        default="create",
        description="`plan` only lists; `create` wants an absent or empty target; `replace` switches at the end.",
    )
    include: tuple[Annotated[str, StringConstraints(min_length=1, max_length=300)], ...] = Field(
        default=(), description="Only these objects, written as in a backup's `include`."
    )
    jobs: int = Field(default=2, ge=1, le=64, description="Parallel restore jobs, where the engine has them.")

    @model_validator(mode="after")
    def _one_of_both(self) -> RestoreRequest:
        if (self.backup_id is None) == (self.latest is None):
            raise ValueError("give either backup_id or latest")
        return self


class RestoreResult(Result):
    backup_id: str
    mode: str
    target_connection: str
    database: str
    objects: tuple[ObjectCount, ...]
    objects_total: int
    rows: int | None
    seconds: float
    level: int
    """Level the backup had been verified to."""
    notes: tuple[str, ...]


class RestoreHandler(Handler[RestoreRequest]):
    operation = "restore"
    request_model = RestoreRequest
    result_model = RestoreResult
    writes = True

    def __init__(self, connections: Connections, stores: Stores, catalogue: Catalogue, engines: EngineRegistry) -> None:
        self._connections = connections
        self._stores = stores
        self._catalogue = catalogue
        self._engines = engines

    def faults(self, request: RestoreRequest) -> list[Fault]:
        source = request.latest.connection if request.latest else None
        faults = connection_faults(self._connections, connection=request.connection)
        faults += connection_faults(self._connections, **{"latest/connection": source})
        if faults:
            return faults
        try:
            target = written_target(self._connections, self._engines, request.connection, request.into)
            self._engines.for_target(target, RestoreEngine, self.operation)
        except FlexError as error:
            field = "/into" if request.into is not None else "/connection"
            return [Fault(field, f"{error.message} {error.hint}")]
        return []

    def claims(self, request: RestoreRequest) -> tuple[Claim, ...]:
        claims = []
        if request.mode != "plan":
            target = written_target(self._connections, self._engines, request.connection, request.into)
            claims.append(target_claim(target))
        if request.backup_id:
            claims.append(Claim(backup_key(request.backup_id), "shared"))
        return tuple(claims)

    def run(self, request: RestoreRequest, run: Run) -> Outcome:
        began = time.monotonic()
        target = written_target(self._connections, self._engines, request.connection, request.into)
        engine = self._engines.for_target(target, RestoreEngine, self.operation)
        entry = self._entry(request, run)
        if entry.manifest.engine != target.engine:
            raise UnsupportedOperation(
                f"A {entry.manifest.engine} backup cannot be restored into a {target.engine} database.",
                hint=f"Choose a connection whose engine is {entry.manifest.engine}.",
            )
        artefact = Artefact(self._stores.store(entry.store), entry.folder, entry.manifest)
        options = RestoreOptions(mode=request.mode, include=request.include, jobs=request.jobs)
        notes: tuple[str, ...] = ()
        try:
            if request.mode == "plan":
                database, objects = target.database, engine.plan(artefact, target, options, run)
            else:
                engine.end_older_sessions(target, run)
                done = engine.restore(artefact, target, options, run)
                database, objects, notes = done.database, done.objects, done.notes
        except (ArtefactDamaged, ObjectMissing) as error:
            error.details.setdefault("backup_id", entry.manifest.backup_id)
            raise
        rows = [item.rows for item in objects if item.rows is not None]
        return Outcome(
            RestoreResult(
                backup_id=entry.manifest.backup_id,
                mode=request.mode,
                target_connection=request.connection,
                database=database,
                objects=objects[:OBJECTS_SHOWN],
                objects_total=len(objects),
                rows=sum(rows) if rows else None,
                seconds=round(time.monotonic() - began, 3),
                level=entry.level,
                notes=notes,
            )
        )

    def _entry(self, request: RestoreRequest, run: Run) -> CatalogueEntry:
        if request.backup_id:
            entry = self._catalogue.backup(request.backup_id)
        else:
            assert request.latest is not None  # noqa: S101  the model allows exactly one of both
            wanted = request.latest
            found = self._catalogue.find(
                connection=wanted.connection, labels=wanted.labels, min_level=wanted.min_level, limit=1
            )
            if not found:
                raise UnknownBackup(
                    f"No undamaged backup of {wanted.connection!r} matches the labels and level asked for."
                )
            entry = found[0]
            self._catalogue.hold(entry.manifest.backup_id, run.job_id, run.token)
        return entry

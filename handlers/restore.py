"""Restore: bring a backup into a database, beside it or in its place, for good or for a time, or only list it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.reading import Artefact
from engines.base import BackupEngine, BackupOptions, InspectionEngine, RestoreEngine, RestoreOptions, Target
from engines.errors import (
    ArtefactDamaged,
    FlexError,
    InvalidTarget,
    ObjectMissing,
    Stopped,
    TargetMissing,
    UnsupportedOperation,
)
from engines.registry import EngineRegistry
from engines.run import Run, StopReason
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
    backup_key,
    target_claim,
)
from handlers.choosing import Choice, Whole, choose, must_be_whole
from handlers.connections import connection_faults, written_target
from handlers.findings import before_restore, raise_first
from handlers.kept import LONGEST_SECONDS, PREFIX, kept_name, removal_of
from handlers.making import OBJECTS_SHOWN, Maker, Wanted, of_database
from handlers.ports import Catalogue, CatalogueEntry, Connections, Stores

SAFETY_LEVEL = 2


class LatestBackup(BaseModel):
    """The newest undamaged backup that matches all of it; whole databases before parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: ConnectionName
    labels: Labels = Field(default_factory=dict)
    min_level: int = Field(default=0, ge=0, le=3)
    whole: Whole = None


class RestoreRequest(Request):
    backup_id: str | None = Field(default=None, min_length=1, max_length=200)
    latest: LatestBackup | None = Field(default=None, description="Instead of `backup_id`.")
    connection: ConnectionName = Field(description="The connection to restore into.")
    database: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="Of a backup of a whole server: which one; `into` gives it another name.",
    )
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
    safety_backup: bool = Field(
        default=True, description="`replace` first backs up what it will replace, proven to level 2."
    )
    keep_seconds: float | None = Field(
        default=None,
        gt=0,
        le=LONGEST_SECONDS,
        description="Restore into a new database `flexdb_kept_JOB`, dropped by itself after so long.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RestoreRequest:
        if (self.backup_id is None) == (self.latest is None):
            raise ValueError("give either backup_id or latest")
        if self.include and self.mode == "replace":
            raise ValueError(
                "replace puts a whole database in the place of another: with `include` all else would be gone; "
                "restore the chosen objects into another database with `into`"
            )
        if self.keep_seconds is not None and (self.into is not None or self.mode != "create"):
            raise ValueError(
                "keep_seconds makes a database of its own: leave `into` out and use mode create, "
                "so that nothing of yours is ever dropped"
            )
        return self


class Changes(Result):
    """What a restore with `replace` would do to the target, by object name."""

    created: tuple[str, ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]


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
    whole: bool | None
    """Whether the backup holds its whole database; null: nobody knows, it was made by hand."""
    notes: tuple[str, ...]
    safety_backup_id: str | None = None
    """The backup that was taken of what was replaced."""
    drops_at: str | None = None
    """When the database is dropped (RFC 3339), for one that is kept for a time."""
    target_exists: bool | None = None
    """The rest is told by `plan` only."""
    present: tuple[ObjectCount, ...] | None = None
    changes: Changes | None = None
    would_refuse: str | None = None
    """Code of the error that mode `create` would end with; null: it would go ahead."""


class RestoreHandler(Handler[RestoreRequest]):
    operation = "restore"
    request_model = RestoreRequest
    result_model = RestoreResult
    writes = True

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
        self._maker = Maker(connections, stores, catalogue, engines, version)

    def faults(self, request: RestoreRequest) -> list[Fault]:
        source = request.latest.connection if request.latest else None
        faults = connection_faults(self._connections, connection=request.connection)
        faults += connection_faults(self._connections, **{"latest/connection": source})
        if faults:
            return faults
        try:
            if (request.into or "").startswith(PREFIX):
                raise InvalidTarget(f"Databases whose names begin with {PREFIX!r} are dropped after a time.")
            target = self.target(request)
            self._engines.for_target(target, RestoreEngine, self.operation)
        except FlexError as error:
            field = "/into" if request.into is not None else "/connection"
            return [Fault(field, f"{error.message} {error.hint}")]
        return []

    def claims(self, request: RestoreRequest) -> tuple[Claim, ...]:
        claims = []
        if request.mode != "plan" and request.keep_seconds is None:  # nobody else knows a kept database's name
            claims.append(target_claim(self.target(request)))
        if request.backup_id:
            claims.append(Claim(backup_key(request.backup_id), "shared"))
        return tuple(claims)

    def target(self, request: RestoreRequest, job_id: str = "") -> Target:
        """What the restore writes to. Raises `InvalidTarget` or `TargetProtected`."""
        into = request.into or request.database
        if request.keep_seconds is not None:
            into = kept_name(job_id) if job_id else None
        return written_target(self._connections, self._engines, request.connection, into)

    def run(self, request: RestoreRequest, run: Run) -> Outcome:
        began = time.monotonic()
        target = self.target(request, run.job_id)
        choice = self.choose(request)
        entry = choice.entries[0]
        if request.latest is not None:
            self._catalogue.hold(entry.manifest.backup_id, run.job_id, run.token)
        if entry.manifest.engine != target.engine:
            raise self.other_engine(entry, target.engine)
        try:
            artefact = one_database(Artefact(self._stores.store(entry.store), entry.folder, entry.manifest), request)
            work = Work(request, target, artefact, entry, choice.notes, run, began)
            return self._plan(work) if request.mode == "plan" else self._restore(work)
        except (ArtefactDamaged, ObjectMissing) as error:
            error.details.setdefault("backup_id", entry.manifest.backup_id)
            raise

    @staticmethod
    def other_engine(entry: CatalogueEntry, engine: str) -> UnsupportedOperation:
        """What a restore of a backup of another engine ends with."""
        return UnsupportedOperation(
            f"A {entry.manifest.engine} backup cannot be restored into a {engine} database.",
            hint=f"Choose a connection whose engine is {entry.manifest.engine}.",
        )

    def _plan(self, work: Work) -> Outcome:
        engine = self._engines.for_target(work.target, RestoreEngine, self.operation)
        planned = engine.plan(work.artefact, work.target, work.options, work.run)
        create = replace(work.options, mode="create")
        found = before_restore(self._engines, work.artefact, work.target, create, work.run)
        refused = next((finding.problem.code for finding in found if finding.problem is not None), None)
        present = self._present(work)
        result = work.result(planned).model_copy(
            update={
                "target_exists": present is not None,
                "present": None if present is None else present[:OBJECTS_SHOWN],
                "changes": changes(planned, present or ()),
                "would_refuse": refused,
            }
        )
        return Outcome(result)

    def _present(self, work: Work) -> tuple[ObjectCount, ...] | None:
        """What the target holds now; None when there is no such database."""
        try:
            engine = self._engines.for_target(work.target, InspectionEngine, "inspection")
            found = engine.inspect(work.target, work.run)
        except TargetMissing:
            return None
        return tuple(ObjectCount(name=each.name, kind=each.kind, rows=each.rows) for each in found.tables)

    def _restore(self, work: Work) -> Outcome:
        engine = self._engines.for_target(work.target, RestoreEngine, self.operation)
        engine.end_older_sessions(work.target, work.run)
        if work.run.attempt == 1:
            raise_first(before_restore(self._engines, work.artefact, work.target, work.options, work.run))
        safety = self._safety_backup(work)
        try:
            done = engine.restore(work.artefact, work.target, work.options, work.run)
        except BaseException as error:
            if safety is not None and _is_superfluous(safety, work.run, error):
                self._maker.discard(safety)
            raise
        notes = (*work.notes, *done.notes)
        result = work.result(done.objects).model_copy(update={"database": done.database, "notes": notes})
        if safety is None:
            return self._kept(work, result)
        result = result.model_copy(update={"safety_backup_id": safety.manifest.backup_id})
        return Outcome(result, (Published(replace(safety, listed=False)),))  # `latest` never means what was replaced

    def _kept(self, work: Work, result: RestoreResult) -> Outcome:
        seconds = work.request.keep_seconds
        if seconds is None:
            return Outcome(result)
        drops_at = (work.run.now() + timedelta(seconds=seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")
        later = removal_of(work.target, work.request.connection, kept_name(work.run.job_id), seconds)
        return Outcome(result.model_copy(update={"drops_at": drops_at}), later=(later,))

    def _safety_backup(self, work: Work) -> CatalogueEntry | None:
        """A proven backup of what will be replaced; None where there is nothing, or none is wanted."""
        request = work.request
        if request.mode != "replace" or not request.safety_backup:
            return None
        if work.run.attempt == 1 and self._present(work) is None:
            return None
        labels = {"safety": "true", "before": work.entry.manifest.backup_id}
        wanted = Wanted(work.target, SAFETY_LEVEL, labels=labels)
        engine = self._engines.for_target(work.target, BackupEngine, "backup")
        dump = of_database(engine, work.target, BackupOptions(), work.run)
        try:
            return self._maker.make(wanted, dump, work.run, work.run.confirm)
        except TargetMissing:  # an earlier attempt found nothing to back up either
            if self._present(work) is not None:
                raise  # only a part of it is missing
            return None
        except (ArtefactDamaged, ObjectMissing) as error:
            error.details.setdefault("backup_id", None)  # it says nothing about the backup to be restored
            raise

    def choose(self, request: RestoreRequest) -> Choice:
        """The backup that is meant; raises `UnknownBackup`."""
        if request.backup_id:
            return Choice([self._catalogue.backup(request.backup_id)])
        assert request.latest is not None  # noqa: S101  the model allows exactly one of both
        choice = choose(self._catalogue, request.latest)
        if request.mode == "replace" and request.latest.whole is not False:
            must_be_whole(choice.entries[0])
        return choice


@dataclass(frozen=True, slots=True)
class Work:
    """One restore on its way."""

    request: RestoreRequest
    target: Target
    artefact: Artefact
    entry: CatalogueEntry
    notes: tuple[str, ...]
    """Of how the backup was chosen."""
    run: Run
    began: float

    @property
    def options(self) -> RestoreOptions:
        return RestoreOptions(mode=self.request.mode, include=self.request.include, jobs=self.request.jobs)

    def result(self, objects: tuple[ObjectCount, ...]) -> RestoreResult:
        rows = [item.rows for item in objects if item.rows is not None]
        return RestoreResult(
            backup_id=self.entry.manifest.backup_id,
            mode=self.request.mode,
            target_connection=self.request.connection,
            database=self.target.database,
            objects=objects[:OBJECTS_SHOWN],
            objects_total=len(objects),
            rows=sum(rows) if rows else None,
            seconds=round(time.monotonic() - self.began, 3),
            level=self.entry.level,
            whole=self.entry.manifest.whole,
            notes=self.notes,
        )


def _is_superfluous(safety: CatalogueEntry, run: Run, error: BaseException) -> bool:
    """Whether a restore that failed left the target as it was, and nobody else relies on the safety backup.

    That of an earlier attempt stays: it may have switched before it died. So it does when the lease is lost: the next
    attempt may rely on it already.
    """
    lost = isinstance(error, Stopped) and error.reason == StopReason.LEASE_LOST
    own = safety.manifest.backup_id.endswith(f"-{run.token}")
    return own and not lost and run.stop.reason != StopReason.LEASE_LOST and not run.stop.closed


def one_database(artefact: Artefact, request: RestoreRequest) -> Artefact:
    """What is restored: of a backup of a whole server the database asked for."""
    held = artefact.databases
    if request.database is None and held:
        raise UnsupportedOperation(
            "The backup is of a whole server; each of its databases is restored by an event of its own.",
            hint=f"Say which with `database`: {', '.join(held)}.",
        )
    if request.database is None:
        return artefact
    if not held and request.database != artefact.manifest.database:
        raise ObjectMissing(
            f"The backup is of {artefact.manifest.database!r}, not of {request.database!r}.",
            hint="Leave `database` out; `into` names another target.",
        )
    return artefact.of(request.database) if held else artefact


def changes(planned: tuple[ObjectCount, ...], present: tuple[ObjectCount, ...]) -> Changes:
    """By name; at most so many of each that the event stays small."""
    coming, there = {item.name for item in planned}, {item.name for item in present}
    return Changes(
        created=tuple(sorted(coming - there))[:OBJECTS_SHOWN],
        replaced=tuple(sorted(coming & there))[:OBJECTS_SHOWN],
        removed=tuple(sorted(there - coming))[:OBJECTS_SHOWN],
    )

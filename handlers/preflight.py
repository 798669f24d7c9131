"""Preflight: what a backup or a restore would fail of, and how to mend it, before anything is touched."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from engines.artefacts.manifest import ANY_EXTENT
from engines.artefacts.reading import Artefact
from engines.base import Finding, RestoreOptions
from engines.errors import ArtefactDamaged, FlexError, StorageFull
from engines.registry import EngineRegistry
from engines.run import Run
from engines.storage.base import Store
from handlers.backup import BackupHandler, BackupRequest, backup_options
from handlers.base import ConnectionName, Fault, Handler, Outcome, Request, Result
from handlers.choosing import extent
from handlers.findings import before_backup, before_restore
from handlers.ports import Catalogue, CatalogueEntry, Connections, Stores
from handlers.restore import RestoreHandler, RestoreRequest, one_database

SURE_LEVEL = 2
ROOM = 1.2
"""The next backup is taken to need at most this much of the last one's room."""


class PreflightRequest(Request):
    """The data of a backup, or of a restore (which names `backup_id` or `latest`), as it would be sent."""

    model_config = ConfigDict(extra="allow", frozen=True)  # what else is allowed is the other request's business

    connection: ConnectionName = Field(description="The connection to back up, or to restore into.")

    @property
    def about(self) -> Literal["backup", "restore"]:
        return "restore" if {"backup_id", "latest"} & set(self.model_extra or {}) else "backup"

    def data(self) -> dict[str, Any]:
        """As it was sent."""
        return self.model_dump(exclude_unset=True)


class FoundBefore(Result):
    """One thing that was looked at."""

    check: str
    ok: bool
    severity: Literal["ok", "warning", "error"]
    """`error`: the operation would end with `code`; `warning`: it would go ahead."""
    detail: str
    hint: str
    code: str | None


class PreflightResult(Result):
    ok: bool
    """Nothing that was looked at would keep the operation from succeeding."""
    about: Literal["backup", "restore"]
    engine: str
    findings: tuple[FoundBefore, ...]


class PreflightHandler(Handler[PreflightRequest]):
    operation = "preflight"
    request_model = PreflightRequest
    result_model = PreflightResult

    def __init__(
        self,
        connections: Connections,
        stores: Stores,
        catalogue: Catalogue,
        engines: EngineRegistry,
        backup: BackupHandler,
        restore: RestoreHandler,
    ) -> None:
        self._connections = connections
        self._stores = stores
        self._catalogue = catalogue
        self._engines = engines
        self._backup = backup
        self._restore = restore

    def faults(self, request: PreflightRequest) -> list[Fault]:
        try:
            if request.about == "restore":
                return self._restore.faults(RestoreRequest.model_validate(request.data()))
            return self._backup.faults(BackupRequest.model_validate(request.data()))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            return [Fault("".join(f"/{part}" for part in item["loc"]), item["msg"]) for item in found]

    def run(self, request: PreflightRequest, run: Run) -> Outcome:
        run.progress("looking", 0, None, unit="findings")
        if request.about == "restore":
            found = self._before_restore(RestoreRequest.model_validate(request.data()), run)
        else:
            found = self._before_backup(BackupRequest.model_validate(request.data()), run)
        shown = tuple(map(_shown, found))
        return Outcome(
            PreflightResult(
                ok=all(each.severity != "error" for each in shown),
                about=request.about,
                engine=self._connections.target(request.connection).engine,
                findings=shown,
            )
        )

    def _before_backup(self, request: BackupRequest, run: Run) -> list[Finding]:
        target = self._connections.target(request.connection)
        found = list(before_backup(self._engines, target, backup_options(request), run))
        last = self._catalogue.find(connection=request.connection, labels={}, min_level=0, whole=ANY_EXTENT, limit=1)
        found.append(_room(self._stores.store(request.storage), last[0] if last else None))
        return found

    def _before_restore(self, request: RestoreRequest, run: Run) -> list[Finding]:
        target = self._restore.target(request, run.job_id)
        try:
            entry = self._restore.choose(request).entries[0]
            artefact = one_database(Artefact(self._stores.store(entry.store), entry.folder, entry.manifest), request)
        except FlexError as error:
            return [Finding("backup", False, error.message, error.hint, error)]
        found = [_backup(entry), _stored(artefact)]
        if entry.manifest.engine != target.engine:
            return [*found, Finding("engine", False, *_other_engine(entry, target.engine))]
        mode = "create" if request.mode == "plan" else request.mode
        options = RestoreOptions(mode=mode, include=request.include, jobs=request.jobs)
        return [*found, *before_restore(self._engines, artefact, target, options, run)]


def _shown(finding: Finding) -> FoundBefore:
    problem = finding.problem
    return FoundBefore(
        check=finding.check,
        ok=finding.ok,
        severity="error" if problem is not None else "ok" if finding.ok else "warning",
        detail=finding.detail,
        hint=finding.hint or (problem.hint if problem is not None else ""),
        code=None if problem is None else problem.code,
    )


def _room(store: Store, last: CatalogueEntry | None) -> Finding:
    """Whether the store has room for a backup about as large as the last one."""
    free = store.free_bytes()
    if free is None:
        return Finding("storage", True, f"The store {store.name!r} does not say how much room it has.")
    if last is None:
        return Finding("storage", True, f"{free} bytes are free in the store {store.name!r}; there is no backup yet.")
    needed = int(last.manifest.bytes * ROOM)
    detail = f"{free} bytes are free in the store {store.name!r}; the last backup took {last.manifest.bytes}."
    if needed <= free:
        return Finding("storage", True, detail)
    problem = StorageFull(detail) if last.manifest.bytes > free else None
    return Finding("storage", False, detail, "Free space in the store, or name another with `storage`.", problem)


def _backup(entry: CatalogueEntry) -> Finding:
    """What the catalogue knows of the backup."""
    backup_id = entry.manifest.backup_id
    if entry.damaged:
        detail = f"{backup_id} was found damaged."
        return Finding("backup", False, detail, "Choose another backup.", ArtefactDamaged(detail))
    proven, part = entry.level >= SURE_LEVEL, entry.manifest.whole is not True
    hints = ["Be sure that this is what you want."] if part else []
    hints += [] if proven else [f"Verify it to level {SURE_LEVEL} or 3 first."]
    detail = f"{backup_id} was verified to level {entry.level}" + (f"; it {extent(entry)}." if part else ".")
    return Finding("backup", not hints, detail, " ".join(hints))


def _stored(artefact: Artefact) -> Finding:
    """Whether the stored files are there with the sizes that were written; their bytes are not read."""
    try:
        for file in artefact.manifest.files:
            size = artefact.store.size(f"{artefact.folder}/{file.name}")
            if size != file.bytes:
                problem = ArtefactDamaged(f"{file.name} has {size} bytes; {file.bytes} were written.")
                return Finding("stored", False, problem.message, problem.hint, problem)
    except FlexError as error:
        return Finding("stored", False, error.message, error.hint, error)
    return Finding("stored", True, f"{len(artefact.manifest.files)} stored file(s) have the sizes that were written.")


def _other_engine(entry: CatalogueEntry, engine: str) -> tuple[str, str, FlexError]:
    problem = RestoreHandler.other_engine(entry, engine)
    return problem.message, problem.hint, problem

"""Backup: dump a database into storage, prove it, then publish it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from engines.artefacts.writing import Compression
from engines.base import BackupEngine, BackupOptions, Content, Layout, Target, VerificationEngine
from engines.errors import FlexError
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.base import (
    Claim,
    ConnectionName,
    Fault,
    Handler,
    Labels,
    Outcome,
    Published,
    Request,
    target_claim,
)
from handlers.connections import connection_faults
from handlers.findings import refuse_early
from handlers.making import MadeBackup, Maker, Wanted, of_database, of_server, told
from handlers.ports import Catalogue, Connections, Stores
from handlers.proof import HIGHEST_LEVEL

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=300)]


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
    globals: bool = Field(
        default=False, description="What belongs to the server too, where the engine has it: roles, users, grants."
    )
    content: Content = Field(default="all", description="`schema`: definitions only; `data`: rows only.")
    layout: Layout = Field(
        default="archive", description="`directory`: a file per collection, as one tar stream (MongoDB)."
    )
    scope: Literal["database", "server"] = Field(
        default="database", description="`server`: every database of the server in one backup, with `globals`."
    )


class BackupResult(MadeBackup):
    """What a completed backup says of itself."""


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
        self._engines = engines
        self._maker = Maker(connections, stores, catalogue, engines, version)

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
        if request.scope == "server" and (request.include or request.exclude):
            faults.append(Fault("/scope", "A backup of the whole server takes all; leave `include` and `exclude` out."))
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
        if request.scope == "server" and not engine.has_servers:
            return [Fault("/scope", f"The engine {target.engine!r} has no server with several databases.")]
        if request.verify == HIGHEST_LEVEL and request.content == "data" and not _rehearses_rows(engine):
            return [Fault("/verify", "Rows without definitions cannot be restored into a scratch database; ask for 2.")]
        return [Fault(f"/{name}", why) for name, why in engine.refuse_options(backup_options(request)).items()]

    def claims(self, request: BackupRequest) -> tuple[Claim, ...]:
        return (target_claim(self._connections.target(request.connection)),)

    def run(self, request: BackupRequest, run: Run) -> Outcome:
        target = self._connections.target(request.connection)
        engine = self._engines.for_target(target, BackupEngine, self.operation)
        engine.end_older_sessions(target, run)
        if run.attempt == 1:
            refuse_early(self._engines, target, backup_options(request), run)
        dumping = of_server if request.scope == "server" else of_database
        dump = dumping(engine, target, backup_options(request), run)
        entry = self._maker.make(_wanted(request, target), dump, run, run.point_of_no_return)
        return Outcome(BackupResult(**told(entry)), (Published(entry),))


def _rehearses_rows(engine: BackupEngine) -> bool:
    return isinstance(engine, VerificationEngine) and engine.rehearses_rows_alone


def _wanted(request: BackupRequest, target: Target) -> Wanted:
    return Wanted(
        target=target,
        level=request.verify,
        compression=request.compression,
        storage=request.storage,
        labels=request.labels,
    )


def backup_options(request: BackupRequest) -> BackupOptions:
    """What the engine is asked for. A backup of the whole server has what belongs to the server with it."""
    return BackupOptions(
        include=request.include,
        exclude=request.exclude,
        counts=request.counts,
        jobs=request.jobs,
        globals=request.globals or request.scope == "server",
        content=request.content,
        layout=request.layout,
    )

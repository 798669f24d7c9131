"""Removal: drop a database that a restore kept for a time."""

from __future__ import annotations

from pydantic import Field

from engines.base import RestoreEngine, Target
from engines.errors import FlexError
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.base import Claim, ConnectionName, Fault, Handler, Outcome, Request, Result, target_claim
from handlers.connections import connection_faults, written_target
from handlers.kept import NAME
from handlers.ports import Connections


class RemovalRequest(Request):
    connection: ConnectionName
    database: str = Field(
        pattern=NAME.pattern,
        max_length=4096,
        description="The database as the restore named it; only those that FlexDB made to be kept for a time.",
    )


class RemovalResult(Result):
    database: str
    removed: bool
    """False when it was gone already."""


class RemovalHandler(Handler[RemovalRequest]):
    operation = "removal"
    request_model = RemovalRequest
    result_model = RemovalResult
    writes = True

    def __init__(self, connections: Connections, engines: EngineRegistry) -> None:
        self._connections = connections
        self._engines = engines

    def faults(self, request: RemovalRequest) -> list[Fault]:
        faults = connection_faults(self._connections, connection=request.connection)
        if not faults:
            try:
                target = self._target(request)
                if "/" in request.database and target.database != request.database:
                    faults.append(Fault("/database", f"This connection's database of that name is {target.database}."))
                self._engines.for_target(target, RestoreEngine, self.operation)
            except FlexError as error:
                faults.append(Fault("/database", f"{error.message} {error.hint}"))
        return faults

    def claims(self, request: RemovalRequest) -> tuple[Claim, ...]:
        return (target_claim(self._target(request)),)

    def run(self, request: RemovalRequest, run: Run) -> Outcome:
        target = self._target(request)
        run.progress("removing", 0, 1, unit="databases")
        removed = self._engines.for_target(target, RestoreEngine, self.operation).drop(target, run)
        return Outcome(RemovalResult(database=target.database, removed=removed))

    def _target(self, request: RemovalRequest) -> Target:
        name = request.database.rpartition("/")[2]
        return written_target(self._connections, self._engines, request.connection, name)

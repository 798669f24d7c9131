"""Check: can each connection be worked with, and with which tools."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import Field

from engines.base import CheckEngine, CheckReport
from engines.errors import FlexError
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.base import ConnectionName, Fault, Handler, Outcome, Request, Result
from handlers.connections import connection_faults
from handlers.ports import Connections


class CheckRequest(Request):
    connection: ConnectionName | None = Field(default=None, description="One connection; without it, all of them.")


class ConnectionState(Result):
    """What was found of one connection."""

    connection: str
    engine: str | None
    reachable: bool
    server_version: str | None
    latency_ms: float | None
    client_tools: dict[str, Any]
    problem: dict[str, str] | None


class CheckResult(Result):
    reachable: bool
    """True when every connection looked at was."""
    connections: tuple[ConnectionState, ...]


class CheckHandler(Handler[CheckRequest]):
    operation = "check"
    request_model = CheckRequest
    result_model = CheckResult

    def __init__(self, connections: Connections, engines: EngineRegistry) -> None:
        self._connections = connections
        self._engines = engines

    def faults(self, request: CheckRequest) -> list[Fault]:
        return connection_faults(self._connections, connection=request.connection)

    def run(self, request: CheckRequest, run: Run) -> Outcome:
        names = [request.connection] if request.connection else self._connections.names()
        states = []
        for done, name in enumerate(names):
            run.progress("checking", done, len(names), unit="connections")
            states.append(self._state(name, run))
        return Outcome(CheckResult(reachable=all(state.reachable for state in states), connections=tuple(states)))

    def _state(self, name: str, run: Run) -> ConnectionState:
        kind = None
        try:
            target = self._connections.target(name)
            kind = target.engine
            report = self._engines.for_target(target, CheckEngine, self.operation).check(target, run)
        except FlexError as error:
            problem = {"code": error.code, "message": error.message, "hint": error.hint}
            report = CheckReport(reachable=False, server_version=None, latency_ms=None, problem=problem)
        return ConnectionState(connection=name, engine=kind, **asdict(report))

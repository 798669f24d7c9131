"""Inspection: what is in a database, how big it is, and a fingerprint of its structure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from engines.base import InspectionEngine
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.base import ConnectionName, Fault, Handler, Outcome, Request, Result
from handlers.connections import connection_faults
from handlers.ports import Connections


class InspectionRequest(Request):
    connection: ConnectionName


class InspectionResult(Result):
    engine: str
    server_version: str
    database: str
    size_bytes: int
    databases: tuple[str, ...]
    tables: tuple[dict[str, Any], ...]
    """name, kind, rows (an estimate unless rows_exact), bytes; the largest ones when there are very many."""
    tables_total: int
    fingerprint: str


class InspectionHandler(Handler[InspectionRequest]):
    operation = "inspection"
    request_model = InspectionRequest
    result_model = InspectionResult

    TABLES_SHOWN = 500
    """Events stay small; an inspection of 3,000 tables shows the largest of them and says how many there are."""

    def __init__(self, connections: Connections, engines: EngineRegistry) -> None:
        self._connections = connections
        self._engines = engines

    def faults(self, request: InspectionRequest) -> list[Fault]:
        return connection_faults(self._connections, connection=request.connection)

    def run(self, request: InspectionRequest, run: Run) -> Outcome:
        target = self._connections.target(request.connection)
        found = self._engines.for_target(target, InspectionEngine, self.operation).inspect(target, run)
        tables = found.tables
        if len(tables) > self.TABLES_SHOWN:
            tables = tuple(sorted(tables, key=lambda table: -(table.bytes or 0))[: self.TABLES_SHOWN])
        return Outcome(
            InspectionResult(
                engine=target.engine,
                server_version=found.server_version,
                database=found.database,
                size_bytes=found.size_bytes,
                databases=found.databases,
                tables=tuple(asdict(table) for table in tables),
                tables_total=len(found.tables),
                fingerprint=found.fingerprint,
            )
        )

"""The PostgreSQL engine: what it can do, each capability in a module of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter
from engines.assertions import Assertion
from engines.base import (
    AdoptionEngine,
    BackupEngine,
    BackupOptions,
    CheckEngine,
    CheckReport,
    Dump,
    Finding,
    Inspection,
    InspectionEngine,
    PreflightEngine,
    Restored,
    RestoreEngine,
    RestoreOptions,
    Source,
    Target,
    VerificationEngine,
)
from engines.errors import InvalidTarget
from engines.postgres import adopt, databases, look, sessions, verify
from engines.postgres.clients import Clients
from engines.postgres.connection import SCHEMES, Address, refuse_name
from engines.postgres.dump import PgDump
from engines.postgres.preflight import BeforeBackup
from engines.postgres.preflight_restore import BeforeRestore
from engines.postgres.records import PostgresTable
from engines.postgres.records import refuse as refuse_table
from engines.postgres.restore import PgRestore, planned
from engines.records.base import RecordEngine, RecordTable
from engines.records.fields import Table
from engines.run import Run

__all__ = ["PostgresEngine"]


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class PostgresEngine(
    CheckEngine,
    InspectionEngine,
    BackupEngine,
    RestoreEngine,
    VerificationEngine,
    PreflightEngine,
    AdoptionEngine,
    RecordEngine,
):
    """PostgreSQL from 13 on, through its own client programs."""

    kind = "postgres"
    schemes = SCHEMES

    def __init__(
        self,
        tool_path: str | None = None,
        *,
        clients: Clients | None = None,
        free_bytes: Callable[[Path], int] = _free_bytes,
    ) -> None:
        self._clients = clients or Clients.installed(tool_path)
        self._free_bytes = free_bytes

    def target(self, connection: str, url: str) -> Target:
        address = Address.parse(url)
        return Target(connection, self.kind, SecretStr(url), address.host, address.port, address.database)

    def into(self, target: Target, database: str) -> Target:
        refuse_name(database)
        if database in databases.TEMPLATES or databases.PREFIX.match(database):
            raise InvalidTarget(f"The name {database!r} is kept for PostgreSQL's or FlexDB's own use.")
        return replace(target, database=database)

    def end_older_sessions(self, target: Target, run: Run) -> None:
        sessions.end_older(Address.of(target), run)

    def remove_leftovers(self, target: Target, is_dead: Callable[[str], bool]) -> list[str]:
        return databases.sweep(Address.of(target), is_dead)

    def check(self, target: Target, run: Run) -> CheckReport:
        return look.check(target, run, self._clients)

    def inspect(self, target: Target, run: Run) -> Inspection:
        return look.inspect(target, run)

    def refuse_options(self, options: BackupOptions) -> dict[str, str]:
        refused = {}
        for name in ("include", "exclude"):
            if any("\0" in pattern or not pattern for pattern in getattr(options, name)):
                refused[name] = "A pattern is not empty and holds no NUL character."
        return refused

    def backup(self, target: Target, options: BackupOptions, out: ArtefactWriter, run: Run) -> Dump:
        return PgDump(target, options, out, run, self._clients, self._free_bytes).make()

    def databases(self, target: Target, run: Run) -> tuple[str, ...]:
        return databases.of_users(Address.of(target), run)

    def plan(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> tuple[ObjectCount, ...]:
        return planned(artefact, options)

    def restore(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> Restored:
        return PgRestore(artefact, target, options, run, self._clients, self._free_bytes).make()

    def parse(self, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
        return verify.parse(artefact, run, self._clients)

    def drop(self, target: Target, run: Run) -> bool:
        address = Address.of(target)
        there = databases.exists(address, target.database, run)
        databases.drop(address, target.database, run)
        return there

    def rehearse(
        self, artefact: Artefact, scratch: Target, run: Run, assertions: tuple[Assertion, ...] = ()
    ) -> tuple[Evidence, ...]:
        return verify.Rehearsal(artefact, scratch, run, self._clients, self._free_bytes, assertions).evidence()

    def preflight_backup(self, target: Target, options: BackupOptions, run: Run) -> tuple[Finding, ...]:
        return BeforeBackup(target, options, run, self._clients, self._free_bytes).findings()

    def preflight_restore(
        self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run
    ) -> tuple[Finding, ...]:
        return BeforeRestore(artefact, target, options, run, self._clients, self._free_bytes).findings()

    def recognise(self, head: bytes) -> str | None:
        return adopt.recognise(head)

    def adopt(self, source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
        return adopt.Adoption(source, out, run, self._clients).make(format)

    def refuse_table(self, table: Table) -> dict[str, str]:
        return refuse_table(table)

    def open_table(self, target: Target, table: Table) -> RecordTable:
        return PostgresTable(Address.of(target), table)

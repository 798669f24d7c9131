"""The MongoDB engine: what it can do, each capability in a module of its own."""

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
from engines.mongodb import adopt, look, preflight, restore, sessions, verify
from engines.mongodb.address import SCHEMES, Address, refuse_reserved
from engines.mongodb.dump import MongoDump
from engines.mongodb.records.table import MongoTable, refused
from engines.mongodb.restore import MongoRestore
from engines.records.base import RecordEngine, RecordTable
from engines.records.fields import Table
from engines.run import Run

__all__ = ["MongoEngine"]


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class MongoEngine(
    CheckEngine,
    InspectionEngine,
    BackupEngine,
    RestoreEngine,
    VerificationEngine,
    PreflightEngine,
    AdoptionEngine,
    RecordEngine,
):
    """MongoDB from 4.4 on, through its driver, in mongodump's own formats."""

    rehearses_rows_alone = True
    globals_of_database = True
    writes_whole = False
    kind = "mongodb"
    schemes = SCHEMES

    def __init__(self, *, free_bytes: Callable[[Path], int] = _free_bytes) -> None:
        self._free_bytes = free_bytes

    def target(self, connection: str, url: str) -> Target:
        address = Address.parse(url)
        return Target(connection, self.kind, SecretStr(url), address.host, address.port, address.database)

    def into(self, target: Target, database: str) -> Target:
        refuse_reserved(database)
        return replace(target, database=database)

    def end_older_sessions(self, target: Target, run: Run) -> None:
        sessions.end_older(Address.of(target), run)

    def remove_leftovers(self, target: Target, is_dead: Callable[[str], bool]) -> list[str]:
        return sessions.sweep(Address.of(target), is_dead)

    def check(self, target: Target, run: Run) -> CheckReport:
        return look.check(target, run)

    def inspect(self, target: Target, run: Run) -> Inspection:
        return look.inspect(target, run)

    def databases(self, target: Target, run: Run) -> tuple[str, ...]:
        return sessions.user_databases(Address.of(target), run)

    def refuse_options(self, options: BackupOptions) -> dict[str, str]:
        refused = {}
        for name in ("include", "exclude"):
            if any("\0" in pattern or not pattern for pattern in getattr(options, name)):
                refused[name] = "A pattern is not empty and holds no NUL character."
        return refused

    def backup(self, target: Target, options: BackupOptions, out: ArtefactWriter, run: Run) -> Dump:
        return MongoDump(target, options, out, run, self._free_bytes).make()

    def plan(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> tuple[ObjectCount, ...]:
        return restore.planned(artefact, target, options)

    def restore(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> Restored:
        return MongoRestore(artefact, target, options, run).make()

    def drop(self, target: Target, run: Run) -> bool:
        return sessions.drop(Address.of(target), target.database, run)

    def parse(self, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
        return verify.parse(artefact, run)

    def rehearse(
        self, artefact: Artefact, scratch: Target, run: Run, assertions: tuple[Assertion, ...] = ()
    ) -> tuple[Evidence, ...]:
        return verify.rehearse(artefact, scratch, run, assertions)

    def preflight_backup(self, target: Target, options: BackupOptions, run: Run) -> tuple[Finding, ...]:
        return preflight.before_backup(target, options, run, self._free_bytes)

    def preflight_restore(
        self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run
    ) -> tuple[Finding, ...]:
        return preflight.before_restore(artefact, target, options, run)

    def recognise(self, head: bytes) -> str | None:
        return adopt.recognise(head)

    def adopt(self, source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
        return adopt.adopt(source, format, out, run)

    def refuse_table(self, table: Table) -> dict[str, str]:
        return refused(table)

    def open_table(self, target: Target, table: Table) -> RecordTable:
        return MongoTable(target, table)

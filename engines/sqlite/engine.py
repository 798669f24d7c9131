"""The SQLite engine: what it can do, each step in a module of its own."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import Artefact, proven
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
from engines.errors import FlexError, UnsupportedOperation, VerificationImpossible
from engines.records.base import RecordEngine, RecordTable
from engines.records.fields import Table
from engines.run import Run
from engines.sqlite import adopting, cutting, names, preflight, proving, restoring, structure
from engines.sqlite.asking import asked
from engines.sqlite.connection import reading
from engines.sqlite.copying import back_up
from engines.sqlite.records import SQLiteTable, refused
from engines.sqlite.selection import planned
from engines.sqlite.unpacking import stored, unpacked

UNAVAILABLE_OPTIONS = {
    "jobs": "A SQLite file is copied in one stream; leave this out or use 1.",
    "globals": "SQLite has no roles or tablespaces; leave this out.",
    "content": "A SQLite file cannot hold rows without their tables; use `all` or `schema`.",
    "layout": "A SQLite database is one file; leave this out or use `archive`.",
}


class SQLiteEngine(
    CheckEngine,
    InspectionEngine,
    BackupEngine,
    RestoreEngine,
    VerificationEngine,
    PreflightEngine,
    AdoptionEngine,
    RecordEngine,
):
    """`busy_seconds`: how long to wait for locks that other programs hold."""

    kind = "sqlite"
    has_servers = False
    schemes = ("sqlite",)

    def __init__(self, busy_seconds: float = 10.0) -> None:
        self._busy_seconds = busy_seconds

    def target(self, connection: str, url: str) -> Target:
        path = names.database_file(url)
        return Target(connection, self.kind, SecretStr(url), "", None, str(path))

    def into(self, target: Target, database: str) -> Target:
        path = names.file_beside(Path(target.database), database)
        return Target(target.connection, self.kind, SecretStr(f"sqlite:///{quote(str(path))}"), "", None, str(path))

    def remove_leftovers(self, target: Target, is_dead: Callable[[str], bool]) -> list[str]:
        gone = []
        for found in names.own_files(Path(target.database).parent):
            if is_dead(found.job_id):
                found.path.unlink(missing_ok=True)
                gone.append(found.path.name)
        return gone

    def check(self, target: Target, run: Run) -> CheckReport:
        began = time.monotonic()
        try:
            with reading(Path(target.database), run, self._busy_seconds):
                took = round((time.monotonic() - began) * 1000, 3)
        except FlexError as error:
            problem = {"code": error.code, "message": error.message, "hint": error.hint}
            return CheckReport(False, None, None, _library(), problem)
        return CheckReport(True, sqlite3.sqlite_version, took, _library())

    def inspect(self, target: Target, run: Run) -> Inspection:
        path = Path(target.database)
        with reading(path, run, self._busy_seconds) as connection:
            return Inspection(
                server_version=sqlite3.sqlite_version,
                database=str(path),
                size_bytes=structure.size_bytes(connection),
                databases=(path.name,),
                tables=structure.table_infos(connection, run),
                fingerprint=structure.fingerprint(connection),
            )

    def refuse_options(self, options: BackupOptions) -> dict[str, str]:
        asked = {
            "jobs": options.jobs > 1,
            "globals": options.globals,
            "content": options.content == "data",
            "layout": options.layout != "archive",
        }
        refused = {name: UNAVAILABLE_OPTIONS[name] for name, wanted in asked.items() if wanted}
        for name in ("include", "exclude"):
            if any("\0" in pattern or not pattern for pattern in getattr(options, name)):
                refused[name] = "A pattern is not empty and holds no NUL character."
        return refused

    def backup(self, target: Target, options: BackupOptions, out: ArtefactWriter, run: Run) -> Dump:
        for name, why in self.refuse_options(options).items():
            raise UnsupportedOperation(f"{name}: {why}")
        return back_up(Path(target.database), options, out, run, busy_seconds=self._busy_seconds)

    def plan(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> tuple[ObjectCount, ...]:
        run.stop.check()
        return planned(artefact.manifest, options.include)

    def restore(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> Restored:
        self.remove_leftovers(target, lambda job_id: job_id == run.job_id)
        path = Path(target.database)
        return restoring.restore(artefact, path, options, run, busy_seconds=self._busy_seconds)

    def parse(self, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
        copy = unpacked(artefact, run.workspace, "parsed.sqlite", run)
        try:
            with proving.dumped(copy, run) as connection:
                return (*proven(stored(artefact)), *proving.check_integrity(connection, run))
        finally:
            cutting.remove(copy)

    def drop(self, target: Target, run: Run) -> bool:
        path = Path(target.database)
        there = path.exists()
        cutting.remove(path)
        return there

    def rehearse(
        self, artefact: Artefact, scratch: Target, run: Run, assertions: tuple[Assertion, ...] = ()
    ) -> tuple[Evidence, ...]:
        """The scratch database is a file in the run's workspace: SQLite has no server to burden."""
        if artefact.manifest.counts != "exact":
            raise VerificationImpossible(
                "Level 3 compares with row counts, and this backup was made without them.",
                hint="Ask for level 2, or back up with counts `exact`.",
            )
        copy = unpacked(artefact, run.workspace, f"flexdb_scratch_{run.job_id}.sqlite", run)
        try:
            with proving.dumped(copy, run, "mode=rw") as connection:
                evidence = proving.compare(connection, artefact, run)
            return (*evidence, *asked(copy, assertions, run))
        finally:
            cutting.remove(copy)

    def preflight_backup(self, target: Target, options: BackupOptions, run: Run) -> tuple[Finding, ...]:
        path = Path(target.database)
        refused = self.refuse_options(options)
        return preflight.of_backup(path, options, refused, run, busy_seconds=self._busy_seconds)

    def preflight_restore(
        self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run
    ) -> tuple[Finding, ...]:
        path = Path(target.database)
        return preflight.of_restore(artefact, path, options, run, busy_seconds=self._busy_seconds)

    def recognise(self, head: bytes) -> str | None:
        return adopting.recognise(head)

    def adopt(self, source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
        return adopting.adopt(source, format, out, run)

    def refuse_table(self, table: Table) -> dict[str, str]:
        return refused(table)

    def open_table(self, target: Target, table: Table) -> RecordTable:
        return SQLiteTable(Path(target.database), table, self._busy_seconds)


def _library() -> dict[str, object]:
    tools = {"sqlite3 (library)": {"version": sqlite3.sqlite_version, "path": "in this program"}}
    return {"compatible": True, "tools": tools, "hint": ""}

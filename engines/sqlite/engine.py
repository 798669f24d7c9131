"""The SQLite engine: what it can do, each step in a module of its own."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from engines.artefacts.manifest import Evidence, ObjectCount, StoredFile
from engines.artefacts.reading import Artefact, proven
from engines.artefacts.writing import ArtefactWriter
from engines.assertions import Assertion
from engines.base import (
    BackupEngine,
    BackupOptions,
    CheckEngine,
    CheckReport,
    Dump,
    Inspection,
    InspectionEngine,
    Restored,
    RestoreEngine,
    RestoreOptions,
    Target,
    Tool,
    VerificationEngine,
)
from engines.errors import FlexError, StorageFull, TargetMissing, UnsupportedOperation, VerificationImpossible
from engines.run import Run
from engines.sqlite import names, proving, structure, switching
from engines.sqlite.connection import existing, reading
from engines.sqlite.copying import FORMAT, back_up

WHOLE_FILE = "A SQLite backup is the whole file; leave this out."
UNAVAILABLE_OPTIONS = {
    "include": WHOLE_FILE,
    "exclude": WHOLE_FILE,
    "jobs": "A SQLite file is copied in one stream; leave this out or use 1.",
    "globals": "SQLite has no roles or tablespaces; leave this out.",
}


class SQLiteEngine(CheckEngine, InspectionEngine, BackupEngine, RestoreEngine, VerificationEngine):
    """`busy_seconds`: how long to wait for locks that other programs hold."""

    kind = "sqlite"
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
            "include": bool(options.include),
            "exclude": bool(options.exclude),
            "jobs": options.jobs > 1,
            "globals": options.globals,
        }
        return {name: UNAVAILABLE_OPTIONS[name] for name, wanted in asked.items() if wanted}

    def backup(self, target: Target, options: BackupOptions, out: ArtefactWriter, run: Run) -> Dump:
        for name, why in self.refuse_options(options).items():
            raise UnsupportedOperation(f"{name}: {why}")
        path = Path(target.database)
        return back_up(path, out, run, counts=options.counts, busy_seconds=self._busy_seconds)

    def plan(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> tuple[ObjectCount, ...]:
        _refuse_include(options)
        run.stop.check()
        return artefact.manifest.objects

    def restore(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> Restored:
        _refuse_include(options)
        path = Path(target.database)
        replace = options.mode == "replace"
        if path.exists():
            existing(path)
        self.remove_leftovers(target, lambda job_id: job_id == run.job_id)
        if run.attempt > 1 and switching.holds(path, artefact.file(FORMAT), run):
            return _restored_before(path, run)
        if not replace:
            switching.check_empty(path, run, self._busy_seconds)
        new = self._unpacked(artefact, path.parent, names.new_name(run.job_id, run.token), run)
        try:
            with proving.dumped(new, run) as connection:
                proving.check_integrity(connection, run)
                objects = structure.counted(connection, run)
            notes = switching.put_in_place(new, path, run, replace=replace, busy_seconds=self._busy_seconds)
        finally:
            new.unlink(missing_ok=True)
        return Restored(str(path), objects, notes, Tool("sqlite3 (library)", sqlite3.sqlite_version))

    def parse(self, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
        file = artefact.file(FORMAT)
        copy = self._unpacked(artefact, run.workspace, "parsed.sqlite", run)
        try:
            with proving.dumped(copy, run) as connection:
                return (*proven(file), *proving.check_integrity(connection, run))
        finally:
            copy.unlink(missing_ok=True)

    def drop(self, target: Target, run: Run) -> bool:
        path = Path(target.database)
        there = path.exists()
        for suffix in ("", *names.SIDE_FILES):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
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
        copy = self._unpacked(artefact, run.workspace, f"flexdb_scratch_{run.job_id}.sqlite", run)
        try:
            with proving.dumped(copy, run, "mode=rw") as connection:
                return proving.compare(connection, artefact.manifest, run)
        finally:
            for suffix in ("", *names.SIDE_FILES):
                copy.with_name(copy.name + suffix).unlink(missing_ok=True)

    def _unpacked(self, artefact: Artefact, folder: Path, name: str, run: Run) -> Path:
        file = artefact.file(FORMAT)
        _check_room(file, folder)
        return artefact.stage(file, folder, run, name)


def _library() -> dict[str, object]:
    tools = {"sqlite3 (library)": {"version": sqlite3.sqlite_version, "path": "in this program"}}
    return {"compatible": True, "tools": tools, "hint": ""}


def _refuse_include(options: RestoreOptions) -> None:
    if options.include:
        raise UnsupportedOperation("A SQLite backup is restored as a whole.", hint="Leave `include` out.")


def _restored_before(path: Path, run: Run) -> Restored:
    """An earlier attempt of this job switched and died before it could say so."""
    with proving.dumped(path, run, "mode=ro") as connection:
        objects = structure.counted(connection, run)
    note = "An earlier attempt of this job had put it in place; it is byte for byte the backup."
    return Restored(str(path), objects, (note,), Tool("sqlite3 (library)", sqlite3.sqlite_version))


def _check_room(file: StoredFile, folder: Path) -> None:
    try:
        free = shutil.disk_usage(folder).free
    except FileNotFoundError as error:
        raise TargetMissing(f"There is no folder {folder}.", hint="Make it, or correct the path.") from error
    if file.raw_bytes > free:
        raise StorageFull(f"{file.raw_bytes} bytes are needed in {folder}, {free} are free.")

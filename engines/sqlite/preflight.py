"""Looking, before a backup or restore, at what it would fail of; nothing is touched and no table is walked."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from engines.artefacts.reading import Artefact
from engines.base import BackupOptions, Finding, RestoreOptions
from engines.errors import (
    AccessDenied,
    FlexError,
    InvalidTarget,
    Stopped,
    StorageFull,
    TargetMissing,
    TargetNotEmpty,
    ToolFailed,
    UnsupportedOperation,
)
from engines.run import Run
from engines.sqlite import structure
from engines.sqlite.connection import reading
from engines.sqlite.copying import WITH_JOURNAL, WITH_WAL
from engines.sqlite.restoring import check_writable
from engines.sqlite.selection import planned, select
from engines.sqlite.unpacking import known_size, stored


def of_backup(
    path: Path, options: BackupOptions, refused: dict[str, str], run: Run, *, busy_seconds: float
) -> tuple[Finding, ...]:
    """As `PreflightEngine.preflight_backup`; waits for locks as long as the backup itself would."""
    findings = [_refused(name, why) for name, why in refused.items()]
    try:
        with reading(path, run, busy_seconds) as connection:
            findings.append(_good("reachable", f"{path} is a SQLite database that can be read."))
            findings.append(_good("consistency", WITH_WAL if structure.in_wal_mode(connection) else WITH_JOURNAL))
            findings.append(_modules(connection, structure.described(connection)["modules"]))
            findings.append(_looked("patterns", lambda: _selection(connection, options, path)))
            findings.append(_looked("space", lambda: _room_for_copy(connection, options, run)))
    except Stopped:
        raise
    except FlexError as error:
        findings.append(_bad("reachable", error))
    return tuple(findings)


def of_restore(
    artefact: Artefact, path: Path, options: RestoreOptions, run: Run, *, busy_seconds: float
) -> tuple[Finding, ...]:
    """As `PreflightEngine.preflight_restore`; for SQLite, reachable means that the folder is there."""
    findings = [
        _looked("reachable", lambda: _folder(path)),
        _versions(artefact),
        _looked("patterns", lambda: _planned(artefact, options)),
    ]
    if findings[0].ok:
        findings.append(_looked("privileges", lambda: _writable(path)))
        findings.append(_target(path, options, run, busy_seconds))
        findings.append(_looked("space", lambda: _room_for_restore(artefact, path, options, run)))
    return tuple(findings)


def _looked(check: str, look: Callable[[], str]) -> Finding:
    """What `look` says, or the error that it raises."""
    try:
        return _good(check, look())
    except Stopped:
        raise
    except FlexError as error:
        return _bad(check, error)


def _good(check: str, detail: str) -> Finding:
    return Finding(check, ok=True, detail=detail)


def _bad(check: str, problem: FlexError) -> Finding:
    return Finding(check, ok=False, detail=problem.message, hint=problem.hint, problem=problem)


def _refused(name: str, why: str) -> Finding:
    return _bad("options", UnsupportedOperation(f"{name}: {why}"))


def _modules(connection: sqlite3.Connection, modules: list[str]) -> Finding:
    """Without a module the file is still copied whole; only the rows of its tables cannot be counted."""
    version = f"The SQLite here is {sqlite3.sqlite_version}"
    if lacking := structure.lacking(connection, modules):
        detail = f"{version} and lacks what some virtual tables need: {', '.join(lacking)}; their rows are not counted."
        return Finding("client", ok=False, detail=detail, hint="Nothing is lost: the tables are backed up as they are.")
    return _good("client", f"{version} and knows every module the database uses.")


def _selection(connection: sqlite3.Connection, options: BackupOptions, path: Path) -> str:
    found = select(connection, options, str(path))
    return f"{len(found.kept)} tables and views are backed up, {len(found.dropped)} are left out."


def _room_for_copy(connection: sqlite3.Connection, options: BackupOptions, run: Run) -> str:
    """The whole is copied into the work folder first; a part of it stands beside it for a while, of unknown size."""
    if options.content == "schema":
        return "Definitions alone need hardly any room."
    return _room(structure.size_bytes(connection), run.workspace)


def _folder(path: Path) -> str:
    if path.is_dir():
        raise InvalidTarget(f"{path} is a folder, not a SQLite database.")
    if not path.parent.is_dir():
        raise TargetMissing(f"There is no folder {path.parent}.", hint="Make it, or correct the path.")
    return f"The folder {path.parent} is there."


def _writable(path: Path) -> str:
    check_writable(path.parent)
    if path.exists() and not os.access(path, os.W_OK):  # opening it would drop locks that others here hold
        raise AccessDenied(f"{path} cannot be written.", hint="Check the permissions of the file.")
    return f"Files can be made in {path.parent}."


def _versions(artefact: Artefact) -> Finding:
    """The file format has not changed since 2004; what may lack is a module, or a word in a definition."""
    made_by, here = artefact.manifest.server_version, sqlite3.sqlite_version
    with closing(sqlite3.connect(":memory:")) as connection:
        lacking = structure.lacking(connection, artefact.manifest.options.get("modules", []))
    if lacking:
        detail = f"The SQLite here lacks what some virtual tables need: {', '.join(lacking)}."
        return Finding("client", ok=False, detail=detail, hint="They are restored, but not counted here.")
    if _numbers(made_by) > _numbers(here):
        detail = f"The backup was made with SQLite {made_by}, and the one here is {here}."
        return Finding("client", ok=False, detail=detail, hint="Newer kinds of definitions may not be understood here.")
    return _good("client", f"SQLite {here} reads what SQLite {made_by} has written.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _planned(artefact: Artefact, options: RestoreOptions) -> str:
    return f"{len(planned(artefact.manifest, options.include))} tables are restored."


def _target(path: Path, options: RestoreOptions, run: Run, busy_seconds: float) -> Finding:
    if not path.exists():
        return _good("target", f"{path} does not exist yet and is made.")
    if options.mode == "replace":
        return _looked("target", lambda: _replaceable(path, run, busy_seconds))
    found = _looked("target", lambda: _empty(path, run, busy_seconds))
    if found.ok or (options.mode == "create" and run.attempt == 1):
        return found
    # a plan minds nothing; and an earlier attempt of this job may have put it there and died before it could say so
    return Finding("target", ok=False, detail=found.detail, hint=found.hint)


def _empty(path: Path, run: Run, busy_seconds: float) -> str:
    try:
        with reading(path, run, busy_seconds) as connection:
            if structure.has_user_objects(connection):
                raise TargetNotEmpty(f"{path} holds tables already.")
    except InvalidTarget as error:
        raise TargetNotEmpty(f"{path} exists and is no SQLite database.") from error
    return f"{path} holds no table and no view."


def _replaceable(path: Path, run: Run, busy_seconds: float) -> str:
    """What is no database, or a damaged one, may be replaced. Idle programs that have it open cannot be seen."""
    try:
        with reading(path, run, busy_seconds):
            return f"{path} is replaced at the end, unless other programs have it open then."
    except (InvalidTarget, ToolFailed):
        return f"{path} cannot be read, and is replaced at the end."


def _room_for_restore(artefact: Artefact, path: Path, options: RestoreOptions, run: Run) -> str:
    folder = run.workspace if options.include else path.parent
    return _room(known_size(stored(artefact)), folder)


def _room(needed: int, folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageFull(f"{needed} bytes are needed in {folder}, {free} are free.")
    return f"{needed} bytes are needed in {folder}, {free} are free."

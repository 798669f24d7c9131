"""Putting a restored file in a database's place: whole or not at all, and never under somebody's hands."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from engines.command import Command, reading
from engines.durability import sync
from engines.errors import AccessDenied, FlexError, StorageFailed, TargetBusy, TargetNotEmpty
from engines.run import Run
from engines.sqlite import structure
from engines.sqlite.connection import connect, error_name, translating
from engines.sqlite.names import SIDE_FILES


def put_in_place(new: Path, target: Path, run: Run, *, replace: bool, busy_seconds: float) -> tuple[str, ...]:
    """Make `new` (checked, beside `target`) the database at `target`; notes for the user.

    Without `replace` the target must be absent or hold no user object. Raises `TargetNotEmpty` or
    `TargetBusy`; then, and after `Stopped`, the target is as it was.
    """
    with _translating_files(target):
        if not target.exists():
            _appear(new, target, run)
            return ()
    with _held(target, run, replace=replace, busy_seconds=busy_seconds), _translating_files(target):
        notes = _like_the_old(new, target)
        sync(new)
        run.point_of_no_return()
        _remove_side_files(target)
        new.rename(target)
        sync(target.parent)
        return notes


def check_empty(target: Path, run: Run, busy_seconds: float) -> None:
    """Raises `TargetNotEmpty` when a database at `target` holds a user object, or is no database."""
    if not target.exists():
        return
    with translating(target, run), closing(connect(target, "mode=rw", run, busy_seconds)) as old:
        _refuse_objects(old, target)


HASH = "import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256').hexdigest())"
"""Run as a process of its own: closing a file drops all locks this process's SQLite holds on it (POSIX)."""


def holds(target: Path, size: int, sha256: str, run: Run) -> bool:
    """Whether the file at `target` has these bytes, and there is nothing beside it."""
    side_files = [target.with_name(target.name + suffix) for suffix in SIDE_FILES]
    if any(path.exists() and path.stat().st_size > 0 for path in side_files):
        return False
    if not target.is_file() or target.stat().st_size != size:
        return False
    with reading(Command(Path(sys.executable), ("-I", "-S", "-c", HASH, str(target))), run) as output:
        found = b"".join(output.chunks()).decode().strip()
    return found == sha256


def _appear(new: Path, target: Path, run: Run) -> None:
    """Take a free name without ever writing over what took it meanwhile."""
    sync(new)
    run.point_of_no_return()
    _remove_side_files(target)
    try:
        os.link(new, target)
    except FileExistsError as error:
        raise TargetNotEmpty(f"{target} appeared while the backup was being restored.") from error
    except OSError:  # file systems without hard links: claim the name, then rename over the claim
        _claim(target)
        new.rename(target)
    else:
        new.unlink()
    sync(target.parent)


def _claim(target: Path) -> None:
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise TargetNotEmpty(f"{target} appeared while the backup was being restored.") from error


@contextmanager
def _held(target: Path, run: Run, *, replace: bool, busy_seconds: float) -> Iterator[None]:
    """Hold the old database's exclusive lock, its WAL folded in; nothing to hold where it is no database.

    A database in WAL mode is put into rollback mode for the moment of the switch, because that is how
    SQLite itself removes a WAL safely; when the switch does not happen it is put back.
    """
    with translating(target, run), closing(connect(target, "mode=rw", run, busy_seconds)) as old:
        try:
            mode = str(old.execute("PRAGMA journal_mode").fetchone()[0])
        except sqlite3.DatabaseError as error:
            if not replace or not error_name(error).startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                raise _not_a_database(target, error) from error
            yield
            return
        try:
            _lock(old, target)
            if not replace:
                _refuse_objects(old, target)
            yield
        except BaseException:
            _unlock(old, mode)
            raise


def _not_a_database(target: Path, error: sqlite3.Error) -> Exception:
    if error_name(error).startswith("SQLITE_NOTADB"):
        return TargetNotEmpty(f"{target} exists and is no SQLite database.")
    return error


def _refuse_objects(old: sqlite3.Connection, target: Path) -> None:
    try:
        if not structure.has_user_objects(old):
            return
    except sqlite3.DatabaseError as error:
        raise _not_a_database(target, error) from error
    raise TargetNotEmpty(f"{target} holds tables already.")


def _lock(old: sqlite3.Connection, target: Path) -> None:
    try:
        old.execute("PRAGMA locking_mode = EXCLUSIVE")
        mode = old.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        old.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise TargetBusy(f"{target} is in use by another program.") from error
        raise
    if mode != "delete":
        raise TargetBusy(f"{target} is in use by another program.")


def _unlock(old: sqlite3.Connection, mode: str) -> None:
    with suppress(sqlite3.Error):  # the first error matters more; content is safe in either mode
        old.set_progress_handler(None, 0)
        if old.in_transaction:
            old.execute("ROLLBACK")
        if mode == "wal":
            old.execute("PRAGMA journal_mode = WAL")
            old.execute("PRAGMA locking_mode = NORMAL")
            old.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def _like_the_old(new: Path, target: Path) -> tuple[str, ...]:
    """Give the new file the old one's owner and mode, as far as we may."""
    old = target.stat()
    notes = []
    try:
        os.chown(new, old.st_uid, old.st_gid)
    except PermissionError:
        notes.append(f"The file belongs to the service's user now: only root may give it back to {old.st_uid}.")
    new.chmod(stat.S_IMODE(old.st_mode))
    return tuple(notes)


def _remove_side_files(target: Path) -> None:
    """A journal or WAL that lies there without its database would be played into the new one.

    Gone on disk before the new file appears, or a power cut could bring them together.
    """
    for suffix in SIDE_FILES:
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    sync(target.parent)


@contextmanager
def _translating_files(target: Path) -> Iterator[None]:
    try:
        yield
    except FlexError:
        raise
    except PermissionError as error:
        raise AccessDenied(f"{target} cannot be replaced: {error.strerror}.") from error
    except OSError as error:
        raise StorageFailed(
            f"{target} cannot be put in place: {error.strerror}.", hint="Check the target's folder."
        ) from error

"""Opening SQLite files, and what SQLite's errors mean to a caller."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from engines.errors import (
    AccessDenied,
    FlexError,
    InvalidTarget,
    StorageFull,
    TargetBusy,
    TargetMissing,
    TargetUnavailable,
    ToolFailed,
)
from engines.run import Run

STEPS_BETWEEN_LOOKS = 100_000
"""Steps of SQLite's machine between two looks at the stop token: about a millisecond."""
NEEDS_RECOVERY = frozenset({"SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY", "SQLITE_READONLY_CANTINIT"})


@contextmanager
def reading(path: Path, run: Run, busy_seconds: float) -> Iterator[sqlite3.Connection]:
    """A connection inside one read transaction: everything read is one moment of the database.

    The file is never made. A crash's journal is played back first, as any reader would. Raises
    `TargetMissing`, `TargetBusy`, `AccessDenied`, `InvalidTarget`, `ToolFailed`.
    """
    existing(path)
    with translating(path, run), closing(_open_for_reading(path, run, busy_seconds)) as connection:
        yield connection


def _open_for_reading(path: Path, run: Run, busy_seconds: float) -> sqlite3.Connection:
    try:
        return _begun(path, "mode=ro", run, busy_seconds)
    except sqlite3.OperationalError as error:
        name = error_name(error)
        if name in NEEDS_RECOVERY:
            return _begun(path, "mode=rw", run, busy_seconds)
        if name.startswith("SQLITE_CANTOPEN") and _nobody_can_write(path):
            return _begun(path, "immutable=1", run, busy_seconds)
        raise


def _begun(path: Path, mode: str, run: Run, busy_seconds: float) -> sqlite3.Connection:
    connection = connect(path, mode, run, busy_seconds=0)
    try:
        connection.execute("BEGIN")
        _look_until_free(connection, run, time.monotonic() + busy_seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def _look_until_free(connection: sqlite3.Connection, run: Run, until: float) -> None:
    """The first look takes the read lock. SQLite's own waiting asks every 100 ms, and a program that keeps
    committing through a rollback journal leaves gaps of a few only."""
    while True:
        run.stop.check()
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError as error:
            if not error_name(error).startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311  no secret, it only avoids walking in step
        else:
            return


def _nobody_can_write(path: Path) -> bool:
    """A WAL database in a folder nobody can write to, without a WAL, cannot change under us."""
    wal = path.with_name(path.name + "-wal")
    return os.access(path, os.R_OK) and not os.access(path.parent, os.W_OK) and not wal.exists()


def connect(path: Path, mode: str, run: Run, busy_seconds: float) -> sqlite3.Connection:
    """`mode` as SQLite's URI filenames write it. Statements end early when a stop is asked for."""
    uri = f"file:{quote(str(path))}?{mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
    connection.set_progress_handler(lambda: run.stop.reason is not None, STEPS_BETWEEN_LOOKS)
    return connection


@contextmanager
def translating(path: Path, run: Run) -> Iterator[None]:
    """The one door through which SQLite's errors about a user's file become ours."""
    try:
        yield
    except sqlite3.Error as error:
        run.stop.check()  # the statement was ended because of the stop
        raise translated(path, error) from error


def error_name(error: sqlite3.Error | sqlite3.Warning) -> str:
    """SQLite's own name of the error, as `SQLITE_BUSY`; empty when Python raised it."""
    return getattr(error, "sqlite_errorname", None) or ""


def existing(path: Path) -> None:
    """Raises `TargetMissing`, or `InvalidTarget` for what is no file. Looks without opening:
    closing a second descriptor would drop the locks other connections of this process hold."""
    if path.is_dir():
        raise InvalidTarget(f"{path} is a folder, not a SQLite database.")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TargetMissing(f"There is no database file {path}.", hint="Check the connection's path.") from error
    except PermissionError as error:
        raise AccessDenied(f"{path} cannot be reached: {error.strerror}.") from error


def may_write(folder: Path) -> bool:
    """Whether files can be made in it, as far as permissions tell."""
    return os.access(folder, os.W_OK | os.X_OK)


def translated(path: Path, error: sqlite3.Error) -> FlexError:
    """What an error about a user's file is to a caller."""
    name = error_name(error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return TargetBusy(f"{path} is locked by another program.")
    if name.startswith("SQLITE_NOTADB"):
        return InvalidTarget(f"{path} is not a SQLite database, or an encrypted one.")
    if name.startswith("SQLITE_CORRUPT"):
        return ToolFailed(f"{path} is damaged: {error}.", hint="Look at it with `PRAGMA integrity_check`.")
    if name.startswith("SQLITE_FULL"):
        return StorageFull(f"No space left for work on {path}.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")) or not os.access(path, os.R_OK):
        return AccessDenied(f"{path} cannot be used: {error}.", hint="Check the permissions of file and folder.")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return TargetUnavailable(f"{path} cannot be used: {error}.", hint="Check the file, its folder and disk.")
    return ToolFailed(f"SQLite failed with {path}: {error}.")

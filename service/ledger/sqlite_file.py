"""The file of a SQLite ledger: who may use it, how it is opened, that it is durable and private."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from engines.durability import make_folder, sync
from service.ledger.records import LedgerInUse


class ProcessLock:
    """One process per ledger: an exclusive `flock` on `<path>.lock`, which the kernel frees when it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._file: int | None = None

    def take(self) -> None:
        """Raises `LedgerInUse` with the holder's process id."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise LedgerInUse(
                f"The ledger {self._path.with_suffix('')} is in use by process {holder}; it admits one."
            ) from error
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def make_private(path: Path) -> None:
    """Folder and file, the file readable by its owner only; SQLite gives its companions the same mode."""
    make_folder(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def connect_writer(path: Path, busy_seconds: float = 5.0) -> sqlite3.Connection:
    """WAL with a sync on every commit (https://www.sqlite.org/pragma.html#pragma_synchronous)."""
    db = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -16000")
        db.execute("PRAGMA wal_autocheckpoint = 4000")  # hot pages are copied back once instead of four times
        db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # makes the WAL file, if it is not there
        sync(path.parent)  # SQLite does not sync the entry of a new WAL file
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
    )
    db.row_factory = sqlite3.Row
    return db

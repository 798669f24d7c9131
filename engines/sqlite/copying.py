"""Backing up: the online backup API inside one read transaction, then the copy streamed into the artefact."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.writing import ArtefactWriter
from engines.base import Dump, Tool
from engines.errors import StorageFailed, StorageFull
from engines.run import Run
from engines.sqlite import structure
from engines.sqlite.connection import error_name, reading
from engines.sqlite.names import artefact_name

FORMAT = "sqlite-database"
STEP_BYTES = 4 << 20
"""Copied between two looks at the stop token."""
CHUNK = 1 << 20
WITH_WAL = "The database as it was in one read transaction; its WAL let writers go on meanwhile."
WITH_JOURNAL = (
    "The database as it was in one read transaction; because of its rollback journal, "
    "commits of other programs had to wait until it was copied and counted."
)


def back_up(path: Path, out: ArtefactWriter, run: Run, *, counts: str, busy_seconds: float) -> Dump:
    """One moment of the database at `path`, as the file `NAME.sqlite` of the artefact.

    The copy is staged in the run's workspace and gone when this returns or raises.
    """
    staged = run.workspace / "copy.sqlite"
    staged.unlink(missing_ok=True)
    try:
        with reading(path, run, busy_seconds) as source:
            wal = source.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
            fingerprint = structure.fingerprint(source)
            _check_room(source, run.workspace)
            objects = _copy_and_count(source, staged, run, count=counts == "exact")
        _store(staged, artefact_name(path), out, run)
    finally:
        staged.unlink(missing_ok=True)
    return Dump(
        server_version=sqlite3.sqlite_version,
        objects=objects,
        counts=counts,
        consistency=WITH_WAL if wal else WITH_JOURNAL,
        restore_by_hand=_by_hand(out.files[0].name),
        tool=Tool("sqlite3 (library)", sqlite3.sqlite_version),
        options={"counts": counts, "structure": fingerprint},
    )


def _check_room(source: sqlite3.Connection, folder: Path) -> None:
    size = structure.size_bytes(source)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageFull(
            f"The copy needs {size} bytes in the work folder, {free} are free.",
            hint="Free space there, or set FLEXDB_HOME to a larger disk.",
        )


def _copy_and_count(source: sqlite3.Connection, staged: Path, run: Run, *, count: bool) -> tuple[ObjectCount, ...]:
    page_size = int(source.execute("PRAGMA page_size").fetchone()[0])
    _make_private(staged)
    try:
        with closing(sqlite3.connect(staged, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")  # a copy that fails is thrown away
            copy.execute("PRAGMA synchronous = OFF")
            source.backup(copy, pages=max(1, STEP_BYTES // page_size), progress=_telling(run, page_size), sleep=0)
    except sqlite3.Error as error:
        run.stop.check()
        if error_name(error).startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):
            raise StorageFull("No space left in the work folder for the copy.") from error
        raise
    return structure.counted(source, run, count=count)


def _telling(run: Run, page_size: int) -> Callable[[int, int, int], None]:
    def tell(_status: int, remaining: int, total: int) -> None:
        run.progress("copying", (total - remaining) * page_size, total * page_size)

    return tell


def _make_private(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _store(staged: Path, name: str, out: ArtefactWriter, run: Run) -> None:
    total = staged.stat().st_size
    with staged.open("rb", buffering=0) as source, out.file(name, FORMAT) as sink:
        done = 0
        while data := _read(source.fileno()):
            sink.write(data)
            done += len(data)
            run.progress("storing", done, total)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, CHUNK)
    except OSError as error:
        raise StorageFailed("The copy in the work folder cannot be read.", hint="Check the work folder.") from error


def _by_hand(name: str) -> tuple[str, ...]:
    unpack = f"zstd -d {name} -o DATABASE" if name.endswith(".zst") else f"cp {name} DATABASE"
    return (
        "rm -f DATABASE DATABASE-wal DATABASE-shm DATABASE-journal  # its users stopped",
        unpack,
        'sqlite3 DATABASE "PRAGMA integrity_check"',
    )

"""Backing up: the online backup API inside one read transaction, then the copy streamed into the artefact."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.artefacts.writing import ArtefactWriter
from engines.base import BackupOptions, Dump, Tool
from engines.errors import StorageFailed, StorageFull
from engines.run import Run
from engines.sqlite import content, cutting, structure
from engines.sqlite.connection import connect, error_name, reading, translating
from engines.sqlite.names import artefact_name
from engines.sqlite.selection import select

FORMAT = "sqlite-database"
STEP_BYTES = 4 << 20
"""Copied between two looks at the stop token."""
CHUNK = 1 << 20
WITH_WAL = "The database as it was in one read transaction; its WAL let writers go on meanwhile."
WITH_JOURNAL = (
    "The database as it was in one read transaction; because of its rollback journal, "
    "commits of other programs had to wait until it was copied."
)


@dataclass(frozen=True, slots=True)
class _Staged:
    path: Path
    wal: bool
    told: dict[str, Any] = field(default_factory=dict)
    """What the manifest says beside counts and structure."""


def back_up(path: Path, options: BackupOptions, out: ArtefactWriter, run: Run, *, busy_seconds: float) -> Dump:
    """One moment of the database at `path`, or the selected part of it, as the file `NAME.sqlite` of the artefact.

    All is staged in the run's workspace and gone when this returns or raises.
    """
    whole, part = run.workspace / "copy.sqlite", run.workspace / "part.sqlite"
    try:
        cutting.remove(whole)
        cutting.remove(part)
        staged = _stage(path, options, whole, part, run, busy_seconds)
        with _opened(staged.path, path, run) as copy:
            described = structure.described(copy)
            objects = structure.counted(copy, run, count=options.counts == "exact")
        _store(staged.path, artefact_name(path), out, run)
    finally:
        cutting.remove(whole)
        cutting.remove(part)
    return Dump(
        server_version=sqlite3.sqlite_version,
        objects=objects,
        counts=options.counts,
        consistency=WITH_WAL if staged.wal else WITH_JOURNAL,
        restore_by_hand=by_hand(out.files[0].name),
        tool=library(),
        options={"counts": options.counts} | described | staged.told,
    )


def library() -> Tool:
    return Tool("sqlite3 (library)", sqlite3.sqlite_version)


def _stage(path: Path, options: BackupOptions, whole: Path, part: Path, run: Run, busy_seconds: float) -> _Staged:
    """Nothing but the copying itself happens in the read transaction: it may hold off writers."""
    with reading(path, run, busy_seconds) as source:
        wal = structure.in_wal_mode(source)
        selection = select(source, options, str(path))
        if options.content == "schema":
            left_out = cutting.definitions(source, part, selection, run)
            return _Staged(part, wal, _told(options, left_out))
        _check_room(source, run.workspace)
        _copy(source, whole, run)
    if not selection.dropped:
        return _Staged(whole, wal)
    with _opened(whole, path, run) as copy:
        digests = content.digests(copy, content.names(copy, selection), run)
    with translating(path, run):
        left_out = cutting.reduce(whole, part, selection, run)
    gone = {name for kind, _, name in (item.partition(" ") for item in left_out) if kind == "table"}
    digests = {name: digest for name, digest in digests.items() if not gone & {name, name.rpartition("_")[0]}}
    return _Staged(part, wal, _told(options, left_out) | {"digests": digests})


def _told(options: BackupOptions, left_out: tuple[str, ...]) -> dict[str, Any]:
    asked = {"include": list(options.include), "exclude": list(options.exclude), "content": options.content}
    return asked | {"left_out": list(left_out)}


@contextmanager
def _opened(staged: Path, path: Path, run: Run) -> Iterator[sqlite3.Connection]:
    """The copy is what the database is, page for page: an error of it is one of the database at `path`."""
    with translating(path, run), closing(connect(staged, "immutable=1", run, 0)) as copy:
        yield copy


def _check_room(source: sqlite3.Connection, folder: Path) -> None:
    size = structure.size_bytes(source)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageFull(
            f"The copy needs {size} bytes in the work folder, {free} are free.",
            hint="Free space there, or set FLEXDB_HOME to a larger disk.",
        )


def _copy(source: sqlite3.Connection, staged: Path, run: Run) -> None:
    page_size = int(source.execute("PRAGMA page_size").fetchone()[0])
    cutting.private_file(staged)
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


def _telling(run: Run, page_size: int) -> Callable[[int, int, int], None]:
    def tell(_status: int, remaining: int, total: int) -> None:
        run.progress("copying", (total - remaining) * page_size, total * page_size)

    return tell


def _store(staged: Path, name: str, out: ArtefactWriter, run: Run) -> None:
    total = staged.stat().st_size
    with staged.open("rb", buffering=0) as source, out.file(name, FORMAT, staged=True) as sink:
        done = 0
        while data := _read(source.fileno()):
            sink.write(data)
            done += len(data)
            run.progress("storing", done, total)
        run.stop.check()  # asked for at the last piece


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, CHUNK)
    except OSError as error:
        raise StorageFailed("The copy in the work folder cannot be read.", hint="Check the work folder.") from error


def by_hand(name: str) -> tuple[str, ...]:
    unpack = f"zstd -d {name} -o DATABASE" if name.endswith(".zst") else f"cp {name} DATABASE"
    return (
        "rm -f DATABASE DATABASE-wal DATABASE-shm DATABASE-journal  # its users stopped",
        unpack,
        'sqlite3 DATABASE "PRAGMA integrity_check"',
    )

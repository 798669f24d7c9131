"""Taking in what was made by hand: a database file, or what `sqlite3 FILE .dump` wrote."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import damaged
from engines.artefacts.writing import ArtefactWriter, Sink
from engines.base import Dump, Source
from engines.errors import InvalidDump, StorageFailed, StorageFull
from engines.run import Run
from engines.sqlite import cutting, proving, script, structure
from engines.sqlite.copying import CHUNK, FORMAT, by_hand, library
from engines.sqlite.script import HEAD, Script

SQL_FORMAT = "sqlite-sql"
MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
"""See https://www.sqlite.org/fileformat2.html#the_database_header."""
OF_A_FILE = "The database as it is in the file that was taken in; FlexDB did not make it."
OF_A_WAL_FILE = OF_A_FILE + " It is in WAL mode: what stood only in a -wal file beside it is not in it."
OF_A_SCRIPT = "One transaction of the database, as `.dump` reads it; FlexDB did not make it."


def recognise(head: bytes) -> str | None:
    if head.startswith(MAGIC):
        return FORMAT
    return SQL_FORMAT if HEAD.match(head) else None


def adopt(source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
    """Raises `ArtefactDamaged` for what is not whole, `InvalidDump` for what is none of ours."""
    staged = run.workspace / "adopted.sqlite"
    try:
        cutting.remove(staged)
        if format == FORMAT:
            consistency = _adopt_file(source, staged, out, run)
        elif format == SQL_FORMAT:
            consistency = _adopt_script(source, staged, out, run)
        else:
            raise InvalidDump(f"SQLite has no dumps of the format {format!r}.")
        with proving.dumped(staged, run) as connection:
            proving.check_integrity(connection, run)
            objects = structure.counted(connection, run)
            described = structure.described(connection)
    finally:
        cutting.remove(staged)
    return Dump(
        server_version=sqlite3.sqlite_version,
        objects=objects,
        counts="exact",
        consistency=consistency,
        restore_by_hand=by_hand(out.files[0].name) if format == FORMAT else script_by_hand(out.files[0].name),
        tool=library(),
        options={"counts": "exact"} | described,
    )


def script_by_hand(name: str) -> tuple[str, ...]:
    unpack = "zstd -dc" if name.endswith(".zst") else "cat"
    return (
        "rm -f DATABASE DATABASE-wal DATABASE-shm DATABASE-journal  # its users stopped",
        f"{unpack} {name} | sqlite3 -bail DATABASE",
        'sqlite3 DATABASE "PRAGMA integrity_check"',
    )


def _adopt_file(source: Source, staged: Path, out: ArtefactWriter, run: Run) -> str:
    cutting.private_file(staged)
    try:
        with staged.open("wb") as copy, out.file("database.sqlite", FORMAT) as sink:
            while data := source.read(CHUNK):
                copy.write(data)
                _passed_on(sink, data, run)
            copy.flush()
    except OSError as error:
        raise _no_room(staged, error) from error
    return OF_A_WAL_FILE if check_header(staged) else OF_A_FILE


def _adopt_script(source: Source, staged: Path, out: ArtefactWriter, run: Run) -> str:
    statements = Script(staged, run)
    try:
        with out.file("database.sql", SQL_FORMAT) as sink:
            while data := source.read(script.CHUNK):
                _passed_on(sink, data, run)
                statements.feed(data)
            statements.finish()
    finally:
        statements.close()
    return OF_A_SCRIPT


def _passed_on(sink: Sink, data: bytes, run: Run) -> None:
    sink.write(data)
    run.progress("adopting", sink.raw_bytes)


def check_header(path: Path) -> bool:
    """Whether the database is in WAL mode; raises `ArtefactDamaged` for a file that is not as long as it says."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    size = os.path.getsize(path)  # noqa: PTH202  beside the head it reads better than a stat
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        seen = Evidence(level=2, check="sqlite header", expected="whole", found=f"{size} bytes", ok=False)
        raise damaged("The file is no whole SQLite database: its header is missing.", seen)
    page_size = int.from_bytes(head[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    pages = int.from_bytes(head[28:32], "big")
    counted = head[24:28] == head[92:96]  # else an old SQLite wrote last, and did not keep the count
    if page_size < 512 or size % page_size or (counted and pages * page_size > size):
        seen = Evidence(level=2, check="file bytes", expected=pages * page_size, found=size, ok=False)
        raise damaged(f"The file is cut short: {pages} pages of {page_size} bytes are not {size} bytes.", seen)
    return head[18] == 2


def _no_room(path: Path, error: OSError) -> StorageFailed:
    kind = StorageFull if error.errno in (28, 122, 27) else StorageFailed
    return kind(f"{path} cannot be written: {error.strerror}.", hint="Check the work folder.")

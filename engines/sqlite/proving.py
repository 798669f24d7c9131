"""Proving a dump: the file that was unpacked is opened, checked, counted and compared with the manifest."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import Artefact, damaged
from engines.errors import ArtefactDamaged, ToolFailed, VerificationImpossible
from engines.run import Run
from engines.sqlite import content, structure
from engines.sqlite.connection import connect, error_name

COMPLAINTS_SHOWN = 20
SHARED_LOCK_SECONDS = 5.0
"""Nobody else knows the file; the time limit is there so that nothing ever waits for ever."""


@contextmanager
def dumped(path: Path, run: Run, mode: str = "immutable=1") -> Iterator[sqlite3.Connection]:
    """A connection to an unpacked dump; what SQLite cannot read of it is `ArtefactDamaged`.

    `immutable` keeps SQLite from making files beside it, also where the dump is of a WAL database.
    """
    try:
        with closing(connect(path, mode, run, SHARED_LOCK_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as error:
        run.stop.check()  # the statement was ended because of the stop
        raise _unreadable(error) from error


def _unreadable(error: sqlite3.Error) -> ArtefactDamaged | ToolFailed:
    if error_name(error).startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        seen = Evidence(level=2, check="sqlite file", expected="readable", found=str(error), ok=False)
        return damaged(f"The dump is no whole SQLite database: {error}.", seen)
    return ToolFailed(f"SQLite failed with the dump: {error}.")


def check_integrity(connection: sqlite3.Connection, run: Run) -> tuple[Evidence, ...]:
    """`integrity_check`, which must be `ok`, and `foreign_key_check`, which tells and does not fail:
    rows that point nowhere are the database's own, and a dump has to keep them."""
    run.progress("checking", 0, None, unit="steps")
    said = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({COMPLAINTS_SHOWN})")]
    whole = said == ["ok"]
    evidence = Evidence(level=2, check="integrity_check", expected="ok", found="; ".join(said)[:2000], ok=whole)
    if not whole:
        raise damaged(f"The dump is damaged: integrity_check says {said[0][:200]!r}.", evidence)
    foreign_keys = _foreign_keys(connection)
    run.stop.check()  # asked for after the last look amid a statement
    return (evidence, foreign_keys)


def _foreign_keys(connection: sqlite3.Connection) -> Evidence:
    try:
        orphans = sum(1 for _ in connection.execute("PRAGMA foreign_key_check"))
    except sqlite3.OperationalError as error:  # a declaration that SQLite accepts and cannot check
        return Evidence(level=2, check="foreign_key_check", found=f"impossible: {error}")
    return Evidence(level=2, check="foreign_key_check", found=f"{orphans} rows without their parent")


def check_objects(artefact: Artefact, found: tuple[ObjectCount, ...]) -> None:
    """Raises `ArtefactDamaged` when a whole restored database does not hold the tables and rows of the manifest."""
    seen = {item.name: item for item in found}
    uncounted = {item.name for item in found if item.rows is None}  # its module is not here
    compared = [_rows(item, seen.get(item.name)) for item in artefact.manifest.objects]
    evidence = [item for item in compared if not item.ok and item.object not in uncounted]
    if evidence:
        raise damaged("The dump does not hold what its manifest lists.", *evidence)


def compare(connection: sqlite3.Connection, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
    """Level 3: every object with its rows and content, and the structure; raises `ArtefactDamaged` on a difference."""
    manifest = artefact.manifest
    found = {item.name: item for item in structure.counted(connection, run)}
    for wanted in manifest.objects:
        if wanted.rows is not None and wanted.name in found and found[wanted.name].rows is None:
            raise VerificationImpossible(f"{wanted.name} needs a module that the SQLite here does not have.")
    evidence = [_rows(item, found.pop(item.name, None)) for item in manifest.objects]
    evidence += [
        Evidence(level=3, check="object", object=name, expected="absent", found="present", ok=False) for name in found
    ]
    if before := manifest.options.get("structure"):
        seen = structure.fingerprint(connection)
        evidence.append(Evidence(level=3, check="structure", expected=before, found=seen, ok=seen == before))
    if all(item.ok for item in evidence):
        evidence += _contents(connection, artefact, run)
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        raise damaged(f"{len(wrong)} of {len(evidence)} comparisons differ from the manifest.", *evidence)
    return tuple(evidence)


def _contents(connection: sqlite3.Connection, artefact: Artefact, run: Run) -> list[Evidence]:
    """A file that is the copied one byte for byte needs no other proof of its rows than its SHA-256, which was seen
    while it was unpacked. What was taken out of a whole copy is compared with the digests taken before."""
    wanted: dict[str, str] = artefact.manifest.options.get("digests", {})
    if not wanted:
        return [
            Evidence(level=3, check="content, byte for byte", object=file.name, expected=digest, found=digest)
            for file in artefact.manifest.files
            for digest in (file.raw_sha256,)
        ]
    seen = content.digests(connection, tuple(wanted), run)
    return [
        Evidence(level=3, check="content", object=name, expected=digest, found=seen[name], ok=seen[name] == digest)
        for name, digest in wanted.items()
    ]


def _rows(wanted: ObjectCount, found: ObjectCount | None) -> Evidence:
    if found is None:
        return Evidence(level=3, check="object", object=wanted.name, expected="present", found="absent", ok=False)
    return Evidence(
        level=3,
        check="rows",
        object=wanted.name,
        expected=wanted.rows,
        found=found.rows,
        ok=wanted.rows is None or wanted.rows == found.rows,
    )

"""Proving a dump: the file that was unpacked is opened, checked, counted and compared with the manifest."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from engines.artefacts.manifest import Evidence, Manifest, ObjectCount
from engines.artefacts.reading import damaged
from engines.errors import ArtefactDamaged, ToolFailed, VerificationImpossible
from engines.run import Run
from engines.sqlite import structure
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
    return (evidence, _foreign_keys(connection))


def _foreign_keys(connection: sqlite3.Connection) -> Evidence:
    try:
        orphans = sum(1 for _ in connection.execute("PRAGMA foreign_key_check"))
    except sqlite3.OperationalError as error:  # a declaration that SQLite accepts and cannot check
        return Evidence(level=2, check="foreign_key_check", found=f"impossible: {error}")
    return Evidence(level=2, check="foreign_key_check", found=f"{orphans} rows without their parent")


def compare(connection: sqlite3.Connection, manifest: Manifest, run: Run) -> tuple[Evidence, ...]:
    """Level 3: every object with its rows, and the structure; raises `ArtefactDamaged` on a difference."""
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
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        raise damaged(f"{len(wrong)} of {len(evidence)} comparisons differ from the manifest.", *evidence)
    return tuple(evidence)


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

"""Restoring over SQLite databases that are in use, damaged, or half restored by a process that was killed."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from engines.artefacts.reading import Artefact
from engines.base import RestoreOptions, Target
from engines.errors import (
    AccessDenied,
    InvalidTarget,
    Stopped,
    StorageFailed,
    TargetBusy,
    TargetMissing,
    TargetNotEmpty,
)
from engines.run import Progress, StopReason
from tests.contracts.engine_cases import ROWS, Bench, SQLiteCase
from tests.integration.sqlite.programs import Program, holding

REPLACE = RestoreOptions(mode="replace")


@pytest.fixture
def artefact(case: SQLiteCase, bench: Bench) -> Artefact:
    return bench.back_up(case, case.filled())


def changed(case: SQLiteCase) -> Target:
    """A database with one table of its own and a row in it."""
    target = case.empty()
    case.run(target, "CREATE TABLE mine (id integer)")
    case.run(target, "INSERT INTO mine VALUES (1)")
    return target


@pytest.mark.parametrize(
    ("journal", "statements"),
    [
        ("wal", ("SELECT count(*) FROM mine",)),
        ("wal", ("BEGIN", "SELECT count(*) FROM mine")),
        ("wal", ("BEGIN IMMEDIATE",)),
        ("delete", ("BEGIN", "SELECT count(*) FROM mine")),
        ("delete", ("BEGIN IMMEDIATE",)),
        ("delete", ("BEGIN EXCLUSIVE",)),
    ],
)
def test_a_database_in_use_by_another_program_is_busy_and_stays(
    folder: Path, bench: Bench, artefact: Artefact, journal: str, statements: tuple[str, ...]
) -> None:
    case = SQLiteCase(folder, journal)
    target = changed(case)
    with holding(target.database, *statements):
        with pytest.raises(TargetBusy) as busy:
            case.engine.restore(artefact, target, REPLACE, bench.run())
        assert busy.value.retryable
    assert case.rows(target) == {"mine": 1}
    assert case.leftovers(target) == []
    with closing(sqlite3.connect(target.database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (journal,)
    case.engine.restore(artefact, target, REPLACE, bench.run())
    assert case.rows(target) == ROWS


def test_a_program_that_was_idle_during_the_switch_cannot_lose_its_writes_unseen(
    folder: Path, bench: Bench, artefact: Artefact
) -> None:
    """With a rollback journal an idle connection holds no lock; SQLite then refuses it to write into the old file."""
    case = SQLiteCase(folder, "delete")
    target = changed(case)
    with closing(sqlite3.connect(target.database)) as idle:
        idle.execute("SELECT count(*) FROM mine").fetchall()
        case.engine.restore(artefact, target, REPLACE, bench.run())
        with pytest.raises(sqlite3.OperationalError):
            idle.execute("INSERT INTO mine VALUES (2)")
    assert case.rows(target) == ROWS


def test_the_wal_of_the_old_database_never_reaches_the_new_one(
    case: SQLiteCase, bench: Bench, artefact: Artefact
) -> None:
    target = changed(case)
    with holding(target.database, "PRAGMA wal_autocheckpoint = 0", "INSERT INTO mine VALUES (2)") as program:
        program.process.kill()
        program.process.wait(30)
    assert Path(target.database + "-wal").stat().st_size > 0
    case.engine.restore(artefact, target, REPLACE, bench.run())
    assert case.rows(target) == ROWS


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_side_files_without_their_database_are_not_played_into_the_new_one(
    case: SQLiteCase, bench: Bench, artefact: Artefact, mode: str
) -> None:
    lost = changed(case)
    with holding(lost.database, "PRAGMA wal_autocheckpoint = 0", "INSERT INTO mine VALUES (2)") as program:
        program.process.kill()
        program.process.wait(30)
    Path(lost.database).unlink()
    assert Path(lost.database + "-wal").exists()
    case.engine.restore(artefact, lost, RestoreOptions(mode=mode), bench.run())
    assert case.rows(lost) == ROWS
    with closing(sqlite3.connect(lost.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to be looked at" * 100])
def test_replace_mends_a_file_that_is_no_database_any_more(
    case: SQLiteCase, bench: Bench, artefact: Artefact, content: bytes
) -> None:
    target = case.absent()
    Path(target.database).write_bytes(content)
    case.engine.restore(artefact, target, REPLACE, bench.run())
    assert case.rows(target) == ROWS


def test_create_never_writes_over_a_file_that_is_no_database(
    case: SQLiteCase, bench: Bench, artefact: Artefact
) -> None:
    target = case.absent()
    Path(target.database).write_bytes(b"a letter to grandmother" * 100)
    with pytest.raises(TargetNotEmpty):
        case.engine.restore(artefact, target, RestoreOptions(), bench.run())
    assert Path(target.database).read_bytes() == b"a letter to grandmother" * 100


def test_create_never_writes_over_a_file_that_appears_meanwhile(
    case: SQLiteCase, bench: Bench, artefact: Artefact
) -> None:
    target = case.absent()
    run = bench.run(confirm=lambda: Path(target.database).write_bytes(b"mine"))
    with pytest.raises(TargetNotEmpty):
        case.engine.restore(artefact, target, RestoreOptions(), run)
    assert Path(target.database).read_bytes() == b"mine"
    assert case.leftovers(target) == []


def test_mode_and_owner_of_the_old_file_are_kept(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    target = changed(case)
    Path(target.database).chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target.database, 1234, 2345)
    before = Path(target.database).stat()
    case.engine.restore(artefact, target, REPLACE, bench.run())
    after = Path(target.database).stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o640


def test_a_new_file_is_private(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    target = case.absent()
    case.engine.restore(artefact, target, RestoreOptions(), bench.run())
    assert stat.S_IMODE(Path(target.database).stat().st_mode) == 0o600


def test_the_file_behind_a_symbolic_link_is_replaced_and_the_link_stays(
    case: SQLiteCase, folder: Path, bench: Bench, artefact: Artefact
) -> None:
    real = changed(case)
    link = folder / "link.db"
    link.symlink_to(real.database)
    target = case.engine.target("shop", f"sqlite:///{link}")
    assert target.database == real.database
    case.engine.restore(artefact, target, REPLACE, bench.run())
    assert link.is_symlink()
    assert case.rows(real) == ROWS


def test_a_cancel_right_before_the_switch_puts_the_old_journal_mode_back(
    case: SQLiteCase, bench: Bench, artefact: Artefact
) -> None:
    target = changed(case)

    def cancel() -> None:
        run.stop.request(StopReason.CANCEL)

    run = bench.run(confirm=cancel)
    with pytest.raises(Stopped):
        case.engine.restore(artefact, target, REPLACE, run)
    assert case.rows(target) == {"mine": 1}
    with closing(sqlite3.connect(target.database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_cancel_after_the_switch_has_begun_comes_too_late(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    target, run = changed(case), bench.run()
    case.engine.restore(artefact, target, REPLACE, run)
    assert run.stop.request(StopReason.CANCEL) is False


RESTORE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from engines.artefacts.reading import Artefact, read_manifest
from engines.base import RestoreOptions
from engines.run import Run
from engines.sqlite import SQLiteEngine
from engines.storage.local import LocalStore
storage, folder, database, workspace, moment, job = sys.argv[1:]
store, engine = LocalStore("main", Path(storage)), SQLiteEngine()
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run = Run(job, 1, Path(workspace))
if moment == "switch":
    run.confirm = die
else:
    run.listener = lambda progress: die() if progress.stage == moment else None
artefact = Artefact(store, folder, read_manifest(store, folder))
engine.restore(artefact, engine.target("shop", "sqlite:///" + database), RestoreOptions(mode="replace"), run)
"""


@pytest.mark.parametrize("moment", ["staging", "checking", "counting", "switch"])
def test_a_restore_killed_at_any_moment_leaves_the_old_database_whole(
    folder: Path, case: SQLiteCase, bench: Bench, artefact: Artefact, moment: str
) -> None:
    target = changed(case)
    plain = folder / "plain.db"
    Path(target.database).rename(plain)
    target = case.engine.target("shop", f"sqlite:///{plain}")
    assert isinstance(artefact.store.local_path(f"{artefact.folder}/manifest.json"), Path)
    arguments = (bench.store.url.removeprefix("file://"), artefact.folder, plain, bench.workspace, moment)
    job = bench.run().job_id
    with Program(RESTORE_AND_DIE, *arguments, job) as program:
        assert program.process.wait(60) == -9
    assert case.rows(target) == {"mine": 1}
    case.run(target, "INSERT INTO mine VALUES (2)")
    (left,) = case.leftovers(target)
    assert job in left
    case.engine.restore(artefact, target, REPLACE, bench.run())
    assert case.rows(target) == ROWS
    assert case.leftovers(target) == [], "what the killed attempt left went with the next attempt of its job"


def test_a_folder_that_is_missing_is_target_missing(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    target = case.engine.target("shop", "sqlite:////no/such/folder/x.db")
    with pytest.raises(TargetMissing):
        case.engine.restore(artefact, target, RestoreOptions(), bench.run())


def test_a_folder_that_must_not_be_written_is_a_clear_failure(bench: Bench, case: SQLiteCase) -> None:
    """procfs lets nobody make files, root included."""
    artefact = bench.back_up(case, case.filled())
    expected = StorageFailed if os.geteuid() == 0 else AccessDenied
    with pytest.raises(expected):
        case.engine.restore(artefact, case.engine.target("shop", "sqlite:////proc/x.db"), RestoreOptions(), bench.run())


def test_a_folder_is_never_replaced(case: SQLiteCase, folder: Path, bench: Bench, artefact: Artefact) -> None:
    with pytest.raises(InvalidTarget):
        case.engine.restore(artefact, case.engine.target("shop", f"sqlite:///{folder}"), REPLACE, bench.run())


def test_the_unpacked_copy_is_private_all_the_while(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    target, modes = case.absent(), set()

    def look(progress: Progress) -> None:
        for path in Path(target.database).parent.glob(".flexdb*"):
            modes.add(stat.S_IMODE(path.stat().st_mode))

    case.engine.restore(artefact, target, RestoreOptions(), bench.run(listener=look))
    assert modes == {0o600}

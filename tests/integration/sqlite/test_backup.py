"""Backing up SQLite databases that other programs use meanwhile, and all that SQLite can hold."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from engines.artefacts.compression import zstd
from engines.base import RestoreOptions
from engines.errors import ArtefactDamaged, InvalidTarget, StorageFull, TargetBusy, ToolFailed
from engines.run import Progress, Run
from tests.contracts.engine_cases import ROWS, Bench, SQLiteCase
from tests.integration.sqlite.databases import RICH, content, query
from tests.integration.sqlite.programs import holding, writing


@pytest.mark.parametrize("journal", ["wal", "delete", "persist"])
def test_a_backup_beside_a_writing_program_is_one_moment(folder: Path, bench: Bench, journal: str) -> None:
    case = SQLiteCase(folder, journal, busy_seconds=60)
    target = case.filled()
    for name in ("one", "two"):
        case.run(target, f"CREATE TABLE {name} (id integer)")
    with writing(target.database) as program:
        artefacts = [bench.back_up(case, target) for _ in range(3)]
        assert program.process.poll() is None, "the writer was broken by the backup"
        assert program.line(), "the writer goes on afterwards"
    for artefact in artefacts:
        restored = case.absent()
        case.engine.restore(artefact, restored, RestoreOptions(), bench.run())
        rows = case.rows(restored)
        counted = {item.name: item.rows for item in artefact.manifest.objects}
        assert rows["one"] == rows["two"] == counted["one"] == counted["two"]
        assert rows["one"] > 0
        assert query(restored, "PRAGMA integrity_check") == [("ok",)]


def test_what_is_still_in_the_wal_is_backed_up(case: SQLiteCase, bench: Bench) -> None:
    target = case.filled()
    with holding(target.database, "PRAGMA wal_autocheckpoint = 0", "INSERT INTO customers VALUES (99, 'in the WAL')"):
        assert Path(target.database + "-wal").stat().st_size > 0
        artefact = bench.back_up(case, target)
    restored = case.absent()
    case.engine.restore(artefact, restored, RestoreOptions(), bench.run())
    assert query(restored, "SELECT name FROM customers WHERE id = 99") == [("in the WAL",)]


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_the_manifest_says_whether_writers_had_to_wait(folder: Path, bench: Bench, journal: str) -> None:
    case = SQLiteCase(folder, journal)
    consistency = bench.back_up(case, case.filled()).manifest.consistency
    assert ("had to wait" in consistency) == (journal == "delete")


def test_a_writer_waits_for_the_copy_with_a_rollback_journal_and_goes_on_afterwards(folder: Path, bench: Bench) -> None:
    """Within the read transaction commits are held off; nothing of them is half in the copy."""
    case = SQLiteCase(folder, "delete")
    target = case.filled()
    refused: list[str] = []

    def write_meanwhile(progress: Progress) -> None:
        if progress.stage not in {"copying", "counting"}:
            return
        with closing(sqlite3.connect(target.database, timeout=0)) as other:
            try:
                with other:
                    other.execute("INSERT INTO customers VALUES (500, 'meanwhile')")
            except sqlite3.OperationalError as error:
                refused.append(error.sqlite_errorname)

    bench.back_up(case, target, bench.run(listener=write_meanwhile))
    assert refused
    assert set(refused) <= {"SQLITE_BUSY"}
    case.run(target, "INSERT INTO customers VALUES (501, 'afterwards')")


def test_a_database_that_is_locked_is_busy_after_a_bounded_time_and_may_be_retried(folder: Path, bench: Bench) -> None:
    case = SQLiteCase(folder, "delete")
    target = case.filled()
    with holding(target.database, "BEGIN EXCLUSIVE"), pytest.raises(TargetBusy) as busy:
        bench.back_up(case, target)
    assert busy.value.retryable
    bench.back_up(case, target)


def test_a_hot_journal_of_a_killed_program_is_played_back_first(folder: Path, bench: Bench) -> None:
    case = SQLiteCase(folder, "delete")
    target = case.filled()
    statements = ("PRAGMA cache_size = 1", "BEGIN", "DELETE FROM noise", "UPDATE orders SET cents = -1")
    with holding(target.database, *statements) as program:
        program.process.kill()
        program.process.wait(30)
    assert Path(target.database + "-journal").exists(), "the crash left no journal: this test shows nothing"
    artefact = bench.back_up(case, target)
    restored = case.absent()
    case.engine.restore(artefact, restored, RestoreOptions(), bench.run())
    assert case.rows(restored) == ROWS
    assert query(restored, "SELECT count(*) FROM orders WHERE cents < 0") == [(0,)]


def test_all_that_sqlite_can_hold_survives_backup_and_restore(case: SQLiteCase, bench: Bench) -> None:
    target = case.empty()
    with closing(sqlite3.connect(target.database)) as connection:
        connection.executescript(RICH)
    artefact = bench.back_up(case, target)
    assert {item.name: (item.kind, item.rows) for item in artefact.manifest.objects} == {
        "pairs": ("table", 2),
        "strictly": ("table", 1),
        "sides": ("table", 3),
        "counted": ("table", 2),
        "letters": ("virtual", 2),
        "boxes": ("virtual", 1),
        "quote\"d ' name; DROP TABLE pairs": ("table", 1),
        "таблица": ("table", 2),
        "parents": ("table", 0),
        "children": ("table", 1),
    }
    evidence = case.engine.parse(artefact, bench.run())
    orphans = next(item for item in evidence if item.check == "foreign_key_check")
    assert orphans.ok, "a row without its parent is the database's own and no damage"
    assert "1 rows" in str(orphans.found)
    case.engine.rehearse(artefact, target, bench.run())
    restored = case.absent()
    case.engine.restore(artefact, restored, RestoreOptions(), bench.run())
    assert query(restored, "SELECT area, half FROM sides ORDER BY a") == [(6, 1), (20, 2), (42, 3)]
    assert query(restored, "SELECT subject FROM letters WHERE letters MATCH 'fox'") == [("hello",)]
    assert query(restored, "PRAGMA user_version") == [(42,)]
    assert query(restored, "PRAGMA journal_mode") == [("wal",)]
    assert content(target) == content(restored)


def test_an_empty_file_is_an_empty_database(case: SQLiteCase, bench: Bench) -> None:
    target = case.absent()
    Path(target.database).touch()
    artefact = bench.back_up(case, target)
    assert artefact.manifest.objects == ()
    case.engine.rehearse(artefact, target, bench.run())


def test_a_file_that_is_no_database_is_said_to_be_none(case: SQLiteCase, bench: Bench) -> None:
    target = case.absent()
    Path(target.database).write_bytes(b"name,price\n" * 1000)
    with pytest.raises(InvalidTarget):
        bench.back_up(case, target)
    assert case.engine.check(target, bench.run()).problem["code"] == "invalid_target"
    assert bench.stored() == []


def test_a_damaged_database_never_becomes_a_proven_backup(case: SQLiteCase, bench: Bench) -> None:
    target = case.filled()
    query(target, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(Path(target.database).read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = os.urandom(4096)
    Path(target.database).write_bytes(data)
    with pytest.raises((ToolFailed, ArtefactDamaged)):
        case.engine.parse(bench.back_up(case, target), bench.run())


def test_the_dump_restores_by_hand_with_zstd_and_cp(case: SQLiteCase, bench: Bench, tmp_path: Path) -> None:
    artefact = bench.back_up(case, case.filled())
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    by_hand = tmp_path / "by-hand.db"
    if shutil.which("zstd"):
        subprocess.run(["zstd", "-q", "-d", path, "-o", by_hand], check=True, timeout=60)
    else:
        by_hand.write_bytes(zstd.decompress(path.read_bytes()))
    with closing(sqlite3.connect(by_hand)) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (100,)


def test_a_folder_is_no_database(case: SQLiteCase, folder: Path, bench: Bench) -> None:
    with pytest.raises(InvalidTarget):
        bench.back_up(case, case.engine.target("shop", f"sqlite:///{folder}"))


BACK_UP_IN_LITTLE_ROOM = """
import sys
from pathlib import Path
from engines.errors import FlexError
from engines.storage.local import LocalStore
from tests.contracts.engine_cases import Bench, SQLiteCase
database, workspace, storage = map(Path, sys.argv[1:])
case = SQLiteCase(database.parent)
bench = Bench(LocalStore("main", storage), workspace)
try:
    bench.back_up(case, case.engine.target("shop", f"sqlite:///{database}"))
    code = "done"
except FlexError as error:
    code = error.code
print(code, len(list(workspace.iterdir())), len(bench.stored()))
"""


@pytest.mark.parametrize("size", ["128k", "400k"])
def test_a_work_folder_without_room_is_storage_full_and_leaves_nothing(
    folder: Path, case: SQLiteCase, tmp_path: Path, size: str
) -> None:
    """On a file system that only the child process sees."""
    target = case.filled()
    plain = folder / "plain.db"
    query(target, "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(target.database, plain)
    mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    workspace = tmp_path / "small"
    workspace.mkdir()
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(workspace)]
    if subprocess.run([*command, "true"], check=False, capture_output=True, timeout=30).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own (unshare)")
    answer = subprocess.run(
        [*command, sys.executable, "-c", BACK_UP_IN_LITTLE_ROOM, plain, workspace, tmp_path / "storage"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = "storage_full 0 0" if size == "128k" else "done 0 2"
    assert answer.stdout.split() == expected.split()


def test_progress_counts_the_bytes_copied(case: SQLiteCase, bench: Bench) -> None:
    bench.back_up(case, case.filled())
    stages = {report.stage: report for report in bench.reports}
    assert {"copying", "counting", "storing"} <= set(stages)
    assert stages["copying"].total >= 300_000


def test_storage_full_is_known_before_anything_is_copied(case: SQLiteCase, bench: Bench) -> None:
    """The manifest claims more raw bytes than any disk has: the restore refuses before it unpacks."""
    artefact = bench.back_up(case, case.filled())
    (file,) = artefact.manifest.files
    huge = file.model_copy(update={"raw_bytes": 1 << 60})
    artefact.manifest = artefact.manifest.model_copy(update={"files": (huge,)})
    run: Run = bench.run()
    with pytest.raises(StorageFull):
        case.engine.restore(artefact, case.absent(), RestoreOptions(), run)

"""What is seen before a backup or restore is begun, and that looking changes nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engines.artefacts.reading import Artefact
from engines.base import BackupOptions, Finding, RestoreOptions, Target
from engines.errors import Stopped
from engines.run import StopReason
from tests.contracts.engine_cases import Bench, SQLiteCase
from tests.integration.sqlite.databases import rich
from tests.integration.sqlite.programs import holding


def problems(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {finding.check: finding.problem.code for finding in findings if finding.problem is not None}


def warnings(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.check for finding in findings if not finding.ok and finding.problem is None]


def before_backup(case: SQLiteCase, bench: Bench, target: Target, **options: object) -> tuple[Finding, ...]:
    found: tuple[Finding, ...] = case.engine.preflight_backup(target, BackupOptions(**options), bench.run())  # type: ignore[arg-type]  # as the tests spell them
    return found


def before_restore(
    case: SQLiteCase, bench: Bench, artefact: Artefact, target: Target, attempt: int = 1, **options: object
) -> tuple[Finding, ...]:
    wanted = RestoreOptions(**options)  # type: ignore[arg-type]  # as the tests spell them
    found: tuple[Finding, ...] = case.engine.preflight_restore(artefact, target, wanted, bench.run(attempt=attempt))
    return found


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_all_is_well_with_a_good_database_and_nothing_is_touched(folder: Path, bench: Bench, journal: str) -> None:
    case = SQLiteCase(folder, journal)
    target = case.filled()
    artefact = bench.back_up(case, target)
    before = files(folder)
    seen = before_backup(case, bench, target)
    assert all(finding.ok and finding.detail for finding in seen)
    assert {finding.check for finding in seen} == {"reachable", "consistency", "client", "patterns", "space"}
    seen = before_restore(case, bench, artefact, case.absent())
    assert all(finding.ok for finding in seen)
    assert {finding.check for finding in seen} == {"reachable", "privileges", "client", "patterns", "target", "space"}
    assert problems(before_restore(case, bench, artefact, target, mode="replace")) == {}
    assert files(folder) == before
    assert bench.reports == [] or bench.stored()


def test_a_missing_folder_or_wrong_file_is_said_before_the_backup(case: SQLiteCase, folder: Path, bench: Bench) -> None:
    wrong = case.absent()
    assert problems(before_backup(case, bench, wrong)) == {"reachable": "target_missing"}
    Path(wrong.database).write_bytes(b"name,price\n" * 1000)
    assert problems(before_backup(case, bench, wrong)) == {"reachable": "invalid_target"}
    Path(wrong.database).write_bytes(os.urandom(8192))
    assert problems(before_backup(case, bench, wrong)) == {"reachable": "invalid_target"}
    inside = case.engine.target("shop", f"sqlite:///{folder}")
    assert problems(before_backup(case, bench, inside)) == {"reachable": "invalid_target"}


def test_an_empty_file_is_a_good_database(case: SQLiteCase, bench: Bench) -> None:
    target = case.absent()
    Path(target.database).touch()
    assert problems(before_backup(case, bench, target)) == {}


def test_a_locked_database_is_busy_after_the_time_a_backup_would_wait(folder: Path, bench: Bench) -> None:
    case = SQLiteCase(folder, "delete")
    target = case.filled()
    artefact = bench.back_up(case, target)
    with holding(target.database, "BEGIN EXCLUSIVE"):
        assert problems(before_backup(case, bench, target)) == {"reachable": "target_busy"}
        assert problems(before_restore(case, bench, artefact, target, mode="replace")) == {"target": "target_busy"}
    with holding(target.database, "BEGIN IMMEDIATE", "DELETE FROM orders"):
        assert problems(before_backup(case, bench, target)) == {}


def test_options_and_patterns_are_looked_at(case: SQLiteCase, bench: Bench) -> None:
    target = case.filled()
    assert problems(before_backup(case, bench, target, include=("order",))) == {"patterns": "target_missing"}
    assert problems(before_backup(case, bench, target, include=("order*",))) == {}
    assert problems(before_backup(case, bench, target, globals=True)) == {"options": "unsupported_operation"}
    artefact = bench.back_up(case, target)
    absent = case.absent()
    assert problems(before_restore(case, bench, artefact, absent, include=("order",))) == {"patterns": "target_missing"}
    assert problems(before_restore(case, bench, artefact, absent, include=("order?",))) == {}


def test_a_module_that_is_not_here_is_a_warning(case: SQLiteCase, bench: Bench) -> None:
    target = rich(case)
    with closing(sqlite3.connect(target.database)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_schema VALUES ('table', 'far', 'far', 0, 'CREATE VIRTUAL TABLE \"far\" USING vec0(x)')"
        )
        connection.commit()
    seen = before_backup(case, bench, target)
    assert (problems(seen), warnings(seen)) == ({}, ["client"])
    seen = before_restore(case, bench, bench.back_up(case, target), case.absent())
    assert (problems(seen), warnings(seen)) == ({}, ["client"])


def test_a_backup_made_by_a_newer_sqlite_is_a_warning(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    manifest = artefact.manifest.model_copy(update={"server_version": "99.1.0"})
    newer = Artefact(bench.store, artefact.folder, manifest)
    seen = before_restore(case, bench, newer, case.absent())
    assert (problems(seen), warnings(seen)) == ({}, ["client"])


def test_a_target_that_holds_tables_is_only_right_for_replace(case: SQLiteCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    assert problems(before_restore(case, bench, artefact, target)) == {"target": "target_not_empty"}
    assert problems(before_restore(case, bench, artefact, target, mode="replace")) == {}
    assert problems(before_restore(case, bench, artefact, case.empty())) == {}
    seen = before_restore(case, bench, artefact, target, mode="plan")
    assert (problems(seen), warnings(seen)) == ({}, ["target"])


def test_a_second_attempt_is_not_kept_from_what_the_first_has_made(case: SQLiteCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    seen = before_restore(case, bench, artefact, target, attempt=2)
    assert (problems(seen), warnings(seen)) == ({}, ["target"])


def test_a_file_that_is_no_database_is_only_right_for_replace(case: SQLiteCase, bench: Bench) -> None:
    artefact, target = bench.back_up(case, case.filled()), case.absent()
    Path(target.database).write_bytes(b"a letter to grandmother" * 100)
    assert problems(before_restore(case, bench, artefact, target)) == {"target": "target_not_empty"}
    assert problems(before_restore(case, bench, artefact, target, mode="replace")) == {}


def test_a_folder_that_is_missing_is_said_before_the_restore(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    nowhere = case.engine.target("shop", "sqlite:////no/such/folder/x.db")
    assert problems(before_restore(case, bench, artefact, nowhere)) == {"reachable": "target_missing"}


def test_too_little_room_is_said_before_the_restore(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    (file,) = artefact.manifest.files
    huge = file.model_copy(update={"raw_bytes": 1 << 60})
    artefact.manifest = artefact.manifest.model_copy(update={"files": (huge,)})
    for include in ((), ("orders",)):
        seen = before_restore(case, bench, artefact, case.absent(), include=include)
        assert problems(seen) == {"space": "storage_full"}


def test_a_wish_to_stop_is_obeyed(case: SQLiteCase, bench: Bench) -> None:
    target, run = case.filled(), bench.run()
    run.stop.request(StopReason.CANCEL)
    with pytest.raises(Stopped):
        case.engine.preflight_backup(target, BackupOptions(), run)


AS_NOBODY = """
import os, sys
from pathlib import Path
from engines.base import RestoreOptions
from engines.artefacts.reading import Artefact, read_manifest
from engines.errors import FlexError
from engines.run import Run
from engines.sqlite import SQLiteEngine
from engines.storage.local import LocalStore
storage, folder, workspace, database = sys.argv[1:]
store, engine = LocalStore("main", Path(storage)), SQLiteEngine(0.5)
artefact = Artefact(store, folder, read_manifest(store, folder))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in (Path(database), Path(database).with_name("new.db")):
    target, run = engine.target("shop", f"sqlite:///{path}"), Run("job", 1, Path(workspace))
    found = engine.preflight_restore(artefact, target, RestoreOptions(mode="replace"), run)
    code = next((item.problem.code for item in found if item.problem is not None), "well")
    try:
        engine.restore(artefact, target, RestoreOptions(mode="replace"), run)
    except FlexError as error:
        print(code, error.code)
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """One that other users may look into; pytest's own are for this user alone."""
    folder = Path(tempfile.mkdtemp(prefix="flexdb-public-"))
    yield folder
    shutil.rmtree(folder)


def test_a_folder_without_the_right_to_write_is_said_before_and_is_what_the_restore_ends_with(
    case: SQLiteCase, bench: Bench, public_folder: Path
) -> None:
    """In a process of another user: root may write everywhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who may not write here")
    target = case.filled()
    artefact = bench.back_up(case, target)
    storage, workspace = public_folder / "storage", public_folder / "work"
    shutil.copytree(bench.store.url.removeprefix("file://"), storage)
    plain = public_folder / "readonly" / "plain.db"
    for folder in (workspace, plain.parent):
        folder.mkdir()
    shutil.copy(target.database, plain)
    for path in [public_folder, *public_folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    arguments = (str(storage), artefact.folder, str(workspace), str(plain))
    answer = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.split() == ["access_denied"] * 4
    assert sorted(path.name for path in plain.parent.iterdir()) == ["plain.db"]

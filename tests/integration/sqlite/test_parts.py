"""Backing up and restoring some tables only, or definitions only: what goes, what stays, and what stays unharmed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engines.artefacts.reading import Artefact
from engines.base import RestoreOptions, Target
from engines.errors import ArtefactDamaged, Stopped, StorageFailed, TargetMissing, UnsupportedOperation
from engines.run import Progress, StopReason, StopToken
from engines.sqlite import content as content_of
from tests.contracts.engine_cases import Bench, SQLiteCase
from tests.integration.sqlite.databases import content, query, rich, settings


def restored(case: SQLiteCase, bench: Bench, artefact: Artefact, include: Sequence[str] = ()) -> Target:
    target = case.absent()
    case.engine.restore(artefact, target, RestoreOptions(include=tuple(include)), bench.run())
    assert query(target, "PRAGMA integrity_check") == [("ok",)]
    return target


def names(target: Target, kind: str = "table") -> set[str]:
    return {str(row[0]) for row in query(target, "SELECT name FROM sqlite_schema WHERE type = ?", kind)}


def both_ways(case: SQLiteCase, bench: Bench, source: Target, *include: str) -> list[Target]:
    """Left out while backing up, and while restoring a whole backup: the same must come out."""
    part = bench.back_up(case, source, include=include)
    case.engine.parse(part, bench.run())
    case.engine.rehearse(part, source, bench.run())
    return [restored(case, bench, part), restored(case, bench, bench.back_up(case, source), include)]


def test_only_what_is_included_is_in_the_backup(case: SQLiteCase, bench: Bench) -> None:
    source = rich(case)
    everything = content(source)
    for target in both_ways(case, bench, source, "sides", "letters", "documents", "COUNTED"):
        found = content(target)
        assert {name for name in names(target) if not name.startswith(("sqlite_", "letters_"))} == {
            *("sides", "letters", "documents", "counted")
        }
        assert names(target, "index") == {"by_area"}
        for name in ("sides", "letters", "letters_data", "letters_content", "documents", "counted", "sqlite_sequence"):
            assert found[name] == everything[name], name
        assert settings(target) == settings(source)
        assert query(target, "SELECT subject FROM letters WHERE letters MATCH 'fox'") == [("hello",)]


def test_what_is_excluded_is_not_in_the_file_at_all(case: SQLiteCase, bench: Bench) -> None:
    """Not even in pages that are free: secrets are left out for a reason."""
    source = case.filled()
    case.run(source, "CREATE TABLE secrets (x text)")
    case.run(source, "INSERT INTO secrets VALUES (%s)", *((f"hunter2-{n}",) for n in range(2000)))
    artefact = bench.back_up(case, source, compression="none", exclude=("secrets", "noise"))
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    data = path.read_bytes()
    assert b"hunter2" not in data
    assert b"secrets" not in data
    assert names(restored(case, bench, artefact)) == {"customers", "orders", 'odd "name" ü'}


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize(
    "pragmas", [("page_size = 512", "auto_vacuum = 1"), ("page_size = 65536", "encoding = 'UTF-16le'")]
)
def test_a_part_keeps_the_ways_of_its_database(
    case: SQLiteCase, bench: Bench, journal: str, pragmas: tuple[str, ...]
) -> None:
    source = rich(case, *pragmas, f"journal_mode = {journal}")
    for target in both_ways(case, bench, source, "pairs", "words", "v"):
        assert settings(target) == settings(source)
        assert content(target)["words"] == content(source)["words"]


def test_rowids_of_tables_without_a_key_stay(case: SQLiteCase, bench: Bench) -> None:
    for target in both_ways(case, bench, rich(case), "unkeyed"):
        assert query(target, "SELECT rowid, x FROM unkeyed") == [(900, "d")]


def test_views_and_triggers_that_read_what_is_left_out_go_and_are_named(case: SQLiteCase, bench: Bench) -> None:
    source = rich(case)
    artefact = bench.back_up(case, source, exclude=("pairs", "words", "documents"))
    assert artefact.manifest.options["left_out"] == ["table beside", "view v"]
    target = restored(case, bench, artefact)
    assert names(target, "view") == set()
    assert names(target, "trigger") == set(), "they stood on tables that are gone"
    assert "beside" not in names(target)
    case.engine.rehearse(artefact, source, bench.run())
    other = bench.back_up(case, source, exclude=("counted",))
    assert other.manifest.options["left_out"] == ["trigger noted"]
    target = restored(case, bench, other)
    case.run(target, "INSERT INTO pairs VALUES ('x', 'y', 'z')")


def test_a_view_that_was_broken_before_stays_as_it_was(case: SQLiteCase, bench: Bench) -> None:
    source = case.filled()
    case.run(source, "CREATE VIEW wrong AS SELECT * FROM nothing_of_that_name")
    artefact = bench.back_up(case, source, exclude=("noise",))
    assert artefact.manifest.options["left_out"] == []
    assert names(restored(case, bench, artefact), "view") == {"wrong", "dear_orders"}


def test_a_virtual_table_whose_module_is_not_here_can_be_left_out(case: SQLiteCase, bench: Bench) -> None:
    source = case.filled()
    with closing(sqlite3.connect(source.database)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_schema VALUES ('table', 'far', 'far', 0, 'CREATE VIRTUAL TABLE far USING vec0(x)')"
        )
        connection.commit()
    whole = bench.back_up(case, source)
    assert whole.manifest.options["modules"] == ["vec0"]
    assert {item.name: item.rows for item in whole.manifest.objects}["far"] is None
    case.engine.parse(whole, bench.run())
    assert "far" in names(restored(case, bench, whole))
    for target in (
        restored(case, bench, bench.back_up(case, source, exclude=("far", "noise"))),
        restored(case, bench, whole, ["customers", "orders"]),
    ):
        assert "far" not in names(target)
        assert case.rows(target)["orders"] == 100


@pytest.mark.parametrize(
    "options", [{"include": ("custmers",)}, {"exclude": ("nothing*",)}, {"include": ("noise",), "exclude": ("no*",)}]
)
def test_a_pattern_that_means_nothing_is_no_empty_backup(
    case: SQLiteCase, bench: Bench, options: dict[str, Any]
) -> None:
    with pytest.raises(TargetMissing):
        bench.back_up(case, case.filled(), **options)
    assert bench.stored() == []
    assert list(bench.workspace.iterdir()) == []


def test_a_pattern_that_means_nothing_is_no_empty_restore(case: SQLiteCase, bench: Bench) -> None:
    artefact, absent = bench.back_up(case, case.filled()), case.absent()
    wrong = RestoreOptions(include=("orders", "x"))
    with pytest.raises(TargetMissing):
        case.engine.plan(artefact, absent, wrong, bench.run())
    with pytest.raises(TargetMissing):
        case.engine.restore(artefact, absent, wrong, bench.run())
    assert not case.exists(absent)
    assert case.leftovers(absent) == []
    assert list(bench.workspace.iterdir()) == []


def test_a_plan_lists_what_a_restore_with_include_would_bring(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    options = RestoreOptions(mode="plan", include=("main.cust*", "dear_orders"))
    assert [item.name for item in case.engine.plan(artefact, case.absent(), options, bench.run())] == ["customers"]


def test_a_backup_of_the_schema_has_every_definition_and_no_row(case: SQLiteCase, bench: Bench) -> None:
    source = rich(case)
    artefact = bench.back_up(case, source, content="schema")
    assert {item.rows for item in artefact.manifest.objects} == {0}
    case.engine.parse(artefact, bench.run())
    case.engine.rehearse(artefact, source, bench.run())
    target = restored(case, bench, artefact)
    made = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1, 2"
    assert query(target, made) == query(source, made)
    assert settings(target) == settings(source)
    case.run(target, "INSERT INTO letters VALUES ('new', 'text')")
    assert query(target, "SELECT subject FROM letters WHERE letters MATCH 'text'") == [("new",)]


def test_a_schema_without_some_tables_is_like_a_part_without_rows(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, rich(case), content="schema", exclude=("pairs", "letters"))
    assert artefact.manifest.options["left_out"] == ["view v"]
    found = names(restored(case, bench, artefact))
    assert not {name for name in found if name.startswith(("pairs", "letters"))}
    assert {"sides", "boxes", "boxes_node"} <= found


def test_rows_without_tables_are_refused(case: SQLiteCase, bench: Bench) -> None:
    with pytest.raises(UnsupportedOperation):
        bench.back_up(case, case.filled(), content="data")
    with pytest.raises(UnsupportedOperation):
        bench.back_up(case, case.filled(), layout="directory")


def test_a_row_that_differs_from_what_was_copied_is_found_by_the_rehearsal(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled(), exclude=("noise",))
    digests: dict[str, Any] = dict(artefact.manifest.options["digests"])
    assert set(digests) == {"customers", "orders", 'odd "name" ü'}
    digests["orders"] = digests["customers"]
    options = artefact.manifest.options | {"digests": digests}
    changed = Artefact(bench.store, artefact.folder, artefact.manifest.model_copy(update={"options": options}))
    with pytest.raises(ArtefactDamaged) as damaged:
        case.engine.rehearse(changed, case.empty(), bench.run())
    wrong = [item for item in damaged.value.details["evidence"] if not item["ok"]]
    assert [(item["object"], item["check"]) for item in wrong] == [("orders", "content")]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET b = 'Two' WHERE a = 2",
        "UPDATE t SET b = x'74776f' WHERE a = 2",
        "UPDATE t SET c = 1 WHERE a = 1",
        "UPDATE t SET c = 0.0 WHERE a = 2",
        "UPDATE t SET b = NULL WHERE a = 1",
        "DELETE FROM t WHERE a = 2",
        "INSERT INTO t VALUES (3, 'three', 3)",
    ],
)
def test_a_digest_follows_every_value_and_its_type(bench: Bench, change: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a integer PRIMARY KEY, b, c)")
        connection.execute("INSERT INTO t VALUES (1, 'one', 1.0), (2, 'two', 0)")
        before = content_of.digests(connection, ("t",), bench.run())
        connection.execute("VACUUM")
        connection.execute("CREATE INDEX by_b ON t (b DESC, a, c)")
        assert content_of.digests(connection, ("t",), bench.run()) == before, "where a row lies means nothing"
        connection.execute(change)
        assert content_of.digests(connection, ("t",), bench.run()) != before


def test_a_whole_file_is_said_to_be_proven_byte_for_byte(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    evidence = case.engine.rehearse(artefact, case.empty(), bench.run())
    (seen,) = [item for item in evidence if item.check == "content, byte for byte"]
    assert seen.found == artefact.manifest.files[0].raw_sha256


class StopAt:
    def __init__(self, number: int) -> None:
        self.token = StopToken()
        self.stages: list[str] = []
        self._number = number

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self.stages:
            self.stages.append(progress.stage)
            if len(self.stages) == self._number:
                self.token.request(StopReason.CANCEL)


@pytest.mark.parametrize("options", [{"include": ("orders", "noise")}, {"content": "schema"}])
def test_a_part_can_be_canceled_at_every_stage(case: SQLiteCase, bench: Bench, options: dict[str, Any]) -> None:
    source = rich(case, "page_size = 512")
    case.fill(source)
    seen = StopAt(0)
    artefact = bench.back_up(case, source, bench.run(listener=seen, stop=seen.token), **options)
    wanted = {"defining"} if "content" in options else {"copying", "dropping", "digesting"}
    assert wanted <= set(seen.stages)
    kept = bench.stored()
    for number in range(1, len(seen.stages) + 1):
        stop = StopAt(number)
        with pytest.raises(Stopped):
            bench.back_up(case, source, bench.run(listener=stop, stop=stop.token), **options)
        assert bench.stored() == kept
        assert list(bench.workspace.iterdir()) == []
    target = case.absent()
    include = RestoreOptions(include=("orders",))
    for number in range(1, 5):
        stop = StopAt(number)
        with pytest.raises(Stopped):
            case.engine.restore(artefact, target, include, bench.run(listener=stop, stop=stop.token))
        assert not case.exists(target)
        assert case.leftovers(target) == []


class CountingLooks(StopToken):
    """Counts how often work still asks after a stop was asked for."""

    afterwards = 0

    def check(self) -> None:
        self.afterwards += self._reason is not None
        super().check()


def test_a_cancel_while_vacuuming_is_obeyed_at_once(case: SQLiteCase, bench: Bench) -> None:
    source = case.empty()
    case.run(source, "CREATE TABLE big (a integer, b text)")
    case.run(source, "CREATE TABLE other (a integer)")
    case.run(
        source,
        "INSERT INTO big WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
        " SELECT i, hex(randomblob(40)) FROM n",
    )
    told: list[Progress] = []
    stop = CountingLooks()

    def cancel(progress: Progress) -> None:
        if progress.stage == "vacuuming":
            told.append(progress)
            stop.request(StopReason.CANCEL)

    with pytest.raises(Stopped):
        bench.back_up(case, source, bench.run(listener=cancel, stop=stop), include=("big",))
    assert told[0].unit == "bytes"
    assert (told[0].total or 0) > 10_000_000
    assert stop.afterwards <= 4, "the statement went on although it was canceled"
    assert list(bench.workspace.iterdir()) == []
    assert bench.stored() == []


def test_a_second_attempt_knows_the_part_that_the_first_has_put_in_place(case: SQLiteCase, bench: Bench) -> None:
    artefact, target = bench.back_up(case, case.filled()), case.absent()
    options = RestoreOptions(include=("orders",))
    case.engine.restore(artefact, target, options, bench.run())
    before = Path(target.database).stat().st_ino
    done = case.engine.restore(artefact, target, options, bench.run(attempt=2))
    assert Path(target.database).stat().st_ino == before
    assert "earlier attempt" in done.notes[0]
    assert case.leftovers(target) == []


@pytest.mark.parametrize("options", [{}, {"exclude": ("orders",)}, {"content": "schema"}])
def test_the_sqlite3_program_opens_what_was_stored(case: SQLiteCase, bench: Bench, options: dict[str, Any]) -> None:
    program = shutil.which("sqlite3")
    if program is None:
        pytest.skip("no sqlite3 program is installed here")
    artefact = bench.back_up(case, case.filled(), compression="none", **options)
    path = artefact.stored_path(artefact.manifest.files[0])
    answer = subprocess.run(
        [program, f"file:{path}?immutable=1", "PRAGMA integrity_check; SELECT count(*) FROM customers"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.stdout.split() == ["ok", "0" if "content" in options else "8"]


def test_a_part_is_not_restored_into_a_folder_that_is_missing(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    nowhere = case.engine.target("shop", "sqlite:////no/such/folder/x.db")
    with pytest.raises(TargetMissing):
        case.engine.restore(artefact, nowhere, RestoreOptions(include=("orders",)), bench.run())
    if os.geteuid() == 0:  # procfs lets nobody make files, root included
        forbidden = case.engine.target("shop", "sqlite:////proc/x.db")
        with pytest.raises(StorageFailed):
            case.engine.restore(artefact, forbidden, RestoreOptions(include=("orders",)), bench.run())
    assert list(bench.workspace.iterdir()) == []

"""MySQL and MariaDB: restores by users who may little, past crashes, beside others; assertions and adoption."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.assertions import Assertion
from engines.base import BackupOptions, RestoreOptions
from engines.errors import (
    AccessDenied,
    ArtefactDamaged,
    AssertionFailed,
    FlexError,
    InvalidAssertion,
    InvalidDump,
    TargetBusy,
    TargetNotEmpty,
    UnsupportedOperation,
)
from engines.mysql import catalog, code, databases, switch
from engines.mysql.address import Address
from engines.mysql.clients import Clients
from engines.mysql.load import Changes, Load, source_of
from engines.mysql.restore import look
from engines.mysql.session import session
from engines.run import StopReason, StopToken
from tests.integration.mysql.conftest import Fresh
from tests.integration.mysql.test_faults import leftovers, locked, name_of
from tests.integration.mysql.workbench import ROWS, Workbench, facts
from tests.mariadb import sql, with_database

CHILD = """
    import sys
    from pathlib import Path
    from engines.artefacts.manifest import Manifest
    from engines.artefacts.reading import Artefact
    from engines.base import RestoreOptions
    from engines.mysql import MySQLEngine
    from engines.run import Run
    from engines.storage.local import LocalStore
    folder, artefact, job, url = sys.argv[1:]
    store = LocalStore("main", Path(folder) / "store")
    manifest = Manifest.model_validate_json(Path(folder, "manifest.json").read_bytes())
    work = Path(folder) / "child"
    work.mkdir()
    engine = MySQLEngine()
    engine.restore(Artefact(store, artefact, manifest), engine.target("shop", url), RestoreOptions(mode="replace"),
                   Run(job, 1, work))
"""


def waiting_renames(bench: Workbench) -> list[int]:
    query = "SELECT id FROM information_schema.processlist WHERE state LIKE 'Waiting%' AND info LIKE 'RENAME TABLE%"
    return [number for (number,) in sql(bench.url, f"{query}{bench.job_id}%'", on="")]


@contextmanager
def killed_in_the_switch(bench: Workbench, folder: str, url: str) -> Iterator[None]:
    """A restore that was killed while its RENAME TABLE waited for a reader of the old table; the reader goes on."""
    manifest = (bench.folder / "manifest.json").read_bytes()
    assert manifest
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(bench.folder), folder, bench.job_id, url]
    with locked(url, "START TRANSACTION", "SELECT * FROM circle_a"):
        child = subprocess.Popen(command, cwd=Path(__file__).parents[3])
        try:
            wait = threading.Event()
            for _ in range(600):
                if any(waiting_renames(bench)) or child.poll() is not None:
                    break
                wait.wait(0.1)
            assert child.poll() is None
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        yield


def stored(bench: Workbench, url: str) -> str:
    artefact = bench.back_up(url)
    (bench.folder / "manifest.json").write_bytes(artefact.manifest.to_bytes())
    return artefact.folder


def test_a_restore_killed_in_its_switch_loses_nothing_and_its_second_attempt_ends_well(
    bench: Workbench, shop: str
) -> None:
    artefact = bench.back_up(shop)
    (bench.folder / "manifest.json").write_bytes(artefact.manifest.to_bytes())
    before = facts(bench.url, name_of(shop))
    sql(shop, "DELETE FROM events_by_year")
    bench.runs = 1
    with killed_in_the_switch(bench, artefact.folder, shop):
        assert len(leftovers(bench)) == 2
        bench.engine.end_older_sessions(bench.target(shop), bench.run())
        assert waiting_renames(bench) == []
    bench.restore(artefact, shop, mode="replace")
    assert facts(bench.url, name_of(shop)) == before
    assert leftovers(bench) == []


def test_the_sweep_gives_back_what_a_killed_switch_had_taken(bench: Workbench, shop: str) -> None:
    folder = stored(bench, shop)
    before = facts(bench.url, name_of(shop))
    with killed_in_the_switch(bench, folder, shop):
        assert bench.engine.remove_leftovers(bench.target(shop), lambda job: False) == []
        gone = bench.engine.remove_leftovers(bench.target(shop), lambda job: job == bench.job_id)
    assert sorted(gone) == [f"flexdb_new_{bench.job_id}", f"flexdb_old_{bench.job_id}"]
    assert facts(bench.url, name_of(shop)) == before


def test_a_switch_that_ended_after_the_tables_had_changed_places_is_finished_by_the_next_attempt(
    bench: Workbench, fresh: Fresh
) -> None:
    url = fresh()
    sql(url, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)", "CREATE VIEW v AS SELECT a FROM t")
    artefact = bench.back_up(url)
    sql(url, "INSERT INTO t VALUES (2)")
    new = f"flexdb_new_{bench.job_id}"
    sql(bench.url, f"CREATE DATABASE {new}", f"CREATE TABLE {new}.t (a int)", f"INSERT INTO {new}.t VALUES (1)", on="")
    sql(bench.url, f"CREATE VIEW {new}.v AS SELECT a FROM {new}.t", on="")
    with session(Address.parse(url), "test") as opened:
        whole = switch.plan(opened, bench.job_id, name_of(url), ())
        broken = asdict(whole) | {"code": [asdict(whole.code[0]) | {"text": "CREATE VIEW v AS SELECT nothing"}]}
        with pytest.raises(FlexError), session(Address.parse(url), "test") as other:
            switch.carry_out(other, switch.Plan.read(json.dumps(broken)), None)
    assert sql(url, "SELECT a FROM t") == [(1,)]
    journal = f"flexdb_old_{bench.job_id}.{switch.JOURNAL}"
    with session(Address.parse(url), "test") as opened, opened.cursor() as cursor:
        cursor.execute(f"UPDATE {journal} SET plan = %s", (whole.as_text(),))
    done = bench.restore(artefact, url, mode="replace")
    assert done.notes == ("Made by an earlier attempt.",)
    assert sql(url, "SELECT a FROM v") == [(1,)]
    assert leftovers(bench) == []


STEPS = ("journal", "database", "old code", "tables", "new code", "first half forgotten")


def died_after(bench: Workbench, url: str, last: str) -> None:
    """Leave what a restore leaves that is killed in its switch, right after the step named."""
    new, quiet = f"flexdb_new_{bench.job_id}", f"flexdb_old_{bench.job_id}"
    with session(Address.parse(url), "test") as opened:
        what = switch.plan(opened, bench.job_id, name_of(url), ())
        switch._write_down(opened, what)
        done = STEPS[: STEPS.index(last) + 1]
        if "database" in done and what.made:
            databases.create(opened, what.target, None)
        if "old code" in done:
            code.drop_code(opened, new)
            code.drop_code(opened, what.target)
        if "tables" in done:
            switch._rename(opened, what)
        if "new code" in done:
            code.make_code(opened, what.target, what.code)
        if "first half forgotten" in done:
            databases.drop(Address.parse(url), new, None)
    assert sql(bench.url, f"SELECT COUNT(*) FROM {quiet}.{switch.JOURNAL}", on="") == [(1,)]


@pytest.mark.parametrize("by", ["the next attempt", "the sweep"])
@pytest.mark.parametrize("last", STEPS)
@pytest.mark.parametrize("holds", ["everything", "a view only"])
@pytest.mark.parametrize("there", [True, False])
def test_a_switch_that_died_after_any_of_its_steps_is_mended(
    bench: Workbench, fresh: Fresh, there: bool, holds: str, last: str, by: str
) -> None:
    """The target holds all of what was there or all of the backup, and never a part."""
    source, url = fresh(), fresh(create=there)
    sql(source, "CREATE VIEW v AS SELECT 1 AS a")
    if holds == "everything":
        sql(source, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
        sql(source, "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.a = 1")
    artefact = bench.back_up(source)
    if there:
        sql(url, "CREATE TABLE t (a int)", "CREATE TABLE u (a int)", "INSERT INTO t VALUES (2)")
        sql(url, "CREATE VIEW w AS SELECT a FROM t", "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.a = 2")
    before = facts(bench.url, name_of(url)) if there else None
    build(bench, artefact)
    died_after(bench, url, last)
    if by == "the sweep":
        bench.engine.remove_leftovers(bench.target(url), lambda job: job == bench.job_id)
        there_now = bool(sql(bench.url, f"SHOW DATABASES LIKE '{name_of(url)}'", on=""))
        now = facts(bench.url, name_of(url)) if there_now else None
        assert now in (before, facts(bench.url, name_of(source)))
    else:
        bench.restore(artefact, url, bench.run(attempt=2), mode="replace")
        assert facts(bench.url, name_of(url)) == facts(bench.url, name_of(source))
    assert leftovers(bench) == []


def test_the_sweep_leaves_what_was_made_since_in_a_database_that_was_switched(bench: Workbench, fresh: Fresh) -> None:
    source, url = fresh(), fresh()
    sql(source, "CREATE TABLE t (a int)", "CREATE VIEW v AS SELECT a FROM t")
    build(bench, bench.back_up(source))
    died_after(bench, url, "new code")
    sql(url, "CREATE VIEW since AS SELECT a FROM t", "CREATE PROCEDURE later() SELECT 1", "CREATE TABLE more (a int)")
    before = facts(bench.url, name_of(url))
    assert bench.engine.remove_leftovers(bench.target(url), lambda job: job == bench.job_id)
    assert facts(bench.url, name_of(url)) == before
    assert leftovers(bench) == []


def test_what_others_do_to_another_database_is_not_waited_for(bench: Workbench, fresh: Fresh) -> None:
    """A switch that waits for a reader of one table holds all those before it."""
    url, other = fresh(), fresh()
    trigger = "CREATE TRIGGER g BEFORE INSERT ON a FOR EACH ROW SET NEW.a = 1"
    sql(url, "CREATE TABLE a (a int)", trigger)
    sql(other, "CREATE TABLE a (a int)", "CREATE TABLE b (a int)", trigger)
    query = f"SELECT 1 FROM information_schema.processlist WHERE state LIKE 'Waiting%' AND db = '{name_of(other)}'"
    renaming = threading.Thread(target=sql, args=(other, "RENAME TABLE a TO c, b TO d"))
    with locked(other, "START TRANSACTION", "SELECT * FROM b"):
        renaming.start()
        while renaming.is_alive() and not sql(bench.url, query, on=""):
            continue
        with session(Address.parse(url), "test", seconds=5) as opened:
            assert catalog.code(opened, name_of(url)) == [("trigger", "g")]
            assert catalog.fingerprint(opened, name_of(url))
        assert renaming.is_alive()
    renaming.join()


def build(bench: Workbench, artefact: Artefact) -> None:
    """The database beside the target, as a restore fills it."""
    url = with_database(bench.url, f"flexdb_new_{bench.job_id}")
    address, run = Address.parse(url), bench.run()
    with session(address, "test") as opened:
        databases.create(opened, address.database, None)
        place = look(opened, artefact, address, Clients.installed())
    Load(artefact, address, place.program, run, Changes(source_of(artefact), address.database)).carry_out()


@pytest.mark.parametrize("table", ["customers", "circle_a"])
def test_a_reader_who_does_not_end_makes_the_restore_busy_and_leaves_the_target(
    bench: Workbench, shop: str, table: str
) -> None:
    """Dropping a trigger waits for the readers of its table as the renaming does."""
    artefact = bench.back_up(shop)
    before = facts(bench.url, name_of(shop))
    with locked(shop, "START TRANSACTION", f"SELECT * FROM {table} LIMIT 1"), pytest.raises(TargetBusy) as busy:
        bench.restore(artefact, shop, mode="replace")
    assert busy.value.retryable
    assert facts(bench.url, name_of(shop)) == before
    assert leftovers(bench) == []


def test_an_attempt_that_died_after_its_switch_is_known_by_the_next_one(
    bench: Workbench, shop: str, fresh: Fresh
) -> None:
    artefact, restored = bench.back_up(shop), fresh(create=False)
    bench.restore(artefact, restored)
    again = bench.restore(artefact, restored)
    assert again.notes == ("Made by an earlier attempt.",)
    assert {item.name: item.rows for item in again.objects if item.kind == "table"} == ROWS
    bench.job_id += "x"
    with pytest.raises(TargetNotEmpty):
        bench.restore(artefact, restored)


def test_databases_whose_names_differ_in_case_only_do_not_meet(bench: Workbench, fresh: Fresh) -> None:
    lower = fresh()
    upper = fresh(name_of(lower).upper())
    sql(lower, "CREATE TABLE t (a int)", "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1")
    bench.restore(bench.back_up(lower), upper)
    bench.restore(bench.back_up(fresh()), upper, mode="replace")
    assert len(sql(lower, "SHOW TRIGGERS")) == 1


def test_tables_that_others_refer_to_are_not_replaced(bench: Workbench, shop: str, fresh: Fresh) -> None:
    artefact, other = bench.back_up(shop), fresh()
    sql(
        other,
        f"CREATE TABLE o (c bigint unsigned, FOREIGN KEY (c) REFERENCES `{name_of(shop)}`.customers (id))",
    )
    with pytest.raises(UnsupportedOperation):
        bench.restore(artefact, shop, mode="replace")
    assert leftovers(bench) == []
    sql(other, "DROP TABLE o")


@contextmanager
def user(bench: Workbench, *grants: str) -> Iterator[str]:
    """A user with these grants; its part of a URL."""
    name = f"u{bench.job_id[-8:]}"
    sql(bench.url, f"CREATE USER {name}@'%' IDENTIFIED BY 'pw'", on="")
    for grant in grants:
        sql(bench.url, f"GRANT {grant} TO {name}@'%'", on="")
    try:
        yield f"{name}:pw@"
    finally:
        sql(bench.url, f"DROP USER {name}@'%'", on="")


def test_a_user_who_may_not_set_definers_restores_without_them_and_is_told(
    bench: Workbench, shop: str, fresh: Fresh
) -> None:
    artefact, restored = bench.back_up(shop), fresh()
    name = name_of(restored)
    with user(
        bench, f"ALL PRIVILEGES ON `{name}`.*", r"ALL PRIVILEGES ON `flexdb\_%`.*", "SELECT ON mysql.proc"
    ) as login:
        url = restored.replace("root@", login)
        findings = bench.engine.preflight_restore(artefact, bench.target(url), RestoreOptions(), bench.run())
        assert [item.check for item in findings if not item.ok] == []
        done = bench.restore(artefact, url)
        definers = sql(
            url, "SELECT DISTINCT definer FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
        )
    assert "Definers were left out" in done.notes[0]
    assert definers == [(f"{login.partition(':')[0]}@%",)]
    assert {item.name: item.rows for item in done.objects if item.kind == "table"} == ROWS


def test_a_user_who_may_not_build_beside_the_target_is_told_which_grant_is_missing(
    bench: Workbench, shop: str, fresh: Fresh
) -> None:
    artefact, restored = bench.back_up(shop), fresh()
    with user(bench, f"ALL PRIVILEGES ON `{name_of(restored)}`.*") as login:
        url = restored.replace("root@", login)
        findings = bench.engine.preflight_restore(artefact, bench.target(url), RestoreOptions(), bench.run())
        assert [item.check for item in findings if not item.ok] == ["privileges"]
        with pytest.raises(AccessDenied) as denied:
            bench.restore(artefact, url)
    assert "flexdb" in denied.value.hint


def test_a_user_who_may_only_read_can_back_up_and_is_warned_of_what_it_does_not_see(
    bench: Workbench, fresh: Fresh
) -> None:
    url = fresh()
    sql(url, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    with user(bench, f"SELECT ON `{name_of(url)}`.*") as login:
        target = bench.target(url.replace("root@", login))
        findings = bench.engine.preflight_backup(target, BackupOptions(), bench.run())
    (warning,) = [item for item in findings if not item.ok]
    assert (warning.check, warning.problem) == ("privileges", None)
    assert "TRIGGER" in warning.detail


def test_preflight_of_a_good_target_finds_nothing_wrong(bench: Workbench, shop: str) -> None:
    findings = bench.engine.preflight_backup(bench.target(shop), BackupOptions(), bench.run())
    assert {item.check for item in findings} == {
        *("reachable", "client", "privileges", "patterns", "consistency"),
    }
    assert [item.check for item in findings if not item.ok] == ["consistency"]  # a MyISAM table
    assert all(item.problem is None for item in findings)


def test_preflight_tells_every_problem_with_the_error_the_work_would_end_with(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop)
    target = bench.target(shop)
    found = {
        item.check: item.problem.code
        for item in (
            *bench.engine.preflight_backup(target, BackupOptions(include=("nothing",)), bench.run()),
            *bench.engine.preflight_restore(artefact, target, RestoreOptions(), bench.run()),
        )
        if item.problem is not None
    }
    assert found == {"patterns": "target_missing", "target": "target_not_empty"}
    parts = urlsplit(shop)
    gone = bench.target(parts._replace(netloc=f"{parts.username}@127.0.0.1:1").geturl())
    (problem,) = bench.engine.preflight_backup(gone, BackupOptions(), bench.run())
    assert problem.problem is not None
    assert (problem.check, problem.problem.code) == ("reachable", "target_unavailable")


def test_tls_that_the_server_does_not_have_is_never_done_without(bench: Workbench, shop: str) -> None:
    with pytest.raises(FlexError):
        bench.back_up(shop + "?ssl-mode=required")
    assert bench.stored() == []
    assert bench.back_up(shop + "?ssl-mode=disabled").manifest.objects


def ask(bench: Workbench, url: str, *assertions: Assertion, stop: StopToken | None = None) -> list[object]:
    run = bench.run(**({"stop": stop} if stop else {}))
    evidence = bench.engine.rehearse(bench.back_up(url), bench.target(url), run, assertions)
    return [item.found for item in evidence if item.check == "assertion"]


def test_assertions_are_asked_of_the_restored_database(bench: Workbench, shop: str) -> None:
    held = (
        Assertion("customers", sql="SELECT COUNT(*) FROM customers", at_least=501),
        Assertion("last", sql="SELECT name FROM customers WHERE mood = 'b,(ad'", equals="last"),
        Assertion("none", sql="SELECT a FROM nothing_in_it"),
        Assertion("view", sql="SELECT COUNT(*) FROM the_view WHERE name LIKE 'name%'", equals=500),
    )
    assert ask(bench, shop, *held) == [501, "last", None, 500]
    with pytest.raises(AssertionFailed):
        ask(bench, shop, Assertion("many", sql="SELECT COUNT(*) FROM customers", at_least=502))
    assert leftovers(bench) == []


@pytest.mark.parametrize(
    "question",
    [
        *("SELECT nonsense", "SELEC 1", "DELETE FROM customers", "INSERT INTO log VALUES (1, 'x')"),
        *("SELECT 1; SELECT 2", "SELECT 1 INTO OUTFILE '/nowhere/x'", "SELECT 1 /*! INTO OUTFILE '/nowhere/x' */"),
        *("-- a comment", "SET @x = 1", "COMMIT", "SET SESSION TRANSACTION READ WRITE", "CALL nothing()"),
    ],
)
def test_a_question_that_is_no_query_of_one_value_is_refused(bench: Workbench, shop: str, question: str) -> None:
    with pytest.raises(InvalidAssertion):
        ask(bench, shop, Assertion("x", sql=question, equals=1))
    assert leftovers(bench) == []


def test_a_question_that_would_end_its_transaction_changes_nothing(bench: Workbench, shop: str) -> None:
    with pytest.raises(InvalidAssertion):
        ask(bench, shop, Assertion("x", sql=f"CREATE TABLE `{bench.target(shop).database}`.made (a int)", equals=1))
    assert not sql(shop, "SHOW TABLES LIKE 'made'")


def test_of_many_rows_only_the_first_is_fetched(bench: Workbench, shop: str) -> None:
    seen = ask(
        bench,
        shop,
        Assertion("first", sql="/* by id */ (SELECT id FROM customers ORDER BY id)"),
        Assertion("inner", sql="WITH c AS (SELECT id FROM customers) SELECT COUNT(*) FROM c -- ; INTO", equals=501),
        Assertion("text", sql="SELECT 'go into it; /*! now */'", equals="go into it; /*! now */"),
    )
    assert seen == [100, 501, "go into it; /*! now */"]


def test_a_question_without_end_is_ended_by_a_stop(bench: Workbench, fresh: Fresh) -> None:
    url, stop = fresh(), StopToken()
    sql(url, "CREATE TABLE t (a int)")
    timer = threading.Timer(3, lambda: stop.request(StopReason.CANCEL))
    timer.start()
    with pytest.raises(FlexError) as stopped:
        ask(bench, url, Assertion("x", sql="SELECT SLEEP(600)", equals=0), stop=stop)
    assert stopped.value.code == "stopped"
    assert leftovers(bench) == []
    timer.join()


def dumped(url: str, *options: str) -> bytes:
    command = ["mariadb-dump", "--host=127.0.0.1", f"--port={url.rpartition(':')[2].partition('/')[0]}", "--user=root"]
    return subprocess.run([*command, *options, name_of(url)], capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--skip-extended-insert", "--complete-insert"),
        ("--hex-blob", "--routines", "--events", "--single-transaction", "--insert-ignore"),
        ("--compact", "--add-drop-table", "--comments"),
        ("--routines", "--events", "--add-drop-trigger", "--no-autocommit", "--allow-keywords", "--replace"),
    ],
)
def test_a_dump_made_by_hand_is_taken_in_and_restored(
    bench: Workbench, shop: str, fresh: Fresh, options: tuple[str, ...]
) -> None:
    script = dumped(shop, *options, f"--ignore-table={name_of(shop)}.numbered")
    if "--compact" in options:
        script += b"-- Dump completed\n"
        script = b"-- MariaDB dump 10.19\n" + script
    format = bench.engine.recognise(script[: 1 << 16])
    assert format == "mysqldump-sql"
    run = bench.run()
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse("zstd"))
    dump = bench.engine.adopt(io.BytesIO(script), format, out, run)
    found = {item.name: item.rows for item in dump.objects if item.kind == "table"}
    assert found == {name: rows for name, rows in ROWS.items() if name != "numbered"}
    artefact = bench.published(dump, out, run, "shop")
    bench.engine.parse(artefact, bench.run())
    if "--routines" in options:
        assert dump.options["source_database"] == name_of(shop)
        restored = fresh(create=False)
        bench.restore(artefact, restored)
        assert sql(restored, "SELECT COUNT(*) FROM a_later_view")


@pytest.mark.parametrize("more", [(), ("--skip-opt",), ("--compact",)])
@pytest.mark.parametrize(("options", "lacking"), [((), {}), (("-d",), {"whole": False}), (("-t",), {"whole": False})])
def test_a_dump_of_definitions_or_of_rows_is_known_as_a_part(
    bench: Workbench, shop: str, options: tuple[str, ...], lacking: dict[str, bool], more: tuple[str, ...]
) -> None:
    script = dumped(shop, *options, *more, f"--ignore-table={name_of(shop)}.numbered")
    if "--compact" in more:
        script = b"-- MariaDB dump 10.19\n" + script + b"-- Dump completed\n"
    run = bench.run()
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse("zstd"))
    dump = bench.engine.adopt(io.BytesIO(script), "mysqldump-sql", out, run)
    assert {name: seen for name, seen in dump.options.items() if name == "whole"} == lacking


def test_a_dump_made_by_hand_that_is_cut_or_names_its_databases_is_refused(bench: Workbench, shop: str) -> None:
    run = bench.run()
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse("zstd"))
    with pytest.raises(ArtefactDamaged):
        bench.engine.adopt(io.BytesIO(dumped(shop)[:-200]), "mysqldump-sql", out, run)
    with pytest.raises(InvalidDump):
        bench.engine.adopt(io.BytesIO(dumped(shop, "--databases")), "mysqldump-sql", out, run)
    assert bench.stored() == []


@pytest.mark.parametrize(
    "foreign",
    [
        *("USE elsewhere", "/*!40000 USE elsewhere*/", "INSERT INTO `elsewhere`.`t` VALUES (1)", "DROP TABLE a.b"),
        *("DROP DATABASE IF EXISTS `elsewhere`", "SET GLOBAL read_only = 1", "CREATE USER evil", "CALL something()"),
        *("LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE customers", "/* x */ GRANT ALL ON *.* TO evil"),
        *("CREATE TABLE elsewhere . t (a int)", "system true", "SELECT 1 INTO OUTFILE '/nowhere/x'"),
    ],
)
def test_a_dump_made_by_hand_that_reaches_beyond_its_database_is_refused(
    bench: Workbench, shop: str, foreign: str
) -> None:
    run = bench.run()
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse("zstd"))
    script = dumped(shop).replace(b"-- Dump completed", foreign.encode() + b";\n-- Dump completed")
    with pytest.raises(InvalidDump):
        bench.engine.adopt(io.BytesIO(script), "mysqldump-sql", out, run)
    assert bench.stored() == []


@pytest.mark.parametrize("head", [b"", b"-- PostgreSQL database dump", b"PGDMP", b"CREATE TABLE", b"SQLite format 3\0"])
def test_what_another_program_wrote_is_not_recognised(bench: Workbench, head: bytes) -> None:
    assert bench.engine.recognise(head) is None


def test_what_mysql_programs_write_is_recognised(bench: Workbench) -> None:
    head = b"-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)\n"
    assert bench.engine.recognise(head) == "mysqldump-sql"
    assert bench.engine.recognise(b"/*!999999\\- enable the sandbox mode */ \n" + head) == "mysqldump-sql"

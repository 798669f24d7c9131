"""What goes wrong is told clearly, and leaves nothing half done."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg2
import pytest

from engines.artefacts.reading import Artefact
from engines.errors import (
    AccessDenied,
    ArtefactDamaged,
    FlexError,
    InvalidTarget,
    NoFittingClient,
    Stopped,
    TargetMissing,
    TargetNotEmpty,
    TargetUnavailable,
    ToolFailed,
    VerificationImpossible,
)
from engines.postgres import PostgresEngine
from engines.postgres.catalog import relations
from engines.postgres.clients import Clients, default_folders
from engines.postgres.connection import Address, session
from engines.postgres.counting import counting, snapshot
from engines.run import Progress, Run, StopReason
from tests.conftest import FreshDatabase
from tests.integration.postgres.workbench import ROWS, Workbench, facts, sql

DAMAGED = r"""
CREATE TABLE measures (v int);
INSERT INTO measures SELECT generate_series(1, 1000);
CREATE FUNCTION small(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN $1 < 2000; END $$;
ALTER TABLE measures ADD CONSTRAINT c CHECK (small(v));
CREATE OR REPLACE FUNCTION small(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN $1 < 500; END $$;
"""
"""A database whose own dump cannot be restored: its rows break its constraint as it reads now."""


def eventually(true: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def sessions(server: str, run: Run) -> list[tuple[Any, ...]]:
    return sql(server, f"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'flexdb/{run.job_id}/%'")


def databases_of_ours(server: str, job_id: str) -> list[tuple[Any, ...]]:
    return sql(server, f"SELECT datname FROM pg_database WHERE datname LIKE 'flexdb\\_%{job_id}'")


def changed(url: str, **parts: str) -> str:
    """The URL with another user, password, host or port."""
    old = urlsplit(url)
    user = quote(parts.get("user", old.username or ""), safe="")
    password = quote(parts.get("password", old.password or ""), safe="")
    where = f"{parts.get('host', old.hostname or '')}:{parts.get('port', str(old.port))}"
    return urlunsplit(old._replace(netloc=f"{user}:{password}@{where}"))


def test_a_password_with_every_odd_character_works_for_driver_and_tools(
    bench: Workbench, postgres18_url: str, fresh_database: FreshDatabase
) -> None:
    password = "p/ss@w:o%rd '\\ ü$x"
    url = fresh_database(postgres18_url)
    sql(postgres18_url, "DROP ROLE IF EXISTS odd_one")
    with closing(psycopg2.connect(postgres18_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE odd_one SUPERUSER LOGIN PASSWORD %s", (password,))
    try:
        theirs = changed(url, user="odd_one", password=password)
        artefact = bench.back_up(theirs)
        assert bench.restore(artefact, theirs).objects == ()
        seen = repr(bench.target(theirs)) + artefact.manifest.model_dump_json()
        assert password not in seen and quote(password, safe="") not in seen
    finally:
        sql(postgres18_url, "DROP ROLE odd_one")


def test_a_wrong_password_is_access_denied_and_never_told(bench: Workbench, postgres18_url: str) -> None:
    url = changed(postgres18_url, password="wrong-hush-hush")
    with pytest.raises(AccessDenied) as denied:
        bench.back_up(url)
    assert "hush" not in f"{denied.value} {denied.value.details} {denied.value.__cause__}"
    assert not denied.value.retryable
    report = bench.engine.check(bench.target(url), bench.run())
    assert not report.reachable and report.problem is not None and report.problem["code"] == "access_denied"


def test_a_server_that_is_away_is_unavailable_and_worth_another_try(bench: Workbench) -> None:
    url = "postgresql://postgres:hush@127.0.0.1:1/x"
    for attempt in (
        lambda: bench.back_up(url),
        lambda: bench.engine.inspect(bench.target(url), bench.run()),
        lambda: bench.engine.end_older_sessions(bench.target(url), bench.run()),
    ):
        with pytest.raises(TargetUnavailable) as away:
            attempt()
        assert away.value.retryable and "hush" not in str(away.value)


def test_a_missing_database_is_target_missing(
    bench: Workbench, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    with pytest.raises(TargetMissing):
        bench.back_up(fresh_database(postgres15_url, create=False))


@pytest.mark.parametrize("url", ["postgresql://u:a/b@h/d", "postgresql://u:a@b@h/d", "postgresql://u:a?b@h/d"])
def test_a_password_that_is_not_encoded_is_refused_unseen(bench: Workbench, url: str) -> None:
    with pytest.raises(InvalidTarget) as refused:
        bench.target(url)
    assert "a/b" not in str(refused.value) and "b@h" not in str(refused.value)


def without(*majors: int) -> Clients:
    """All installed clients but those of some versions."""
    gone = {client.folder for client in Clients.installed().all() if client.major in majors}
    return Clients(lambda: [folder for folder in default_folders(None) if folder not in gone])


def test_a_server_newer_than_every_client_is_refused_with_the_reason(
    bench: Workbench, postgres18_url: str, fresh_database: FreshDatabase
) -> None:
    old = Workbench(bench.folder, PostgresEngine(clients=without(18)))
    url = fresh_database(postgres18_url)
    with pytest.raises(NoFittingClient) as refused:
        old.back_up(url)
    assert "PostgreSQL 18" in refused.value.message and "17.10" in refused.value.message
    assert "postgresql-client-18" in refused.value.hint
    report = old.engine.check(old.target(url), old.run())
    assert report.reachable and not report.client_tools["compatible"]
    assert report.problem is not None and report.problem["code"] == "no_fitting_client"
    assert old.stored() == []


def test_a_client_newer_than_the_server_dumps_what_that_server_takes_back(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    newer = Workbench(bench.folder, PostgresEngine(clients=without(15)))
    artefact = newer.back_up(shop15)
    assert artefact.manifest.tool == {"name": "pg_dump", "version": "17.10"}
    before = facts(shop15)
    for create in (True, False):
        target = fresh_database(postgres15_url, create=create)
        newer.restore(artefact, target)
        assert facts(target) == before
    assert all(item.ok for item in newer.engine.rehearse(artefact, newer.target(shop15), newer.run()))


def test_an_archive_too_new_for_every_client_is_refused(bench: Workbench, shop15: str) -> None:
    artefact = Workbench(bench.folder, PostgresEngine(clients=without(15))).back_up(shop15)
    old = Workbench(bench.folder, PostgresEngine(clients=without(17, 18)))
    with pytest.raises(VerificationImpossible):
        old.engine.parse(artefact, old.run())
    with pytest.raises(NoFittingClient):
        old.restore(artefact, shop15, mode="replace")
    assert facts(shop15)


def fake_tools(folder: Path, real: Path, name: str, script: str) -> Clients:
    """A folder of client programs, one of them a script that may call the real one as $REAL."""
    folder.mkdir()
    for program in ("pg_dump", "pg_restore", "pg_dumpall", "psql"):
        (folder / program).symlink_to(real / program)
    (folder / name).unlink()
    (folder / name).write_text(
        f'#!/bin/sh\nREAL={real / name}\ncase "$1" in --version) exec $REAL --version;; esac\n{script}\n'
    )
    (folder / name).chmod(0o755)
    return Clients(lambda: [folder])


@pytest.fixture
def real15() -> Path:
    return Clients.installed().for_dump(15, tls=False).folder


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_pg_dump_that_exits_1_after_all_its_output_fails_the_backup(
    bench: Workbench, shop15: str, tmp_path: Path, real15: Path, jobs: int
) -> None:
    clients = fake_tools(tmp_path / "tools", real15, "pg_dump", '$REAL "$@"; echo "something broke" >&2; exit 1')
    broken = Workbench(bench.folder, PostgresEngine(clients=clients))
    with pytest.raises(ToolFailed, match="something broke") as failed:
        broken.back_up(shop15, jobs=jobs)
    assert failed.value.details["exit_code"] == 1
    assert broken.stored() == []


def test_a_pg_dump_that_dies_halfway_fails_the_backup_and_ends_its_count(
    bench: Workbench, shop15: str, tmp_path: Path, real15: Path
) -> None:
    clients = fake_tools(tmp_path / "tools", real15, "pg_dump", '$REAL "$@" | head -c 5000; kill -9 $$')
    broken = Workbench(bench.folder, PostgresEngine(clients=clients))
    run = broken.run()
    with pytest.raises(ToolFailed, match="SIGKILL"):
        broken.back_up(shop15, run)
    assert broken.stored() == []
    eventually(lambda: not sessions(shop15, run))


def test_no_secret_is_on_any_command_line(
    bench: Workbench, postgres18_url: str, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    url = fresh_database(postgres18_url)
    real = Clients.installed().for_dump(18, tls=False).folder
    seen = tmp_path / "seen"
    clients = fake_tools(tmp_path / "tools", real, "pg_dump", f'echo "$@" >> {seen}; exec $REAL "$@"')
    Workbench(bench.folder, PostgresEngine(clients=clients)).back_up(url)
    password = urlsplit(url).password
    assert password and password not in seen.read_text() and "application_name=flexdb/" in seen.read_text()


def test_a_cancel_while_pg_dump_waits_leaves_no_session_and_no_file(bench: Workbench, shop15: str) -> None:
    run = bench.run()
    with closing(psycopg2.connect(shop15)) as other, other.cursor() as cursor:
        cursor.execute("CREATE TABLE later (a int)")
        other.commit()
        cursor.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        failure: list[BaseException] = []

        def back_up() -> None:
            try:
                bench.back_up(shop15, run, counts="none")
            except FlexError as error:
                failure.append(error)

        thread = threading.Thread(target=back_up)
        thread.start()
        waiting = (
            f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{run.application_name}'"
            " AND wait_event_type = 'Lock'"
        )
        eventually(lambda: bool(sql(shop15, waiting)))
        run.stop.request(StopReason.CANCEL)
        thread.join(10)
    assert len(failure) == 1 and isinstance(failure[0], Stopped)
    eventually(lambda: not sessions(shop15, run))
    assert bench.stored() == []


def test_a_cancel_ends_the_count_that_runs_beside_the_dump(bench: Workbench, shop15: str) -> None:
    run = bench.run()
    sql(shop15, "CREATE TABLE many_rows AS SELECT generate_series(1, 3000000) AS a")

    def cancel(_: Progress) -> None:
        run.stop.request(StopReason.CANCEL)

    run.listener = cancel
    with pytest.raises(Stopped):
        bench.back_up(shop15, run)
    assert not [thread for thread in threading.enumerate() if thread.name == "count rows"]
    eventually(lambda: not sessions(shop15, run))
    assert bench.stored() == []


def test_a_cancel_that_comes_between_two_statements_ends_the_next_one(bench: Workbench, shop15: str) -> None:
    run = bench.run()
    address, began = Address.of(bench.target(shop15)), time.monotonic()
    with pytest.raises(Stopped), session(address, "late cancel", stop=run.stop) as opened:  # noqa: PT012  a moment between
        run.stop.request(StopReason.CANCEL)
        began = time.monotonic()
        while time.monotonic() - began < 0.1:  # nothing runs: a cancel sent now finds nothing
            pass
        with opened.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(50)")
    assert time.monotonic() - began < 40  # far from the time limit of the statement


def test_a_failed_dump_does_not_wait_for_its_count(bench: Workbench, shop15: str) -> None:
    run = bench.run()
    address = Address.parse(shop15)
    with session(address, "test") as opened:
        found = relations(opened)

    def fail_beside_a_count() -> None:
        with snapshot(address, run) as moment, counting(moment, found):
            eventually(lambda: bool(sql(shop15, "SELECT 1 FROM pg_locks WHERE NOT granted")))
            raise ToolFailed("pg_dump broke")

    with closing(psycopg2.connect(shop15)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(ToolFailed, match="pg_dump broke"):
            fail_beside_a_count()
        assert time.monotonic() - began < 20, "it waited for the lock to time out"


def test_every_counted_table_is_held_before_pg_dump_begins(
    bench: Workbench, shop15: str, tmp_path: Path, real15: Path
) -> None:
    """Later an ALTER could be waiting for pg_dump, and the count behind it: nobody would ever move on."""
    sql(shop15, "CREATE TABLE a_big AS SELECT generate_series(1, 2000000) AS a")
    sql(shop15, "DO $$ BEGIN FOR n IN 1..60 LOOP EXECUTE format('CREATE TABLE b_%s (a int)', n); END LOOP; END $$")
    seen = tmp_path / "seen"
    asked = "SELECT mode FROM pg_locks WHERE relation = (SELECT oid FROM pg_class WHERE relname = 'settings_as_rows')"
    script = f'{real15}/psql -AtX -d "{shop15}" -c "{asked}" > {seen}; exec $REAL "$@"'
    clients = fake_tools(tmp_path / "tools", real15, "pg_dump", script)
    Workbench(bench.folder, PostgresEngine(clients=clients)).back_up(shop15)
    assert seen.read_text().strip() == "AccessShareLock"


def test_a_table_altered_while_it_is_dumped_is_dumped_as_it_was(bench: Workbench, shop15: str) -> None:
    run = bench.run()
    altering: list[threading.Thread] = []

    def alter(_: Progress) -> None:
        if not altering:
            altering.append(threading.Thread(target=sql, args=(shop15, "ALTER TABLE customers ADD COLUMN x int")))
            altering[0].start()
            eventually(lambda: bool(sql(shop15, "SELECT 1 FROM pg_locks WHERE NOT granted")))

    run.listener = alter
    sql(shop15, "INSERT INTO nothing_in_it SELECT g, repeat('x', 200) FROM generate_series(1, 100000) g")
    artefact = bench.back_up(shop15, run)
    altering[0].join(10)
    assert not altering[0].is_alive()
    counts = {item.name: item.rows for item in artefact.manifest.objects if item.rows is not None}
    assert counts == ROWS | {"public.nothing_in_it": 100000}


def test_sessions_of_an_older_attempt_are_ended_and_others_left(bench: Workbench, shop15: str) -> None:
    def connect(name: str) -> Any:
        return psycopg2.connect(shop15, application_name=name)

    bench.runs = 6
    run = bench.run()
    older = connect(f"flexdb/{run.job_id}/6")
    others = [connect(f"flexdb/{run.job_id}/8"), connect(f"flexdb/{run.job_id}x/1"), connect("somebody")]
    try:
        bench.engine.end_older_sessions(bench.target(shop15), run)
        with pytest.raises(psycopg2.OperationalError), older.cursor() as cursor:
            cursor.execute("SELECT 1")
        for other in others:
            with other.cursor() as cursor:
                cursor.execute("SELECT 1")
    finally:
        for connection in (older, *others):
            connection.close()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damage_is_found_before_the_target_is_touched(
    bench: Workbench,
    shop15: str,
    postgres15_url: str,
    fresh_database: FreshDatabase,
    jobs: int,
    compression: str,
    damage: str,
) -> None:
    artefact = bench.back_up(shop15, jobs=jobs, compression=compression)
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-1]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for attempt in (
        lambda: bench.engine.parse(artefact, bench.run()),
        lambda: bench.engine.rehearse(artefact, bench.target(shop15), bench.run()),
        lambda: bench.restore(artefact, fresh_database(postgres15_url, create=False)),
        lambda: bench.restore(artefact, shop15, mode="replace"),
    ):
        with pytest.raises(ArtefactDamaged) as damaged:
            attempt()
        assert any(not item["ok"] for item in damaged.value.details["evidence"])
    assert len(facts(shop15)) == 9
    assert databases_of_ours(postgres15_url, bench.job_id) == []


def test_a_backup_that_was_broken_when_it_was_stored_is_damage_too(bench: Workbench, shop15: str) -> None:
    """Digests of the broken bytes are right: only reading it with pg_restore tells."""
    artefact = bench.back_up(shop15, compression="none")
    file = artefact.manifest.files[0]
    path = artefact.stored_path(file)
    assert path is not None
    broken = _with_contents(artefact, path, path.read_bytes()[:-200])
    with pytest.raises(ArtefactDamaged, match="pg_restore cannot read"):
        bench.engine.parse(broken, bench.run())


def _with_contents(artefact: Artefact, path: Path, data: bytes) -> Artefact:
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    size = {"bytes": len(data), "raw_bytes": len(data), "sha256": digest, "raw_sha256": digest}
    files = (artefact.manifest.files[0].model_copy(update=size),)
    return Artefact(artefact.store, artefact.folder, artefact.manifest.model_copy(update={"files": files}))


@pytest.mark.parametrize("mode", ["absent", "empty", "replace"])
def test_a_restore_that_fails_leaves_the_target_as_it_was(
    bench: Workbench, server: str, fresh_database: FreshDatabase, mode: str
) -> None:
    origin = fresh_database(server)
    sql(origin, DAMAGED)
    artefact = bench.back_up(origin)
    target = fresh_database(server, create=mode != "absent")
    name = bench.target(target).database
    if mode == "replace":
        sql(target, "CREATE TABLE mine AS SELECT 7 AS a")
    with pytest.raises(ToolFailed, match="violate"):
        bench.restore(artefact, target, mode="replace" if mode == "replace" else "create")
    there = bool(sql(server, f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))
    assert there == (mode != "absent")
    if mode == "empty":
        assert sql(target, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]
    if mode == "replace":
        assert sql(target, "SELECT a FROM mine") == [(7,)]
    assert databases_of_ours(server, bench.job_id) == []
    with pytest.raises(ArtefactDamaged):
        bench.engine.rehearse(artefact, bench.target(origin), bench.run())
    assert databases_of_ours(server, bench.job_id) == []


def test_a_second_run_of_a_restore_finds_its_work_done(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    """As after a crash between the naming of the new database and the job's end; another job is refused."""
    artefact = bench.back_up(shop15)
    target = fresh_database(postgres15_url, create=False)
    for _ in range(2):
        assert bench.restore(artefact, target).objects == artefact.manifest.objects
        assert bench.restore(artefact, shop15, mode="replace").objects == artefact.manifest.objects
    with pytest.raises(TargetNotEmpty):
        Workbench(bench.folder).restore(artefact, target)


def test_a_server_lost_during_the_dump_is_worth_another_try(bench: Workbench, shop15: str, real15: Path) -> None:
    """The backend of pg_dump is ended; the same happens when a server restarts."""
    run = bench.run()
    ended: list[Any] = []

    def end_backend(_: Progress) -> None:
        if not ended:
            ended.extend(
                sql(
                    shop15,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    f" WHERE application_name = '{run.application_name}'",
                )
            )

    run.listener = end_backend
    sql(shop15, "INSERT INTO nothing_in_it SELECT g, repeat('x', 200) FROM generate_series(1, 100000) g")
    with pytest.raises(TargetUnavailable) as lost:
        bench.back_up(shop15, run, counts="none")
    assert lost.value.retryable and ended and bench.stored() == []


def test_replace_ends_sessions_and_keeps_what_belongs_to_the_database(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop)
    target = fresh_database(server)
    name = bench.target(target).database
    sql(server, "DROP ROLE IF EXISTS flexdbtest_owner")
    sql(server, "CREATE ROLE flexdbtest_owner")
    try:
        for statement in (
            f"ALTER DATABASE {name} OWNER TO flexdbtest_owner",
            f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
            f"ALTER DATABASE {name} SET search_path TO public, pg_catalog",
            f"ALTER DATABASE {name} SET statement_timeout TO '77s'",
            f"ALTER DATABASE {name} CONNECTION LIMIT 55",
            f"COMMENT ON DATABASE {name} IS 'mine; ''quoted'''",
        ):
            sql(server, statement)
        asked = (
            "SELECT pg_get_userbyid(datdba), ARRAY(SELECT unnest(datacl)::text ORDER BY 1), datconnlimit,"
            " shobj_description(oid, 'pg_database'),"
            f" (SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = d.oid)"
            f" FROM pg_database d WHERE datname = '{name}'"
        )
        before = sql(server, asked)
        with closing(psycopg2.connect(target)) as idle:
            restored = bench.restore(artefact, target, mode="replace")
            with pytest.raises(psycopg2.OperationalError), idle.cursor() as cursor:
                cursor.execute("SELECT 1")
        assert sql(server, asked) == before
        assert restored.notes == ()
        assert {item.name: item.rows for item in restored.objects if item.rows is not None} == ROWS
        assert databases_of_ours(server, bench.job_id) == []
    finally:
        sql(server, f"ALTER DATABASE {name} OWNER TO postgres")
        sql(server, "DROP ROLE flexdbtest_owner")


def test_roles_missing_in_the_target_leave_out_owners_and_say_so(
    bench: Workbench, postgres15_url: str, postgres18_url: str, fresh_database: FreshDatabase
) -> None:
    origin = fresh_database(postgres18_url)
    sql(postgres18_url, "DROP ROLE IF EXISTS only_here")
    sql(postgres18_url, "CREATE ROLE only_here")
    try:
        sql(origin, "CREATE TABLE t (a int); ALTER TABLE t OWNER TO only_here")
        artefact = bench.back_up(origin)
        assert "only_here" in artefact.manifest.options["roles"]
        target = fresh_database(postgres15_url, create=False)
        restored = bench.restore(artefact, target)
        assert "only_here" in restored.notes[0]
        assert sql(target, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'") == [("postgres",)]
        kept = fresh_database(postgres18_url, create=False)
        assert bench.restore(artefact, kept).notes == ()
        assert sql(kept, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'") == [("only_here",)]
    finally:
        for url in (origin, *([kept] if "kept" in locals() else [])):
            sql(url, "DROP TABLE IF EXISTS t")
        sql(postgres18_url, "DROP ROLE only_here")


def test_without_createdb_replace_is_refused_and_an_empty_database_still_filled(
    bench: Workbench, postgres18_url: str, fresh_database: FreshDatabase
) -> None:
    origin = fresh_database(postgres18_url)
    sql(origin, "CREATE TABLE t AS SELECT 1 AS a")
    artefact = bench.back_up(origin)
    target = fresh_database(postgres18_url)
    name = bench.target(target).database
    sql(postgres18_url, "DROP ROLE IF EXISTS modest")
    sql(postgres18_url, "CREATE ROLE modest LOGIN PASSWORD 'modest'")
    try:
        sql(postgres18_url, f"ALTER DATABASE {name} OWNER TO modest")
        theirs = changed(target, user="modest", password="modest")
        restored = bench.restore(artefact, theirs)
        assert "postgres" in restored.notes[0]
        with pytest.raises(AccessDenied, match="CREATEDB"):
            bench.restore(artefact, theirs, mode="replace")
        assert sql(theirs, "SELECT a FROM t") == [(1,)]
        with pytest.raises(AccessDenied):
            bench.back_up(changed(origin, user="modest", password="modest"))
    finally:
        sql(postgres18_url, f"ALTER DATABASE {name} OWNER TO postgres")
        sql(target, "REASSIGN OWNED BY modest TO postgres; DROP OWNED BY modest")
        sql(postgres18_url, "DROP ROLE modest")


def test_leftovers_go_but_the_only_copy_of_a_database_gets_its_name_back(
    bench: Workbench, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    dead, alive = f"dead{bench.job_id}", f"alive{bench.job_id}"
    lost = bench.target(fresh_database(postgres15_url, create=False)).database
    for name in (
        f"flexdb_scratch_{dead}",
        f"flexdb_new_{dead}",
        f"flexdb_old_{dead}",
        f"flexdb_old_{dead}2",
        f"flexdb_new_{alive}",
    ):
        fresh_database(postgres15_url, name)
    sql(postgres15_url, f"COMMENT ON DATABASE flexdb_old_{dead} IS 'flexdb: was postgres'")
    sql(postgres15_url, f"COMMENT ON DATABASE flexdb_old_{dead}2 IS 'flexdb: was {lost}'")
    gone = bench.engine.remove_leftovers(bench.target(postgres15_url), lambda job_id: job_id in {dead, dead + "2"})
    assert gone == sorted([f"flexdb_new_{dead}", f"flexdb_old_{dead}", f"flexdb_scratch_{dead}"])
    assert databases_of_ours(postgres15_url, alive) == [(f"flexdb_new_{alive}",)]
    assert databases_of_ours(postgres15_url, dead) == []
    assert sql(postgres15_url, f"SELECT 1 FROM pg_database WHERE datname = '{lost}'") == [(1,)]


def test_a_rehearsal_on_another_server_compares_and_cleans_up(
    bench: Workbench, shop15: str, postgres18_url: str
) -> None:
    artefact = bench.back_up(shop15)
    evidence = bench.engine.rehearse(artefact, bench.target(postgres18_url), bench.run())
    assert {item.object: item.found for item in evidence if item.check == "rows"} == ROWS
    assert databases_of_ours(postgres18_url, bench.job_id) == []
    wrong = tuple(
        item.model_copy(update={"rows": 999}) if item.name == "public.customers" else item
        for item in artefact.manifest.objects
    )
    lying = Artefact(artefact.store, artefact.folder, artefact.manifest.model_copy(update={"objects": wrong}))
    with pytest.raises(ArtefactDamaged, match="expected 999, found 1000"):
        bench.engine.rehearse(lying, bench.target(postgres18_url), bench.run())
    assert databases_of_ours(postgres18_url, bench.job_id) == []


def test_a_pattern_that_means_nothing_is_refused(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    for name in ("include", "exclude"):
        with pytest.raises(TargetMissing, match="custmers") as refused:
            bench.back_up(shop15, **{name: ("public.custmers",)})  # type: ignore[arg-type]  # options are open-ended
        assert not refused.value.retryable
    artefact = bench.back_up(shop15)
    absent = fresh_database(postgres15_url, create=False)
    with pytest.raises(TargetMissing, match="custmers"):
        bench.restore(artefact, absent, include=("custmers",))


def test_the_same_database_has_one_key_however_it_is_named(bench: Workbench) -> None:
    urls = [f"postgresql://u@{host}/shop" for host in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST:5432", "")]
    urls += [
        "postgres://other:pw@localhost/shop?sslmode=disable",
        "postgresql:///shop?host=/var/run/postgresql",
    ]
    assert len({bench.target(url).key for url in urls}) == 1
    assert bench.target("postgresql://h1:1,h2:2/shop").port is None
    assert bench.target("postgresql://localhost:5433/shop").key != bench.target("postgresql://localhost/shop").key


def test_a_url_that_needs_tls_never_gets_a_client_without_it(bench: Workbench) -> None:
    clients = Clients.installed()
    plain = [client for client in clients.all() if not client.speaks_tls]
    if not plain:
        pytest.skip("every installed client speaks TLS")
    only_plain = Clients(lambda: [client.folder for client in plain])
    with pytest.raises(NoFittingClient, match="without TLS"):
        only_plain.for_dump(15, tls=True)
    assert clients.for_dump(15, tls=True).speaks_tls


def test_a_server_without_tls_is_refused_when_the_url_asks_for_it(bench: Workbench, postgres18_url: str) -> None:
    report = bench.engine.check(bench.target(postgres18_url + "?sslmode=require"), bench.run())
    assert not report.reachable and report.problem is not None
    assert "SSL" in report.problem["message"]


def test_damage_is_found_before_a_streamed_restore_begins(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop15, compression="none")
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    tight = Workbench(bench.folder, PostgresEngine(free_bytes=lambda _: 0))
    stages: list[str] = []
    run = tight.run(listener=lambda progress: stages.append(progress.stage))
    with pytest.raises(ArtefactDamaged):
        tight.restore(artefact, fresh_database(postgres15_url), run)
    assert stages == ["checking"]

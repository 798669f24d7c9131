"""What goes into a backup comes out of it, on one server, between versions, and by hand."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from engines.errors import StorageFull, TargetNotEmpty
from engines.postgres import PostgresEngine
from engines.postgres.clients import Clients
from tests.conftest import FreshDatabase
from tests.integration.postgres.workbench import ROWS, SAMPLE, Workbench, facts, sql

ODD = "a b\"; drop $x = 'y' ü"


@pytest.mark.parametrize("jobs", [1, 2])
def test_everything_comes_back_as_it_was(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase, jobs: int
) -> None:
    artefact = bench.back_up(shop, jobs=jobs)
    assert {item.name: item.rows for item in artefact.manifest.objects if item.rows is not None} == ROWS
    kinds = {item.name: item.kind for item in artefact.manifest.objects}
    assert kinds["public.events"] == "partitioned table" and kinds["public.many"] == "materialized view"
    before = facts(shop)
    absent = fresh_database(server, create=False)
    restored = bench.restore(artefact, absent)
    assert facts(absent) == before
    assert restored.objects == artefact.manifest.objects and restored.notes == ()
    empty = fresh_database(server)
    assert bench.restore(artefact, empty).objects == artefact.manifest.objects
    assert facts(empty) == before
    assert all(item.ok for item in bench.engine.parse(artefact, bench.run()))
    evidence = bench.engine.rehearse(artefact, bench.target(shop), bench.run())
    assert {item.object: item.found for item in evidence if item.check == "rows"} == ROWS


@pytest.mark.parametrize(("source", "into"), [("15", "18"), ("18", "15")])
@pytest.mark.parametrize("create", [True, False])
def test_a_backup_goes_to_another_version(
    bench: Workbench,
    request: pytest.FixtureRequest,
    fresh_database: FreshDatabase,
    source: str,
    into: str,
    create: bool,
) -> None:
    origin = fresh_database(request.getfixturevalue(f"postgres{source}_url"))
    sql(origin, SAMPLE)
    artefact = bench.back_up(origin)
    before = facts(origin)
    target = fresh_database(request.getfixturevalue(f"postgres{into}_url"), create=create)
    restored = bench.restore(artefact, target)
    assert facts(target) == before
    assert restored.objects == artefact.manifest.objects


def test_a_database_with_an_odd_name(bench: Workbench, server: str, fresh_database: FreshDatabase) -> None:
    url = fresh_database(server, ODD)
    sql(url, "CREATE TABLE t AS SELECT 1 AS a")
    artefact = bench.back_up(url, globals=True)
    bench.engine.parse(artefact, bench.run())
    copy = fresh_database(server, ODD + " copy", create=False)
    assert bench.engine.into(bench.target(url), ODD + " copy").key == bench.target(copy).key
    bench.restore(artefact, copy)
    assert sql(copy, "SELECT a FROM t") == [(1,)]


def test_an_empty_database(bench: Workbench, server: str, fresh_database: FreshDatabase) -> None:
    artefact = bench.back_up(fresh_database(server))
    assert artefact.manifest.objects == ()
    assert bench.restore(artefact, fresh_database(server, create=False)).objects == ()
    assert bench.engine.rehearse(artefact, bench.target(server), bench.run()) == ()


def test_globals_are_a_second_file_that_is_verified_too(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop, globals=True)
    file = artefact.file("pg_dumpall-sql")
    script = artefact.stage(file, bench.folder, bench.run()).read_text()
    assert "CREATE ROLE postgres" in script
    assert file.name in {item.object for item in bench.engine.parse(artefact, bench.run())}


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_commands_of_the_manifest_restore_without_flexdb(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase, jobs: int, compression: str
) -> None:
    artefact = bench.back_up(shop, jobs=jobs, compression=compression)
    target = fresh_database(server, create=False)
    folder = bench.store.root / artefact.folder
    major = int(artefact.manifest.server_version.split(".")[0])
    tools = Clients.installed().for_dump(major, tls=False).folder
    run_by_hand(artefact.manifest.restore_by_hand, target, folder, tools)
    assert facts(target) == facts(shop)


@pytest.mark.parametrize("include", ["public.*", "settings_as_rows", "*nothing*"])
def test_the_commands_for_a_part_restore_that_part(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase, include: str
) -> None:
    artefact = bench.back_up(shop15, include=(include,))
    target = fresh_database(postgres15_url, create=False)
    tools = Clients.installed().for_dump(15, tls=False).folder
    run_by_hand(artefact.manifest.restore_by_hand, target, bench.store.root / artefact.folder, tools)
    counted = {item.name: item.rows for item in artefact.manifest.objects if item.rows is not None}
    assert counted
    for name, rows in counted.items():
        assert sql(target, f"SELECT count(*) FROM ONLY {name}") == [(rows,)]


def run_by_hand(lines: tuple[str, ...], url: str, folder: Path, tools: Path) -> None:
    parts = urlsplit(url)
    database = unquote(parts.path[1:])
    values = {
        "HOST": parts.hostname,
        "PORT": str(parts.port or 5432),
        "USER": parts.username,
        "DATABASE": database,
    }
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PGPASSWORD": unquote(parts.password or ""),
        "LC_ALL": "C",
    }
    for line in lines:
        for name, value in values.items():
            line = line.replace(f"={name}", f"={value}").replace(f" {name}", f" {value}")
        ended = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, (line, ended.stderr)
        assert shlex.split(line)


def test_without_room_to_unpack_the_archive_is_streamed(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop)
    tight = Workbench(bench.folder, PostgresEngine(free_bytes=lambda _: 0), bench.job_id, bench.runs)
    before = facts(shop)
    for url in (fresh_database(server, create=False), fresh_database(server)):
        assert tight.restore(artefact, url).objects == artefact.manifest.objects
        assert facts(url) == before
    assert tight.engine.rehearse(artefact, tight.target(shop), tight.run())


def test_a_parallel_dump_without_room_is_refused_before_it_begins(bench: Workbench, shop15: str) -> None:
    tight = Workbench(bench.folder, PostgresEngine(free_bytes=lambda _: 0))
    with pytest.raises(StorageFull, match="staged first"):
        tight.back_up(shop15, jobs=2)
    assert tight.stored() == []
    artefact = bench.back_up(shop15, jobs=2)
    with pytest.raises(StorageFull, match="unpacked before"):
        tight.restore(artefact, shop15, mode="replace")
    assert len(facts(shop15)) == 9


def test_patterns_choose_what_is_dumped(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    def names(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> set[str]:
        artefact = bench.back_up(shop15, include=include, exclude=exclude)
        target = fresh_database(postgres15_url, create=False)
        restored = bench.restore(artefact, target)
        assert restored.objects == artefact.manifest.objects
        return {item.name.removeprefix("public.") for item in restored.objects if "table" in item.kind}

    everything = {name.removeprefix("public.") for name in ROWS if name != "pg_largeobject"} | {"events"}
    odd = 'odd "schema.Tab le; drop $1 *'
    assert names(include=("public.events",)) == {"events", "events_2025", "events_2026"}
    assert names(include=("par*", "child", "public.nothing_in_it")) == {"parent", "child", "nothing_in_it"}
    assert names(include=("public.*",)) == everything - {odd}
    assert names(exclude=("odd*.*", "events_2025", "settings_as_rows")) == everything - {
        odd,
        "events_2025",
        "settings_as_rows",
    }
    assert names(include=("public.*",), exclude=("event*", "names")) == everything - {
        *(odd, "events", "events_2025", "events_2026"),
    }


def test_a_table_with_an_odd_name_is_chosen_by_that_name(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    """Its schema is not in such a dump: the restore makes it. Its foreign key needs the other table."""
    sql(shop15, 'ALTER TABLE "odd ""schema"."Tab le; drop $1 *" DROP COLUMN customer')
    artefact = bench.back_up(shop15, include=('odd "schema.Tab le; drop $1 *',))
    for create in (True, False):
        target = fresh_database(postgres15_url, create=create)
        bench.restore(artefact, target)
        assert sql(target, 'SELECT count(*) FROM "odd ""schema"."Tab le; drop $1 *"') == [(500,)]


def test_a_restore_takes_chosen_tables_with_what_belongs_to_them(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop)
    target = fresh_database(server, create=False)
    restored = bench.restore(artefact, target, include=("customers", "events"))
    assert {item.name: item.rows for item in restored.objects if item.rows is not None} == {
        "public.customers": 1000,
        "public.events_2025": 365,
        "public.events_2026": 335,
    }
    assert sql(target, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(1,)]
    assert sql(target, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'") == [(4,)]
    sql(target, "INSERT INTO customers (name) VALUES ('next')")
    assert sql(target, "SELECT max(id) FROM customers") == [(1001,)]


def test_an_existing_database_with_objects_is_left_alone(bench: Workbench, shop15: str) -> None:
    artefact = bench.back_up(shop15)
    before = facts(shop15)
    with pytest.raises(TargetNotEmpty):
        bench.restore(artefact, shop15)
    assert [now[:1] for now in facts(shop15)[:4]] == [then[:1] for then in before[:4]]


def test_encoding_and_sorting_of_the_database_are_kept(
    bench: Workbench, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    url = fresh_database(postgres15_url, create=False)
    name = urlsplit(url).path[1:]
    sql(
        postgres15_url,
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
    )
    sql(url, "CREATE TABLE t AS SELECT 'é'::text AS a")
    target = fresh_database(postgres15_url, create=False)
    bench.restore(bench.back_up(url), target)
    asked = "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = current_database()"
    assert sql(target, asked) == [("LATIN1", "C")]
    assert sql(target, "SELECT a FROM t") == [("é",)]

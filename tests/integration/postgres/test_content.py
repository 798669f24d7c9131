"""Definitions without rows, rows without definitions, and every database of a server."""

from __future__ import annotations

import pytest

from engines.base import BackupOptions
from engines.errors import TargetMissing, TargetNotEmpty, UnsupportedOperation, VerificationImpossible
from tests.conftest import FreshDatabase
from tests.integration.postgres.test_round_trip import run_by_hand
from tests.integration.postgres.workbench import (
    ROWS,
    Workbench,
    dumped,
    facts,
    row_hashes,
    schema_text,
    sequence_values,
    sql,
)


@pytest.mark.parametrize("jobs", [1, 2])
def test_definitions_come_back_without_rows_and_are_proven(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase, jobs: int
) -> None:
    artefact = bench.back_up(shop, content="schema", jobs=jobs)
    tables = {item.name: item.rows for item in artefact.manifest.objects if item.kind == "table"}
    assert tables == dict.fromkeys(set(ROWS) - {"pg_largeobject"}, 0)
    bench.prove(artefact, shop)
    target = fresh_database(server, create=False)
    assert bench.restore(artefact, target).objects == artefact.manifest.objects
    assert schema_text(target) == schema_text(shop)
    assert sql(target, "SELECT count(*) FROM pg_largeobject_metadata") == [(0,)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_rows_go_into_the_tables_that_are_there(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase, jobs: int
) -> None:
    schema, data = bench.back_up(shop, content="schema"), bench.back_up(shop, content="data", jobs=jobs)
    assert {item.name: item.rows for item in data.manifest.objects if item.rows is not None} == ROWS
    assert not [item for item in data.manifest.objects if "view" in item.kind]
    bench.engine.parse(data, bench.run())
    target = fresh_database(server, create=False)
    bench.restore(schema, target)
    restored = bench.restore(data, target)
    assert {item.name: item.rows for item in restored.objects if item.rows is not None} == ROWS
    assert restored.notes == ("To be filled with REFRESH MATERIALIZED VIEW: public.many.",)
    sql(target, "REFRESH MATERIALIZED VIEW many")
    assert row_hashes(target) == row_hashes(shop) and sequence_values(target) == sequence_values(shop)
    assert facts(target) == facts(shop)


def test_rows_are_never_put_beside_rows(bench: Workbench, shop15: str) -> None:
    data = bench.back_up(shop15, content="data")
    before = facts(shop15)[:4]
    with pytest.raises(TargetNotEmpty) as refused:
        bench.restore(data, shop15)
    assert "TRUNCATE" in refused.value.hint and not refused.value.retryable
    assert facts(shop15)[:4] == before


def test_rows_without_a_place_are_refused(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    data = bench.back_up(shop15, content="data")
    with pytest.raises(TargetMissing, match="rows only"):
        bench.restore(data, fresh_database(postgres15_url, create=False))
    with pytest.raises(TargetMissing, match="no table"):
        bench.restore(data, fresh_database(postgres15_url))
    with pytest.raises(UnsupportedOperation):
        bench.restore(data, shop15, mode="replace")
    with pytest.raises(VerificationImpossible, match="no tables"):
        bench.engine.rehearse(data, bench.target(shop15), bench.run())


def test_rows_with_foreign_keys_in_a_circle_and_busy_triggers_come_back_as_they_were(
    bench: Workbench, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    origin, target = fresh_database(postgres15_url), fresh_database(postgres15_url)
    sql(
        origin,
        "CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);"
        "INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;"
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 1; RETURN NEW; END $$;"
        "CREATE TRIGGER m BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION more()",
    )
    before = row_hashes(origin)
    bench.restore(bench.back_up(origin, content="schema"), target)
    by_hand = [bench.adopt(dumped(origin, how, "--data-only")) for how in ("-Fp", "-Fc", "-Ft")]
    for artefact in (bench.back_up(origin, content="data"), *by_hand):
        assert artefact.manifest.options["content"] == "data"
        bench.restore(artefact, target)
        assert row_hashes(target) == before
        with pytest.raises(TargetNotEmpty):
            bench.restore(artefact, target)
        sql(target, "TRUNCATE a, b")


def test_rows_of_chosen_tables_bring_the_values_of_their_sequences(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    target = fresh_database(postgres15_url)
    bench.restore(bench.back_up(shop15, content="schema"), target)
    bench.restore(bench.back_up(shop15, content="data"), target, include=("customers",))
    assert sql(target, "SELECT count(*), (SELECT count(*) FROM events) FROM customers") == [(1000, 0)]
    sql(target, "INSERT INTO customers (name) VALUES ('next')")
    assert sql(target, "SELECT max(id) FROM customers") == [(1001,)]


def test_a_part_of_the_rows_is_dumped_too(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    data = bench.back_up(shop15, content="data", include=("events",))
    assert {item.name: item.rows for item in data.manifest.objects} == {
        "public.events_2025": 365,
        "public.events_2026": 335,
    }
    target = fresh_database(postgres15_url)
    bench.restore(bench.back_up(shop15, content="schema"), target)
    bench.restore(data, target)
    assert sql(target, "SELECT count(*), (SELECT count(*) FROM customers) FROM events") == [(700, 0)]


def test_the_commands_for_definitions_and_then_rows_restore_both(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    target = fresh_database(postgres15_url, create=False)
    tools = bench.clients.for_dump(15, tls=False).folder
    for content in ("schema", "data"):
        artefact = bench.back_up(shop15, content=content)
        folder = bench.store.root / artefact.folder
        run_by_hand(artefact.manifest.restore_by_hand, target, folder, tools)
    sql(target, "REFRESH MATERIALIZED VIEW many")
    assert facts(target) == facts(shop15)


@pytest.mark.parametrize("exclude", [(), ("odd*.*", "customers", "names", "many")])
def test_parallel_dumps_of_parts_keep_what_is_left(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase, exclude: tuple[str, ...]
) -> None:
    artefact = bench.back_up(shop, jobs=2, exclude=exclude)
    bench.prove(artefact, shop)
    target = fresh_database(server)
    assert bench.restore(artefact, target).objects == artefact.manifest.objects
    counted = {item.name: item.rows for item in artefact.manifest.objects if item.rows is not None}
    assert counted.items() <= ROWS.items() and counted["pg_largeobject"] == 1


def test_the_databases_of_a_server_are_the_users_own(
    bench: Workbench, server: str, fresh_database: FreshDatabase
) -> None:
    mine = [bench.target(fresh_database(server, name)).database for name in ('flexdbtest of "mine" ü', "flexdbtest_2")]
    fresh_database(server, f"flexdb_scratch_{bench.job_id}")
    closed = bench.target(fresh_database(server, "flexdbtest_closed")).database
    sql(server, f"ALTER DATABASE {closed} ALLOW_CONNECTIONS false")
    found = bench.engine.databases(bench.target(server), bench.run())
    assert {*mine, "postgres"} <= set(found)
    assert not {closed, "template0", "template1", f"flexdb_scratch_{bench.job_id}"} & set(found)
    for name in mine:
        assert bench.engine.into(bench.target(server), name).database == name


def test_every_content_is_accepted(bench: Workbench) -> None:
    for content in ("all", "schema", "data"):
        assert bench.engine.refuse_options(BackupOptions(content=content)) == {}

"""MySQL and MariaDB: what is backed up and restored is what was there, whatever it is called and made of."""

from __future__ import annotations

import os
import shutil
import subprocess
from urllib.parse import unquote, urlsplit

import pytest

from engines.base import Target
from engines.errors import TargetMissing, UnsupportedOperation, VerificationImpossible
from tests.integration.mysql.conftest import Fresh
from tests.integration.mysql.workbench import LONG, ODD, ROWS, Workbench, facts, quoted
from tests.mariadb import sql


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def scratch(bench: Workbench, url: str) -> Target:
    return bench.target(url)


def test_everything_comes_back_as_it_was(bench: Workbench, shop: str, fresh: Fresh) -> None:
    artefact = bench.back_up(shop)
    counted = {item.name: item.rows for item in artefact.manifest.objects if item.kind == "table"}
    assert counted == ROWS
    kinds = sorted((item.kind, item.name) for item in artefact.manifest.objects if item.kind != "table")
    assert kinds == [
        ("event", "nightly"),
        ("event", "off"),
        ("function", "twice"),
        ("procedure", "fill"),
        ("sequence", "numbers"),
        ("trigger", "after_customer"),
        ("view", "a_later_view"),
        ("view", "the_view"),
    ]
    before = facts(bench.url, name_of(shop))
    restored = fresh(create=False)
    bench.restore(artefact, restored)
    assert facts(bench.url, name_of(restored)) == before
    sql(restored, "INSERT INTO numbered (v) VALUES (9)", "INSERT INTO customers (id, name) VALUES (7, 'x')")
    assert sql(restored, "SELECT line FROM log") == [("new x",)]


def test_replacing_brings_everything_back_and_leaves_nothing_of_what_was_there(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop)
    before = facts(bench.url, name_of(shop))
    sql(
        shop,
        "DROP VIEW the_view",
        "DROP TRIGGER after_customer",
        "DELETE FROM events_by_year",
        "CREATE TABLE later (a int)",
        "CREATE TRIGGER on_later BEFORE INSERT ON later FOR EACH ROW SET NEW.a = 1",
        "CREATE VIEW later_view AS SELECT * FROM later",
        "CREATE PROCEDURE later_procedure() SELECT 1",
        "CREATE EVENT later_event ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    )
    done = bench.restore(artefact, shop, mode="replace")
    assert facts(bench.url, name_of(shop)) == before
    assert {item.name: item.rows for item in done.objects if item.kind == "table"} == ROWS
    assert sql(bench.url, f"SHOW DATABASES LIKE 'flexdb%{bench.job_id}%'", on="") == []


def test_every_level_of_proof_passes_for_everything(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop, globals=True)
    artefact.check(bench.run())
    evidence = bench.engine.parse(artefact, bench.run())
    assert {item.object for item in evidence if item.check == "rows"} == set(ROWS)
    evidence = bench.engine.rehearse(artefact, scratch(bench, shop), bench.run())
    assert all(item.ok for item in evidence)
    assert {item.object: item.found for item in evidence if item.check == "rows"} == ROWS
    same = {item.object for item in evidence if item.check == "content"}
    assert same == {item.name for item in artefact.manifest.objects}


def test_events_do_not_run_in_a_rehearsal_and_are_as_before_in_a_restore(
    bench: Workbench, shop: str, fresh: Fresh
) -> None:
    artefact = bench.back_up(shop)
    restored = fresh(create=False)
    bench.restore(artefact, restored)
    found = sql(
        restored, "SELECT event_name, status FROM information_schema.events WHERE event_schema = DATABASE() ORDER BY 1"
    )
    assert found == [("nightly", "ENABLED"), ("off", "DISABLED")]


def test_an_event_whose_last_day_has_come_is_no_damage(bench: Workbench, fresh: Fresh) -> None:
    """The server drops it by itself, where it was and where it is restored."""
    url = fresh()
    sql(
        url,
        "CREATE EVENT once ON SCHEDULE AT '2037-01-01 00:00:00' DO SELECT 1",
        "CREATE EVENT daily ON SCHEDULE EVERY 1 DAY STARTS '2020-01-01' ENDS '2037-01-01 00:00:00' DO SELECT 1",
    )
    artefact = bench.back_up(url)
    late = bench.altered(artefact, bench.script(artefact).replace(b"2037-", b"2021-"))
    bench.engine.parse(late, bench.run())
    bench.engine.rehearse(late, bench.target(url), bench.run())


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_commands_for_restoring_by_hand_restore(
    bench: Workbench, shop: str, fresh: Fresh, compression: str
) -> None:
    if compression == "zstd" and shutil.which("zstd") is None:
        pytest.skip("the program zstd is not installed")
    artefact, restored = bench.back_up(shop, compression=compression), fresh(create=False)
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    parts = urlsplit(bench.url)
    filled = {"HOST": parts.hostname, "PORT": parts.port or 3306, "USER": unquote(parts.username or "root")}
    for line in artefact.manifest.restore_by_hand:
        command = line.replace(" --password", "").replace("DATABASE", name_of(restored))
        for word, value in filled.items():
            command = command.replace(f"={word}", f"={value}")
        command = command.replace(f"CREATE {name_of(restored)}", "CREATE DATABASE")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=path.parent,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "MYSQL_PWD": unquote(parts.password or "")},
        )
        assert done.returncode == 0, done.stderr
    before = {**facts(bench.url, name_of(shop)), "BASE TABLE numbered": ""}  # names the database of its sequence
    assert {**facts(bench.url, name_of(restored)), "BASE TABLE numbered": ""} == before
    assert "the old name" in artefact.manifest.restore_by_hand[-1]


def test_chosen_tables_only_are_in_the_backup(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop, include=("customers", "circle_*", ODD), exclude=("circle_b",))
    names = {(item.kind, item.name) for item in artefact.manifest.objects}
    tables = {("table", "customers"), ("table", "circle_a"), ("table", ODD)}
    assert names == {*tables, ("trigger", "after_customer")}


def test_left_out_tables_are_not_in_the_backup(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop, exclude=("customers", ODD, "*view", LONG))
    names = {item.name for item in artefact.manifest.objects}
    assert names == (set(ROWS) - {"customers", ODD, LONG}) | {"numbers", "twice", "fill", "nightly", "off"}


def test_a_pattern_that_means_nothing_is_refused(bench: Workbench, shop: str) -> None:
    with pytest.raises(TargetMissing):
        bench.back_up(shop, include=("custmers",))
    with pytest.raises(TargetMissing):
        bench.restore(bench.back_up(shop), shop, include=("custmers",), mode="replace")


def test_chosen_tables_only_are_restored(bench: Workbench, shop: str, fresh: Fresh) -> None:
    artefact, restored = bench.back_up(shop), fresh(create=False)
    done = bench.restore(artefact, restored, include=("log", "customers", "numbers", "numbered"))
    tables = {item.name: item.rows for item in done.objects}
    assert tables == {"log": 0, "customers": 501, "numbers": None, "numbered": 1, "after_customer": None}
    assert len(sql(restored, "SHOW TABLES")) == 4


def test_definitions_without_rows(bench: Workbench, shop: str, fresh: Fresh) -> None:
    artefact, restored = bench.back_up(shop, content="schema"), fresh(create=False)
    assert all(item.rows is None for item in artefact.manifest.objects)
    bench.engine.parse(artefact, bench.run())
    bench.engine.rehearse(artefact, scratch(bench, shop), bench.run())
    bench.restore(artefact, restored)
    assert sql(restored, "SELECT COUNT(*) FROM customers") == [(0,)]
    assert sql(restored, "SELECT COUNT(*) FROM the_view") == [(0,)]


def test_rows_without_definitions_are_counted_and_restored_by_hand_only(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop, content="data")
    assert {item.name: item.rows for item in artefact.manifest.objects if item.kind == "table"} == ROWS
    assert b"CREATE TABLE" not in bench.script(artefact)
    bench.engine.parse(artefact, bench.run())
    with pytest.raises(VerificationImpossible):
        bench.engine.rehearse(artefact, scratch(bench, shop), bench.run())
    with pytest.raises(UnsupportedOperation):
        bench.restore(artefact, shop, mode="replace")


def test_users_and_grants_come_as_a_second_file_that_can_be_run(bench: Workbench, shop: str) -> None:
    user = f"u{bench.job_id[-8:]}"
    sql(bench.url, f"CREATE USER {user}@localhost IDENTIFIED BY 'it''s'", f"GRANT SELECT ON *.* TO {user}@localhost")
    try:
        artefact = bench.back_up(shop, globals=True)
        script = bench.script(artefact, 1).decode()
        sql(bench.url, f"DROP USER {user}@localhost")
        for line in script.splitlines():
            if user in line:
                sql(bench.url, line)
        assert "SELECT" in str(sql(bench.url, f"SHOW GRANTS FOR {user}@localhost"))
    finally:
        sql(bench.url, f"DROP USER IF EXISTS {user}@localhost")
    assert [file.name for file in artefact.manifest.files] == ["shop.sql.zst", "globals.sql.zst"]
    bench.engine.parse(artefact, bench.run())


def there_and_back(bench: Workbench, url: str, copy: str) -> None:
    before = facts(bench.url, name_of(url))
    artefact = bench.back_up(url)
    bench.engine.parse(artefact, bench.run())
    bench.engine.rehearse(artefact, bench.target(url), bench.run())
    bench.restore(artefact, copy)
    assert facts(bench.url, name_of(copy)) == before
    bench.restore(artefact, url, mode="replace")
    assert facts(bench.url, name_of(url)) == before


def test_a_table_whose_columns_all_take_from_a_sequence_comes_back(bench: Workbench, fresh: Fresh) -> None:
    """Its definition names the sequence's database several times; none of them can be changed alone."""
    url = fresh()
    sql(
        url,
        "CREATE SEQUENCE `s``q` START WITH 5 INCREMENT BY -3 MINVALUE -100 MAXVALUE 5 CACHE 3 CYCLE",
        "CREATE TABLE t (a int DEFAULT (NEXTVAL(`s``q`)), b int DEFAULT (NEXTVAL(`s``q`) + 1),"
        " c int DEFAULT (LASTVAL(`s``q`)))",
        "INSERT INTO t VALUES ()",
    )
    copy = fresh()
    there_and_back(bench, url, copy)
    sql(copy, "INSERT INTO t VALUES ()")
    assert len(sql(copy, "SELECT * FROM t")) == 2


def test_a_table_that_shows_the_rows_of_others_comes_back(bench: Workbench, fresh: Fresh) -> None:
    url = fresh()
    for name in ("one", "two"):
        sql(url, f"CREATE TABLE {name} (a int) ENGINE=MyISAM", f"INSERT INTO {name} VALUES (1)")
    sql(url, "CREATE TABLE both_ (a int) ENGINE=MERGE UNION=(one, two)")
    assert {item.name: item.rows for item in bench.back_up(url).manifest.objects} == {"one": 1, "two": 1, "both_": None}
    there_and_back(bench, url, fresh())


NAMES = (
    *("-- Dump completed", "*/", "/*!50000 x*/", "--help", "a\nb", "a\\b", "%", "x_%", " x", "a.b"),
    *("INSERT INTO `x`", ";", "ü" * 64),
)


def test_tables_named_as_parts_of_a_script_come_back(bench: Workbench, fresh: Fresh) -> None:
    url = fresh()
    for name in NAMES:
        sql(url, f"CREATE TABLE {quoted(name)} (a text)", f"INSERT INTO {quoted(name)} VALUES ('*/'), (NULL)")
    there_and_back(bench, url, fresh())


def test_an_empty_database_is_a_backup_too(bench: Workbench, fresh: Fresh) -> None:
    artefact, restored = bench.back_up(fresh()), fresh(create=False)
    assert artefact.manifest.objects == ()
    bench.engine.rehearse(artefact, scratch(bench, restored), bench.run())
    bench.restore(artefact, restored)
    assert sql(restored, "SHOW TABLES") == []


def test_charset_and_collation_of_the_database_come_back(bench: Workbench, fresh: Fresh) -> None:
    url, restored = fresh(), fresh(create=False)
    sql(url, f"ALTER DATABASE `{name_of(url)}` CHARACTER SET latin1 COLLATE latin1_german2_ci")
    sql(url, "CREATE TABLE t (a varchar(9))", "CREATE PROCEDURE p() SELECT 'ä€'")
    before = facts(bench.url, name_of(url))
    bench.restore(bench.back_up(url), restored)
    assert sql(restored, "SELECT @@collation_database") == [("latin1_german2_ci",)]
    assert facts(bench.url, name_of(restored)) == before


def test_two_databases_of_one_server_do_not_meet(bench: Workbench, shop: str, fresh: Fresh) -> None:
    fresh("flexdbtest öther $x")
    sql(bench.url, "CREATE TABLE `flexdbtest öther $x`.customers (a int)", on="")
    listed = bench.engine.databases(bench.target(shop), bench.run())
    assert {"flexdbtest öther $x", name_of(shop)} <= set(listed)
    assert not {"mysql", "sys", "information_schema"} & set(listed)
    artefact = bench.back_up(shop)
    first = bench.engine.into(bench.target(shop), "flexdbtest öther $x")
    assert bench.engine.inspect(first, bench.run()).tables[0].name == "customers"
    assert {item.name: item.rows for item in artefact.manifest.objects if item.kind == "table"} == ROWS


def test_the_manifest_says_which_tables_no_snapshot_holds(bench: Workbench, shop: str) -> None:
    sentence = bench.back_up(shop).manifest.consistency
    assert "stored_plainly (MyISAM)" in sentence
    assert "not their history" in sentence

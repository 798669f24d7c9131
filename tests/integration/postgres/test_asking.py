"""What users say must be true of a restored backup is asked of it, and of nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from engines.artefacts.reading import Artefact
from engines.assertions import Assertion
from engines.errors import AssertionFailed, FlexError, InvalidAssertion, Stopped, UnsupportedOperation
from engines.run import Run, StopReason
from tests.integration.postgres.workbench import Workbench, sql


def ask(bench: Workbench, artefact: Artefact, url: str, *assertions: Assertion, run: Run | None = None) -> list[object]:
    """The answers found, in order."""
    evidence = bench.engine.rehearse(artefact, bench.target(url), run or bench.run(), assertions)
    return [item.found for item in evidence if item.check == "assertion"]


def test_assertions_that_hold_are_evidence(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop)
    sql(shop, "DELETE FROM settings_as_rows")  # the backup is asked, not the original
    answers = ask(
        bench,
        artefact,
        shop,
        Assertion("count", sql="SELECT count(*) FROM customers", equals=1000),
        Assertion("the backup's own", sql="SELECT count(*) FROM settings_as_rows -- three;", at_least=3, at_most=3),
        Assertion("sum", sql="SELECT sum(id) FROM customers;", equals=500500),
        Assertion("text", sql="SELECT name FROM customers ORDER BY id", equals="name 1"),
        Assertion("decimal", sql="SELECT 1.50::numeric", equals="1.50"),
        Assertion("date", sql="SELECT max(at) FROM events", equals="2026-12-01"),
        Assertion("truth", sql="SELECT count(*) > 5 FROM customers", equals=1),
        Assertion("percent", sql="SELECT count(*) FROM customers WHERE name LIKE 'name 9%'", equals=111),
        Assertion("names in texts", sql="SELECT count(*) FROM settings_as_rows WHERE line <> 'pg_ls_dir(1)'", equals=3),
        Assertion("union", sql="SELECT 1 WHERE false UNION ALL (VALUES (7));", equals=7),
        Assertion("join", sql="SELECT count(*) FROM customers c JOIN names n USING (name)", equals=1000),
        Assertion("function", sql="WITH x AS (SELECT ';' AS a) SELECT a FROM x", equals=";"),
    )
    assert answers == [1000, 3, "500500", "name 1", "1.50", "2026-12-01", 1, 111, 3, 7, 1000, ";"]


def test_assertions_that_do_not_hold_fail_after_all_were_asked(bench: Workbench, shop15: str) -> None:
    artefact = bench.back_up(shop15)
    with pytest.raises(AssertionFailed) as failed:
        ask(
            bench,
            artefact,
            shop15,
            Assertion("wrong", sql="SELECT count(*) FROM customers", at_least=1001),
            Assertion("right", sql="SELECT 1", equals=1),
            Assertion("none", sql="SELECT 1 WHERE false", equals=1),
            Assertion("null", sql="SELECT NULL", at_least=0),
        )
    seen = {item["object"]: (item["ok"], item.get("found")) for item in failed.value.details["evidence"]}
    assert seen == {"wrong": (False, 1000), "right": (True, 1), "none": (False, None), "null": (False, None)}
    assert sql(shop15, f"SELECT 1 FROM pg_database WHERE datname ~ 'flexdb_.*{bench.job_id}'") == []


BAD = {
    "a typing error": "SELEC 1",
    "a table that is not there": "SELECT count(*) FROM setings",
    "a division by zero": "SELECT 1 / 0",
    "a write": "DELETE FROM settings_as_rows",
    "a write in a query": "WITH gone AS (DELETE FROM settings_as_rows RETURNING 1) SELECT count(*) FROM gone",
    "a write by a function": "SELECT nextval('lonely')",
    "a second statement": "SELECT 1; DROP TABLE settings_as_rows",
    "leaving the transaction": "SELECT 1; COMMIT; CREATE ROLE flexdbtest_evil",
    "a write by another function": "SELECT setval('lonely', 7)",
    "a lock for a write": "SELECT * FROM settings_as_rows FOR UPDATE",
    "a table": "SELECT 1 INTO made",
    "other sessions": "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'x'",
    "the same in quotes": """SELECT pg_catalog."pg_cancel_backend" (0)""",
    "the same in escapes": """SELECT U&"pg_cancel\\005fbackend"(0)""",
    "a remark between": "SELECT pg_cancel_backend/* */(0)",
    "the server's settings": "SELECT pg_reload_conf()",
    "a file of the server": "SELECT length(pg_read_file('PG_VERSION'))",
    "a folder of the server": "SELECT count(*) FROM pg_ls_dir('.')",
    "a file that is written": "SELECT lo_export(1, '/tmp/flexdb-was-here')",
    "a file that is taken": "SELECT lo_import('/etc/hostname')",
    "another role": "SELECT set_config('role', 'postgres', false)",
    "another server": "SELECT * FROM dblink('dbname=postgres', 'SELECT 1') AS t(a int)",
    "a query in a text": "SELECT query_to_xml('SELECT 1', true, true, '')",
    "a question within a remark's end": "SELECT 1 --\r; DROP TABLE settings_as_rows",
    "a setting": "SET work_mem = '1GB'",
    "the server's configuration": "ALTER SYSTEM SET work_mem = '1GB'",
    "a role": "CREATE ROLE flexdbtest_evil",
    "a block": "DO $$ BEGIN END $$",
    "a procedure": "CALL done()",
    "a program": "COPY (SELECT 1) TO PROGRAM 'touch /tmp/flexdb-was-here'",
    "a psql command": "\\! true",
    "half a text": "SELECT 'abc",
    "nothing": "-- only a comment",
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_query_is_an_invalid_assertion(bench: Workbench, shop15: str, what: str) -> None:
    artefact = bench.back_up(shop15, include=("settings_as_rows", "lonely"))
    with pytest.raises(InvalidAssertion) as refused:
        ask(bench, artefact, shop15, Assertion(what, sql=BAD[what], equals=1))
    assert what in refused.value.message
    assert not Path("/tmp/flexdb-was-here").exists()
    assert sql(shop15, "SELECT count(*) FROM pg_roles WHERE rolname = 'flexdbtest_evil'") == [(0,)]
    assert sql(shop15, f"SELECT 1 FROM pg_database WHERE datname ~ 'flexdb_.*{bench.job_id}'") == []


def test_a_question_about_documents_is_not_for_this_engine(bench: Workbench, shop15: str) -> None:
    artefact = bench.back_up(shop15, include=("settings_as_rows",))
    with pytest.raises(UnsupportedOperation):
        ask(bench, artefact, shop15, Assertion("documents", collection="settings_as_rows", equals=1))


def test_a_cancel_ends_a_question_that_takes_long(bench: Workbench, shop15: str) -> None:
    artefact = bench.back_up(shop15, include=("settings_as_rows",))
    run, failure = bench.run(), []

    def rehearse() -> None:
        try:
            ask(bench, artefact, shop15, Assertion("long", sql="SELECT pg_sleep(60)", equals=1), run=run)
        except FlexError as error:
            failure.append(error)

    thread = threading.Thread(target=rehearse)
    thread.start()
    asking = f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{run.application_name}' AND query ~ '^FETCH'"
    deadline = time.monotonic() + 20
    while not sql(shop15, asking):
        assert time.monotonic() < deadline and thread.is_alive()
    run.stop.request(StopReason.CANCEL)
    thread.join(10)
    assert [type(error) for error in failure] == [Stopped]
    assert sql(shop15, f"SELECT 1 FROM pg_database WHERE datname ~ 'flexdb_.*{bench.job_id}'") == []

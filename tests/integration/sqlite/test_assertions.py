"""Questions that users ask of a restored copy, honest ones and others."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import Artefact
from engines.assertions import Assertion
from engines.errors import AssertionFailed, InvalidAssertion, Stopped, UnsupportedOperation
from engines.run import StopToken
from tests.contracts.engine_cases import Bench, SQLiteCase
from tests.integration.sqlite.databases import StopAfterLooks


@pytest.fixture
def artefact(case: SQLiteCase, bench: Bench) -> Artefact:
    return bench.back_up(case, case.filled())


def ask(
    case: SQLiteCase, bench: Bench, artefact: Artefact, *assertions: Assertion, stop: StopToken | None = None
) -> list[Evidence]:
    run = bench.run(stop=stop or StopToken())
    try:
        evidence = case.engine.rehearse(artefact, case.empty(), run, assertions)
    finally:
        assert list(bench.workspace.iterdir()) == []
    return [item for item in evidence if item.check == "assertion"]


@pytest.mark.parametrize(
    ("sql", "equals"),
    [
        ("SELECT count(*) FROM orders", 100),
        ("SELECT name FROM customers WHERE id = 3", "name 3"),
        ("SELECT sum(cents * 1.0) FROM orders", 495000),
        ("SELECT 1.5", "1.5"),
        ("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT sum(i) FROM n", 55),
        ("PRAGMA user_version", 0),
        ("SELECT count(*) FROM pragma_table_info('orders')", 3),
        ("SELECT count(*) FROM dear_orders;", 49),
        ("SELECT count(*) FROM sqlite_schema WHERE type = 'index'", 1),
    ],
)
def test_what_holds_is_told_as_evidence(
    case: SQLiteCase, bench: Bench, artefact: Artefact, sql: str, equals: int | str
) -> None:
    (seen,) = ask(case, bench, artefact, Assertion("it", sql=sql, equals=equals))
    assert (seen.object, str(seen.found), seen.ok) == ("it", str(equals), True)


def test_what_does_not_hold_fails_after_all_were_asked(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    asked = (
        Assertion("many", sql="SELECT count(*) FROM orders", at_least=101),
        Assertion("nobody", sql="SELECT name FROM customers WHERE id = 99", equals="name 99"),
        Assertion("right", sql="SELECT 1", at_most=1),
    )
    with pytest.raises(AssertionFailed) as failed:
        ask(case, bench, artefact, *asked)
    told = {item["object"]: item["ok"] for item in failed.value.details["evidence"]}
    assert told == {"many": False, "nobody": False, "right": True}


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT x FROM nothing",
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
        "SELECT data FROM noise",
        "SELECT 'a\0b'",
        "INSERT INTO customers VALUES (99, 'x')",
        "DELETE FROM customers RETURNING 1",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "DROP TABLE orders",
        "PRAGMA query_only = OFF",
        "PRAGMA user_version = 3",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "ATTACH '{outside}' AS other",
        "VACUUM INTO '{outside}'",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('{outside}')",
        "SELECT fts3_tokenizer('simple', x'41414141')",
    ],
)
def test_what_is_no_question_about_the_copy_is_refused(
    case: SQLiteCase, bench: Bench, artefact: Artefact, tmp_path: Path, sql: str
) -> None:
    outside = tmp_path / "outside.db"
    with pytest.raises(InvalidAssertion):
        ask(case, bench, artefact, Assertion("it", sql=sql.replace("{outside}", str(outside)), equals=1))
    assert not outside.exists()


def test_a_collection_is_not_asked_of_sqlite(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    with pytest.raises(UnsupportedOperation):
        ask(case, bench, artefact, Assertion("it", collection="orders", at_least=1))


def test_an_endless_question_can_be_canceled(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(Stopped):
        ask(case, bench, artefact, Assertion("it", sql=endless, at_least=1), stop=StopAfterLooks(30))

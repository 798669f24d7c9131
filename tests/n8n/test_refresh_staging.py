"""refresh-staging: a proven backup of production takes the place of staging, both are compared, the team is told."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.acceptance.service_process import until
from tests.conftest import FreshDatabase
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, Intervention, gate
from tests.n8n.pair import Pair, sqlite_shop
from tests.n8n.process import Execution
from tests.n8n.silence import ANOTHER_SECRET, NOTICED_SECONDS, SOON, asked_for, call_instead, silent

WORKFLOW = "refresh-staging"
IN_PRODUCTION, IN_STAGING = 50, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "databases"


@pytest.fixture
def pair(make_pair: MakePair, folder: Path) -> Pair:
    """Production with 50 orders, staging with 3."""
    urls = {"production": sqlite_shop(folder, "production"), "staging": sqlite_shop(folder, "staging", IN_STAGING)}
    return make_pair(urls)


def orders(folder: Path, name: str) -> int:
    with closing(sqlite3.connect(folder / f"{name}.sqlite")) as connection:
        (found,) = connection.execute("SELECT count(*) FROM orders").fetchone()
        assert isinstance(found, int)
        return found


def run_sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def check_failure(pair: Pair, done: Execution, node: str, *words: str) -> str:
    """What the team was told, once it is seen that the run is red for the same reason."""
    assert done.status == "error"
    assert node in done.nodes
    (told,) = pair.told()
    assert done.error == told
    assert all(word in told for word in words), told
    return told


def operations(pair: Pair) -> list[str]:
    """What FlexDB was asked for, in order."""
    return [job["operation"] for job in reversed(pair.flexdb.get("/jobs")["data"])]


# ---------------------------------------------------------------- it goes well


def test_staging_becomes_what_production_was_and_what_it_was_before_is_kept(pair: Pair, folder: Path) -> None:
    done = pair.run(pair.load(WORKFLOW))
    assert done.status == "success", done.error
    assert orders(folder, "staging") == orders(folder, "production") == IN_PRODUCTION
    assert operations(pair) == ["backup", "restore", "inspection", "inspection"]
    backup, restore = done.output("Wait for the backup")[0]["body"], done.output("Wait for the restore")[0]["body"]
    assert restore["data"]["backup_id"] == backup["data"]["backup_id"]
    safety = pair.flexdb.get(f"/backups/{restore['data']['safety_backup_id']}")
    assert [item["rows"] for item in safety["manifest"]["objects"] if item["kind"] == "table"] == [IN_STAGING]
    (told,) = pair.told()
    assert f"staging is refreshed: it holds production as of backup {backup['data']['backup_id']}" in told
    assert restore["data"]["safety_backup_id"] in told
    assert done.output("Compare them") == [{"sameStructure": True, "tables": 1, "different": []}]


def test_staging_that_does_not_exist_yet_is_made(make_pair: MakePair, folder: Path) -> None:
    production = sqlite_shop(folder, "production")
    pair = make_pair({"production": production, "staging": production.replace("production", "staging")})
    done = pair.run(pair.load(WORKFLOW))
    assert done.status == "success", done.error
    assert orders(folder, "staging") == IN_PRODUCTION
    assert pair.told_of("Staging did not exist before")


def test_postgresql_is_refreshed_and_compared_just_so(
    make_pair: MakePair, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    production, staging = fresh_database(postgres15_url), fresh_database(postgres15_url)
    with closing(psycopg2.connect(production)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 70)")
    pair = make_pair({"production": production, "staging": staging})
    done = pair.run(pair.load(WORKFLOW))
    assert done.status == "success", done.error
    with closing(psycopg2.connect(staging)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders")
        assert cursor.fetchone() == (70,)
    assert done.output("Compare them") == [{"sameStructure": True, "tables": 1, "different": []}]


def test_tables_too_large_to_be_counted_are_not_said_to_have_the_same_rows(pair: Pair) -> None:
    def estimated(asked: Asked) -> tuple[int, Any] | None:
        """How FlexDB answers for a table of gigabytes."""
        if not asked.is_for("POST", "/hooks/inspection") or asked.json["connection"] != "staging":
            return None
        found = pair.flexdb.request("POST", asked.path, asked.json, {"Prefer": "wait=60"}).json
        found["data"]["tables"] = [table | {"rows": 7, "rows_exact": False} for table in found["data"]["tables"]]
        return 200, found

    with gate(pair.flexdb.port, estimated) as door:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
    assert done.status == "success", done.error
    assert done.output("Compare them") == [{"sameStructure": True, "tables": 0, "different": []}]
    assert pair.told_of("the rows of 0 tables, of 1 tables and views; the others were not counted.")


# ---------------------------------------------------------------- nothing is asked for, or nothing is taken


def test_one_connection_under_both_names_is_stopped_before_anything_is_asked(pair: Pair, folder: Path) -> None:
    done = pair.run(pair.load(WORKFLOW, {"staging": " Production"}))
    check_failure(pair, done, "One connection only", "both the connection")
    assert operations(pair) == []
    assert orders(folder, "production") == IN_PRODUCTION


def test_a_backup_that_flexdb_does_not_take_is_told(pair: Pair, folder: Path) -> None:
    done = pair.run(pair.load(WORKFLOW, {"production": "nobody"}))
    check_failure(pair, done, "Backup not taken", "FlexDB did not take the backup, The request is not valid", "nobody")
    assert orders(folder, "staging") == IN_STAGING


def test_flexdb_being_away_is_told(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW)
    pair.flexdb.kill()
    check_failure(pair, pair.run(workflow), "Backup not taken", "FlexDB did not take the backup", "E-CONNREFUSED")


def test_a_restore_that_flexdb_does_not_take_is_told(pair: Pair) -> None:
    done = pair.run(pair.load(WORKFLOW, {"staging": "nobody"}))
    check_failure(pair, done, "Restore not taken", "FlexDB did not take the restore", "nobody")
    assert operations(pair) == ["backup"]


# ---------------------------------------------------------------- it goes wrong


def test_without_a_proven_backup_staging_stays_as_it_was(pair: Pair, folder: Path) -> None:
    (folder / "production.sqlite").unlink()
    done = pair.run(pair.load(WORKFLOW))
    check_failure(pair, done, "Backup not proven", "no proven backup of production: target_missing")
    assert operations(pair) == ["backup"]
    assert orders(folder, "staging") == IN_STAGING


def test_a_restore_that_fails_leaves_staging_as_it_was(pair: Pair, folder: Path) -> None:
    def damage(asked: Asked) -> None:
        """The stored backup, when its restore is asked for."""
        if asked.is_for("POST", "/hooks/restore"):
            (stored,) = pair.flexdb.storage.glob(f"production/{asked.json['backup_id']}/*.zst")
            stored.write_bytes(stored.read_bytes()[:-10])

    with gate(pair.flexdb.port, damage) as door:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
    told = check_failure(pair, done, "Staging is as it was", "failed and staging is as it was: artefact_damaged")
    assert done.output("Wait for the backup")[0]["body"]["data"]["backup_id"] in told
    assert orders(folder, "staging") == IN_STAGING


def test_a_backup_call_that_speaks_of_another_job_is_not_believed(pair: Pair, folder: Path) -> None:
    with gate(pair.flexdb.port, silent(pair, "backup")) as door:
        execution = pair.n8n.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
        call_instead(pair, asked_for(door, "backup"), "another-job")
        done = pair.n8n.ended(execution)
    check_failure(pair, done, "Backup call not genuine", done.output("Ask for the backup")[0]["job_id"])
    assert operations(pair) == ["backup"]
    assert orders(folder, "staging") == IN_STAGING


def test_a_restore_call_that_somebody_else_signed_is_not_believed(pair: Pair) -> None:
    with gate(pair.flexdb.port, silent(pair, "restore")) as door:
        execution = pair.n8n.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
        asked = asked_for(door, "restore")
        job = until(lambda: pair.flexdb.get("/jobs?operation=restore")["data"])[0]["job_id"]
        call_instead(pair, asked, job, secret=ANOTHER_SECRET)
        done = pair.n8n.ended(execution)
    check_failure(pair, done, "Restore call not genuine", job)
    assert "Look into production" not in done.nodes


def test_calls_that_do_not_come_are_told_with_the_state_of_the_job(pair: Pair) -> None:
    """Both at once: n8n looks once a minute."""
    with ExitStack() as doors:
        runs: dict[str, tuple[str, str]] = {}
        for operation in ("backup", "restore"):
            door = doors.enter_context(gate(pair.flexdb.port, silent(pair, operation)))
            workflow = pair.load(WORKFLOW, {"flexdbUrl": door.url, "waitHours": SOON})
            runs[operation] = (workflow, pair.n8n.run(workflow))
        for operation, (_, execution) in runs.items():
            done = pair.n8n.ended(execution, NOTICED_SECONDS)
            assert done.status == "error"
            assert f"{operation.capitalize()} not told in time" in done.nodes
            job = done.output(f"Ask for the {operation}")[0]["job_id"]
            assert f"no call about the {operation} within" in done.error
            assert f"job {job} is succeeded" in done.error
            assert done.error in pair.told()


# ---------------------------------------------------------------- it is restored, but


def acting_before_inspection(connection: str, path: Path, statement: str) -> Intervention:
    """For a gate: somebody changes a database just before it is looked into."""

    def act(asked: Asked) -> None:
        if asked.is_for("POST", "/hooks/inspection") and asked.json["connection"] == connection:
            run_sql(path, statement)

    return act


def test_rows_that_are_not_those_of_the_backup_are_told(pair: Pair, folder: Path) -> None:
    act = acting_before_inspection("staging", folder / "staging.sqlite", "DELETE FROM orders WHERE id < 5")
    with gate(pair.flexdb.port, act) as door:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
    check_failure(pair, done, "They differ", "differs from production", "Other rows than in the backup: orders")
    assert done.output("Compare them") == [{"sameStructure": True, "tables": 1, "different": ["orders"]}]


def test_another_structure_is_told(pair: Pair, folder: Path) -> None:
    act = acting_before_inspection(
        "production", folder / "production.sqlite", "ALTER TABLE orders ADD COLUMN note TEXT"
    )
    with gate(pair.flexdb.port, act) as door:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
    told = check_failure(pair, done, "They differ", "the structure is another")
    assert "Other rows" not in told


@pytest.mark.parametrize("connection", ["production", "staging"])
def test_an_inspection_that_is_not_taken_is_told(pair: Pair, folder: Path, connection: str) -> None:
    def refuse(asked: Asked) -> tuple[int, Any] | None:
        refused = asked.is_for("POST", "/hooks/inspection") and asked.json["connection"] == connection
        return (503, {"code": "ledger_unavailable", "detail": "not now"}) if refused else None

    with gate(pair.flexdb.port, refuse) as door:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
    check_failure(pair, done, "Not compared", "but not compared with production: not now (503)")
    assert orders(folder, "staging") == IN_PRODUCTION


def test_an_inspection_that_fails_is_told(pair: Pair, folder: Path) -> None:
    def remove(asked: Asked) -> None:
        if asked.is_for("POST", "/hooks/inspection"):
            (folder / "production.sqlite").unlink(missing_ok=True)

    with gate(pair.flexdb.port, remove) as door:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
    check_failure(pair, done, "Inspection failed", "but not compared with production: There is no database file")

"""weekly-restore-drill: the newest backup of each database is restored for a trial, one message tells how it went."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.journeys import one_byte_flipped
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, gate
from tests.n8n.pair import Pair
from tests.n8n.process import Execution
from tests.n8n.silence import NOTICED_SECONDS, SOON, asked_for, call_instead, callbacks_go_astray, silent

WORKFLOW = "weekly-restore-drill"
SHORT = 0.001
WAITED = 90.0
"""n8n looks once a minute for waits that are over."""


def backed_up(pair: Pair, connection: str = "shop") -> str:
    return str(pair.flexdb.complete("backup", {"connection": connection})["backup_id"])


def orders(**expected: int) -> str:
    """Settings' `assertions`: one question to shop."""
    return json.dumps({"shop": [{"name": "orders", "sql": "SELECT count(*) FROM orders", **expected}]})


def check_failure(done: Execution, told: str, node: str) -> None:
    """The run is red for what the team was told, by way of that node."""
    assert done.status == "error"
    assert node in done.nodes
    assert told in done.error


def test_the_newest_backup_of_each_database_is_restored_and_compared(pair: Pair) -> None:
    older = backed_up(pair)
    newest = {backed_up(pair), backed_up(pair, "crm")}
    done = pair.run(pair.load(WORKFLOW))
    assert done.status == "success", done.error
    assert "All rehearsed" in done.nodes
    told = pair.told_of("Restore drill: 2 of 2 rehearsed", "level 3, 1 objects compared", " h old")
    assert all(backup_id in told for backup_id in newest)
    assert older not in told
    levels = {backup["backup_id"]: backup["level"] for backup in pair.flexdb.get("/backups")["data"]}
    assert levels == {older: 2} | dict.fromkeys(newest, 3)


def test_a_damaged_backup_is_told_and_the_others_are_rehearsed(pair: Pair) -> None:
    damaged, whole = backed_up(pair), backed_up(pair, "crm")
    with one_byte_flipped(pair.flexdb, damaged):
        done = pair.run(pair.load(WORKFLOW))
    told = pair.told_of(
        "1 of 2 rehearsed", f"✗ shop: {damaged} could not be rehearsed: artefact_damaged", f"✓ crm: {whole}"
    )
    check_failure(done, told, "Could not")
    assert pair.flexdb.get(f"/backups/{damaged}")["damaged"] is True
    assert pair.flexdb.get(f"/backups/{whole}")["level"] == 3


def test_a_database_without_a_backup_is_told(pair: Pair) -> None:
    backed_up(pair)
    done = pair.run(pair.load(WORKFLOW))
    told = pair.told_of("1 of 2 rehearsed", "✓ shop", "✗ crm: there is no good backup of it: No undamaged ")
    check_failure(done, told, "Could not")


def test_a_part_of_a_database_is_no_rehearsal_of_it(pair: Pair) -> None:
    whole = backed_up(pair)
    schema = pair.flexdb.complete("backup", {"connection": "shop", "content": "schema"})["backup_id"]
    done = pair.run(pair.load(WORKFLOW, {"connections": "shop"}))
    assert done.status == "success", done.error
    assert schema not in pair.told_of("1 of 1 rehearsed", f"✓ shop: {whole} restored")
    part = pair.flexdb.complete("backup", {"connection": "crm", "content": "schema"})["backup_id"]
    done = pair.run(pair.load(WORKFLOW, {"connections": "crm"}))
    told = pair.told_of("0 of 1 rehearsed", f"The newest, {part}, holds only a part of the database.")
    check_failure(done, told, "Could not")


def test_a_backup_that_is_too_old_is_told_though_it_is_whole(pair: Pair) -> None:
    backup_id = backed_up(pair)
    done = pair.run(pair.load(WORKFLOW, {"connections": "shop", "oldestHours": 0}))
    told = pair.told_of("0 of 1 rehearsed", f"✗ shop: {backup_id} restored", "level 3", "older than 0 h")
    check_failure(done, told, "Too old")


def test_a_question_that_is_answered_as_expected_is_no_news(pair: Pair) -> None:
    backed_up(pair)
    done = pair.run(pair.load(WORKFLOW, {"connections": "shop", "assertions": orders(equals=50)}))
    assert done.status == "success", done.error
    (job,) = pair.flexdb.get("/jobs?operation=verification")["data"]
    assert [one["found"] for one in job["result"]["evidence"] if one["check"] == "assertion"] == [50]


def test_a_question_with_another_answer_is_told(pair: Pair) -> None:
    backup_id = backed_up(pair)
    done = pair.run(pair.load(WORKFLOW, {"connections": "shop", "assertions": orders(at_least=51)}))
    told = pair.told_of("0 of 1 rehearsed", f"✗ shop: {backup_id}", "assertion_failed", "found 50")
    check_failure(done, told, "Could not")
    assert pair.flexdb.get(f"/backups/{backup_id}")["damaged"] is False


def test_questions_to_a_database_that_is_not_rehearsed_are_told(pair: Pair) -> None:
    whole = backed_up(pair, "crm")
    done = pair.run(pair.load(WORKFLOW, {"connections": "crm", "assertions": orders(equals=50)}))
    told = pair.told_of("1 of 1 rehearsed", f"✓ crm: {whole}", "✗ shop: it has questions in assertions, but is not one")
    check_failure(done, told, "Rehearsed")


def test_questions_that_are_no_json_fail_before_anything_is_asked(pair: Pair) -> None:
    done = pair.run(pair.load(WORKFLOW, {"assertions": "SELECT 1"}))
    assert done.status == "error"
    assert "its assertions are not JSON" in done.error
    assert pair.flexdb.get("/jobs")["data"] == []


def test_a_request_that_flexdb_does_not_take_is_told(pair: Pair) -> None:
    backed_up(pair)
    done = pair.run(pair.load(WORKFLOW, {"connections": "NOBODY, shop"}))
    told = pair.told_of(
        "1 of 2 rehearsed", "✗ NOBODY: FlexDB did not take the request: The request is not valid", "✓ shop"
    )
    check_failure(done, told, "Not taken")


def test_a_name_given_twice_is_rehearsed_once(pair: Pair) -> None:
    backed_up(pair)
    done = pair.run(pair.load(WORKFLOW, {"connections": "shop, ,shop,"}))
    assert done.status == "success", done.error
    assert pair.told_of("1 of 1 rehearsed")


def test_settings_without_a_connection_are_a_failure(pair: Pair) -> None:
    done = pair.run(pair.load(WORKFLOW, {"connections": " , "}))
    assert (done.status, "no connection" in done.error) == ("error", True)


@pytest.mark.parametrize("record", ["/backups/", "/jobs/"])
def test_a_record_that_cannot_be_read_is_told(pair: Pair, record: str) -> None:
    backed_up(pair)

    def refuse(asked: Asked) -> tuple[int, Any] | None:
        return (503, {"detail": "The ledger is away."}) if asked.is_for("GET", record) else None

    with gate(pair.flexdb.port, refuse) as flexdb:
        done = pair.run(pair.load(WORKFLOW, {"connections": "shop", "flexdbUrl": flexdb.url}))
    told = pair.told_of("0 of 1 rehearsed", "✗ shop: rehearsed, but its record could not be read: The ledger is away.")
    check_failure(done, told, "Record not read")


@pytest.mark.parametrize(("looked_at", "status"), [(True, "succeeded"), (False, "unknown")])
def test_a_callback_that_does_not_come_is_told_with_the_jobs_status(pair: Pair, looked_at: bool, status: str) -> None:
    backed_up(pair)
    with callbacks_go_astray(pair, looked_at=looked_at) as url:
        settings = {"connections": "shop", "flexdbUrl": url, "waitHours": SHORT}
        done = pair.run(pair.load(WORKFLOW, settings), WAITED)
    told = pair.told_of("0 of 1 rehearsed", "✗ shop: no callback within 0.001 h", f"is {status}")
    check_failure(done, told, "Not told in time")


def test_a_callback_that_somebody_else_signed_is_not_believed(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_WEBHOOK_SECRET="whsec_c29tZWJvZHkgZWxzZSdzIHNpZ25pbmcga2V5ISE=")
    backed_up(pair)
    done = pair.run(pair.load(WORKFLOW, {"connections": "shop"}))
    (job,) = pair.flexdb.get("/jobs?operation=verification")["data"]
    told = pair.told_of("0 of 1 rehearsed", "signature is not FlexDB's", job["job_id"])
    check_failure(done, told, "Not genuine")


def test_a_late_call_about_another_job_is_passed_over(pair: Pair) -> None:
    backed_up(pair)
    with gate(pair.flexdb.port, silent(pair, "verification")) as door:
        settings = {"connections": "shop", "flexdbUrl": door.url, "waitHours": SOON}
        execution_id = pair.n8n.run(pair.load(WORKFLOW, settings))
        call_instead(pair, asked_for(door, "verification"), "the job of another week")
        done = pair.n8n.ended(execution_id, NOTICED_SECONDS)
    check_failure(done, pair.told_of("0 of 1 rehearsed", "✗ shop: no callback within"), "Not told in time")
    assert done.times("Wait for the proof") == 2

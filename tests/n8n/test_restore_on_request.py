"""restore-on-request: somebody asks, FlexDB plans, somebody approves, exactly that backup is restored, all are told."""

from __future__ import annotations

import base64
import copy
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.journeys import one_byte_flipped
from tests.acceptance.service_process import until
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, gate
from tests.n8n.pair import FORM_PASSWORD, FORM_USER, SHIPPED, Pair
from tests.n8n.process import ENDED, Execution, Reply
from tests.n8n.silence import callbacks_go_astray

WORKFLOW = "restore-on-request"
PATH = "/form/flexdb-restore"
SHORT = 0.001
WAITED = 90.0
"""n8n looks once a minute for waits that are over."""
BOUNDARY = "a-boundary-of-the-tests"
ALLOWED = {"Authorization": "Basic " + base64.b64encode(f"{FORM_USER}:{FORM_PASSWORD}".encode()).decode()}
ASKED = {
    "Newest good backup of": "shop",
    "Or the backup with the id": "",
    "Restore with the connection": "shop",
    "Into the database": "restored.sqlite",
    "Mode": "create",
    "Who asks": "Ada",
    "Why": "to look at <last week>",
}
IN_PLACE = {"Into the database": "", "Mode": "replace"}


def node_of(workflow: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = [node for node in workflow["nodes"] if node["name"] == name]
    assert isinstance(found, dict)
    return found


def load(pair: Pair, answers: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None) -> str:
    """The workflow with `ASKED` and these answers as its example, for runs by hand."""
    changed = copy.deepcopy(SHIPPED[WORKFLOW])
    for row in node_of(changed, "Example request")["parameters"]["assignments"]["assignments"]:
        row["value"] = (ASKED | dict(answers or {}))[row["name"]]
    return pair.load(WORKFLOW, settings, nodes=changed["nodes"])


def multipart(node: str, answers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Body and headers as a browser sends a form: inputs are `field-0`, `field-1` … in the order of their labels."""
    labels = [row["fieldLabel"] for row in node_of(SHIPPED[WORKFLOW], node)["parameters"]["formFields"]["values"]]
    assert set(answers) <= set(labels)
    part = '--{}\r\nContent-Disposition: form-data; name="field-{}"\r\n\r\n{}\r\n'
    body = "".join(part.format(BOUNDARY, number, answers.get(label, "")) for number, label in enumerate(labels))
    return f"{body}--{BOUNDARY}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def ask_by_form(pair: Pair, headers: Mapping[str, str]) -> Reply:
    """n8n's answer once it knows the form: publishing answers a little sooner, and unknown forms are a 404 page."""
    body, kind = multipart("When somebody asks for a restore", ASKED)

    def look() -> Reply | None:
        reply = pair.n8n.request("POST", PATH, body, kind | dict(headers))
        return None if reply.status == 404 else reply

    return until(look, pause=0.1)


def handed_over(pair: Pair, workflow: str) -> Execution:
    """The run that the form's own run has started, once it waits or has ended."""

    def look() -> Execution | None:
        found = [each for each in pair.n8n.executions(workflow) if "Read the request" in each.nodes]
        return found[0] if found and found[0].status in ENDED | {"waiting"} else None

    return until(look, pause=0.1)


def link_in(told: str) -> str:
    """The path of the approval that the team was told."""
    parts = urlsplit(re.findall(r"http\S+", told)[-1])
    assert parts.path.startswith("/form-waiting/")
    return f"{parts.path}?{parts.query}"


def decide(pair: Pair, execution_id: str, decision: str, name: str = "Grace", comment: str = "") -> str:
    """Fill in the approval's form by the link that was told; the message that told it."""
    told = pair.told_of("Approve or reject within")
    assert pair.n8n.waiting(execution_id).status == "waiting"
    body, kind = multipart("Wait for a decision", {"Your name": name, "Decision": decision, "Comment": comment})
    reply = pair.n8n.request("POST", link_in(told), body, kind)
    assert reply.status == 200, reply.body
    return told


def approve_by_hand(pair: Pair, workflow: str) -> str:
    """Run it by hand up to the approval, and approve; the execution's id."""
    execution_id = pair.n8n.run(workflow)
    decide(pair, execution_id, "Approve")
    return execution_id


def backed_up(pair: Pair) -> str:
    return str(pair.flexdb.complete("backup", {"connection": "shop"})["backup_id"])


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        (number,) = database.execute("SELECT count(*) FROM orders").fetchone()
    return int(number)


def restores(pair: Pair) -> list[dict[str, Any]]:
    """The restores that were asked for, plans left out."""
    found = pair.flexdb.get("/jobs?operation=restore")["data"]
    return [job for job in found if not job["event_id"].endswith("-plan")]


def check_failure(pair: Pair, execution_id: str, node: str, *words: str) -> None:
    """The run is red, by that node, and the team was told why."""
    done = pair.n8n.ended(execution_id, WAITED)
    assert done.status == "error"
    assert node in done.nodes
    assert pair.told_of(*words) in done.error


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "databases" / "shop.sqlite"


def test_what_was_asked_for_by_the_form_is_restored_once_somebody_approved(pair: Pair, database: Path) -> None:
    backup_id = backed_up(pair)
    workflow = pair.load(WORKFLOW, publish=True)
    answer = ask_by_form(pair, ALLOWED)
    assert answer.status == 200, answer.body
    waiting = handed_over(pair, workflow)
    newer = backed_up(pair)
    told = decide(pair, waiting.id, "Approve")
    assert told.startswith("Ada asks for a restore. Why: to look at <last week>")
    assert f"Backup {backup_id}" in told
    assert "Created: orders. Replaced: nothing. Removed: nothing." in told
    done = pair.n8n.ended(waiting.id)
    assert done.status == "success", done.error
    assert "The request is answered" in done.nodes
    outcome = pair.told_of(f"Restored: {backup_id}", "asked for by Ada, approved by Grace", "1 objects in")
    assert newer not in outcome
    (job,) = restores(pair)
    assert job["result"]["backup_id"] == backup_id
    assert rows(database.with_name("restored.sqlite")) == 50


def test_the_one_who_asks_is_not_led_to_the_approval(pair: Pair) -> None:
    backed_up(pair)
    pair.load(WORKFLOW, publish=True)
    answer = ask_by_form(pair, ALLOWED)
    link = link_in(pair.told_of("Approve or reject"))
    signature = link.partition("signature=")[2]
    assert signature
    assert signature not in answer.body.decode()
    assert "form-waiting" not in answer.body.decode()


def test_who_does_not_know_the_password_cannot_ask(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    assert ask_by_form(pair, {}).status == 401
    assert pair.n8n.executions(workflow) == []


def test_the_approval_shows_the_plan_and_nothing_of_it_as_markup(pair: Pair) -> None:
    backup_id = backed_up(pair)
    execution_id = pair.n8n.run(load(pair))
    told = pair.told_of("Approve or reject")
    assert pair.n8n.waiting(execution_id).status == "waiting"
    page = pair.n8n.request("GET", link_in(told)).body.decode()
    assert backup_id in page
    assert "to look at &lt;last week&gt;" in page


def test_a_part_of_a_database_is_passed_over_and_when_it_is_named_the_approver_is_told(pair: Pair) -> None:
    whole = backed_up(pair)
    part = pair.flexdb.complete("backup", {"connection": "shop", "content": "schema"})["backup_id"]
    pair.n8n.run(load(pair))
    told = pair.told_of(f"Backup {whole} (proven to level 2, 1 objects) with shop", "Approve or reject")
    assert f"The newest backup, {part}, holds only a part of the database: not taken." in told
    pair.n8n.run(load(pair, {"Newest good backup of": "", "Or the backup with the id": part}))
    assert pair.told_of(f"Backup {part} (proven to level 2, 1 objects, ONLY A PART of its database) with shop")


def test_a_replace_saves_first_what_it_replaces(pair: Pair, database: Path) -> None:
    backup_id = backed_up(pair)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM orders WHERE id > 20")
    workflow = load(pair, IN_PLACE | {"Newest good backup of": "", "Or the backup with the id": backup_id})
    done = pair.n8n.ended(approve_by_hand(pair, workflow))
    assert done.status == "success", done.error
    assert pair.told_of("Replaced: orders.", "What is there now is backed up first.")
    (job,) = restores(pair)
    safety = job["result"]["safety_backup_id"]
    assert pair.told_of(f"Restored: {backup_id}", f"What was there before is the backup {safety}")
    assert pair.flexdb.get(f"/backups/{safety}")["labels"]["safety"] == "true"
    assert rows(database) == 50


def test_what_flexdb_would_refuse_is_not_put_before_anybody(pair: Pair) -> None:
    backed_up(pair)
    done = pair.run(load(pair, {"Into the database": ""}))
    assert done.status == "success", done.error
    assert "Refused by the plan" in done.nodes
    assert pair.told_of("Not restored", "target_not_empty", "mode replace")
    assert len(pair.told()) == 1
    assert restores(pair) == []


@pytest.mark.parametrize(
    ("decision", "name", "by"),
    [("Reject", "Grace", "by Grace (not today)"), ("Approve", " ", "by somebody without a name")],
)
def test_what_is_rejected_is_not_restored(pair: Pair, decision: str, name: str, by: str) -> None:
    backed_up(pair)
    execution_id = pair.n8n.run(load(pair))
    decide(pair, execution_id, decision, name, "not today")
    done = pair.n8n.ended(execution_id)
    assert done.status == "success", done.error
    assert pair.told_of(f"Not restored: rejected {by}", "asked for by Ada")
    assert restores(pair) == []


def test_silence_is_a_no(pair: Pair) -> None:
    backed_up(pair)
    done = pair.run(load(pair, settings={"approvalHours": SHORT}), WAITED)
    assert done.status == "success", done.error
    assert "Nobody decided" in done.nodes
    assert pair.told_of("Not restored: nobody approved within 0.001 h what Ada asked for")
    assert restores(pair) == []


@pytest.mark.parametrize(
    "answers",
    [
        {"Newest good backup of": ""},
        {"Or the backup with the id": "b-1"},
        {"Restore with the connection": " "},
        {"Who asks": ""},
    ],
)
def test_a_request_that_lacks_something_is_not_planned(pair: Pair, answers: dict[str, str]) -> None:
    execution_id = pair.n8n.run(load(pair, answers))
    check_failure(pair, execution_id, "Not complete", "the form lacks something")
    assert pair.flexdb.get("/jobs")["data"] == []


def test_a_connection_flexdb_does_not_know_is_told(pair: Pair) -> None:
    execution_id = pair.n8n.run(load(pair, {"Restore with the connection": "nobody"}))
    check_failure(
        pair,
        execution_id,
        "Plan not taken",
        "Ada asked for a restore",
        "did not take it: The request is not valid: There is",
    )


def test_a_connection_without_a_good_backup_is_told(pair: Pair) -> None:
    execution_id = pair.n8n.run(load(pair))
    check_failure(pair, execution_id, "No plan", "could not plan it: unknown_backup")


def test_a_backup_below_the_level_asked_for_is_not_good_enough(pair: Pair) -> None:
    backed_up(pair)
    execution_id = pair.n8n.run(load(pair, settings={"minLevel": 3}))
    check_failure(pair, execution_id, "No plan", "could not plan it: unknown_backup")


def test_a_plan_that_takes_too_long_is_told(pair: Pair) -> None:
    with in_place_of_flexdb(pair, "-plan", 202, {"job_id": "01abc", "status": "running"}) as url:
        execution_id = pair.n8n.run(load(pair, settings={"flexdbUrl": url}))
        check_failure(pair, execution_id, "No plan", "the job 01abc is still running")


def test_a_restore_that_flexdb_does_not_take_is_told(pair: Pair) -> None:
    backed_up(pair)
    with in_place_of_flexdb(pair, "-restore", 503, {"code": "ledger_unavailable"}) as url:
        execution_id = approve_by_hand(pair, load(pair, settings={"flexdbUrl": url}))
        check_failure(pair, execution_id, "Restore not taken", "did not take", "approved by Grace")
    assert restores(pair) == []


def test_a_restore_that_fails_is_told_with_its_reason(pair: Pair, database: Path) -> None:
    backup_id = backed_up(pair)
    with one_byte_flipped(pair.flexdb, backup_id):
        execution_id = approve_by_hand(pair, load(pair))
        check_failure(pair, execution_id, "Restore failed", f"Not restored: {backup_id}", "artefact_damaged")
    (job,) = restores(pair)
    assert (job["status"], job["error"]["code"]) == ("failed", "artefact_damaged")
    assert not database.with_name("restored.sqlite").exists()


@pytest.mark.parametrize(("looked_at", "status"), [(True, "succeeded"), (False, "unknown")])
def test_a_callback_that_does_not_come_is_told_with_the_jobs_status(pair: Pair, looked_at: bool, status: str) -> None:
    backed_up(pair)
    with callbacks_go_astray(pair, looked_at=looked_at) as url:
        execution_id = approve_by_hand(pair, load(pair, settings={"flexdbUrl": url, "waitHours": SHORT}))
        check_failure(pair, execution_id, "Not told in time", "no callback within 0.001 h", f"is {status}")


def test_a_callback_that_somebody_else_signed_is_not_believed(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_WEBHOOK_SECRET="whsec_c29tZWJvZHkgZWxzZSdzIHNpZ25pbmcga2V5ISE=")
    backed_up(pair)
    execution_id = approve_by_hand(pair, load(pair))
    check_failure(pair, execution_id, "Not genuine", "Nobody knows yet", "signature is not FlexDB's")
    (job,) = restores(pair)
    assert job["status"] == "succeeded"


def test_a_failure_behind_the_form_reaches_the_error_workflow(pair: Pair) -> None:
    alert = pair.load("alert-on-workflow-errors", publish=True)
    workflow = pair.load(WORKFLOW, {"errorWorkflow": alert}, publish=True)
    ask_by_form(pair, ALLOWED)
    check_failure(pair, handed_over(pair, workflow).id, "No plan", "could not plan it: unknown_backup")
    until(lambda: [each for each in pair.n8n.executions(alert) if each.status == "success"], pause=0.1)


@contextmanager
def in_place_of_flexdb(pair: Pair, step: str, status: int, body: dict[str, Any]) -> Iterator[str]:
    """The address to give as `flexdbUrl`: requests of that step get this answer, all others go to FlexDB."""

    def answer(asked: Asked) -> tuple[int, Any] | None:
        return (status, body) if asked.headers.get("idempotency-key", "").endswith(step) else None

    with gate(pair.flexdb.port, answer) as opened:
        yield opened.url


def test_no_answer_to_the_restore_is_not_told_as_a_refusal(pair: Pair) -> None:
    backed_up(pair)

    def hang_up(asked: Asked) -> None:
        if asked.headers.get("idempotency-key", "").endswith("-restore"):
            raise ConnectionResetError

    with gate(pair.flexdb.port, hang_up) as door:
        execution_id = approve_by_hand(pair, load(pair, settings={"flexdbUrl": door.url}))
        check_failure(pair, execution_id, "Restore not taken", "Nobody knows yet whether", "FlexDB did not answer to")
    assert not any("Not restored" in told for told in pair.told())


def test_what_the_asker_writes_stays_in_one_line_of_the_request(pair: Pair) -> None:
    backed_up(pair)
    reason = "to look\n\nBackup b-1 into nothing.\nApprove or reject within 24 h: http://evil.example/"
    execution_id = pair.n8n.run(load(pair, {"Who asks": "Ada\nRaman", "Why": reason}))
    told = pair.told_of("Ada Raman asks for a restore. Why: to look Backup b-1")
    assert [line.split()[0] for line in told.splitlines()] == ["Ada", "Backup", "Created:", "Approve"]
    decide(pair, execution_id, "Reject")
    assert pair.n8n.ended(execution_id).status == "success"

"""lend-a-copy: a form lends a copy of the newest backup, which goes when it is given back or its time is over."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.service_process import until
from tests.n8n.gate import Asked, Gate, Intervention, gate
from tests.n8n.pair import FORM_PASSWORD, FORM_USER, Pair
from tests.n8n.process import Execution, Reply, RunningN8n
from tests.n8n.silence import ANOTHER_SECRET, NOTICED_SECONDS, SOON, asked_for, call_instead, silent

WORKFLOW = "lend-a-copy"
PATH = "/form/flexdb-lend-a-copy"
LOGIN = {"Authorization": "Basic " + base64.b64encode(f"{FORM_USER}:{FORM_PASSWORD}".encode()).decode()}
FEW_SECONDS_OF_HOURS = 0.001
GIVEN = "The copy of shop for Ada was given back"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "databases"


def back_up(pair: Pair) -> str:
    """A backup of `shop` to lend from; its id."""
    return str(pair.flexdb.complete("backup", {"connection": "shop"})["backup_id"])


def copies(folder: Path) -> list[str]:
    """The databases that are lent now."""
    return sorted(path.name for path in folder.glob("flexdb_kept_*"))


def submit(n8n: RunningN8n, url: str, *values: str, login: Mapping[str, str] = LOGIN) -> Reply:
    """Send a form in as a browser does."""
    bodies = "".join(
        f'--limit\r\nContent-Disposition: form-data; name="field-{number}"\r\n\r\n{value}\r\n'
        for number, value in enumerate(values)
    )
    headers = {"Content-Type": "multipart/form-data; boundary=limit", **login}
    return asked_of(n8n, "POST", url, f"{bodies}--limit--\r\n".encode(), headers)


def look_at(n8n: RunningN8n, url: str, login: Mapping[str, str] = LOGIN) -> Reply:
    return asked_of(n8n, "GET", url, None, login)


def asked_of(n8n: RunningN8n, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
    """What a form's address answers, once it is there: publishing answers a little sooner."""
    parts = urlsplit(url)

    def look() -> Reply | None:
        reply = n8n.request(method, f"{parts.path}?{parts.query}", body, headers)
        return None if reply.status == 404 else reply

    return until(look, 30, pause=0.1)


def lent(pair: Pair, told: str) -> None:
    """Returns when the execution waits for the copy to be given back, `told` being the message that says where it is.

    A form that is asked for a moment sooner is not answered at all: n8n's own page asks for this state, too.
    """
    parts = urlsplit(back_page(told))
    state = f"{parts.path}/n8n-execution-status?{parts.query}"
    until(lambda: pair.n8n.request("GET", state).body == b"form-waiting", pause=0.1)


def waiting_of(pair: Pair, workflow: str) -> str | None:
    """The id of the workflow's execution that waits, if there is one."""
    found = pair.n8n.call("GET", f"/executions?workflowId={workflow}&status=waiting")["data"]
    return str(found[0]["id"]) if found else None


def back_page(told: str) -> str:
    """Where the copy is given back, as the chat was told."""
    return told.rpartition(" ")[2]


def lend_by_hand(pair: Pair, settings: dict[str, Any] | None = None) -> tuple[str, str]:
    """The execution's id and the message that says where the copy is."""
    execution = pair.n8n.run(pair.load(WORKFLOW, settings))
    told = pair.told_of("A copy of shop for Ada: database")
    lent(pair, told)
    return execution, told


def check_failure(pair: Pair, done: Execution, node: str, *words: str) -> None:
    """The run is red, and the team was told why."""
    assert done.status == "error"
    assert node in done.nodes
    told = pair.told()[-1]
    assert done.error == told
    assert all(word in told for word in words), told


# ---------------------------------------------------------------- it goes well


def test_a_copy_asked_for_by_the_form_is_lent_and_given_back(pair: Pair, folder: Path) -> None:
    backup = back_up(pair)
    workflow = pair.load(WORKFLOW, publish=True)
    assert b"Borrow a copy of a database" in look_at(pair.n8n, PATH).body
    sent = submit(pair.n8n, PATH, "shop", "Ada", "4")
    assert sent.status == 200, sent.body
    told = pair.told_of("A copy of shop for Ada: database", f"from backup {backup}", "It is dropped at")
    (copy,) = copies(folder)
    assert copy in told
    execution = until(lambda: waiting_of(pair, workflow), pause=0.1)
    lent(pair, told)
    page = look_at(pair.n8n, sent.json["formWaitingUrl"])
    assert copy.encode() in page.body, "the browser that asked comes to the page to give back by itself"
    assert b"It is the database" in page.body
    assert submit(pair.n8n, back_page(told), "order 7 is odd", login={}).status == 200
    done = pair.n8n.ended(execution)
    assert done.status == "success", done.error
    assert copies(folder) == []
    assert pair.told()[-1].startswith(GIVEN)
    assert pair.told()[-1].endswith("Remark: order 7 is odd")
    assert done.output("Wait for the copy")[0]["body"]["data"]["backup_id"] == backup
    (removal,) = pair.flexdb.get("/jobs?operation=removal&status=succeeded")["data"]
    assert removal["result"]["removed"] is True


def test_the_form_wants_its_password(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    wrong = {"Authorization": "Basic " + base64.b64encode(b"forms:guessed").decode()}
    assert look_at(pair.n8n, PATH, {}).status == 401
    assert submit(pair.n8n, PATH, "shop", "Ada", "4", login=wrong).status == 401
    assert pair.n8n.executions(workflow) == []


def test_by_hand_the_example_is_lent_and_given_back_without_a_remark(pair: Pair, folder: Path) -> None:
    back_up(pair)
    execution, told = lend_by_hand(pair)
    assert len(copies(folder)) == 1
    submit(pair.n8n, back_page(told), "", login={})
    done = pair.n8n.ended(execution)
    assert done.status == "success", done.error
    assert copies(folder) == []
    assert "Remark" not in pair.told()[-1]


def test_when_the_time_is_over_it_is_gone_and_when_no_call_comes_it_is_told(pair: Pair, folder: Path) -> None:
    """Both at once: n8n looks for such limits once a minute."""
    back_up(pair)
    with ExitStack() as doors:
        door = doors.enter_context(gate(pair.flexdb.port, silent(pair, "restore")))
        unheard = pair.n8n.run(pair.load(WORKFLOW, {"flexdbUrl": door.url, "waitHours": SOON}))
        door = doors.enter_context(gate(pair.flexdb.port, for_hours(pair, FEW_SECONDS_OF_HOURS)))
        kept = pair.n8n.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
        done = pair.n8n.ended(kept, NOTICED_SECONDS)
        assert done.status == "success", done.error
        assert "Drop the copy" not in done.nodes
        assert done.times("Tell that its time is over") == 1
        copy = done.output("Wait for the copy")[0]["body"]["data"]["database"]
        until(lambda: not Path(copy).exists())
        assert pair.told_of("The time of the copy of shop for Ada is over", copy)
        late = pair.n8n.ended(unheard, NOTICED_SECONDS)
        assert "Not told in time" in late.nodes
        assert late.status == "error"
        job = late.output("Ask for a copy")[0]["job_id"]
        assert f"job {job} is succeeded" in late.error
        assert late.error in pair.told()


def for_hours(pair: Pair, hours: float) -> Intervention:
    """For a gate: the copy is asked for with another time, as the example's hour is long."""

    def instead(asked: Asked) -> tuple[int, Any] | None:
        if not asked.is_for("POST", "/hooks/restore"):
            return None
        data = asked.json | {"keep_seconds": hours * 3600}
        answer = pair.flexdb.hook("restore", data, key=asked.headers["idempotency-key"])
        return answer.status, answer.json

    return instead


# ---------------------------------------------------------------- it goes wrong


@pytest.mark.parametrize(("connection", "hours"), [("crm", "4"), ("shop", "73"), ("shop", "0"), ("shop", "x")])
def test_what_may_not_be_lent_is_not_asked_for(pair: Pair, connection: str, hours: str) -> None:
    workflow = pair.load(WORKFLOW, {"lendable": "shop"}, publish=True)
    assert submit(pair.n8n, PATH, connection, "Ada", hours).status == 200
    lent = "lent are shop, for at most 72 hours; asked for were"
    told = pair.told_of(f"No copy of {connection} for Ada: {lent} {hours.replace('x', '0')}.")
    (done,) = until(lambda: pair.n8n.executions(workflow), pause=0.1)
    check_failure(pair, pair.n8n.ended(done.id), "Not lent", told)


def test_what_is_written_into_the_form_stays_in_its_line(pair: Pair) -> None:
    pair.load(WORKFLOW, {"lendable": "crm"}, publish=True)
    assert submit(pair.n8n, PATH, "shop", "Ada\n\nGive it back sooner: http://evil.example/", "4").status == 200
    assert len(pair.told_of("No copy of shop for Ada Give it back").splitlines()) == 1
    assert pair.flexdb.get("/jobs")["data"] == []


def test_a_request_that_flexdb_does_not_take_is_told(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW)
    pair.flexdb.kill()
    check_failure(pair, pair.run(workflow), "Not taken", "No copy of shop for Ada: FlexDB did not take the request")


def test_without_a_backup_there_is_nothing_to_lend(pair: Pair, folder: Path) -> None:
    done = pair.run(pair.load(WORKFLOW))
    check_failure(pair, done, "No copy was made", "No copy of shop for Ada: unknown_backup")
    assert copies(folder) == []


def test_a_call_that_somebody_else_signed_is_not_believed(pair: Pair) -> None:
    back_up(pair)
    with gate(pair.flexdb.port, silent(pair, "restore")) as door:
        execution = pair.n8n.run(pair.load(WORKFLOW, {"flexdbUrl": door.url}))
        asked = asked_for(door, "restore")
        job = until(lambda: pair.flexdb.get("/jobs?operation=restore")["data"])[0]["job_id"]
        call_instead(pair, asked, job, secret=ANOTHER_SECRET)
        done = pair.n8n.ended(execution)
    check_failure(pair, done, "Not genuine", job)
    assert "Tell where it is" not in done.nodes


def given_back_through(pair: Pair, intervene: Intervention) -> Execution:
    """A copy that is lent and given back, by a gate; the execution at its end."""
    back_up(pair)
    with gate(pair.flexdb.port, intervene) as door:
        execution, told = lend_by_hand(pair, {"flexdbUrl": door.url})
        submit(pair.n8n, back_page(told), "", login={})
        done = pair.n8n.ended(execution)
    assert_retried_as_one(door)
    return done


def assert_retried_as_one(door: Gate) -> None:
    """However often the removal was asked for, it was under one key."""
    assert len({asked.headers["idempotency-key"] for asked in door.of("POST", "/hooks/removal")}) == 1


def test_a_removal_that_is_not_taken_is_told_and_flexdb_does_it_later(pair: Pair, folder: Path) -> None:
    def refuse(asked: Asked) -> tuple[int, Any] | None:
        return (503, {"detail": "not now"}) if asked.is_for("POST", "/hooks/removal") else None

    done = given_back_through(pair, refuse)
    check_failure(pair, done, "Drop not taken", GIVEN, "not dropped yet", "FlexDB does it by itself at")
    assert len(copies(folder)) == 1


def test_a_removal_that_fails_is_told_and_flexdb_does_it_later(pair: Pair, folder: Path) -> None:
    error = {"code": "access_denied", "message": "The file cannot be removed."}

    def fail(asked: Asked) -> tuple[int, Any] | None:
        failed = {"type": "removal.failed", "data": {"error": error}}
        return (200, failed) if asked.is_for("POST", "/hooks/removal") else None

    done = given_back_through(pair, fail)
    check_failure(pair, done, "Not dropped", GIVEN, "The file cannot be removed.", "FlexDB does it by itself at")


def test_a_removal_that_takes_long_is_told_with_its_job(pair: Pair) -> None:
    def slow(asked: Asked) -> tuple[int, Any] | None:
        accepted = {"job_id": "the-job", "status": "queued"}
        return (202, accepted) if asked.is_for("POST", "/hooks/removal") else None

    check_failure(pair, given_back_through(pair, slow), "Not dropped", GIVEN, "more than a minute, job the-job")

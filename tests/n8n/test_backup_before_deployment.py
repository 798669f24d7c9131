"""backup-before-deployment: the pipeline gets its 200 only for a proven backup, and each failure has its answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service_process import until
from tests.conftest import FreshDatabase
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, gate
from tests.n8n.hard_databases import damage, locked
from tests.n8n.pair import INCOMING_KEY, Pair, sqlite_shop
from tests.n8n.process import Execution, Reply

WORKFLOW = "backup-before-deployment"
PATH = "/webhook/flexdb-before-deployment"
ASKING = "Ask for a backup"
SECOND = 1 / 3600
"""In hours, as `waitHours` has it."""
PATIENCE = 100.0
ASKED = {"connection": "shop", "deployment": "shop 1.4.2"}


def deploy(pair: Pair, body: Mapping[str, Any]) -> Reply:
    """What a pipeline does: ask, and wait for the answer."""

    def look() -> Reply | None:
        reply = pair.n8n.request("POST", PATH, dict(body), {"X-API-Key": INCOMING_KEY}, PATIENCE)
        return None if reply.status == 404 else reply  # it is not registered yet

    return until(look, 2 * PATIENCE, pause=0.1)


@contextmanager
def deploying(pair: Pair) -> Iterator[list[Reply]]:
    """The pipeline waits meanwhile; its answer is in the list at the end."""
    answers: list[Reply] = []
    pipeline = threading.Thread(target=lambda: answers.append(deploy(pair, ASKED)))
    pipeline.start()
    yield answers
    pipeline.join(2 * PATIENCE)


def check_proven(pair: Pair, reply: Reply) -> dict[str, Any]:
    """The answer, once it is seen that there is just this one backup and that its job made it."""
    assert (reply.status, reply.json["proven"]) == (200, True), reply.body
    (backup,) = pair.flexdb.get("/backups")["data"]
    assert reply.json["backup_id"] == backup["backup_id"]
    assert pair.flexdb.job(reply.json["job_id"])["result"]["backup_id"] == backup["backup_id"]
    answer: dict[str, Any] = reply.json
    return answer


def only_execution(pair: Pair, workflow: str) -> Execution:
    """The one the pipeline started, at its end."""
    (found,) = until(lambda: pair.n8n.executions(workflow), pause=0.1)
    return pair.n8n.ended(found.id)


def check_failure(pair: Pair, workflow: str, reply: Reply, *, status: int, code: str, node: str) -> dict[str, Any]:
    """The answer, once it is seen that the run is red at the right place and the team was told the same."""
    assert (reply.status, reply.json["proven"], reply.json["code"]) == (status, False, code)
    told = pair.told_of("Deployment shop 1.4.2 must wait", code, reply.json.get("job_id", ""))
    ended = only_execution(pair, workflow)
    assert ended.status == "error"
    assert node in ended.nodes
    assert told in ended.error
    answer: dict[str, Any] = reply.json
    return answer


@dataclass(frozen=True)
class Slow:
    """A pair whose `shop` can be locked, so that its backup takes as long as a test likes."""

    pair: Pair
    url: str


@pytest.fixture
def slow(make_pair: MakePair, postgres15_url: str, fresh_database: FreshDatabase) -> Slow:
    url = fresh_database(postgres15_url)
    return Slow(make_pair({"shop": url}), url)


def test_the_pipeline_is_answered_200_when_the_backup_is_proven(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED)
    assert reply.status == 200, reply.body
    (backup,) = pair.flexdb.get("/backups")["data"]
    assert backup["labels"] == {"by": "n8n", "deployment": "shop 1.4.2"}
    proven = reply.json
    assert proven["proven"] is True
    assert {name: proven[name] for name in ("backup_id", "level", "sha256", "bytes")} == {
        name: backup[name] for name in ("backup_id", "level", "sha256", "bytes")
    }
    assert proven["level"] == 2
    assert only_execution(pair, workflow).status == "success"
    assert pair.told() == []


def test_by_hand_the_example_is_backed_up(pair: Pair) -> None:
    done = pair.run(pair.load(WORKFLOW, {"verify": 3}))
    assert done.status == "success", done.error
    (backup,) = pair.flexdb.get("/backups")["data"]
    assert (backup["connection"], backup["level"]) == ("shop", 3)


def test_who_does_not_show_the_key_is_turned_away(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    assert pair.n8n.webhook(PATH, ASKED, {"X-API-Key": "another"}).status == 403
    assert pair.n8n.executions(workflow) == []
    assert pair.flexdb.get("/jobs")["data"] == []


@pytest.mark.parametrize("body", [{"deployment": "shop 1.4.2"}, {"connection": "  "}, {"connection": 7}])
def test_a_request_without_a_connection_is_answered_400(pair: Pair, body: dict[str, Any]) -> None:
    pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, body)
    assert (reply.status, reply.json["proven"], reply.json["code"]) == (400, False, "invalid_request")
    assert pair.flexdb.get("/jobs")["data"] == []


def test_a_connection_flexdb_does_not_know_is_answered_422(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED | {"connection": "nobody"})
    answer = check_failure(pair, workflow, reply, status=422, code="invalid_request", node="FlexDB refuses it")
    assert "nobody" in answer["message"]


def test_what_would_fail_is_answered_409_with_the_findings_and_nothing_is_backed_up(
    make_pair: MakePair, tmp_path: Path
) -> None:
    pair = make_pair({"shop": f"sqlite:///{tmp_path}/gone.sqlite"})
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED)
    answer = check_failure(pair, workflow, reply, status=409, code="preflight_failed", node="It would fail")
    (finding,) = answer["findings"]
    assert finding["check"] == "reachable"
    assert finding["detail"] in answer["message"]
    assert [job["operation"] for job in pair.flexdb.get("/jobs")["data"]] == ["preflight"]


def test_a_preflight_that_must_wait_for_other_jobs_does_not_end_the_request(pair: Pair) -> None:
    """The backup looks for itself before it writes anything."""

    def intervene(asked: Asked) -> tuple[int, Any] | None:
        return (202, {"status": "queued"}) if asked.is_for("POST", "/hooks/preflight") else None

    with gate(pair.flexdb.port, intervene) as door:
        pair.load(WORKFLOW, {"flexdbUrl": door.url}, publish=True)
        reply = deploy(pair, ASKED)
    assert (reply.status, reply.json["proven"]) == (200, True), reply.body


def test_while_flexdb_is_away_the_answer_is_503(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    pair.flexdb.kill()
    reply = deploy(pair, ASKED)
    check_failure(pair, workflow, reply, status=503, code="flexdb_unavailable", node="FlexDB did not take it")


def test_a_backup_that_fails_is_answered_502_with_the_reason(make_pair: MakePair, tmp_path: Path) -> None:
    url = sqlite_shop(tmp_path / "databases", orders=20_000)
    pair = make_pair({"shop": url})
    damage(Path(url.removeprefix("sqlite:///")))
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED)
    (job,) = pair.flexdb.get("/jobs?operation=backup")["data"]
    answer = check_failure(pair, workflow, reply, status=502, code=job["error"]["code"], node="It is not proven")
    assert answer["job_id"] == job["job_id"]
    assert answer["hint"] == job["error"]["hint"] != ""
    assert pair.flexdb.get("/backups")["data"] == []


def test_a_backup_that_takes_too_long_is_answered_504_with_the_job(slow: Slow) -> None:
    """Several rounds, all of them the same request; meanwhile one whose job cannot even be looked at in the end."""
    pair = slow.pair
    workflow = pair.load(WORKFLOW, {"waitHours": 5 * SECOND, "roundSeconds": 1}, publish=True)
    with locked(slow.url), gate(pair.flexdb.port, looks_in_vain) as door:
        blind = pair.n8n.run(pair.load(WORKFLOW, {"waitHours": 5 * SECOND, "flexdbUrl": door.url}))
        reply = deploy(pair, ASKED)
        answer = check_failure(pair, workflow, reply, status=504, code="not_in_time", node="Not in time")
        job = pair.flexdb.job(answer["job_id"])
        assert job["ended_at"] is None
        assert f"the job is {job['status']}" in answer["message"]
        assert only_execution(pair, workflow).times(ASKING) >= 4
        done = pair.n8n.ended(blind)
        assert done.status == "error"
        assert "the job is unknown, as FlexDB does not answer" in done.error
        assert done.error in pair.told()
    first, *again = door.of("POST", "/hooks/backup")
    assert first.headers["prefer"] == "wait=0", "so that the job is known before anything can go wrong"
    assert [asked.headers["prefer"] for asked in again] == ["wait=5"]
    assert {(asked.body, asked.headers["idempotency-key"]) for asked in again} == {
        (first.body, first.headers["idempotency-key"])
    }
    assert pair.flexdb.ended(answer["job_id"])["status"] == "succeeded"


def test_a_backup_that_ends_in_a_later_round_is_proven(slow: Slow) -> None:
    pair = slow.pair
    with gate(pair.flexdb.port) as door:
        workflow = pair.load(WORKFLOW, {"roundSeconds": 1, "flexdbUrl": door.url}, publish=True)
        with locked(slow.url) as lock, deploying(pair) as answers:
            until(lambda: len(door.of("POST", "/hooks/backup")) >= 4, 60, pause=0.05)
            lock.release()
    check_proven(pair, answers[0])
    assert only_execution(pair, workflow).status == "success"


def test_flexdb_killed_and_restarted_in_the_middle_of_a_round_is_asked_on(slow: Slow) -> None:
    """It is away for longer than n8n's own tries of the node last."""
    pair = slow.pair
    with gate(pair.flexdb.port) as door:
        workflow = pair.load(WORKFLOW, {"flexdbUrl": door.url}, publish=True)
        with locked(slow.url) as lock, deploying(pair) as answers:
            held = until(lambda: door.of("POST", "/hooks/backup")[1:], 60, pause=0.05)
            assert held[0].headers["prefer"] == "wait=240"
            (job,) = pair.flexdb.get("/jobs?operation=backup")["data"]
            pair.flexdb.running(job["job_id"])
            pair.flexdb.kill()
            until(lambda: len(door.of("POST", "/hooks/backup")) > 2 + 2 * 5, 60, pause=0.05)
            pair.flexdb.restart()
            lock.release()
    assert check_proven(pair, answers[0])["job_id"] == job["job_id"]
    done = only_execution(pair, workflow)
    assert done.status == "success"
    assert done.times("Had it taken the job?") >= 2
    assert pair.told() == []


def test_flexdb_stopped_and_started_in_the_middle_of_a_round_is_asked_on(slow: Slow) -> None:
    """A service that is told to stop answers those it holds with 202."""
    pair = slow.pair
    with gate(pair.flexdb.port) as door:
        pair.load(WORKFLOW, {"flexdbUrl": door.url}, publish=True)
        with locked(slow.url) as lock, deploying(pair) as answers:
            until(lambda: door.of("POST", "/hooks/backup")[1:], 60, pause=0.05)
            pair.flexdb.stop()
            pair.flexdb.restart()
            lock.release()
    check_proven(pair, answers[0])


@pytest.mark.parametrize("status", [401, 204])
def test_a_job_that_may_not_be_asked_for_any_more_is_not_waited_for(pair: Pair, status: int) -> None:
    def intervene(asked: Asked) -> tuple[int, Any] | None:
        if not asked.is_for("POST", "/hooks/backup"):
            return None
        if asked.headers["prefer"] == "wait=0":
            return 202, {"job_id": "taken", "status": "queued"}
        return status, {"title": "No", "status": status, "detail": "The token is not known."}

    with gate(pair.flexdb.port, intervene) as door:
        workflow = pair.load(WORKFLOW, {"flexdbUrl": door.url}, publish=True)
        reply = deploy(pair, ASKED)
        answer = check_failure(
            pair, workflow, reply, status=503, code="flexdb_unavailable", node="FlexDB did not take it"
        )
    assert answer["job_id"] == "taken"


@pytest.mark.parametrize("status", [429, 503])
def test_a_flexdb_that_takes_no_backup_is_asked_five_times_and_answered_503(pair: Pair, status: int) -> None:
    def intervene(asked: Asked) -> tuple[int, Any] | None:
        full = {"title": "Full", "status": status, "detail": "Too many jobs are open."}
        return (status, full) if asked.is_for("POST", "/hooks/backup") else None

    with gate(pair.flexdb.port, intervene) as door:
        workflow = pair.load(WORKFLOW, {"flexdbUrl": door.url}, publish=True)
        reply = deploy(pair, ASKED)
        answer = check_failure(
            pair, workflow, reply, status=503, code="flexdb_unavailable", node="FlexDB did not take it"
        )
    assert status == 429 or "Too many jobs are open." in answer["message"], "n8n has words of its own for 429"
    assert "job_id" not in answer
    assert len(door.of("POST", "/hooks/backup")) == 5


def test_an_answer_that_is_no_event_proves_nothing(pair: Pair) -> None:
    def intervene(asked: Asked) -> tuple[int, Any] | None:
        return (200, {"ok": True}) if asked.is_for("POST", "/hooks/backup") else None

    with gate(pair.flexdb.port, intervene) as door:
        workflow = pair.load(WORKFLOW, {"flexdbUrl": door.url}, publish=True)
        reply = deploy(pair, ASKED)
        check_failure(pair, workflow, reply, status=502, code="strange_answer", node="It is not proven")


def looks_in_vain(asked: Asked) -> tuple[int, Any] | None:
    """For a gate: a FlexDB that takes jobs and shows none."""
    return (503, {}) if asked.is_for("GET", "/jobs/") else None

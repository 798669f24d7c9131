"""alert-on-failed-jobs: FlexDB calls n8n for every job that fails or is canceled, and the team is told, once."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.service_process import WEBHOOK_SECRET, until
from tests.n8n.conftest import MakePair
from tests.n8n.pair import SHIPPED, Pair, sqlite_shop
from tests.n8n.process import Execution, Reply

NAME = "alert-on-failed-jobs"
HOOK = "/webhook/flexdb-job-alerts"
DAILY = "Every day at 06:15"


@pytest.fixture
def make_pair(make_pair: MakePair) -> Iterator[MakePair]:
    """As everywhere, but FlexDB calls no more when the workflow is unpublished: n8n keeps a path that is called in that
    moment in its cache, and refuses it to the next workflow (409) for an hour."""
    made: list[Pair] = []

    def make(*connections: dict[str, str], **settings: str) -> Pair:
        made.append(make_pair(*connections, **settings))
        return made[-1]

    yield make
    for pair in made:
        if pair.flexdb.alive:
            pair.flexdb.kill()


def test_a_job_that_fails_is_told_with_why_what_to_do_and_a_link(pair: Pair) -> None:
    workflow = subscribed(pair)
    job = fail_a_job(pair)
    told = pair.told_of("restore of shop failed: unknown_backup; ")
    assert "It will fail again until the cause is mended." in told
    assert f"Job: {pair.flexdb_url}/jobs/{job}" in told
    assert "Answer 200: told" in called(pair, workflow).nodes
    assert delivered(pair, job)["status"] == "delivered"


def test_a_job_that_is_canceled_is_told_without_advice(pair: Pair) -> None:
    subscribed(pair)
    past = datetime.now(UTC) - timedelta(hours=1)
    event: dict[str, Any] = {"specversion": "1.0", "id": "late", "source": "/tests", "type": "backup.requested"}
    event |= {"data": {"connection": "shop"}, "expirytime": past.isoformat()}
    pair.flexdb.request("POST", "/events", event, {"Content-Type": "application/cloudevents+json"})
    told = pair.told_of("backup of shop was canceled: expired; ")
    assert "It will fail again" not in told
    assert "run again" not in told


def test_what_may_pass_is_told_with_how_to_run_it_again(pair: Pair) -> None:
    subscribed(pair)
    error = {
        "code": "target_unavailable",
        "message": "Nobody answers.",
        "retryable": True,
        "hint": "Look at the server.",
    }
    assert post(pair, event_of("backup.failed", error)).status == 200
    told = pair.told_of("backup of shop failed: target_unavailable; Nobody answers.; Look at the server.")
    assert f"POST {pair.flexdb_url}/jobs/job-1/retry" in told


def test_by_hand_it_subscribes_and_tells_an_example(pair: Pair) -> None:
    workflow = load(pair)
    for _ in range(2):
        done = pair.run(workflow)
        assert done.status == "success", done.error
    (subscription,) = pair.flexdb.get("/subscriptions")["data"]
    assert subscription["name"] == "n8n-alerts"
    assert subscription["url"] == f"{pair.n8n.url}{HOOK}"
    assert subscription["types"] == ["*.failed", "*.canceled"]
    assert len([text for text in pair.told() if "This is an example" in text]) == 2


def test_every_day_it_subscribes_and_tells_nothing(pair: Pair) -> None:
    done = pair.run(load(pair), trigger=DAILY)
    assert done.status == "success", done.error
    assert "Subscribed" in done.nodes
    assert [found["name"] for found in pair.flexdb.get("/subscriptions")["data"]] == ["n8n-alerts"]
    assert pair.told() == []


def test_a_subscription_that_flexdb_does_not_take_fails_the_run_and_says_why(pair: Pair) -> None:
    done = pair.run(load(pair, n8nUrl="http://10.0.0.1"), trigger=DAILY)
    assert done.status == "error"
    assert "did not take the subscription n8n-alerts" in done.error
    assert "FLEXDB_OUTGOING_ALLOW" in done.error


def test_a_flexdb_that_is_away_fails_the_run(pair: Pair) -> None:
    pair.flexdb.kill()
    done = pair.run(load(pair), trigger=DAILY)
    assert done.status == "error"
    assert "nobody hears of failed jobs" in done.error


def test_a_call_that_comes_twice_is_told_once(pair: Pair) -> None:
    workflow = subscribed(pair)
    body = event_of("backup.failed")
    answers = [post(pair, body) for _ in range(2)]
    assert [(answer.status, answer.json["duplicate"]) for answer in answers] == [(200, False), (200, True)]
    assert "Answer 200: told before" in called(pair, workflow, 2).nodes
    assert len(pair.told()) == 1


def test_a_full_memory_keeps_nothing_from_being_told(pair: Pair) -> None:
    shipped = json.loads(json.dumps(SHIPPED[NAME]))
    node = next(node for node in shipped["nodes"] if node["name"] == "Leave out what was told")
    node["parameters"]["options"]["historySize"] = 1
    workflow = pair.add(shipped, publish=True)
    for number, begun_anew in enumerate((False, True), start=1):
        assert post(pair, event_of("backup.failed")).json == {"told": True, "duplicate": False}
        assert ("Start a new memory" in called(pair, workflow, number).nodes) is begun_anew
    assert len(pair.told()) == 2


def test_what_is_not_signed_by_flexdb_is_turned_away(pair: Pair) -> None:
    workflow = subscribed(pair)
    body = event_of("backup.failed")
    assert post(pair, body, secret="whsec_another").status == 401
    assert post(pair, body, {"x-flexdb-signature": ""}).status == 401
    assert post(pair, body, {"webhook-id": "of-another-event"}).status == 401
    assert post(pair, b"").status == 401
    for number in range(1, 5):
        assert called(pair, workflow, number).status == "success"
    assert pair.told() == []


def test_a_form_is_turned_away(pair: Pair) -> None:
    workflow = subscribed(pair)
    form = b'--x\r\nContent-Disposition: form-data; name="id"\r\n\r\n1\r\n--x--\r\n'
    answer = pair.n8n.webhook(HOOK, form, {"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status == 401
    done = called(pair, workflow)
    assert done.status == "success"
    assert "Settings" not in done.nodes
    assert pair.told() == []


def test_a_call_that_is_too_old_or_from_the_future_is_turned_away(pair: Pair) -> None:
    workflow = subscribed(pair)
    body = event_of("backup.failed")
    for seconds in (-400, 400):
        answer = post(pair, body, {"webhook-timestamp": str(int(time.time()) + seconds)})
        assert (answer.status, answer.json["error"]) == (401, "The webhook-timestamp is too far off.")
    assert post(pair, body, {"webhook-timestamp": "yesterday"}).status == 401
    assert "Answer 401: too old" in called(pair, workflow, 3).nodes
    assert pair.told() == []


def test_a_flexdb_with_another_secret_is_turned_away(make_pair: MakePair, tmp_path: Path) -> None:
    shop = {"shop": sqlite_shop(tmp_path / "databases")}
    pair = make_pair(shop, FLEXDB_WEBHOOK_SECRET="whsec_YW5vdGhlciBzZWNyZXQgb2YgMzIgYnl0ZXMgb3IgbW8=")
    workflow = subscribed(pair)
    job = fail_a_job(pair)
    assert "Answer 401: not genuine" in called(pair, workflow).nodes
    found = until(lambda: next((one for one in deliveries(pair, job) if one["log"]), None))
    assert found["log"][0]["http_status"] == 401
    assert pair.told() == []


def test_when_the_team_cannot_be_told_flexdb_comes_again_until_it_can(pair: Pair) -> None:
    pair.inbox.status = 500
    workflow = subscribed(pair)
    job = fail_a_job(pair)
    lost = called(pair, workflow)
    assert lost.status == "error"
    assert "The team could not be told that restore of shop failed" in lost.error
    pair.inbox.status = 200
    found = until(lambda: next((one for one in deliveries(pair, job) if one["status"] == "delivered"), None))
    assert [attempt["http_status"] for attempt in found["log"]][:1] == [503]
    assert found["log"][-1]["http_status"] == 200
    assert "Answer 200: told" in called(pair, workflow, len(found["log"])).nodes


def load(pair: Pair, **settings: Any) -> str:
    return pair.load(NAME, {"n8nUrl": pair.n8n.url, **settings}, publish=True)


def subscribed(pair: Pair) -> str:
    """The workflow, published, its webhook there, and subscribed as every day."""
    workflow = load(pair)
    assert pair.run(workflow, trigger=DAILY).status == "success"
    return workflow


def fail_a_job(pair: Pair) -> str:
    """The id of a job that has failed."""
    job = pair.flexdb.send("restore", {"backup_id": "no-such-backup", "connection": "shop"})
    assert pair.flexdb.ended(job)["status"] == "failed"
    return job


def deliveries(pair: Pair, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pair.flexdb.get(f"/deliveries?job_id={job}")["data"]
    return found


def delivered(pair: Pair, job: str) -> dict[str, Any]:
    return until(lambda: next((one for one in deliveries(pair, job) if one["status"] != "pending"), None))


def called(pair: Pair, workflow: str, number: int = 1) -> Execution:
    """The `number`th run that a call began, ended."""

    def look() -> str | None:
        found = pair.n8n.call("GET", f"/executions?workflowId={workflow}&limit=50")["data"]
        ids = sorted(int(one["id"]) for one in found if one["mode"] == "webhook")
        return str(ids[number - 1]) if len(ids) >= number else None

    return pair.n8n.ended(until(look, 30, pause=0.1))


def event_of(kind: str, error: dict[str, Any] | None = None) -> bytes:
    failed = error or {"code": "tool_failed", "message": "It failed.", "retryable": False, "hint": ""}
    data = {"job_id": "job-1", "operation": "backup", "connection": "shop", "error": failed}
    return json.dumps({"id": f"{uuid4()}/terminal", "type": kind, "source": "/flexdb", "data": data}).encode()


def post(pair: Pair, body: bytes, headers: dict[str, str] | None = None, secret: str = WEBHOOK_SECRET) -> Reply:
    """Call the webhook as FlexDB would, but for `headers`."""
    event = json.loads(body or b"{}")
    signature = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    sent = {"Content-Type": "application/json", "webhook-id": event.get("id", "none")}
    sent |= {"webhook-timestamp": str(int(time.time())), "x-flexdb-signature": f"sha256={signature}"}
    return pair.n8n.webhook(HOOK, body, sent | (headers or {}))

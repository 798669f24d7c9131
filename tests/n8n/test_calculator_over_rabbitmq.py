"""calculator-over-rabbitmq: a request by webhook, over RabbitMQ to FlexDB and back, into the caller's answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from tests.acceptance.service_process import until
from tests.n8n.conftest import MakePair
from tests.n8n.pair import INCOMING_KEY, SHIPPED, Pair, sqlite_shop
from tests.n8n.process import Execution, Reply
from tests.n8n.queues import consumers, depth, publish, purge, remove

QUEUE = "n8n.flexdb.calculator"
KEY = {"X-API-Key": INCOMING_KEY}
PUBLISHER = "Publish the request"


def reply_with(url: str, body: bytes, correlation_id: str) -> None:
    """A message to the reply queue that FlexDB did not send."""
    publish(url, "", QUEUE, aio_pika.Message(body, correlation_id=correlation_id))


@pytest.fixture
def pair(make_pair: MakePair, broker_url: str, tmp_path: Path) -> Pair:
    """FlexDB on the broker of n8n, keeping the calculator's history in `shop`."""
    remove(broker_url, QUEUE)
    purge(broker_url, "flexdb.requests")
    connections = {"shop": sqlite_shop(tmp_path / "databases")}
    return make_pair(connections, FLEXDB_AMQP_URL=broker_url, FLEXDB_CALCULATION_HISTORY="shop")


def load(pair: Pair, broker_url: str, settings: dict[str, Any] | None = None, **changes: Any) -> str:
    """The workflow, published, and its trigger at work."""
    workflow = pair.load("calculator-over-rabbitmq", settings, publish=True, **changes)
    until(lambda: consumers(broker_url, QUEUE) == 1, 30, pause=0.1)
    return workflow


def ask(pair: Pair, body: Any, headers: dict[str, str] | None = None) -> Reply:
    """The answer; n8n looks but once a minute for waits that are over."""

    def look() -> Reply | None:
        reply = pair.n8n.request("POST", "/webhook/flexdb-calculate", body, KEY | (headers or {}), seconds=150)
        return None if reply.status == 404 and b"is not registered" in reply.body else reply

    return until(look, 200, pause=0.1)


@contextmanager
def asking(pair: Pair, body: Any) -> Iterator[list[Reply]]:
    """The caller waits for the answer meanwhile; it is in the list at the end."""
    answers: list[Reply] = []
    caller = threading.Thread(target=lambda: answers.append(ask(pair, body)))
    caller.start()
    yield answers
    caller.join(200)


def asked(pair: Pair, workflow: str) -> list[Execution]:
    """The executions that took a request, the newest first."""
    return [run for run in pair.n8n.executions(workflow) if "Read the request" in run.nodes]


def waiting(pair: Pair, workflow: str) -> Execution:
    """The execution that waits for its reply."""
    return until(lambda: next((run for run in asked(pair, workflow) if run.status == "waiting"), None), 60, pause=0.1)


def replies(pair: Pair, workflow: str, number: int = 1) -> list[Execution]:
    """The executions that took a reply, once so many have ended."""

    def look() -> list[Execution] | None:
        found = [run for run in pair.n8n.executions(workflow) if "Read the reply" in run.nodes]
        ended = [run for run in found if run.status in {"success", "error"}]
        return ended if len(ended) >= number else None

    return until(look, 60, pause=0.2)


def ended(pair: Pair, workflow: str, number: int = 1) -> list[Execution]:
    """The executions that took a request, once so many have ended, the newest first."""

    def look() -> list[Execution] | None:
        found = [run for run in asked(pair, workflow) if run.status in {"success", "error"}]
        return found if len(found) >= number else None

    return until(look, 90, pause=0.2)


def test_the_caller_gets_the_result_and_the_history(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    answer = ask(pair, {"operation": "pow", "arguments": [2, 200]})
    assert answer.status == 200, answer.body
    assert answer.json["result"] == str(2**200)
    job = pair.flexdb.job(answer.json["job_id"])
    assert (job["operation"], job["status"]) == ("calculation", "succeeded")
    assert job["event_id"] == ended(pair, workflow)[0].output("Read the request")[0]["messageId"]
    kept = pair.flexdb.get("/calculator/history?connection=shop")["result"]
    assert [entry["operation"] for entry in kept] == ["pow"] == [entry["operation"] for entry in answer.json["history"]]
    assert f"✓ pow(2, 200) = {2**200}, job {job['job_id']}" in pair.told_of("✓", "Last in the history: pow = 16069")
    assert ended(pair, workflow)[0].nodes[-1] == "Answered"
    assert replies(pair, workflow)[0].nodes[-1] == "Handed over"
    assert depth(broker_url, QUEUE) == (0, 1)


def test_by_hand_the_example_is_pushed_on_a_stack_and_added_up(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    done = pair.run(workflow)
    assert done.status == "success", done.error
    assert "plus(0.1, 0.2) = 0.3" in pair.told_of("✓")
    assert pair.flexdb.get("/calculator/history")["result"][-1]["flavor"] == "STACK"
    assert pair.flexdb.get("/calculator/stack/size?stack=n8n-example") == {"result": 0}


def test_arguments_are_pushed_and_operated_on_later(pair: Pair, broker_url: str) -> None:
    load(pair, broker_url)
    pushed = ask(pair, {"mode": "stack", "stack": "sums", "arguments": [10, 3]})
    assert (pushed.status, pushed.json["stack"], pushed.json["size"]) == (200, "sums", 2), pushed.body
    operated = ask(pair, {"mode": "stack", "stack": "sums", "operation": "minus"})
    assert (operated.status, operated.json["result"], operated.json["size"]) == (200, -7, 0), operated.body
    assert "✓ minus() = -7" in pair.told_of("-7")


def test_a_refused_calculation_is_409_with_its_reason(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    answer = ask(pair, {"operation": "divide", "arguments": [1, 0]})
    assert (answer.status, answer.json["code"]) == (409, "calculation_refused"), answer.body
    assert answer.json["reason"] == "division_by_zero"
    assert pair.flexdb.job(answer.json["job_id"])["status"] == "failed"
    assert "divide(1, 0) was refused" in pair.told_of("✗", answer.json["job_id"])
    assert ended(pair, workflow)[0].status == "success"


def test_what_flexdb_does_not_take_is_answered_with_its_problem(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    answer = ask(pair, {"mode": "sideways", "operation": "plus", "arguments": [1, 2]})
    assert (answer.status, answer.json["code"]) == (422, "invalid_request"), answer.body
    assert "should be 'independent' or 'stack'" in answer.json["message"]
    assert pair.flexdb.get("/jobs")["data"] == []
    pair.told_of("✗ plus(1, 2) was not taken by FlexDB: invalid_request")
    assert ended(pair, workflow)[0].status == "success"


def test_a_calculation_that_fails_for_another_reason_is_502(pair: Pair, broker_url: str, tmp_path: Path) -> None:
    workflow = load(pair, broker_url)
    for file in (tmp_path / "databases").iterdir():
        file.unlink()
    (tmp_path / "databases").rmdir()
    answer = ask(pair, {"operation": "plus", "arguments": [1, 2]})
    assert answer.status == 502, answer.body
    job = pair.flexdb.job(answer.json["job_id"])
    assert answer.json["code"] == job["error"]["code"] != "calculation_refused"
    assert ended(pair, workflow)[0].status == "error"
    assert "Look at job" in pair.told_of("✗ plus(1, 2) failed", "The history could not be read")


def test_what_is_no_calculation_is_400_and_not_published(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    for body in ({}, {"operation": "plus", "arguments": "1, 2"}, {"arguments": [1]}, {"operation": 1, "arguments": []}):
        answer = ask(pair, body)
        assert (answer.status, answer.json["code"]) == (400, "invalid_request"), body
    assert ask(pair, {"operation": "plus", "arguments": [1, 2]}, {"Idempotency-Key": "x" * 300}).status == 400
    assert pair.n8n.webhook("/webhook/flexdb-calculate", {}, {"X-API-Key": "wrong"}).status == 403
    assert all(PUBLISHER not in run.nodes for run in ended(pair, workflow, 5))
    assert pair.flexdb.get("/jobs")["data"] == []


def test_the_same_idempotency_key_is_one_job_answered_twice(pair: Pair, broker_url: str) -> None:
    load(pair, broker_url)
    asks = [ask(pair, {"operation": "plus", "arguments": [1, 2]}, {"Idempotency-Key": "mine"}) for _ in range(2)]
    assert [answer.status for answer in asks] == [200, 200], [answer.body for answer in asks]
    assert asks[0].json["job_id"] == asks[1].json["job_id"]
    assert len(pair.flexdb.get("/jobs")["data"]) == 1


def test_without_an_exchange_to_publish_to_it_is_503(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url, {"exchange": "flexdb.nowhere"})
    answer = ask(pair, {"operation": "plus", "arguments": [1, 2]})
    assert (answer.status, answer.json["code"]) == (503, "rabbitmq_unavailable"), answer.body
    assert "plus(1, 2) could not be published to flexdb.nowhere" in ended(pair, workflow)[0].error
    pair.told_of("could not be published", "See execution")


def test_silence_is_504_and_a_late_reply_is_told(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url, {"waitSeconds": 2})
    pair.flexdb.kill()
    answer = ask(pair, {"operation": "plus", "arguments": [20, 22]})
    assert (answer.status, answer.json["code"]) == (504, "no_reply_yet"), answer.body
    pair.told_of("✗ No reply to plus(20, 22) within 2 s", answer.json["event_id"])
    assert ended(pair, workflow)[0].status == "error"
    pair.flexdb.restart()
    assert "result 42" in pair.told_of("no execution waits for any more", answer.json["event_id"])
    assert replies(pair, workflow)[0].status == "success"


def test_a_reply_of_another_request_is_not_given_out(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    pair.flexdb.kill()
    with asking(pair, {"operation": "plus", "arguments": [1, 2]}) as answers:
        token = waiting(pair, workflow).output("Read the request")[0]["token"]
        other = {"type": "calculation.completed", "data": {"event_id": "of-somebody-else", "result": 666}}
        reply_with(broker_url, json.dumps(other).encode(), token)
    assert (answers[0].status, answers[0].json["code"]) == (502, "strange_reply"), answers[0].body
    assert ended(pair, workflow)[0].status == "error"
    pair.told_of("✗ A reply came that does not belong")
    purge(broker_url, "flexdb.requests")


def test_a_message_that_is_no_reply_is_told_and_leaves_the_queue(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    reply_with(broker_url, b"no JSON", "12?signature=ab/calculation")
    reply_with(broker_url, b'{"type": "calculation.completed"}', "../../rest/settings?signature=ab/calculation")
    done = replies(pair, workflow, 2)
    assert [run.nodes[-1] for run in done] == ["Stop: not a reply"] * 2
    pair.told_of("no reply that this workflow asked for: no JSON")
    assert depth(broker_url, QUEUE) == (0, 1)


def test_only_who_holds_the_key_can_wake_an_execution(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    pair.flexdb.suspend()
    with asking(pair, {"operation": "plus", "arguments": [1, 2]}) as answers:
        token = waiting(pair, workflow).output("Read the request")[0]["token"]
        path = f"/webhook-waiting/{token}"
        assert pair.n8n.request("POST", path, {"correlationId": token}, {"X-API-Key": "wrong"}).status == 403
        unsigned = path.replace(token, token.partition("?")[0])
        assert pair.n8n.request("POST", f"{unsigned}/calculation", {}, KEY).status == 401
        pair.flexdb.resume()
    assert answers[0].json["result"] == 3


def test_the_name_of_the_reply_queue_is_kept_in_the_trigger_alone() -> None:
    assert json.dumps(SHIPPED["calculator-over-rabbitmq"]["nodes"]).count(f'"{QUEUE}"') == 1

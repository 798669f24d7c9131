"""alert-on-workflow-errors: the team hears of what fails, once, by a second channel when the first is away."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from tests.acceptance.service_process import free_port, until
from tests.n8n.pair import SHIPPED, Pair
from tests.n8n.process import Execution

NAME = "alert-on-workflow-errors"
DEDUPLICATION = "Leave out what was told"


def test_a_published_workflow_that_fails_is_told_with_where_why_and_a_link(pair: Pair) -> None:
    alerts = pair.load(NAME, publish=True)
    failing = FailingWorkflow(pair, alerts)
    failed = failing.fail("the disk is full")
    done = alert(pair, alerts)
    assert done.status == "success", done.error
    assert "The team knows" in done.nodes
    told = pair.told_of("the disk is full")
    assert f'the workflow "{failing.name}" failed at "Stop: it went wrong"' in told
    assert f"/workflow/{failing.id}/executions/{failed.id}" in told
    assert len(pair.told()) == 1


def test_words_that_n8n_put_in_place_of_a_message_do_not_hide_it(pair: Pair) -> None:
    alerts = pair.load(NAME, publish=True)
    FailingWorkflow(pair, alerts).fail("the backup of shop was not taken: connect ECONNREFUSED 127.0.0.1:1")
    told = pair.told_of("the backup of shop was not taken: connect ECONNREFUSED")
    assert "The service refused the connection" in told


def test_errors_that_differ_only_in_numbers_and_ids_are_told_once(pair: Pair) -> None:
    alerts = pair.load(NAME, {"quietMinutes": 1_000_000}, publish=True)
    failing = FailingWorkflow(pair, alerts)
    failing.fail("job 01kw3v9x8m2n4p6q8r0s1t3v5x of shop failed after 12.5 s")
    assert "The team knows" in alert(pair, alerts, 1).nodes
    failing.fail("job 01kw3v9x8m2n4p6q8r0s1t3v5z of shop failed after 7 s")
    assert "Told a moment ago" in alert(pair, alerts, 2).nodes
    assert len(pair.told()) == 1


def test_another_error_is_told_although_one_was_told_a_moment_ago(pair: Pair) -> None:
    alerts = pair.load(NAME, {"quietMinutes": 1_000_000}, publish=True)
    failing = FailingWorkflow(pair, alerts)
    for number, why in enumerate(("shop1 cannot be reached", "shop2 cannot be reached"), start=1):
        failing.fail(why)
        assert "The team knows" in alert(pair, alerts, number).nodes
    assert [why for why in ("shop1", "shop2") if pair.told_of(why)] == ["shop1", "shop2"]


def test_with_no_quiet_minutes_every_error_is_told(pair: Pair) -> None:
    alerts = pair.load(NAME, {"quietMinutes": 0}, publish=True)
    failing = FailingWorkflow(pair, alerts)
    for number in (1, 2):
        failing.fail("again and again")
        assert "The team knows" in alert(pair, alerts, number).nodes
    assert len(pair.told()) == 2


def test_by_hand_the_example_is_told(pair: Pair) -> None:
    done = pair.run(pair.load(NAME))
    assert done.status == "success", done.error
    assert f"asked for by hand, in execution {done.id}" in pair.told_of("An example, not a failure")


def test_the_second_channel_is_told_when_the_first_is_away(pair: Pair) -> None:
    settings = {"notifyUrl": nobody(), "notifyUrlFallback": pair.notify_url}
    done = pair.run(pair.load(NAME, settings))
    assert done.status == "success", done.error
    assert "The second channel knows" in done.nodes
    assert "An example" in pair.told_of("first channel could not be reached")


def test_without_a_second_channel_the_run_fails(pair: Pair) -> None:
    done = pair.run(pair.load(NAME, {"notifyUrl": nobody()}))
    assert done.status == "error"
    assert done.error.startswith("Nobody could be told.")
    assert "Tell the second channel" not in done.nodes


def test_what_could_not_be_told_is_told_the_next_time(pair: Pair) -> None:
    pair.inbox.status = 500
    settings = {"notifyUrlFallback": pair.notify_url, "quietMinutes": 1_000_000}
    alerts = pair.load(NAME, settings, publish=True)
    failing = FailingWorkflow(pair, alerts)
    failing.fail("the disk is full")
    lost = alert(pair, alerts, 1)
    assert lost.status == "error"
    assert {"Tell the second channel", "Stop: nobody could be told"} <= set(lost.nodes)
    pair.inbox.status = 200
    before = len(pair.told())
    failing.fail("the disk is full")
    assert "The team knows" in alert(pair, alerts, 2).nodes
    assert len(pair.told()) == before + 1


def test_a_full_memory_of_what_was_told_keeps_nothing_from_being_told(pair: Pair) -> None:
    workflow = json.loads(json.dumps(SHIPPED[NAME]))
    node = next(node for node in workflow["nodes"] if node["name"] == DEDUPLICATION)
    node["parameters"]["options"]["historySize"] = 1
    alerts = pair.add(workflow, {"quietMinutes": 1_000_000}, publish=True)
    failing = FailingWorkflow(pair, alerts)
    for number, (why, anew) in enumerate((("the first", False), ("the second", True)), start=1):
        failing.fail(why)
        done = alert(pair, alerts, number)
        assert done.status == "success", done.error
        assert ("Start a new memory" in done.nodes) is anew
        assert "The team knows" in done.nodes
    assert len(pair.told()) == 2


def test_a_trigger_that_fails_without_an_execution_is_told_too(pair: Pair) -> None:
    came = {
        "trigger": {"error": {"message": "the queue is gone"}, "mode": "trigger"},
        "workflow": {"id": "17", "name": "Listens to a queue"},
    }
    done = pair.run(given(pair, pair.load(NAME), came), trigger="When a workflow fails")
    assert done.status == "success", done.error
    told = pair.told_of('"Listens to a queue" failed at "its trigger": the queue is gone')
    assert "Look at" not in told


def given(pair: Pair, alerts: str, came: Any) -> str:
    """The workflow with what its Error Trigger gives when it is run from there, pinned as in n8n's editor."""
    workflow = pair.n8n.call("GET", f"/workflows/{alerts}")
    body = {field: workflow[field] for field in ("name", "nodes", "connections", "settings")}
    pair.n8n.call("PUT", f"/workflows/{alerts}", body | {"pinData": {"When a workflow fails": [{"json": came}]}})
    return alerts


def nobody() -> str:
    """A URL at which nothing answers."""
    return f"http://127.0.0.1:{free_port()}/"


def alert(pair: Pair, alerts: str, number: int = 1) -> Execution:
    """The newest run of the alerts once there are `number` of them and it has ended."""

    def look() -> str | None:
        found = pair.n8n.call("GET", f"/executions?workflowId={alerts}&limit=10")["data"]
        return str(found[0]["id"]) if len(found) == number else None

    return pair.n8n.ended(until(look, 30, pause=0.1))


class FailingWorkflow:
    """A published workflow that fails with what its webhook is told."""

    def __init__(self, pair: Pair, alerts: str) -> None:
        self._pair = pair
        self._path = f"fails-{uuid4()}"
        self.name = "A workflow that fails"
        self.id = pair.add(self._workflow(), {"errorWorkflow": alerts}, publish=True)

    def fail(self, why: str) -> Execution:
        """Its execution, failed."""
        before = len(self._pair.n8n.executions(self.id))
        assert self._pair.n8n.webhook(f"/webhook/{self._path}", {"why": why}).status == 200

        def look() -> Execution | None:
            found = self._pair.n8n.executions(self.id)
            return found[0] if len(found) > before and found[0].status == "error" else None

        return until(look, 30, pause=0.1)

    def _workflow(self) -> dict[str, Any]:
        webhook = {"path": self._path, "httpMethod": "POST", "responseMode": "onReceived", "options": {}}
        return {
            "name": self.name,
            "nodes": [
                _node("Called", "webhook", 2, webhook) | {"webhookId": str(uuid4())},
                _node("Stop: it went wrong", "stopAndError", 1, {"errorMessage": "={{ $json.body.why }}"}),
            ],
            "connections": {"Called": {"main": [[{"node": "Stop: it went wrong", "type": "main", "index": 0}]]}},
            "settings": {"executionOrder": "v1"},
        }


def _node(name: str, kind: str, version: float, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "name": name,
        "type": f"n8n-nodes-base.{kind}",
        "typeVersion": version,
        "position": [0, 0],
        "parameters": parameters,
    }

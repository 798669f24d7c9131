"""Messages that make an execution fail, or are no JSON: none comes again for ever, none blocks those behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service_process import free_port, until
from tests.n8n.conftest import MakePair
from tests.n8n.pair import SHIPPED, Pair, sqlite_shop
from tests.n8n.queues import consumers, depth, remove
from tests.n8n.test_route_completion_events import QUEUE, ended, load, publish_body, publish_event, unpublish

WORKFLOW = "route-completion-events"
TRIGGERED = ("route-completion-events", "calculator-over-rabbitmq")
"""Those that RabbitMQ starts."""


@pytest.fixture
def pair(make_pair: MakePair, broker_url: str, tmp_path: Path) -> Pair:
    """FlexDB on the broker of n8n; the queue of the workflow is not there."""
    remove(broker_url, QUEUE)
    return make_pair({"shop": sqlite_shop(tmp_path / "databases")}, FLEXDB_AMQP_URL=broker_url)


def alerts(pair: Pair) -> str:
    """A published workflow that tells of each failed execution; its id."""
    workflow = {
        "name": "Tell of failed executions",
        "nodes": [
            node("Failed", "errorTrigger", 1, {}),
            node(
                "Tell",
                "httpRequest",
                4.2,
                {
                    "method": "POST",
                    "url": pair.notify_url,
                    "sendBody": True,
                    "specifyBody": "json",
                    "jsonBody": "={{ JSON.stringify({ text: 'FAILED ' + $json.execution.lastNodeExecuted }) }}",
                    "options": {"timeout": 5000},
                },
            ),
        ],
        "connections": {"Failed": {"main": [[{"node": "Tell", "type": "main", "index": 0}]]}},
        "settings": {"executionOrder": "v1"},
    }
    return pair.add(workflow, publish=True)


def node(name: str, kind: str, version: float, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "type": f"n8n-nodes-base.{kind}",
        "typeVersion": version,
        "position": [0, 0],
        "parameters": parameters,
    }


def trigger_of(workflow: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in workflow["nodes"] if node["type"].endswith(".rabbitmqTrigger"))
    return found


def test_a_message_whose_execution_fails_runs_once_and_is_alerted_once(pair: Pair, broker_url: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/"
    workflow = pair.load(WORKFLOW, {"notifyUrl": nobody, "errorWorkflow": alerts(pair)}, publish=True)
    until(lambda: consumers(broker_url, QUEUE) == 1, 30, pause=0.1)
    publish_event(broker_url, "backup.completed", "poison/terminal", backup_id="b", level=1, bytes=1)
    assert "FAILED Tell of a backup" in pair.told_of("FAILED")
    publish_event(broker_url, "check.completed", "after/terminal")
    first, second = ended(pair, workflow, 2)
    assert (first.status, second.status) == ("error", "success")

    unpublish(pair, workflow, broker_url)
    assert depth(broker_url, QUEUE) == (0, 0)  # with its consumer gone, what is not acknowledged would be back here
    assert len(pair.n8n.executions(workflow)) == 2
    assert len(pair.told()) == 1


@pytest.mark.parametrize("body", [b"no JSON", b"", b"[1, 2]", b"null", b'{"type": "backup.completed"}', b"\xff\xfe"])
def test_what_is_no_event_is_told_and_those_behind_it_are_taken(pair: Pair, broker_url: str, body: bytes) -> None:
    workflow = load(pair, broker_url)
    publish_body(broker_url, body, "backup.completed")
    publish_event(broker_url, "backup.completed", "after/terminal", backup_id="b", level=1, bytes=1)
    strange, after = ended(pair, workflow, 2)
    assert (strange.status, strange.nodes[-1]) == ("error", "Stop: not an event")
    assert after.nodes[-1] == "Tell of a backup"
    pair.told_of("✗ A message in the queue n8n.flexdb.events is no event of FlexDB")
    unpublish(pair, workflow, broker_url)
    assert depth(broker_url, QUEUE) == (0, 0)


def test_a_trigger_that_parses_the_body_would_be_blocked_by_it_for_ever(pair: Pair, broker_url: str) -> None:
    """Why the shipped triggers do not: n8n neither runs nor acknowledges what it cannot parse."""
    nodes = json.loads(json.dumps(SHIPPED[WORKFLOW]["nodes"]))
    trigger_of({"nodes": nodes})["parameters"]["options"]["jsonParseBody"] = True
    workflow = pair.load(WORKFLOW, nodes=nodes, publish=True)
    until(lambda: consumers(broker_url, QUEUE) == 1, 30, pause=0.1)
    publish_body(broker_url, b"no JSON", "backup.completed")
    publish_event(broker_url, "backup.completed", "after/terminal", backup_id="b", level=1, bytes=1)
    until(lambda: depth(broker_url, QUEUE) == (1, 1), 20, pause=0.1)  # the other one waits behind it
    unpublish(pair, workflow, broker_url)
    until(lambda: depth(broker_url, QUEUE) == (2, 0), 20, pause=0.1)
    assert pair.n8n.executions(workflow) == []


@pytest.mark.parametrize("name", TRIGGERED)
def test_no_shipped_trigger_takes_a_message_again_after_a_failure(name: str) -> None:
    options = trigger_of(SHIPPED[name])["parameters"]["options"]
    assert options["acknowledge"] == "executionFinishes"
    assert options["parallelMessages"] >= 1
    assert options["assertQueue"] and options["durable"]
    assert "jsonParseBody" not in options
    assert SHIPPED[name]["settings"]["errorWorkflow"] == "flexdbErrorAlerts"


def test_every_workflow_that_rabbitmq_starts_is_looked_at_here() -> None:
    started = {
        name
        for name, workflow in SHIPPED.items()
        if any(node["type"].endswith(".rabbitmqTrigger") for node in workflow["nodes"])
    }
    assert started == set(TRIGGERED)

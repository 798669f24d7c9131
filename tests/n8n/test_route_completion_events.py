"""route-completion-events: each event of FlexDB, once, into the branch for its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from tests.acceptance.service_process import until
from tests.n8n.conftest import MakePair
from tests.n8n.pair import SHIPPED, Pair, sqlite_shop
from tests.n8n.process import Execution
from tests.n8n.queues import consumers, depth, on_channel, publish, remove

QUEUE = "n8n.flexdb.events"


def publish_body(url: str, body: bytes, routing_key: str) -> None:
    """A message to `flexdb.events`, as persistent as FlexDB's."""
    publish(url, "flexdb.events", routing_key, aio_pika.Message(body, delivery_mode=2))


def publish_event(url: str, kind: str, event_id: str, **data: Any) -> None:
    event = {"specversion": "1.0", "id": event_id, "source": "/flexdb", "type": kind, "subject": "shop"}
    job = {"job_id": "of-a-test", "operation": kind.partition(".")[0], "connection": "shop"}
    publish_body(url, json.dumps(event | {"data": job | data}).encode(), kind)


@pytest.fixture
def pair(make_pair: MakePair, broker_url: str, tmp_path: Path) -> Pair:
    """FlexDB on the broker of n8n; the queue of this workflow is not there."""
    remove(broker_url, QUEUE)
    connections = {"shop": sqlite_shop(tmp_path / "databases"), "gone": f"sqlite:///{tmp_path}/gone.sqlite"}
    return make_pair(connections, FLEXDB_AMQP_URL=broker_url)


def load(pair: Pair, broker_url: str) -> str:
    """The workflow, published, and its trigger at work."""
    workflow = pair.load("route-completion-events", publish=True)
    until(lambda: consumers(broker_url, QUEUE) == 1, 30, pause=0.1)
    return workflow


def unpublish(pair: Pair, workflow: str, broker_url: str) -> None:
    """Returns when nobody listens any more: n8n answers sooner."""
    pair.n8n.unpublish(workflow)
    until(lambda: consumers(broker_url, QUEUE) == 0, 30, pause=0.1)


def ended(pair: Pair, workflow: str, number: int, seconds: float = 60) -> list[Execution]:
    """All executions once so many have ended, the oldest first."""

    def look() -> list[Execution] | None:
        found = [run for run in pair.n8n.executions(workflow) if run.status in {"success", "error"}]
        return found[::-1] if len(found) >= number else None

    return until(look, seconds, pause=0.2)


def of_type(executions: list[Execution], kind: str) -> list[Execution]:
    return [run for run in executions if run.output("Read the event")[0]["event"].get("type") == kind]


def test_what_flexdb_has_done_is_told_by_the_branch_of_its_kind(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    backup = pair.flexdb.complete("backup", {"connection": "shop"})
    assert f"Backup of shop: {backup['backup_id']}, level 2" in pair.told_of("✓ Backup")
    pair.flexdb.complete("restore", {"backup_id": backup["backup_id"], "connection": "shop", "into": "again.sqlite"})
    assert backup["backup_id"] in pair.told_of("✓ Restore into shop (create)", "again.sqlite")
    pair.flexdb.complete("verification", {"backup_id": backup["backup_id"], "level": 3})
    assert f"shop {backup['backup_id']}" in pair.told_of("✓ Verified at level 3")
    failed = pair.flexdb.carry_out("backup", {"connection": "gone"})
    assert f"/jobs/{failed['data']['job_id']}" in pair.told_of("✗ backup of gone failed: target_missing")
    pair.flexdb.complete("check", {"connection": "shop"})

    done = ended(pair, workflow, 10)
    assert [run.status for run in done] == ["success"] * 10
    assert all("Started: nothing to do" in run.nodes for run in of_type(done, "backup.started"))
    assert "Other work is done" in of_type(done, "check.completed")[0].nodes
    assert len(pair.told()) == 4
    assert depth(broker_url, QUEUE) == (0, 1)


def test_an_ingest_and_a_canceled_job_are_told(make_pair: MakePair, broker_url: str, tmp_path: Path) -> None:
    remove(broker_url, QUEUE)
    pair = make_pair({"shop": sqlite_shop(tmp_path / "databases")}, FLEXDB_AMQP_URL=broker_url, FLEXDB_WORKERS="1")
    load(pair, broker_url)
    schema = {"connection": "shop", "key": "isbn", "schema": {"properties": {"isbn": {"type": "string"}}}}
    assert pair.flexdb.request("PUT", "/collections/books", schema).status in {200, 201}
    rows = b'[{"isbn": "1"}, {"isbn": "2"}, {"title": "without a key"}]'
    took = pair.flexdb.request("POST", "/api/ingest?collection=books", rows, {"Content-Type": "application/json"})
    assert took.status in {200, 202}, took.body
    assert "2 inserted, 0 updated, 1 rejected" in pair.told_of("✓ Ingest", "/rejected")
    publish_event(
        broker_url, "backup.canceled", "canceled/terminal", error={"code": "canceled", "message": "It was canceled."}
    )
    assert "backup of shop was canceled: canceled, It was canceled." in pair.told_of("○ ", "/jobs/of-a-test")


def test_by_hand_it_tells_of_the_example(pair: Pair) -> None:
    workflow = pair.load("route-completion-events")
    for number in (1, 2):
        done = pair.run(workflow)
        assert done.status == "success", done.error
        assert done.nodes[-1] == "Tell of a backup"
        assert len(pair.told()) == number


def test_an_event_that_comes_twice_is_told_once(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    for _ in range(3):
        publish_event(broker_url, "backup.completed", "same/terminal", backup_id="b", level=1, bytes=1)
    first, *others = ended(pair, workflow, 3)
    assert first.nodes[-1] == "Tell of a backup"
    assert [run.nodes[-1] for run in others] == ["Told before: nothing to do"] * 2
    assert len(pair.told()) == 1


def test_one_that_was_cut_off_is_told_when_the_broker_delivers_it_again(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    publish_event(broker_url, "backup.completed", "cut/terminal", backup_id="b", level=1, bytes=1)
    ended(pair, workflow, 1)
    unpublish(pair, workflow, broker_url)
    publish_event(broker_url, "backup.completed", "cut/terminal", backup_id="b", level=1, bytes=1)

    async def take_and_leave(channel: AbstractChannel) -> None:
        message = await (await channel.get_queue(QUEUE)).get()
        await message.nack(requeue=True)

    on_channel(broker_url, take_and_leave)
    pair.n8n.publish(workflow)
    again = ended(pair, workflow, 2)[-1]
    assert again.output("Is it new?", 1) and not again.output("Is it new?")
    assert again.output("Was it cut off before?")
    assert len(pair.told()) == 2


def test_a_full_memory_begins_anew_and_loses_no_event(pair: Pair, broker_url: str) -> None:
    workflow = pair.load("route-completion-events", nodes=with_a_memory_of(2), publish=True)
    until(lambda: consumers(broker_url, QUEUE) == 1, 30, pause=0.1)
    for number in range(4):
        publish_event(broker_url, "backup.completed", f"{number}/terminal", backup_id="b", level=1, bytes=1)
    done = ended(pair, workflow, 4)
    assert [run.status for run in done] == ["success"] * 4
    assert "Begin a new memory" in done[2].nodes
    assert done[3].output("Is it new?")
    assert len(pair.told()) == 4


def with_a_memory_of(events: int) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = json.loads(json.dumps(SHIPPED["route-completion-events"]["nodes"]))
    for node in nodes:
        if node["name"] == "Drop what was told before":
            node["parameters"]["options"]["historySize"] = events
    return nodes


def test_a_kind_that_no_branch_is_for_is_told(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    publish_event(broker_url, "backup.progressed", "odd/1")
    assert "backup.progressed (odd/1)" in pair.told_of("no branch is for")
    assert ended(pair, workflow, 1)[0].status == "success"


def test_events_wait_in_the_queue_while_the_workflow_is_not_published(pair: Pair, broker_url: str) -> None:
    workflow = load(pair, broker_url)
    unpublish(pair, workflow, broker_url)
    pair.flexdb.complete("backup", {"connection": "shop"})
    until(lambda: depth(broker_url, QUEUE) == (2, 0), 20, pause=0.1)
    pair.n8n.publish(workflow)
    pair.told_of("✓ Backup of shop")
    until(lambda: depth(broker_url, QUEUE) == (0, 1), 20, pause=0.1)


def test_the_trigger_finds_the_exchange_when_flexdb_comes_later(
    make_pair: MakePair, broker_url: str, tmp_path: Path
) -> None:
    pair = make_pair({"shop": sqlite_shop(tmp_path / "databases")})  # knows no RabbitMQ yet
    remove(broker_url, QUEUE)

    async def remove_exchange(channel: AbstractChannel) -> None:
        await channel.exchange_delete("flexdb.events")

    on_channel(broker_url, remove_exchange)
    pair.load("route-completion-events", publish=True)
    until(lambda: depth(broker_url, QUEUE) == (0, 0), 20, pause=0.1)
    pair.flexdb.stop()
    pair.flexdb.settings["FLEXDB_AMQP_URL"] = broker_url
    pair.flexdb.restart()
    until(lambda: depth(broker_url, QUEUE) == (0, 1), 60, pause=0.2)
    pair.flexdb.complete("backup", {"connection": "shop"})
    pair.told_of("✓ Backup of shop")

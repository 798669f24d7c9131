"""Messages on their way in: accepted once and acknowledged after the commit, or put aside with the reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pytest
import structlog

from service.amqp.names import Names
from service.jobs import Status
from service.ledger.base import Ledger
from service.ledger.destinations import reply_url
from tests.integration.amqp_world import CONTENT, Gate, World, open_world
from tests.integration.conftest import OpenDoors
from tests.integration.doors import STRUCTURED, TOKEN, Doors, event, signed
from tests.spine import holds, until


@pytest.fixture
async def world(rabbitmq_url: str, amqp_name: str, doors: Doors) -> AsyncIterator[World]:
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as made:
        yield made


# ---------------------------------------------------------------- accepted


async def test_a_message_becomes_a_job_and_is_gone_from_the_queue(world: World) -> None:
    consumer = await world.consumer()
    await world.publish(message_id="m-1")
    (job,) = await world.has_jobs(1)
    assert (job["event_id"], job["source"], job["operation"], job["connection"], job["status"]) == (
        *("m-1", "/flexdb/rabbitmq", "check", "shop", "queued"),
    )
    assert await world.left_over(consumer) == 0
    assert await world.depth(world.names.dead) == 0


async def test_what_waited_before_the_start_is_taken(world: World) -> None:
    first = await world.consumer()
    await first.stop()
    await world.publish_many([CONTENT] * 20)
    second = await world.consumer()
    await world.has_jobs(20)
    assert await world.left_over(second) == 0


@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (event(id="one"), {"content_type": "application/cloudevents+json; charset=utf-8"}),
        (event(id="one"), {"content_type": "application/json"}),
        (CONTENT, {"headers": {f"ce-{name}": value for name, value in event(id="one", data=None).items()}}),
        (CONTENT, {"headers": {f"cloudEvents:{name}": value for name, value in event(id="one", data=None).items()}}),
        (
            CONTENT,
            {
                "headers": {f"cloudEvents_{name}": value for name, value in event(id="one", data=None).items()}
                | {"cloudEvents_time": datetime.now(UTC), "cloudEvents_number": 7, "cloudEvents_flag": True}
            },
        ),
    ],
)
async def test_an_event_in_every_shape_is_one_job_with_the_one_by_http(
    world: World, body: Any, properties: dict[str, Any]
) -> None:
    answer = await world.doors.ask("POST", "/events", event(id="one"), STRUCTURED)
    consumer = await world.consumer()
    with structlog.testing.capture_logs() as lines:
        await world.publish(body, None, **properties)
        await holds(lambda: lines)
    assert [(line["job_id"], line["duplicate"]) for line in lines] == [(answer.json["job_id"], True)]
    assert await world.left_over(consumer) == 0
    assert len(await world.jobs()) == 1


async def test_a_plain_message_with_the_token_is_one_job_with_the_same_request_by_http(world: World) -> None:
    job_id = await world.doors.accepted("check", CONTENT, Idempotency_Key="same")
    consumer = await world.consumer(trust_broker=False)
    await world.publish({**CONTENT, "api_key": TOKEN, "idempotency_key": "same"}, None, "check.requested")
    await world.publish(CONTENT, headers={"authorization": f"Bearer {TOKEN}", "idempotency-key": "same"})
    await world.publish(CONTENT, headers={"X-API-Key": TOKEN}, message_id="other")
    await world.has_jobs(2)
    assert await world.left_over(consumer) == 0
    assert job_id in {job["job_id"] for job in await world.jobs()}
    assert await world.depth(world.names.dead) == 0


async def test_a_signed_message_is_its_sources(world: World) -> None:
    await world.consumer(trust_broker=False)
    body = json.dumps(CONTENT).encode()
    headers: dict[str, Any] = {**signed(body, "signed-1")}
    await world.publish(body, headers=headers)
    (job,) = await world.has_jobs(1)
    assert (job["source"], job["event_id"]) == ("/flexdb/n8n", "signed-1")


async def test_many_messages_share_few_commits(rabbitmq_url: str, amqp_name: str, opened: OpenDoors) -> None:
    gates: list[Gate] = []
    doors = await opened(wrap=lambda ledger: _gated(ledger, gates))
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        consumer = await world.consumer(prefetch=300)
        await world.publish_many([CONTENT] * 300)
        await holds(lambda: gates[0].waiting == 300)
        before = gates[0].commits
        gates[0].open.set()
        await _counted(world, 300)
        assert gates[0].commits - before < 10
        assert await world.left_over(consumer) == 0


async def _counted(world: World, number: int) -> bool:
    async def look() -> bool:
        return (await world.doors.ledger.counts()).get("queued", 0) >= number

    return await until(look)


async def test_duplicates_in_any_order_make_one_job_each(world: World) -> None:
    consumers = [await world.consumer(prefetch=3) for _ in range(3)]
    ids = [f"e-{number % 10}" for number in range(40)]
    async with world.connection.channel() as channel:
        exchange = await channel.get_exchange(world.names.requests)
        for id_ in (*ids, *reversed(ids)):
            body = json.dumps(event(id=id_)).encode()
            await exchange.publish(aio_pika.Message(body, content_type="application/cloudevents+json"), "")
    await world.has_jobs(10)
    assert sum([await world.left_over(consumer) for consumer in consumers]) == 0
    assert sorted(job["event_id"] for job in await world.jobs()) == sorted(set(ids))
    assert await world.depth(world.names.dead) == 0


async def test_the_reply_address_is_kept_until_the_job_ends(world: World) -> None:
    await world.consumer()
    await world.publish(reply_to="answers", correlation_id="c-1")
    await world.has_jobs(1)
    await world.doors.finished(await world.doors.claimed())
    found = await world.doors.ledger.take_messages(10, 30)
    replies = [(delivery.url, delivery.event_type) for delivery in found if delivery.kind == "reply"]
    assert replies == [(reply_url("answers", "c-1"), "check.completed")]


# ---------------------------------------------------------------- acknowledged after the commit


async def test_stopping_waits_for_what_is_being_accepted(rabbitmq_url: str, amqp_name: str, opened: OpenDoors) -> None:
    gates: list[Gate] = []
    doors = await opened(wrap=lambda ledger: _gated(ledger, gates))
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        consumer = await world.consumer()
        await world.publish_many([CONTENT] * 10)
        await holds(lambda: gates[0].waiting == 10)
        stopping = asyncio.create_task(consumer.stop())
        await holds(lambda: not consumer.connected)
        assert not stopping.done()
        gates[0].open.set()
        await stopping
        assert await world.depth(world.names.requests) == 0
        await world.has_jobs(10)


def _gated(ledger: Ledger, gates: list[Gate]) -> Any:
    gates.append(Gate(ledger))
    return gates[0]


async def test_what_is_accepted_while_the_line_breaks_comes_again_and_is_known(
    rabbitmq_url: str, amqp_name: str, opened: OpenDoors
) -> None:
    gates: list[Gate] = []
    doors = await opened(wrap=lambda ledger: _gated(ledger, gates))
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        await world.forwarder.start()
        consumer = await world.consumer(world.forwarded)
        await world.publish(message_id="m-1")
        await holds(lambda: gates[0].waiting == 1)
        with structlog.testing.capture_logs() as lines:
            await world.forwarder.cut()
            await holds(lambda: not consumer.connected)
            gates[0].open.set()
            await holds(lambda: sum(line["event"] == "message_accepted" for line in lines) == 2)
        accepted = [line["duplicate"] for line in lines if line["event"] == "message_accepted"]
        assert accepted == [False, True]
        assert "messages_not_acknowledged" in [line["event"] for line in lines]
        assert await world.left_over(consumer) == 0
        assert len(await world.jobs()) == 1


# ---------------------------------------------------------------- put aside

POISON: list[tuple[str, Any, dict[str, Any], str, int]] = [
    ("not JSON", b"\x00\xff not JSON", {}, "malformed_json", 400),
    ("no object", b"[]", {}, "invalid_request", 422),
    ("unknown operation", CONTENT, {"type_": "nonsense.requested"}, "unknown_operation", 404),
    ("no request", CONTENT, {"type_": "check.completed"}, "unknown_operation", 404),
    ("nothing named", CONTENT, {"type_": None}, "invalid_event", 400),
    ("invalid data", {"connection": "nowhere"}, {}, "invalid_request", 422),
    ("unknown field", {"connection": "shop", "x": 1}, {}, "invalid_request", 422),
    ("wrong token", CONTENT, {"headers": {"X-API-Key": "wrong"}}, "invalid_token", 401),
    ("wrong token in the body", {"api_key": "wrong"}, {}, "invalid_token", 401),
    ("half a signature", CONTENT, {"headers": {"webhook-id": "x"}}, "missing_signature", 401),
    ("mixed prefixes", CONTENT, {"headers": {"ce-id": "1", "cloudEvents:type": "x"}}, "invalid_event", 400),
    ("too large", b"x" * 100_001, {}, "too_large", 413),
    ("broken gzip", CONTENT, {"content_encoding": "gzip"}, "bad_request", 400),
]


@pytest.mark.parametrize(
    ("body", "given", "code", "status"), [row[1:] for row in POISON], ids=[row[0] for row in POISON]
)
async def test_what_nobody_can_take_is_put_aside_with_the_reason(
    world: World, body: Any, given: dict[str, Any], code: str, status: int
) -> None:
    consumer = await world.consumer()
    properties: dict[str, Any] = {
        "message_id": "m-1",
        "correlation_id": "c-1",
        "app_id": "tests",
        "expiration": 3600,
    } | given
    with structlog.testing.capture_logs() as lines:
        await world.publish(body, key="any.key", **properties)
        letter = await world.taken(world.names.dead)
        await holds(lambda: lines)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert (letter.body, letter.message_id, letter.correlation_id, letter.app_id) == (raw, "m-1", "c-1", "tests")
    assert (letter.delivery_mode, letter.routing_key, letter.expiration) == (2, "any.key", None)
    assert letter.type == given.get("type_", "check.requested")
    headers = {name: value for name, value in letter.headers.items() if name != "x-delivery-count"}
    assert (headers.pop("x-flexdb-reason"), headers.pop("x-flexdb-status")) == (code, status)
    assert 10 < len(str(headers.pop("x-flexdb-detail"))) <= 1000
    assert datetime.fromisoformat(str(headers.pop("x-flexdb-dead-at"))).tzinfo is not None
    assert headers.pop("x-flexdb-exchange") == world.names.requests
    assert headers.pop("x-flexdb-routing-key") == "any.key"
    assert headers == given.get("headers", {})
    told = [line for line in lines if line["event"] == "message_dead_lettered"]
    assert [(line["reason"], line["message_id"], line["bytes"]) for line in told] == [(code, "m-1", len(raw))]
    assert await world.left_over(consumer) == 0
    assert await world.jobs() == []


async def test_without_a_credential_nothing_is_taken_where_the_broker_is_not_trusted(world: World) -> None:
    await world.consumer(trust_broker=False)
    await world.publish()
    assert (await world.taken(world.names.dead)).headers["x-flexdb-reason"] == "not_authenticated"


async def test_the_same_id_with_other_data_is_put_aside(world: World) -> None:
    await world.consumer()
    await world.publish(message_id="m-1")
    await world.has_jobs(1)
    await world.publish({}, message_id="m-1")
    assert (await world.taken(world.names.dead)).headers["x-flexdb-reason"] == "id_reused"


async def test_a_signature_admits_only_what_writes_nothing(world: World) -> None:
    await world.consumer()
    body = json.dumps({"latest": {"connection": "shop"}, "connection": "shop"}).encode()
    headers: dict[str, Any] = {**signed(body)}
    await world.publish(body, "restore.requested", headers=headers)
    assert (await world.taken(world.names.dead)).headers["x-flexdb-reason"] == "operation_not_allowed"


async def test_bad_messages_do_not_hold_up_good_ones(world: World) -> None:
    consumer = await world.consumer(prefetch=5)
    bodies = [CONTENT if number % 2 else {"connection": "nowhere"} for number in range(60)]
    await world.publish_many(bodies, message_id=None)
    await _counted(world, 30)

    async def all_dead() -> bool:
        return await world.depth(world.names.dead) == 30

    await until(all_dead)
    assert await world.left_over(consumer) == 0


async def test_who_waits_for_an_answer_is_told_the_problem(world: World) -> None:
    consumer = await world.consumer()
    async with world.connection.channel() as channel:
        answers = await channel.declare_queue(exclusive=True)
        await world.publish({"connection": "nowhere"}, reply_to=answers.name, correlation_id="c-1")
        answer = await world.taken(answers.name)
    problem = json.loads(answer.body)
    assert (answer.content_type, answer.correlation_id) == ("application/problem+json", "c-1")
    assert (problem["status"], problem["code"], problem["title"]) == (422, "invalid_request", "Unprocessable Entity")
    assert problem["type"] == "/docs#invalid_request"
    assert problem["detail"]
    await world.taken(world.names.dead)
    assert await world.left_over(consumer) == 0


async def test_an_answer_that_reaches_nobody_changes_nothing(world: World) -> None:
    consumer = await world.consumer()
    for _ in range(2):
        await world.publish({"connection": "nowhere"}, reply_to="no-such-queue", correlation_id="c-1")
        await world.taken(world.names.dead)
    await world.publish()
    await world.has_jobs(1)
    assert await world.left_over(consumer) == 0


@pytest.mark.parametrize("missing", ["exchange", "queue"])
async def test_a_dead_letter_waits_for_its_queue_to_be_there_again(world: World, missing: str) -> None:
    consumer = await world.consumer()
    for _ in range(2):  # the second time the channel for dead letters is open already
        async with world.connection.channel() as channel:
            if missing == "exchange":
                await channel.exchange_delete(world.names.dead)
            else:
                await channel.queue_delete(world.names.dead)
        await world.publish(b"poison")

        async def declared() -> bool:
            try:
                return await world.depth(world.names.dead) > 0
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return False

        await until(declared)
        assert (await world.taken(world.names.dead)).body == b"poison"
    assert await world.left_over(consumer) == 0


async def test_headers_no_frame_has_room_for_are_left_out(world: World) -> None:
    await world.consumer()
    await world.publish(b"poison", headers={"big": "x" * 125_000})
    letter = await world.taken(world.names.dead)
    assert letter.body == b"poison"
    assert set(letter.headers) - {"x-delivery-count"} == {
        f"x-flexdb-{name}" for name in ("reason", "detail", "status", "dead-at", "exchange", "routing-key")
    }


class Faulty:
    """A ledger with a fault of ours in it."""

    def __init__(self, real: Ledger) -> None:
        self._real = real
        self.told = "what the message held"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def accept(self, _: Any) -> Any:
        raise ValueError(self.told)


async def test_a_fault_of_ours_puts_the_message_aside_and_is_logged_without_its_content(
    rabbitmq_url: str, amqp_name: str, opened: OpenDoors
) -> None:
    faulty: Any = Faulty
    doors = await opened(wrap=faulty)
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        await world.consumer()
        with structlog.testing.capture_logs() as lines:
            await world.publish()
            letter = await world.taken(world.names.dead)
            await holds(lambda: any(line["event"] == "message_dead_lettered" for line in lines))
    assert letter.headers["x-flexdb-reason"] == "internal_error"
    (line,) = [line for line in lines if line["event"] == "message_dead_lettered"]
    assert line["error"] == "ValueError"
    assert "in accept" in line["traceback"]
    assert "what the message held" not in str(lines) + str(letter.headers)


async def test_a_finished_job_is_told_to_a_late_duplicate(world: World) -> None:
    consumer = await world.consumer()
    await world.publish(message_id="m-1")
    await world.has_jobs(1)
    await world.doors.finished(await world.doors.claimed())
    with structlog.testing.capture_logs() as lines:
        await world.publish(message_id="m-1")
        await holds(lambda: any(line.get("duplicate") for line in lines))
    assert await world.left_over(consumer) == 0
    assert [job["status"] for job in await world.jobs()] == [Status.SUCCEEDED]

"""Exchanges and queues: made once, whoever and however many declare them, and left alone where they differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest
import structlog
from aio_pika.abc import AbstractConnection, AbstractQueue, ExchangeType

from service.amqp import topology
from service.amqp.names import Names
from service.amqp.topology import connect, declare
from tests.spine import until


@pytest.fixture
def names(amqp_name: str) -> Names:
    return Names.of(amqp_name)


@pytest.fixture
async def connection(rabbitmq_url: str) -> AsyncIterator[AbstractConnection]:
    async with await connect(rabbitmq_url, "tests") as made:
        yield made


async def publish(connection: AbstractConnection, exchange: str, key: str, body: bytes = b"x") -> None:
    """Raises where it reaches no queue."""
    async with connection.channel(on_return_raises=True) as channel:
        found = await channel.get_exchange(exchange)
        await found.publish(aio_pika.Message(body, delivery_mode=2), key)


async def filled(connection: AbstractConnection, queue: str) -> AbstractQueue:
    """The queue once there is a message in it."""

    async def look() -> AbstractQueue | None:
        channel = await connection.channel()
        found = await channel.get_queue(queue)
        return found if found.declaration_result.message_count else None

    return await until(look)


async def test_requests_and_dead_letters_reach_their_queues(connection: AbstractConnection, names: Names) -> None:
    await declare(connection, names)
    for name in (names.requests, names.dead):
        await publish(connection, name, "backup.requested")
        await publish(connection, name, "")
        queue = await filled(connection, name)
        for _ in range(2):
            await queue.get(no_ack=True)


async def test_declaring_again_keeps_everything(connection: AbstractConnection, names: Names) -> None:
    await declare(connection, names)
    await publish(connection, names.requests, "check.requested", b"kept")
    with structlog.testing.capture_logs() as lines:
        await declare(connection, names)
    assert lines == []
    queue = await filled(connection, names.requests)
    assert (await queue.get(no_ack=True)).body == b"kept"


async def test_ten_may_declare_at_once(rabbitmq_url: str, connection: AbstractConnection, names: Names) -> None:
    connections = [await connect(rabbitmq_url, "tests") for _ in range(10)]
    try:
        with structlog.testing.capture_logs() as lines:
            await asyncio.gather(*(declare(each, names) for each in connections))
    finally:
        await asyncio.gather(*(each.close() for each in connections))
    assert lines == []
    await publish(connection, names.requests, "check.requested")


async def test_a_queue_with_other_arguments_is_used_as_it_is(connection: AbstractConnection, names: Names) -> None:
    async with connection.channel() as channel:
        await channel.declare_queue(names.requests, durable=True, arguments={"x-max-length": 1000})
    with structlog.testing.capture_logs() as lines:
        await declare(connection, names)
    assert [(line["event"], line["queue"]) for line in lines] == [("queue_left_as_it_is", names.requests)]
    assert "inequivalent arg" in lines[0]["because"]
    await publish(connection, names.requests, "check.requested", b"routed")
    queue = await filled(connection, names.requests)
    assert (await queue.get(no_ack=True)).body == b"routed"


async def test_an_argument_the_broker_does_not_take_is_left_out(connection: AbstractConnection, names: Names) -> None:
    with structlog.testing.capture_logs() as lines:
        await topology._queue(connection, names.dead, {}, {"x-expires": "soon"})
    assert [(line["event"], line["without"]) for line in lines] == [("queue_with_fewer_arguments", ["x-expires"])]
    assert await topology._exists(connection, names.dead)


async def test_an_exchange_of_another_type_is_used_as_it_is(connection: AbstractConnection, names: Names) -> None:
    async with connection.channel() as channel:
        await channel.declare_exchange(names.events, ExchangeType.FANOUT, durable=True)
    with structlog.testing.capture_logs() as lines:
        await declare(connection, names)
    assert [(line["event"], line["exchange"]) for line in lines] == [("exchange_left_as_it_is", names.events)]


async def test_looking_at_a_dead_letter_never_loses_it(connection: AbstractConnection, names: Names) -> None:
    await declare(connection, names)
    await publish(connection, names.dead, "check.requested", b"kept")
    for _ in range(60):
        message = await (await filled(connection, names.dead)).get(fail=True)
        assert message.body == b"kept"
        await message.nack(requeue=True)
    await filled(connection, names.dead)


async def test_a_request_that_is_never_acknowledged_ends_among_the_dead(
    connection: AbstractConnection, names: Names
) -> None:
    await declare(connection, names)
    await publish(connection, names.requests, "check.requested", b"poison")
    deliveries = 0
    channel = await connection.channel()
    requests, dead = await channel.get_queue(names.requests), await channel.get_queue(names.dead)

    async def look() -> bytes | None:
        nonlocal deliveries
        if message := await requests.get(fail=False):
            deliveries += 1
            await message.nack(requeue=True)
        letter = await dead.get(no_ack=True, fail=False) if deliveries > 50 else None
        return letter.body if letter else None

    assert await until(look) == b"poison"
    assert deliveries == 51


async def test_what_is_not_there_is_told(rabbitmq_url: str) -> None:
    with pytest.raises(OSError):
        await connect("amqp://guest:guest@127.0.0.1:1/", "tests")
    wrong = rabbitmq_url.replace("guest:guest", "guest:wrong-password")
    with pytest.raises(ConnectionError) as refused:
        await connect(wrong, "tests")
    assert "wrong-password" not in f"{refused.value!r} {refused.value}"

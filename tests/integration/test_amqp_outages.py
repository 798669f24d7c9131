"""The way in by RabbitMQ when ledger, broker or line are away: nothing is lost, nothing acknowledged too early."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pamqp.frame
import pytest
import structlog
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.abc import ChannelFrame
from pamqp.commands import Basic

from service.amqp.consumer import Consumer
from service.amqp.line import HELD_TOO_LONG, Line
from service.amqp.names import Names
from service.amqp.topology import declare
from service.ledger.base import Ledger
from service.ledger.records import Acceptance, LedgerUnavailable, Submission
from tests.integration.amqp_world import CONTENT, World, open_world
from tests.integration.conftest import OpenDoors
from tests.integration.doors import Doors
from tests.rabbitmq import OwnRabbitMQ
from tests.spine import Trouble, holds, until

Lines = list[dict[str, Any]]


@pytest.fixture
async def world(rabbitmq_url: str, amqp_name: str, doors: Doors) -> AsyncIterator[World]:
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as made:
        yield made


@pytest.fixture
async def troubled(rabbitmq_url: str, amqp_name: str, opened: OpenDoors) -> AsyncIterator[tuple[World, Trouble]]:
    """A world whose ledger may go away."""
    made: list[Trouble] = []

    def wrap(ledger: Ledger) -> Ledger:
        made.append(Trouble(ledger))
        return made[0].ledger

    doors = await opened(wrap=wrap)
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        yield world, made[0]


def line_of(consumer: Consumer) -> Line:
    assert consumer._line is not None
    return consumer._line


async def takes_messages_again(world: World, consumer: Consumer, before: Line) -> None:
    """It has another line than `before`, and what is published now becomes a job."""
    await holds(lambda: consumer.connected and consumer._line is not before)
    jobs = len(await world.jobs())
    await world.publish()
    await world.has_jobs(jobs + 1)


# ---------------------------------------------------------------- the ledger


async def test_while_the_ledger_is_away_messages_wait_unacknowledged(troubled: tuple[World, Trouble]) -> None:
    world, ledger = troubled
    consumer = await world.consumer()
    ledger.away = True
    with structlog.testing.capture_logs() as lines:
        await world.publish_many([CONTENT] * 20)
        await holds(lambda: ledger.refused >= 60)
        assert await world.depth(world.names.requests) == 0  # all are held, none given back
        ledger.away = False
        await world.has_jobs(20)
    events = [line["event"] for line in lines]
    assert events.count("messages_wait") == events.count("messages_accepted_again") == 1
    assert await world.left_over(consumer) == 0
    assert await world.depth(world.names.dead) == 0


async def test_in_a_long_outage_of_the_ledger_messages_are_given_back_once_and_wait_in_rabbitmq(
    troubled: tuple[World, Trouble],
) -> None:
    """Held for longer, RabbitMQ would take them back again and again, and count that against each of them."""
    world, ledger = troubled
    consumer = await world.consumer(hold_seconds=0.5)
    ledger.away = True
    with structlog.testing.capture_logs() as lines:
        await world.publish_many([CONTENT] * 20)
        await holds(lambda: not consumer.connected)
        async with asyncio.timeout(15):
            while await world.depth(world.names.requests) != 20:
                await asyncio.sleep(0.05)
        asked = ledger.refused
        await holds(lambda: ledger.refused > asked)  # it goes on asking whether there is room, and takes none
        assert await world.depth(world.names.requests) == 20
        ledger.away = False
        await world.has_jobs(20)
    assert [line["because"] for line in lines if line["event"] == "amqp_consumer_gone"] == [HELD_TOO_LONG]
    assert await world.left_over(consumer) == 0
    assert await world.depth(world.names.dead) == 0


async def test_stopping_while_the_ledger_is_away_leaves_the_messages(troubled: tuple[World, Trouble]) -> None:
    world, ledger = troubled
    consumer = await world.consumer()
    ledger.away = True
    await world.publish_many([CONTENT] * 20)
    await holds(lambda: ledger.refused >= 20)
    assert await world.left_over(consumer) == 20
    assert await world.depth(world.names.dead) == 0
    ledger.away = False
    await world.consumer()
    await world.has_jobs(20)


class Choosy:
    """A real ledger that takes its time, another for each event, and is away for some of them."""

    def __init__(self, real: Ledger) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def accept(self, submission: Submission) -> Acceptance:
        await asyncio.sleep(random.random() * 0.05)
        if submission.event_id.startswith("held"):
            raise LedgerUnavailable("away")
        return await self._real.accept(submission)


async def test_what_waits_is_not_acknowledged_with_what_came_after_it(
    rabbitmq_url: str, amqp_name: str, opened: OpenDoors
) -> None:
    choosy: Any = Choosy
    doors = await opened(wrap=choosy)
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        consumer = await world.consumer(prefetch=60)
        with structlog.testing.capture_logs() as lines:
            for number in range(8):
                await world.publish_many([{"connection": "shop"}] * 20)
                await world.publish(message_id=f"held-{number}")
            await world.has_jobs(160)
            assert await world.left_over(consumer) == 8
        held = {(await world.taken(world.names.requests)).message_id for _ in range(8)}
        assert held == {f"held-{number}" for number in range(8)}
        assert {line["event"] for line in lines} == {"messages_wait", "message_accepted"}


async def test_while_the_queue_is_full_messages_wait(rabbitmq_url: str, amqp_name: str, opened: OpenDoors) -> None:
    doors = await opened(rules={"queue_limit": 1})
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        consumer = await world.consumer()
        with structlog.testing.capture_logs() as lines:
            await world.publish_many([CONTENT] * 3)
            for number in range(1, 4):
                await world.has_jobs(number)
                await doors.finished(await doors.claimed())
        waits = [line["because"] for line in lines if line["event"] == "messages_wait"]
        assert set(waits) == {"queue_full"}
        assert await world.left_over(consumer) == 0
        assert await world.depth(world.names.dead) == 0


async def test_a_queue_limit_that_is_reached_for_long_makes_no_dead_letters(
    rabbitmq_url: str, amqp_name: str, opened: OpenDoors
) -> None:
    """Taken and given back again and again, each message would come nearer to its delivery limit."""
    doors = await opened(rules={"queue_limit": 2})
    async with open_world(rabbitmq_url, Names.of(amqp_name), doors) as world:
        consumer = await world.consumer(hold_seconds=0.3)
        await world.publish_many([CONTENT] * 12)
        for number in range(2, 10):
            await world.has_jobs(number)
            await asyncio.sleep(0.5)  # longer than a hold
            await doors.finished(await doors.claimed())
        await world.has_jobs(10)
        assert await world.left_over(consumer) == 2
        counts = [(await world.taken(world.names.requests)).headers.get("x-delivery-count", 0) for _ in range(2)]
        assert max(int(str(count)) for count in counts) <= 4, f"given back over and over: {counts}"
        assert await world.depth(world.names.dead) == 0


# ---------------------------------------------------------------- the line


async def test_a_broker_that_comes_later_is_found(world: World) -> None:
    await world.forwarder.start()
    await world.forwarder.stop()  # the port is known, and nobody listens
    consumer = world.make(world.forwarded)
    world.stack.push_async_callback(consumer.stop)
    with structlog.testing.capture_logs() as lines:
        consumer.start()
        await holds(lambda: lines)
    assert lines[0]["event"] == "amqp_consumer_not_connected"
    assert not consumer.connected
    await world.forwarder.start()
    await holds(lambda: consumer.connected)
    await world.publish()
    await world.has_jobs(1)


async def test_it_can_be_stopped_while_there_is_no_broker(world: World) -> None:
    for _ in range(3):
        consumer = world.make("amqp://guest:guest@127.0.0.1:1/")
        consumer.start()
        await asyncio.sleep(0)
        await asyncio.wait_for(consumer.stop(), 5)
        assert not consumer.connected
    await world.make().stop()  # never started


async def test_a_password_is_never_logged(world: World) -> None:
    consumer = world.make("amqp://guest:my-secret/@127.0.0.1:5672/")  # a slash should be %2F: the port makes no sense
    refused = world.make(world.url.replace("guest:guest", "guest:another-secret"))
    with structlog.testing.capture_logs() as lines:
        for each in (consumer, refused):
            each.start()
            world.stack.push_async_callback(each.stop)
        await holds(lambda: len(lines) >= 2)
    assert {line["event"] for line in lines} == {"amqp_consumer_not_connected"}
    assert "secret" not in str(lines)


async def test_a_cut_line_is_connected_anew(world: World) -> None:
    await world.forwarder.start()
    consumer = await world.consumer(world.forwarded)
    for _ in range(2):
        before = line_of(consumer)
        await world.forwarder.cut()
        await takes_messages_again(world, consumer, before)
    assert await world.left_over(consumer) == 0


async def test_a_restarted_broker_loses_nothing(own_rabbitmq: OwnRabbitMQ, doors: Doors) -> None:
    names = Names.of("restarts")
    async with open_world(own_rabbitmq.url, names, doors) as world:
        consumer = await world.consumer()
        await world.publish()
        await world.has_jobs(1)
        await asyncio.to_thread(own_rabbitmq.stop, kill=False)
        await holds(lambda: not consumer.connected)
        await asyncio.to_thread(own_rabbitmq.start)
        await holds(lambda: consumer.connected, 40)
        async with open_world(own_rabbitmq.url, names, doors) as again:
            await again.publish()
            await again.has_jobs(2)
        await consumer.stop()


async def _delete_queue(world: World, _: Line) -> None:
    async with world.connection.channel() as channel:
        await channel.queue_delete(world.names.requests)


async def _delete_everything(world: World, _: Line) -> None:
    async with world.connection.channel() as channel:
        for name in (world.names.requests, world.names.dead, world.names.events):
            await channel.queue_delete(name)
            await channel.exchange_delete(name)


async def _acknowledge_the_unknown(_: World, line: Line) -> None:
    assert line._raw is not None
    await line._raw.basic_ack(9999)  # answered with 406, which closes the channel


async def _ask_for_the_unknown(_: World, line: Line) -> None:
    assert line._channel is not None
    with pytest.raises(ChannelNotFoundEntity):
        await line._channel.get_queue("there-is-no-such-queue")


async def _cancel_in_silence(_: World, line: Line) -> None:
    """The broker says nothing of it: only looking shows that nothing will come."""
    assert line._raw is not None
    await line._raw.basic_cancel(line._tag)


@pytest.mark.parametrize(
    "harm",
    [_delete_queue, _delete_everything, _acknowledge_the_unknown, _ask_for_the_unknown, _cancel_in_silence],
)
async def test_a_consumer_that_is_gone_comes_back(world: World, harm: Callable[[World, Line], Any]) -> None:
    never = 3600.0  # all but one are noticed without looking
    consumer = await world.consumer(check_seconds=0.5 if harm is _cancel_in_silence else never)
    before = line_of(consumer)
    await harm(world, before)
    await takes_messages_again(world, consumer, before)
    assert await world.left_over(consumer) == 0


async def test_a_queue_of_another_kind_is_consumed_as_it_is(world: World) -> None:
    async with world.connection.channel() as channel:
        await channel.declare_queue(world.names.requests, durable=True)
    consumer = await world.consumer()
    await world.publish()
    await world.has_jobs(1)
    assert await world.left_over(consumer) == 0


# ---------------------------------------------------------------- messages the client library cannot read


async def _publish_raw(world: World, flags: int, properties: bytes) -> None:
    """A message whose properties no library would write."""
    async with world.connection.channel(publisher_confirms=False) as channel:
        raw = await channel.get_underlay_channel()
        publish = pamqp.frame.marshal(Basic.Publish(exchange=world.names.requests), raw.number)
        head = struct.pack(">HHQH", 60, 0, 2, flags) + properties
        frames = b"".join(
            struct.pack(">BHI", kind, raw.number, len(content)) + content + b"\xce"
            for kind, content in ((2, head), (3, b"{}"))
        )
        transport = world.connection.transport
        assert transport is not None
        frame = ChannelFrame(payload=publish + frames, should_close=False, drain_future=None)
        await transport.connection.write_queue.put(frame)
        await channel.get_queue(world.names.requests)  # answered after it


async def test_a_message_that_cannot_be_decoded_ends_among_the_dead_and_holds_up_nothing_for_long(
    world: World,
) -> None:
    await declare(world.connection, world.names)
    await world.publish_many([CONTENT] * 5)
    await _publish_raw(world, 1 << 12 | 1 << 7, b"\x02" + b"\x02\xff\xfe")  # delivery mode 2, a message id not in UTF-8
    await world.publish_many([CONTENT] * 5)
    consumer = await world.consumer()

    async def dead() -> bool:
        return await world.depth(world.names.dead) == 1

    await until(dead, 60)
    await until(lambda: _queued(world, 10), 30)
    await holds(lambda: consumer.connected, 30)
    assert await world.left_over(consumer) == 0
    assert await world.depth(world.names.dead) == 1


async def _queued(world: World, number: int) -> bool:
    return (await world.doors.ledger.counts()).get("queued", 0) >= number

"""The relay to RabbitMQ: a real ledger on one side, a real server on the other."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiohttp import web

from service.amqp import topology
from service.amqp.names import Names
from service.amqp.relay import Relay
from service.jobs import Status
from service.ledger.base import Ledger
from service.ledger.destinations import reply_url
from service.ledger.records import Delivery, DeliveryStatus
from service.ledger.sqlite import SQLiteLedger
from service.outbox import Outbox
from service.outgoing import OutgoingPolicy
from service.webhooks_out import WebhookSender
from tests.rabbitmq import MAX_MESSAGE_BYTES, OwnRabbitMQ
from tests.spine import Trouble, accept, holds, open_ledger, until

PATIENT = (0.1,) * 1000
HASTY = (0.02, 0.02)


@pytest.fixture
def names(amqp_name: str) -> Names:
    return Names.of(amqp_name)


@pytest.fixture
async def ledger(tmp_path: Path, names: Names) -> AsyncIterator[SQLiteLedger]:
    async with open_ledger(tmp_path / "ledger.sqlite3", exchange=names.events) as opened:
        yield opened


@asynccontextmanager
async def relaying(ledger: Ledger, url: str, names: Names, **options: Any) -> AsyncIterator[Relay]:
    chosen: dict[str, Any] = {"schedule": PATIENT, "poll_seconds": 0.5} | options
    relay = Relay(ledger, url, names, **chosen)
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


@asynccontextmanager
async def channel_to(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        yield channel


class Inbox:
    """A durable queue of somebody who listens, and all that has come to it."""

    def __init__(self, url: str, names: Names) -> None:
        self.url = url
        self.names = names
        self.queue = f"{names.events}.inbox.{secrets.token_hex(4)}"
        self.got: list[AbstractIncomingMessage] = []

    async def bind(self, pattern: str = "#", **arguments: Any) -> None:
        async with await aio_pika.connect(self.url) as connection:
            await topology.declare(connection, self.names)
            async with connection.channel() as channel:
                queue = await channel.declare_queue(self.queue, durable=True, arguments=arguments)
                await queue.bind(self.names.events, pattern)

    async def delete(self) -> None:
        async with channel_to(self.url) as channel:
            await channel.queue_delete(self.queue)

    async def take(self) -> list[AbstractIncomingMessage]:
        """What has come by now, and came before."""
        async with channel_to(self.url) as channel:
            queue = await channel.get_queue(self.queue)
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                self.got.append(message)
        return self.got

    async def has(self, number: int, seconds: float = 15.0) -> list[AbstractIncomingMessage]:
        """All messages once there are so many."""

        async def look() -> bool:
            return len(await self.take()) >= number

        await until(look, seconds)
        return self.got

    @property
    def ids(self) -> list[str]:
        return [str(message.headers["ce-id"]) for message in self.got]


@pytest.fixture
async def inbox(rabbitmq_url: str, names: Names) -> AsyncIterator[Inbox]:
    """Not yet bound."""
    made = Inbox(rabbitmq_url, names)
    yield made
    await made.delete()


async def finish(ledger: Ledger, number: int = 1, note: str = "größer", **more: Any) -> list[str]:
    """So many jobs that have come to their end; their ids."""
    jobs = await asyncio.gather(*(accept(ledger, "backup", **more) for _ in range(number)))
    while claimed := await ledger.claim("tests", 500):
        ends = (ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED, {"note": note}) for job in claimed)
        await asyncio.gather(*ends)
    return list(jobs)


def events_of(jobs: Sequence[str]) -> set[str]:
    return {f"{job_id}/terminal" for job_id in jobs}


async def deliveries(ledger: Ledger, job_id: str) -> dict[str, Delivery]:
    """By event type and kind."""
    found: Sequence[Delivery] = (await ledger.deliveries(job_id=job_id)).items
    return {f"{each.event_type} {each.kind}": each for each in found}


async def once(ledger: Ledger, job_id: str, which: str, status: DeliveryStatus, attempts: int = 0) -> Delivery:
    """A delivery as soon as it has a status and so many attempts."""

    async def look() -> Delivery | None:
        delivery = (await deliveries(ledger, job_id))[which]
        return delivery if delivery.status is status and delivery.attempts >= attempts else None

    return await until(look)


async def all_sent(ledger: Ledger, seconds: float = 30.0) -> None:
    async def look() -> bool:
        return (await ledger.pending_deliveries())["amqp"] == 0

    await until(look, seconds)


# ---------------------------------------------------------------- what arrives


async def test_every_event_arrives_persistent_under_its_type_and_id(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind()
    async with relaying(ledger, rabbitmq_url, names):
        (job_id,) = await finish(ledger)
        started, ended = await inbox.has(2)
    assert (started.routing_key, ended.routing_key) == ("backup.started", "backup.completed")
    assert ended.exchange == names.events
    event = json.loads(ended.body)
    assert event["id"] == ended.headers["ce-id"] == f"{job_id}/terminal"
    assert event["data"]["note"] == "größer"
    assert ended.headers["ce-type"] == ended.type == event["type"]
    assert (ended.headers["ce-source"], ended.headers["ce-specversion"]) == (event["source"], event["specversion"])
    assert ended.headers["ce-jobid"] == event["jobid"] == job_id
    assert ended.content_type == "application/cloudevents+json"
    assert ended.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert ended.app_id == "flexdb" and ended.timestamp is not None
    assert ended.message_id and started.message_id and ended.message_id != started.message_id
    delivery = await once(ledger, job_id, "backup.completed exchange", DeliveryStatus.DELIVERED)
    assert delivery.body == ended.body and delivery.last_error is None and delivery.attempts == 1


async def test_listeners_choose_by_pattern(ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox) -> None:
    await inbox.bind("*.completed")
    async with relaying(ledger, rabbitmq_url, names):
        jobs = await finish(ledger, 3)
        await all_sent(ledger)
        await inbox.has(3)
    assert sorted(inbox.ids) == sorted(events_of(jobs))


async def test_a_reply_carries_the_terminal_event_and_the_correlation_id(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind("nothing.fits.this")
    async with relaying(ledger, rabbitmq_url, names, schedule=HASTY):
        (job_id,) = await finish(ledger, reply=reply_url(inbox.queue, "größe&42"))
        await all_sent(ledger)
        (answer,) = await inbox.has(1)
    assert (answer.correlation_id, answer.exchange, answer.routing_key) == ("größe&42", "", inbox.queue)
    assert answer.type == "backup.completed" and inbox.ids == [f"{job_id}/terminal"]


async def test_a_caller_without_a_queue_of_its_own_is_answered_directly(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind("nothing.fits.this")
    answers: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    async with channel_to(rabbitmq_url) as channel, relaying(ledger, rabbitmq_url, names):
        direct = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        await direct.consume(answers.put, no_ack=True)
        question = aio_pika.Message(b"", reply_to="amq.rabbitmq.reply-to")
        await channel.default_exchange.publish(question, inbox.queue)
        (asked,) = await inbox.has(1)
        assert asked.reply_to is not None
        (job_id,) = await finish(ledger, reply=reply_url(asked.reply_to))
        answer = await asyncio.wait_for(answers.get(), 10)
    assert answer.headers["ce-id"] == f"{job_id}/terminal" and answer.correlation_id is None


async def test_an_event_waits_for_no_poll(ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox) -> None:
    await inbox.bind()
    async with relaying(ledger, rabbitmq_url, names, poll_seconds=60.0) as relay:
        await holds(lambda: relay.connected)
        for number in range(1, 4):
            await finish(ledger)
            await inbox.has(2 * number, seconds=5)


# ---------------------------------------------------------------- nobody wants it


async def test_an_event_that_nobody_wants_is_kept_until_a_queue_is_bound(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    async with relaying(ledger, rabbitmq_url, names):
        (job_id,) = await finish(ledger)
        tried = await once(ledger, job_id, "backup.completed exchange", DeliveryStatus.PENDING, attempts=2)
        assert tried.last_error == (f"no queue is bound for backup.completed: bind one to the exchange {names.events}")
        await inbox.bind()
        await inbox.has(1)
        await once(ledger, job_id, "backup.completed exchange", DeliveryStatus.DELIVERED)
        started = (await deliveries(ledger, job_id))["backup.started exchange"]
    assert inbox.ids == [f"{job_id}/terminal"]
    assert started.status is DeliveryStatus.ABANDONED and started.attempts == 1
    assert "no queue is bound for backup.started" in (started.last_error or "")


async def test_an_event_is_given_up_when_its_schedule_has_run_out(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names
) -> None:
    async with relaying(ledger, rabbitmq_url, names, schedule=HASTY):
        (job_id,) = await finish(ledger, reply=reply_url(f"{names.events}.gone"))
        for kind in ("exchange", "reply"):
            delivery = await once(ledger, job_id, f"backup.completed {kind}", DeliveryStatus.ABANDONED)
            assert delivery.attempts == 3 and (delivery.last_error or "").endswith("no further tries")
    assert f"there is no queue {names.events}.gone" in (delivery.last_error or "")


async def test_a_full_queue_gets_its_events_when_there_is_room(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind("*.completed", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    async with relaying(ledger, rabbitmq_url, names):
        jobs = await finish(ledger, 4)

        async def is_refused() -> bool:
            found = [(await deliveries(ledger, job_id))["backup.completed exchange"] for job_id in jobs]
            return sum("a queue refused it" in (each.last_error or "") for each in found) == 3

        await until(is_refused)
        await inbox.has(4)
        await all_sent(ledger)
    assert set(inbox.ids) == events_of(jobs)


async def test_a_reply_address_that_no_message_can_carry_is_given_up(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind()
    async with relaying(ledger, rabbitmq_url, names):
        (job_id,) = await finish(ledger, reply=reply_url("q" * 300))
        refused = await once(ledger, job_id, "backup.completed reply", DeliveryStatus.ABANDONED)
        await inbox.has(2)
    assert "RabbitMQ cannot carry this" in (refused.last_error or "")


# ---------------------------------------------------------------- trouble


async def test_an_exchange_that_was_deleted_is_made_again(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind()
    async with relaying(ledger, rabbitmq_url, names) as relay:
        await finish(ledger)
        await inbox.has(2)
        async with channel_to(rabbitmq_url) as channel:
            await channel.exchange_delete(names.events)
        jobs = await finish(ledger, 20)
        started = await once(ledger, jobs[0], "backup.started exchange", DeliveryStatus.ABANDONED)
        assert "no queue is bound" in (started.last_error or "")
        await inbox.bind()
        await all_sent(ledger)
        await inbox.has(22)
        assert relay.connected
    assert events_of(jobs) <= set(inbox.ids)


async def test_a_message_that_rabbitmq_minds_holds_up_no_other(tmp_path: Path, own_rabbitmq: OwnRabbitMQ) -> None:
    names = Names.of(f"flexdbtest{secrets.token_hex(4)}")
    inbox = Inbox(own_rabbitmq.url, names)
    await inbox.bind("*.completed")
    async with open_ledger(tmp_path / "ledger.sqlite3", exchange=names.events) as ledger:
        before = await finish(ledger, 30)
        (giant,) = await finish(ledger, note="x" * (MAX_MESSAGE_BYTES + 1))
        after = await finish(ledger, 30)
        async with relaying(ledger, own_rabbitmq.url, names, schedule=HASTY):
            refused = await once(ledger, giant, "backup.completed exchange", DeliveryStatus.ABANDONED)
            later = await finish(ledger, 30)
            await all_sent(ledger)
            await inbox.has(90)
    assert set(inbox.ids) == events_of([*before, *after, *later])
    assert "RabbitMQ does not take it: PRECONDITION_FAILED" in (refused.last_error or "")


async def test_a_relay_started_before_its_broker_waits_without_touching_an_event(
    tmp_path: Path, own_rabbitmq: OwnRabbitMQ
) -> None:
    names = Names.of(f"flexdbtest{secrets.token_hex(4)}")
    inbox = Inbox(own_rabbitmq.url, names)
    await inbox.bind("*.completed")
    own_rabbitmq.stop(kill=False)
    async with open_ledger(tmp_path / "ledger.sqlite3", exchange=names.events) as ledger:
        with structlog.testing.capture_logs() as lines:
            async with relaying(ledger, own_rabbitmq.url, names) as relay:
                jobs = await finish(ledger, 5)
                await holds(lambda: any(line["event"] == "amqp_relay_waits" for line in lines))
                assert not relay.connected and (await ledger.pending_deliveries())["amqp"] == 10
                await asyncio.to_thread(own_rabbitmq.start)
                await all_sent(ledger)
                await inbox.has(5)
                await holds(lambda: relay.connected)
        done = [(await deliveries(ledger, job_id))["backup.completed exchange"] for job_id in jobs]
    assert sorted(inbox.ids) == sorted(events_of(jobs)) and {each.attempts for each in done} == {1}
    told = [line["event"] for line in lines if line["event"] in ("amqp_relay_waits", "amqp_relay_resumed")]
    assert told == ["amqp_relay_waits", "amqp_relay_resumed"]


async def test_a_broker_that_falls_silent_is_left_and_the_event_sent_again(
    tmp_path: Path, own_rabbitmq: OwnRabbitMQ
) -> None:
    names = Names.of(f"flexdbtest{secrets.token_hex(4)}")
    inbox = Inbox(own_rabbitmq.url, names)
    await inbox.bind("*.completed")
    async with (
        open_ledger(tmp_path / "ledger.sqlite3", exchange=names.events) as ledger,
        relaying(ledger, own_rabbitmq.url, names, confirm_seconds=0.5),
    ):
        await finish(ledger)
        await inbox.has(1)
        own_rabbitmq.freeze()
        try:
            (job_id,) = await finish(ledger)
            tried = await once(ledger, job_id, "backup.completed exchange", DeliveryStatus.PENDING, attempts=1)
        finally:
            own_rabbitmq.thaw()
        assert "may arrive twice" in (tried.last_error or "")
        await once(ledger, job_id, "backup.completed exchange", DeliveryStatus.DELIVERED)
        await inbox.has(2)
    assert f"{job_id}/terminal" in inbox.ids


async def test_a_killed_broker_loses_no_event_and_holds_up_no_webhook(
    tmp_path: Path, own_rabbitmq: OwnRabbitMQ, aiohttp_server: Any
) -> None:
    called: list[str] = []

    async def hear(request: web.Request) -> web.Response:
        called.append((await request.json())["id"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", hear)
    hook = f"http://127.0.0.1:{(await aiohttp_server(app)).port}/hook"
    names = Names.of(f"flexdbtest{secrets.token_hex(4)}")
    inbox = Inbox(own_rabbitmq.url, names)
    await inbox.bind()
    sender = WebhookSender(OutgoingPolicy(loopback_for_callbacks=True), ())
    with structlog.testing.capture_logs() as lines:
        async with open_ledger(tmp_path / "ledger.sqlite3", exchange=names.events) as ledger:
            outbox = Outbox(ledger, sender)
            outbox.start()
            jobs = await finish(ledger, 600)
            async with relaying(ledger, own_rabbitmq.url, names) as relay:

                async def is_in_the_middle() -> bool:
                    return 0 < (await ledger.pending_deliveries())["amqp"] < 1200

                await until(is_in_the_middle)
                await asyncio.to_thread(own_rabbitmq.stop)
                meanwhile = await finish(ledger, 50, callback_url=hook)
                await holds(lambda: len(called) == 50 and not relay.connected)
                backlog = (await ledger.pending_deliveries())["amqp"]
                assert backlog >= 100
                await asyncio.to_thread(own_rabbitmq.start)
                await all_sent(ledger)
                await inbox.has(1300)
            await outbox.stop()
            done = [(await deliveries(ledger, job_id))["backup.completed exchange"] for job_id in meanwhile]
    await sender.close()
    assert set(called) == events_of(meanwhile) <= set(inbox.ids)
    assert events_of(jobs) <= set(inbox.ids) and len(set(inbox.ids)) == 1300
    assert {each.attempts for each in done} == {1}
    assert [line["event"] for line in lines].count("amqp_relay_waits") == 1


async def test_stopping_in_the_middle_loses_nothing(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind("*.completed")
    jobs = await finish(ledger, 600)
    relay = Relay(ledger, rabbitmq_url, names, schedule=PATIENT)
    relay.start()

    async def has_begun() -> bool:
        return (await ledger.pending_deliveries())["amqp"] < 1200

    await until(has_begun)
    began = time.monotonic()
    await relay.stop(0.0)
    assert time.monotonic() - began < 3 and not relay.connected and relay.in_flight == 0
    assert (await ledger.pending_deliveries())["amqp"] > 0
    async with relaying(ledger, rabbitmq_url, names):
        await all_sent(ledger)
        await inbox.has(600)
    assert set(inbox.ids) == events_of(jobs)


async def test_stopping_with_time_leaves_nothing_to_send_twice(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind("*.completed")
    jobs = await finish(ledger, 300)
    relay = Relay(ledger, rabbitmq_url, names, schedule=PATIENT)
    relay.start()
    await holds(lambda: relay.in_flight > 0)
    await relay.stop(10.0)
    async with relaying(ledger, rabbitmq_url, names):
        await all_sent(ledger)
        await inbox.has(300)
    assert sorted(inbox.ids) == sorted(events_of(jobs))


async def test_stopping_does_not_wait_for_a_broker_that_does_not_answer(ledger: SQLiteLedger, names: Names) -> None:
    lines: list[asyncio.StreamWriter] = []

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(writer)

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        relay = Relay(ledger, f"amqp://guest:guest@127.0.0.1:{port}/", names, schedule=PATIENT)
        relay.start()
        await holds(lambda: lines)
        began = time.monotonic()
        await relay.stop()
        assert time.monotonic() - began < 1
        lines[0].close()


async def test_a_connection_that_breaks_is_noticed_without_any_event(tmp_path: Path, own_rabbitmq: OwnRabbitMQ) -> None:
    names = Names.of(f"flexdbtest{secrets.token_hex(4)}")
    with structlog.testing.capture_logs() as lines:
        async with (
            open_ledger(tmp_path / "ledger.sqlite3", exchange=names.events) as ledger,
            relaying(ledger, own_rabbitmq.url, names, poll_seconds=60.0) as relay,
        ):
            await holds(lambda: relay.connected)
            await asyncio.to_thread(own_rabbitmq.stop)
            await holds(lambda: "amqp_relay_waits" in [line["event"] for line in lines], 5)
            await asyncio.to_thread(own_rabbitmq.start)
            await holds(lambda: relay.connected, 30)


async def test_ledger_trouble_loses_nothing_and_repeats_nothing(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, inbox: Inbox
) -> None:
    await inbox.bind("*.completed")
    shaky = Trouble(ledger, take_messages=2, settle_delivery=3)
    async with relaying(shaky.ledger, rabbitmq_url, names):
        jobs = await finish(ledger, 10)
        await all_sent(ledger)
        await inbox.has(10)
    assert sorted(inbox.ids) == sorted(events_of(jobs)) and shaky.refused == 5


async def test_a_password_that_is_wrong_is_told_and_not_shown(
    ledger: SQLiteLedger, rabbitmq_url: str, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    url = rabbitmq_url.replace("guest:guest@", "guest:hunter2@")
    with structlog.testing.capture_logs() as lines, caplog.at_level("DEBUG"):
        async with relaying(ledger, url, names) as relay:
            await holds(lambda: any(line["event"] == "amqp_relay_waits" for line in lines))
            assert not relay.connected
    (told,) = [line["error"] for line in lines if line["event"] == "amqp_relay_waits"]
    assert "ACCESS_REFUSED" in told
    assert "hunter2" not in f"{lines}{caplog.text}{relay!r}"

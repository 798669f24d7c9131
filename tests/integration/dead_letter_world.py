"""A service's queues in a real RabbitMQ, messages dying in them both ways, and the calls for dead letters over them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from aio_pika.abc import AbstractConnection
from aiohttp import web
from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelClosed, PublishError
from pamqp.commands import Basic
from yarl import URL

from service.amqp.dead_letters import DeadLetters
from service.amqp.names import Names
from service.amqp.rejections import Rejection, Rejections
from service.amqp.topology import connect, declare
from service.http.keys import PARTS
from service.http.routes import make_app
from tests.integration.real_service import Running
from tests.rabbitmq import installed_rabbitmq
from tests.servers import ServerMissingError, missing
from tests.spine import until

BACKUP = {"connection": "shop"}


class Broker:
    """Exchanges and queues of one name."""

    def __init__(self, url: str, names: Names, connection: AbstractConnection, channel: RawChannel) -> None:
        self.url = url
        self.names = names
        self.letters = DeadLetters(url, names)
        self.connection = connection
        self.channel = channel
        self._rejections = Rejections(url, names)

    async def publish(
        self,
        body: bytes | dict[str, Any],
        headers: Mapping[str, Any] | None = None,
        *,
        exchange: str | None = None,
        key: str = "backup.requested",
        **properties: Any,
    ) -> None:
        """One message to the requests exchange, or another; confirmed."""
        made = Basic.Properties(
            headers=dict(headers or {}),
            message_id=properties.pop("message_id", secrets.token_hex(8)),
            delivery_mode=2,
            **properties,
        )
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        place = self.names.requests if exchange is None else exchange
        await self.channel.basic_publish(body, exchange=place, routing_key=key, properties=made, mandatory=True)

    async def take(self, queue: str | None = None) -> DeliveredMessage:
        """The next message of the requests queue, unacknowledged."""

        async def look() -> DeliveredMessage | None:
            message = await self.channel.basic_get(queue or self.names.requests)
            return message if isinstance(message.delivery, Basic.GetOk) else None

        return await until(look)

    async def put_aside(
        self,
        body: bytes | dict[str, Any],
        headers: Mapping[str, Any] | None = None,
        *,
        reason: str = "invalid_request",
        **more: Any,
    ) -> None:
        """A message dies as the consumer lets it die."""
        await self.publish(body, headers, **more)
        message = await self.take()
        await self._rejections.put_aside(message, Rejection(422, reason, f"It is {reason}."))
        await self.channel.basic_ack(tag(message))

    async def reject(self, body: bytes | dict[str, Any], headers: Mapping[str, Any] | None = None, **more: Any) -> None:
        """A message dies as the broker lets it die."""
        before = await self.count(self.names.dead)
        await self.publish(body, headers, **more)
        await self.channel.basic_reject(tag(await self.take()), requeue=False)
        await self.counts(self.names.dead, before + 1)

    async def count(self, queue: str) -> int:
        """Messages ready in a queue."""
        answer = await self.channel.queue_declare(queue, passive=True)
        return answer.message_count or 0

    async def counts(self, queue: str, number: int) -> None:
        """Wait until so many are ready: what is returned or dead-lettered comes a moment later."""

        async def look() -> bool:
            return await self.count(queue) == number

        await until(look)

    async def leave(self) -> None:
        """Only the connection is closed, or what is left of it."""
        with suppress(AMQPError):
            await self.connection.close()

    async def close(self) -> None:
        await self._rejections.close()
        await self.letters.close()
        for name in (self.names.requests, self.names.dead):
            await self.channel.queue_delete(name)
            await self.channel.exchange_delete(name)
        await self.channel.exchange_delete(self.names.events)
        await self.connection.close()


def tag(message: DeliveredMessage) -> int:
    assert isinstance(message.delivery, Basic.GetOk | Basic.Deliver)
    assert message.delivery.delivery_tag is not None
    return message.delivery.delivery_tag


def headers_of(message: DeliveredMessage) -> dict[str, Any]:
    """Without what the broker counts on every quorum queue's messages."""
    found = dict(message.header.properties.headers or {})
    found.pop("x-delivery-count", None)
    return found


@asynccontextmanager
async def open_broker(url: str, name: str, *, keep: bool = False) -> AsyncIterator[Broker]:
    """Queues made as the service makes them, gone afterwards unless they are to be kept."""
    names = Names.of(name)
    connection = await connect(url, f"{name} test")
    await declare(connection, names)
    kept = await connection.channel(publisher_confirms=True, on_return_raises=True)
    broker = Broker(url, names, connection, await kept.get_underlay_channel())
    try:
        yield broker
    finally:
        await (broker.leave() if keep else broker.close())


@asynccontextmanager
async def some_broker() -> AsyncIterator[Broker]:
    """Where there is no fixture at hand."""
    try:
        url = installed_rabbitmq()
    except ServerMissingError as error:
        missing(str(error))
        raise
    async with open_broker(url, f"flexdbtest{secrets.token_hex(6)}") as broker:
        yield broker


@asynccontextmanager
async def with_dead_letters(service: Running, letters: DeadLetters | None) -> AsyncIterator[Running]:
    """The same service's doors once more, reading these dead letters."""
    parts = replace(service.service.application()[PARTS], dead_letters=letters)
    runner = web.AppRunner(make_app(parts), access_log=None, handler_cancellation=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield replace(service, base=URL(f"http://127.0.0.1:{runner.addresses[0][1]}"))
    finally:
        await runner.cleanup()


async def is_refused(broker: Broker, exchange: str) -> bool:
    """Whether an exchange is not there, or leads nowhere; for tests that see to it first."""
    channel = await broker.connection.channel(publisher_confirms=True, on_return_raises=True)
    raw = await channel.get_underlay_channel()
    try:
        async with asyncio.timeout(10):
            await raw.basic_publish(b"", exchange=exchange, routing_key="probe", mandatory=True)
    except (PublishError, ChannelClosed):
        return True
    return False

"""A RabbitMQ as somebody else's program sees it: publishes requests, has an inbox for events, clears up afterwards."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, HeadersType
from aio_pika.exceptions import AMQPError

T = TypeVar("T")
WINDOW = 200
OPEN_SECONDS = 5.0
CONFIRM_SECONDS = 5.0
"""A server that goes away or has just come up may leave what it is asked unanswered for ever."""
AWAY = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What a client meets while the server is gone; aio-pika tells of a closed channel by a RuntimeError."""


@dataclass(frozen=True, slots=True)
class Request:
    """A CloudEvent on its way to FlexDB."""

    event_id: str
    operation: str
    data: Mapping[str, Any]
    source: str = "/tests"
    reply_to: str | None = None
    correlation_id: str | None = None

    def message(self) -> aio_pika.Message:
        return aio_pika.Message(
            json.dumps(self.event()).encode(),
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            reply_to=self.reply_to,
            correlation_id=self.correlation_id,
        )

    def event(self) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": self.event_id,
            "source": self.source,
            "type": f"{self.operation}.requested",
            "data": dict(self.data),
        }


@dataclass(frozen=True, slots=True)
class Told:
    """One event that came from FlexDB."""

    routing_key: str
    headers: HeadersType
    correlation_id: str | None
    event: dict[str, Any] = field(repr=False)


class Broker:
    """Everything under one name on one server. Each call is a connection of its own."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self._inboxes: list[str] = []

    def publish(self, requests: Iterable[Request]) -> None:
        """Returns when the server has confirmed all of them."""
        self._on_channel(lambda channel: self._publish(channel, list(requests)))

    async def _publish(self, channel: AbstractChannel, requests: Sequence[Request]) -> None:
        exchange = await channel.get_exchange(f"{self.name}.requests", ensure=False)
        for at in range(0, len(requests), WINDOW):
            window = requests[at : at + WINDOW]
            sent = (exchange.publish(each.message(), f"{each.operation}.requested") for each in window)
            async with asyncio.timeout(CONFIRM_SECONDS):
                await asyncio.gather(*sent)

    def make_inbox(self, *, of_all_events: bool = True) -> str:
        """A durable queue, by default for all events FlexDB tells of; its name."""
        name = f"{self.name}.inbox.{len(self._inboxes)}"
        self._inboxes.append(name)

        async def declare(channel: AbstractChannel) -> None:
            queue = await channel.declare_queue(name, durable=True)
            if of_all_events:
                await queue.bind(f"{self.name}.events", "#")

        self._on_channel(declare)
        return name

    def read(self, queue: str) -> list[Told]:
        """What lies in a queue, taken out."""

        async def drain(channel: AbstractChannel) -> list[Told]:
            found = await channel.declare_queue(queue, passive=True)
            left = found.declaration_result.message_count or 0
            told: list[Told] = []
            if left:
                async with found.iterator(no_ack=True, timeout=10) as messages:
                    async for message in messages:
                        told.append(_told(message))
                        if len(told) >= left:
                            break
            return told

        return self._on_channel(drain)

    def is_set_up(self) -> bool:
        """Whether FlexDB has declared what it needs."""

        async def look(channel: AbstractChannel) -> bool:
            await channel.get_exchange(f"{self.name}.events", ensure=True)
            await channel.get_queue(f"{self.name}.requests", ensure=True)
            return True

        try:
            return self._on_channel(look)
        except AWAY:
            return False

    def waiting(self) -> int:
        """Requests that nobody has acknowledged or taken yet."""

        async def look(channel: AbstractChannel) -> int:
            queue = await channel.declare_queue(f"{self.name}.requests", passive=True)
            return queue.declaration_result.message_count or 0

        return self._on_channel(look)

    def remove(self) -> None:
        """Delete everything of this name."""

        async def delete(channel: AbstractChannel) -> None:
            for queue in (f"{self.name}.requests", f"{self.name}.dead", *self._inboxes):
                await channel.queue_delete(queue)
            for exchange in ("requests", "events", "dead"):
                await channel.exchange_delete(f"{self.name}.{exchange}")

        self._on_channel(delete)

    def _on_channel(self, work: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        async def connected() -> T:
            async with AsyncExitStack() as opened:
                async with asyncio.timeout(OPEN_SECONDS):
                    connection = await aio_pika.connect(self.url)
                    opened.push_async_callback(_close, connection)
                    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                return await work(channel)

        return asyncio.run(connected())


async def _close(connection: AbstractConnection) -> None:
    with suppress(*AWAY):
        async with asyncio.timeout(OPEN_SECONDS):
            await connection.close()


def _told(message: AbstractIncomingMessage) -> Told:
    return Told(message.routing_key or "", dict(message.headers), message.correlation_id, json.loads(message.body))


class Publisher(threading.Thread):
    """Publishes requests in its own time, over again what an outage left unconfirmed; `confirmed` only grows."""

    def __init__(self, broker: Broker, requests: Iterable[Request], *, window: int = 50, pause: float = 0.0) -> None:
        super().__init__(name="publisher", daemon=True)
        self._broker = broker
        self._todo = list(requests)
        self._window = window
        self._pause = pause
        self._done = threading.Event()
        self.confirmed: list[str] = []
        self.outages = 0

    def run(self) -> None:
        while self._todo and not self._done.is_set():
            try:
                self._broker._on_channel(self._publish)
            except AWAY:
                self.outages += 1
                self._done.wait(0.2)

    async def _publish(self, channel: AbstractChannel) -> None:
        while self._todo and not self._done.is_set():
            window = self._todo[: self._window]
            await self._broker._publish(channel, window)
            self.confirmed += [each.event_id for each in window]
            del self._todo[: len(window)]
            await asyncio.sleep(self._pause)

    def stop(self) -> None:
        """Publish no more; returns when it has ended."""
        self._done.set()
        self.join()

"""One consumer on one channel of one connection: opened whole, watched, and closed whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError
from aiormq import spec
from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage

from service.amqp.acks import Acks
from service.amqp.channels import ChannelGone, within
from service.amqp.names import Names
from service.amqp.topology import connect, declare

log = structlog.get_logger(__name__)

OPEN_SECONDS = 20.0
ASK_SECONDS = 10.0
CLOSE_SECONDS = 5.0
CAUSE_SECONDS = 0.5
"""A channel is told of its end a little before the connection is."""

HELD_TOO_LONG = "messages were held for too long"

Arrived = Callable[["Line", DeliveredMessage], Coroutine[Any, Any, None]]


class Line:
    """It never recovers by itself: whatever goes wrong, the next one begins from nothing."""

    def __init__(self, connection: AbstractConnection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._channel: AbstractChannel | None = None
        self._raw: RawChannel | None = None
        self._acks: Acks | None = None
        self._tag = ""
        self._canceled = asyncio.Event()
        """By the broker, which does it when the queue is deleted."""
        self.given_up = asyncio.Event()
        """Set by whoever holds messages that it will not get rid of soon."""
        self.ended = asyncio.Event()
        """What was delivered here and is not acknowledged will be delivered again, elsewhere."""

    @classmethod
    async def open(cls, url: str, names: Names, prefetch: int, arrived: Arrived) -> Line:
        """Connect, see that the queue is there, consume. Raises what aio-pika raises, `ChannelGone`."""
        line = cls(await connect(url, f"{names.requests} consumer"), names)
        try:
            await declare(line._connection, names)
            await within(OPEN_SECONDS, line._consume(prefetch, arrived))
        except BaseException:
            await line.close()
            raise
        return line

    async def _consume(self, prefetch: int, arrived: Arrived) -> None:
        self._channel = self._connection.channel(publisher_confirms=False)
        await self._channel.initialize()
        await self._channel.set_qos(prefetch_count=prefetch)
        self._raw = await self._channel.get_underlay_channel()
        self._acks = Acks(self._raw)
        self._raw.on_consumer_cancel_callbacks.add(self._on_cancel)
        # aiormq's own consume: aio-pika's would put two more tasks around every message.
        answer = await self._raw.basic_consume(self._names.requests, lambda message: arrived(self, message))
        self._tag = answer.consumer_tag or ""

    def _on_cancel(self, _: spec.Basic.Cancel) -> None:
        self._canceled.set()

    async def cause(self) -> BaseException | None:
        """The error that closed the connection; None when it was not the connection."""
        transport = self._connection.transport
        if transport is None:
            return None
        closing = transport.connection.closing
        await asyncio.wait({closing}, timeout=CAUSE_SECONDS)
        return closing.exception() if closing.done() and not closing.cancelled() else None

    async def until_gone(
        self, stopping: asyncio.Event, check_seconds: float, at_most: float | None = None
    ) -> str | None:
        """Why nothing comes by this line any more; None when `stopping` was set or `at_most` seconds are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                return await self._until_gone(stopping, check_seconds)
        return None

    async def _until_gone(self, stopping: asyncio.Event, check_seconds: float) -> str | None:
        assert self._channel is not None  # noqa: S101  for mypy: `open` made it
        events = (self._channel.closed(), self._canceled.wait(), self.given_up.wait(), stopping.wait())
        waits = [asyncio.ensure_future(event) for event in events]
        try:
            while True:
                await asyncio.wait(waits, timeout=check_seconds, return_when=asyncio.FIRST_COMPLETED)
                if stopping.is_set():
                    return None
                if self.given_up.is_set():
                    return HELD_TOO_LONG
                if gone := await self._gone():
                    return gone
        finally:
            for wait in waits:
                wait.cancel()

    async def _gone(self) -> str | None:
        if self._raw is None or self._raw.is_closed:
            return "channel closed"
        if self._canceled.is_set():
            return "consumer canceled by the broker"
        try:
            consumers = await within(ASK_SECONDS, self._consumers())
        except (ChannelGone, AMQPError) as error:
            return f"queue cannot be asked: {type(error).__name__}"
        return None if consumers else "the queue has no consumer"

    async def _consumers(self) -> int:
        """How many the broker knows of, on a channel of its own: a missing queue closes it."""
        channel = self._connection.channel(publisher_confirms=False)
        await channel.initialize()
        try:
            queue = await channel.get_queue(self._names.requests)
            return queue.declaration_result.consumer_count or 0
        finally:
            if not channel.is_closed:
                await channel.close()

    async def ack(self, delivered: DeliveredMessage) -> None:
        """Once it is on disk; never raises, as a message that is not acknowledged just comes again."""
        assert self._acks is not None  # noqa: S101  for mypy: there is a channel, as it came by it
        assert delivered.delivery_tag is not None  # noqa: S101  for mypy: what a consumer is sent has one
        await self._acks.ack(delivered.delivery_tag)

    async def cancel(self) -> None:
        """Have the broker send no more; what is here can still be acknowledged."""
        if self._raw is not None and not self._raw.is_closed:
            with suppress(AMQPError, ChannelGone):
                await within(CLOSE_SECONDS, self._raw.basic_cancel(self._tag))

    async def close(self) -> None:
        """Give everything back; never raises."""
        self.ended.set()
        with suppress(AMQPError, ChannelGone):
            await within(CLOSE_SECONDS, self._connection.close())

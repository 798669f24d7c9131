"""RabbitMQ as programs around the service see it: they publish, count and look; the line to it can be cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from service.amqp.consumer import Consumer
from service.amqp.names import Names
from service.ledger.base import Ledger
from service.ledger.records import Acceptance, Submission
from tests.integration.doors import Doors
from tests.spine import holds, until

CONTENT: dict[str, Any] = {"connection": "shop"}


class Forwarder:
    """A port of 127.0.0.1 that leads to another one, from `start` on; `cut` ends what goes through it."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def cut(self) -> None:
        """End every connection; new ones are carried again."""
        for task in list(self._tasks):
            task.cancel()
        await holds(lambda: not self._tasks)

    async def stop(self) -> None:
        """As `cut`, and nobody listens any more."""
        if self._server is not None:
            self._server.close()
            await self.cut()
            self._server = None


class Gate:
    """A real ledger whose acceptances wait at a gate while it is closed."""

    def __init__(self, real: Ledger) -> None:
        self._real = real
        self.open = asyncio.Event()
        self.waiting = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def accept(self, submission: Submission) -> Acceptance:
        self.waiting += 1
        await self.open.wait()
        return await self._real.accept(submission)


@dataclass
class World:
    """A consumer's surroundings: its names, a line of our own to the broker, and the doors over the same ledger."""

    url: str
    names: Names
    doors: Doors
    connection: AbstractConnection
    stack: AsyncExitStack
    forwarder: Forwarder
    consumers: list[Consumer] = field(default_factory=list)

    @property
    def forwarded(self) -> str:
        parts = urlsplit(self.url)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@127.0.0.1:{self.forwarder.port}").geturl()

    def make(self, url: str | None = None, **options: Any) -> Consumer:
        given = {"prefetch": 100, "trust_broker": True, "max_body_bytes": 100_000, "check_seconds": 0.5} | options
        parts = self.doors.parts
        return Consumer(url or self.url, self.names, parts.intake, parts.access, **given)

    async def consumer(self, url: str | None = None, **options: Any) -> Consumer:
        """Consuming when it is returned, stopped after the test."""
        made = self.make(url, **options)
        self.stack.push_async_callback(made.stop)
        made.start()
        await holds(lambda: made.connected)
        return made

    async def publish(
        self, body: Any = CONTENT, type_: str | None = "check.requested", key: str = "", **properties: Any
    ) -> None:
        """To the requests exchange; a body that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = aio_pika.Message(raw, type=type_, delivery_mode=2, **properties)
        async with self.connection.channel(on_return_raises=True) as channel:
            exchange = await channel.get_exchange(self.names.requests)
            await exchange.publish(message, key)

    async def publish_many(self, bodies: Sequence[Mapping[str, Any]], **properties: Any) -> None:
        async with self.connection.channel(on_return_raises=True) as channel:
            exchange = await channel.get_exchange(self.names.requests)
            messages = [
                aio_pika.Message(json.dumps(body).encode(), type="check.requested", delivery_mode=2, **properties)
                for body in bodies
            ]
            await asyncio.gather(*(exchange.publish(message, "") for message in messages))

    async def depth(self, queue: str) -> int:
        """Messages that wait there, those under way not counted."""
        async with self.connection.channel() as channel:
            found = await channel.get_queue(queue)
            return found.declaration_result.message_count or 0

    async def jobs(self) -> list[Any]:
        return list((await self.doors.get("/jobs?limit=200"))["data"])

    async def has_jobs(self, number: int) -> list[Any]:
        async def look() -> list[Any] | None:
            found = await self.jobs()
            return found if len(found) >= number else None

        found = await until(look)
        assert len(found) == number
        return found

    async def taken(self, queue: str) -> AbstractIncomingMessage:
        """The next message there, taken out."""
        async with self.connection.channel() as channel:
            found = await channel.get_queue(queue)

            async def look() -> AbstractIncomingMessage | None:
                return await found.get(no_ack=True, fail=False)

            return await until(look)

    async def left_over(self, consumer: Consumer) -> int:
        """Messages nobody has acknowledged, after the consumer has stopped."""
        await consumer.stop()

        async def look() -> list[int] | None:
            first, second = [await self.depth(self.names.requests) for _ in range(2)]
            return [first] if first == second else None

        return (await until(look))[0]


@asynccontextmanager
async def open_world(url: str, names: Names, doors: Doors) -> AsyncIterator[World]:
    """Over exchanges and queues that whoever calls removes."""
    parts = urlsplit(url)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await aio_pika.connect(url))
        forwarder = Forwarder(parts.hostname or "127.0.0.1", parts.port or 5672)
        stack.push_async_callback(forwarder.stop)
        yield World(url, names, doors, connection, stack, forwarder)

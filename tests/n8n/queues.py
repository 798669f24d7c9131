"""Looking into the queues of a RabbitMQ, and putting messages there, from ordinary code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity

T = TypeVar("T")


def on_channel(url: str, act: Callable[[AbstractChannel], Awaitable[T]]) -> T:
    """What `act` answers, on a channel of a connection of its own."""

    async def run() -> T:
        connection = await aio_pika.connect(url)
        async with connection, connection.channel() as channel:
            return await act(channel)

    return asyncio.run(run())


def depth(url: str, queue: str) -> tuple[int, int] | None:
    """Messages that are ready in a queue, and its consumers; None while there is no such queue."""

    async def act(channel: AbstractChannel) -> tuple[int, int] | None:
        try:
            found = (await channel.declare_queue(queue, passive=True)).declaration_result
        except ChannelNotFoundEntity:
            return None
        return found.message_count or 0, found.consumer_count or 0

    return on_channel(url, act)


def consumers(url: str, queue: str) -> int:
    found = depth(url, queue)
    return found[1] if found else 0


def purge(url: str, queue: str) -> None:
    """Empty a queue; nothing where there is none."""

    async def act(channel: AbstractChannel) -> None:
        try:
            await (await channel.get_queue(queue)).purge()
        except ChannelNotFoundEntity:
            return

    on_channel(url, act)


def remove(url: str, queue: str) -> None:
    """Delete a queue and what is in it; nothing where there is none."""

    async def act(channel: AbstractChannel) -> None:
        await channel.queue_delete(queue)

    on_channel(url, act)


def bind(url: str, queue: str, exchange: str, routing_key: str) -> None:
    """Make a queue, unless it is there, and let it have what comes to the exchange with such keys."""

    async def act(channel: AbstractChannel) -> None:
        await (await channel.declare_queue(queue, durable=True)).bind(exchange, routing_key)

    on_channel(url, act)


def publish(url: str, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
    """To an exchange that is there; `""` is the default one, whose routing keys are names of queues."""

    async def act(channel: AbstractChannel) -> None:
        found = await channel.get_exchange(exchange) if exchange else channel.default_exchange
        await found.publish(message, routing_key)

    on_channel(url, act)

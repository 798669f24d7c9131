"""Exchanges and queues in RabbitMQ: how they come to be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue, ExchangeType
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed
from yarl import URL

from service.amqp.channels import within
from service.amqp.names import Names

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 15.0
DECLARE_SECONDS = 60.0
"""Limit of all declarations; a quorum queue takes a while where its members are far apart."""
HEARTBEAT_SECONDS = 20
"""A broker that went away without a word is noticed after about three of these."""
DELIVERY_LIMIT = 50
"""Deliveries of one message before the broker calls it dead.

Unlimited before RabbitMQ 4.0 and 20 from there. A message that kills whoever reads it has to end somewhere; but every
lost connection counts as a delivery too, for all messages under way, and a bad line must not make dead letters.
"""
LOOKS = 1_000_000_000
"""Delivery limit of the dead-letter queue: looking at a letter returns it, which counts as a delivery.

None would be 20 from RabbitMQ 4.0, and -1, which means no limit there, has 3.10 drop a letter when it is returned.
"""
REFUSALS = (ChannelPreconditionFailed, ChannelAccessRefused)
"""It exists with other arguments, an argument is not known, or declaring is not allowed; the channel is closed."""

Arguments = dict[str, Any]


async def connect(url: str, name: str) -> AbstractConnection:
    """A connection ready for use, shown as `name` in RabbitMQ.

    It does not come back by itself when it breaks: whoever holds it connects anew. Raises what aio-pika raises when
    there is no broker that lets us in, `ChannelGone` when it does not answer.
    """
    address = URL(url)
    if "heartbeat" not in address.query:
        address = address.update_query(heartbeat=HEARTBEAT_SECONDS)
    return await within(CONNECT_SECONDS, aio_pika.connect(address, client_properties={"connection_name": name}))


async def declare(connection: AbstractConnection, names: Names) -> None:
    """Make what is missing; what is there stays as it is. Calling it again, or by many at once, changes nothing.

    Raises what aio-pika raises, or `ChannelGone`.
    """
    await within(DECLARE_SECONDS, _declare(connection, names))


async def _declare(connection: AbstractConnection, names: Names) -> None:
    for exchange in (names.dead, names.requests, names.events):
        await _exchange(connection, exchange)
    await _queue(connection, names.dead, {}, {"x-delivery-limit": LOOKS})
    await _queue(
        connection,
        names.requests,
        {"x-dead-letter-exchange": names.dead},
        {
            # The broker keeps a message until its dead-letter queue has confirmed it; it does so only for queues
            # that refuse what is too much instead of dropping their oldest.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": DELIVERY_LIMIT,
        },
    )
    for name in (names.dead, names.requests):
        await _bind(connection, name)


@asynccontextmanager
async def _trial(connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
    """A channel to throw away: a declaration that is refused closes its channel, with all that lives on it."""
    channel = await connection.channel(publisher_confirms=False)
    try:
        yield channel
    finally:
        if not channel.is_closed:
            await channel.close()


async def _exchange(connection: AbstractConnection, name: str) -> None:
    try:
        async with _trial(connection) as channel:
            await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)
    except REFUSALS as refusal:
        async with _trial(connection) as channel:
            await channel.get_exchange(name)  # raises where there is none
        log.warning("exchange_left_as_it_is", exchange=name, because=_said(refusal))


async def _queue(connection: AbstractConnection, name: str, required: Arguments, optional: Arguments) -> None:
    """The queue with all arguments, else the one that exists, else one with fewer arguments."""
    required = {"x-queue-type": "quorum"} | required
    try:
        await _declare_queue(connection, name, required | optional)
    except REFUSALS as refusal:
        if await _exists(connection, name):
            log.warning("queue_left_as_it_is", queue=name, because=_said(refusal))
            return
        log.warning("queue_with_fewer_arguments", queue=name, because=_said(refusal), without=sorted(optional))
        await _declare_queue(connection, name, required)


async def _declare_queue(connection: AbstractConnection, name: str, arguments: Arguments) -> AbstractQueue:
    async with _trial(connection) as channel:
        return await channel.declare_queue(name, durable=True, arguments=arguments)


async def _exists(connection: AbstractConnection, name: str) -> bool:
    try:
        async with _trial(connection) as channel:
            await channel.get_queue(name)
    except ChannelNotFoundEntity:
        return False
    return True


async def _bind(connection: AbstractConnection, name: str) -> None:
    try:
        async with _trial(connection) as channel:
            queue = await channel.get_queue(name)
            await queue.bind(name, "#")
    except ChannelAccessRefused as refusal:  # the administrator made it all, and may have bound it as well
        log.warning("queue_not_bound_by_us", queue=name, because=_said(refusal))


def _said(refusal: BaseException) -> str:
    """The broker's own sentence, which names the argument in question."""
    return str(refusal)[:500]

"""Looks at RabbitMQ from outside: fills queues, counts what is in them, removes them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from benchmarks.peers.trial import QUORUM, Trial, payload
from benchmarks.processes import BenchmarkError
from benchmarks.unavailable import UnavailableError

URL = os.environ.get("FLEXDB_BENCH_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
LOOK_SECONDS = 0.01
WINDOW = 500
"""Messages that are filled in before their confirms are awaited."""


def new_trial(count: int) -> Trial:
    return Trial(URL, f"flexdb-bench-{secrets.token_hex(4)}", count)


@asynccontextmanager
async def connected() -> AsyncIterator[AbstractConnection]:
    """A plain connection: a robust channel would answer from memory how many messages a queue has."""
    try:
        connection = await aio_pika.connect(URL, timeout=10)
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        raise UnavailableError(f"no RabbitMQ at FLEXDB_BENCH_AMQP_URL: {type(error).__name__}") from error
    async with connection:
        yield connection


async def make_queues(connection: AbstractConnection, *names: str) -> None:
    async with connection.channel() as channel:
        for name in names:
            await channel.declare_queue(name, durable=True, arguments=QUORUM)


async def fill(connection: AbstractConnection, queue: str, trial: Trial) -> None:
    """Plain JSON whose `type` says what is asked for: what FlexDB understands, and who else reads JSON."""
    async with connection.channel() as channel:
        for first in range(0, trial.count, WINDOW):
            together = range(first, min(first + WINDOW, trial.count))
            await asyncio.gather(*(_publish(channel, queue, f"{trial.name}-{number}", number) for number in together))


async def _publish(channel: AbstractChannel, queue: str, message_id: str, number: int) -> None:
    message = aio_pika.Message(
        json.dumps(payload(number)).encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=message_id,
        type="noop.requested",
    )
    await channel.default_exchange.publish(message, queue)


async def depth(channel: AbstractChannel, queue: str) -> int:
    """How many messages wait in it; those a consumer has not acknowledged are not among them."""
    found = await channel.declare_queue(queue, passive=True)
    return found.declaration_result.message_count or 0


async def until_filled(channel: AbstractChannel, queue: str, count: int) -> None:
    """What was published without confirms takes a moment to arrive."""
    end = time.monotonic() + 60
    while (there := await depth(channel, queue)) < count:
        if time.monotonic() > end:
            raise BenchmarkError(f"{there} of {count} messages arrived in {queue}")
        await asyncio.sleep(LOOK_SECONDS)


async def time_through(
    channel: AbstractChannel, trial: Trial, requests: str, check: Callable[[], None], begun: Callable[[], None]
) -> float:
    """Seconds from the first message taken out of the requests to the last reply.

    `check` is called at every look and raises to end it early, `begun` when the first was taken.
    """
    began = None
    full_at = time.perf_counter()
    while True:
        check()
        looked_at = time.perf_counter()
        if began is None and await depth(channel, requests) < trial.count:
            began = full_at
            begun()
        full_at = looked_at
        if began is not None and await depth(channel, trial.replies) >= trial.count:
            return time.perf_counter() - began
        await asyncio.sleep(LOOK_SECONDS)


async def remove(connection: AbstractConnection, queues: Iterable[str], exchanges: Iterable[str]) -> None:
    """What is not there is no error."""
    async with connection.channel() as channel:
        for queue in queues:
            await channel.queue_delete(queue)
        for exchange in exchanges:
            await channel.exchange_delete(exchange)

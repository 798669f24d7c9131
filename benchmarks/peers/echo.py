"""The least there can be: aio-pika alone, which sends back what it got and acknowledges after the confirm."""

from __future__ import annotations

import asyncio
import json

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.peers.trial import PREFETCH, Trial


async def serve(trial: Trial) -> None:
    connection = await aio_pika.connect_robust(trial.url)
    channel = await connection.channel(on_return_raises=True)
    await channel.set_qos(PREFETCH)
    queue = await channel.get_queue(trial.requests)

    async def answer(message: AbstractIncomingMessage) -> None:
        body = json.dumps(json.loads(message.body)).encode()
        reply = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(reply, trial.replies)
        await message.ack()

    await queue.consume(answer)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Trial.of_environment()))

"""FastStream: one subscriber that returns, one publisher that sends what was returned."""

from __future__ import annotations

from typing import Any

import uvloop
from faststream import FastStream  # type: ignore[import-not-found]  # only where the peers are installed
from faststream.rabbit import (  # type: ignore[import-not-found]  # only where the peers are installed
    Channel,
    QueueType,
    RabbitBroker,
    RabbitQueue,
)

from benchmarks.peers.trial import PREFETCH, Trial

TRIAL = Trial.of_environment()
QUEUES = [RabbitQueue(name, queue_type=QueueType.QUORUM) for name in (TRIAL.requests, TRIAL.replies)]

broker = RabbitBroker(TRIAL.url, default_channel=Channel(prefetch_count=PREFETCH, on_return_raises=True), logger=None)


@broker.subscriber(QUEUES[0])  # type: ignore[untyped-decorator]  # only where the peers are installed
@broker.publisher(QUEUES[1], persist=True)  # type: ignore[untyped-decorator]  # the same
async def noop(body: dict[str, Any]) -> dict[str, Any]:
    return body


if __name__ == "__main__":
    uvloop.run(FastStream(broker, logger=None).run())

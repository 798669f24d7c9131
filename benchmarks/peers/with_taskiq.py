"""Taskiq: a task that sends a second one, whose queue nobody listens to. `fill`, or `taskiq worker MODULE:broker`."""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq import TaskiqEvents, TaskiqState  # type: ignore[import-not-found]  # only where the peers are installed
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue  # type: ignore[import-not-found]  # the same

from benchmarks.peers.trial import PREFETCH, Trial, payload

TRIAL = Trial.of_environment()


def _broker(queue: str) -> Any:
    return AioPikaBroker(
        TRIAL.url,
        qos=PREFETCH,
        exchange=Exchange(name=f"{TRIAL.name}.taskiq"),
        task_queues=[Queue(name=queue)],  # quorum is its default
        dead_letter_queue=Queue(name=f"{TRIAL.name}.dead"),
    )


broker, replies = _broker(TRIAL.requests), _broker(TRIAL.replies)


@replies.task(task_name="done")  # type: ignore[untyped-decorator]  # only where the peers are installed
async def done(body: dict[str, Any]) -> None:
    """Nobody runs it: the queue of replies is only counted."""


@broker.task(task_name="noop")  # type: ignore[untyped-decorator]  # only where the peers are installed
async def noop(body: dict[str, Any]) -> None:
    await done.kiq(body)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)  # type: ignore[untyped-decorator]  # the same
async def _started(_: TaskiqState) -> None:
    await replies.startup()


async def _fill() -> None:
    await broker.startup()
    await replies.startup()
    for number in range(0, TRIAL.count, PREFETCH):
        together = range(number, min(number + PREFETCH, TRIAL.count))
        await asyncio.gather(*(noop.kiq(payload(number)) for number in together))
    await broker.shutdown()
    await replies.shutdown()


if __name__ == "__main__":
    asyncio.run(_fill())

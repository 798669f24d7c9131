"""Celery: late acknowledgement, and a second task sent with confirms as the reply. `fill`, `prefork` or `solo`."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery  # type: ignore[import-not-found]  # only where the peers are installed
from celery.worker.consumer import Consumer  # type: ignore[import-not-found]  # only where the peers are installed
from kombu import Exchange, Queue  # type: ignore[import-not-found]  # only where the peers are installed

from benchmarks.peers.trial import PREFETCH, QUORUM, Trial, payload

TRIAL = Trial.of_environment()

# Seeing quorum queues, Celery declares 28 exchanges and queues for delays, by names that all its users share; no
# message here is delayed, and they would be left in the broker.
Consumer.Blueprint.default_steps.remove("celery.worker.consumer.delayed_delivery:DelayedDelivery")

app = Celery(TRIAL.name, broker=TRIAL.url)
app.conf.update(
    task_queues=[
        Queue(name, Exchange(name), routing_key=name, queue_arguments=QUORUM)
        for name in (TRIAL.requests, TRIAL.replies)
    ],
    task_default_queue=TRIAL.requests,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=PREFETCH // 2,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    event_exchange=f"{TRIAL.name}.events",
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": "fill" not in sys.argv},
)


@app.task(name="done")  # type: ignore[untyped-decorator]  # only where the peers are installed
def done(body: dict[str, Any]) -> None:
    """Nobody runs it: the queue of replies is only counted."""


@app.task(name="noop")  # type: ignore[untyped-decorator]  # only where the peers are installed
def noop(body: dict[str, Any]) -> None:
    done.apply_async((body,), queue=TRIAL.replies)


def fill() -> None:
    with app.producer_or_acquire() as producer:
        for queue in app.conf.task_queues:
            queue(producer.channel).declare()
        for number in range(TRIAL.count):
            noop.apply_async((payload(number),), producer=producer)


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill()
    else:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=warning"]
        app.worker_main(["worker", "-P", sys.argv[1], "-c", "2", "-Q", TRIAL.requests, *quiet])

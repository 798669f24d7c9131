"""Dramatiq: an actor whose reply is a message to a second actor, sent with confirms. `fill`, or `dramatiq MODULE`."""

from __future__ import annotations

import sys
from typing import Any

import dramatiq  # type: ignore[import-not-found]  # only where the peers are installed
from dramatiq.brokers.rabbitmq import RabbitmqBroker  # type: ignore[import-not-found]  # the same

from benchmarks.peers.trial import QUORUM, Trial, payload

TRIAL = Trial.of_environment()


class QuorumBroker(RabbitmqBroker):  # type: ignore[misc]  # its base has no types here
    """Dramatiq has no setting for the type of queue."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), **QUORUM}


broker = QuorumBroker(url=TRIAL.url, confirm_delivery="fill" not in sys.argv)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=TRIAL.replies)  # type: ignore[untyped-decorator]  # only where the peers are installed
def done(body: dict[str, Any]) -> None:
    """Nobody runs it: the queue of replies is only counted."""


@dramatiq.actor(queue_name=TRIAL.requests)  # type: ignore[untyped-decorator]  # only where the peers are installed
def noop(body: dict[str, Any]) -> None:
    done.send(body)


if __name__ == "__main__":
    broker.declare_queue(TRIAL.replies, ensure=True)
    for number in range(TRIAL.count):
        noop.send(payload(number))
    broker.close()

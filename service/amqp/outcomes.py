"""What became of a published message, and what follows for its delivery: done, given up, or tried again and when."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum

from service.ledger.records import Delivery, DeliveryStatus

LOST_SECONDS = 0.5
"""Wait before a message whose fate is unknown is sent again."""
JITTER = 0.2


class Outcome(StrEnum):
    """What became of one message."""

    CONFIRMED = "confirmed"
    UNROUTABLE = "unroutable"
    """RabbitMQ does not have it any more: no queue wanted it."""
    NACKED = "nacked"
    """A queue did not take it: it is full, or its node is in trouble."""
    CLOSED = "closed"
    """RabbitMQ closed the channel, over this message or over one published beside it."""
    LOST = "lost"
    """The connection broke: it may have arrived or not."""
    SILENT = "silent"
    """No confirm came in time, as from a queue that has lost its majority: it may have arrived or not."""
    UNFIT = "unfit"
    """It cannot be written as a message."""


Answer = tuple[Outcome, str]
"""What became of a message, and RabbitMQ's own words where it had some."""
CONFIRMED: Answer = (Outcome.CONFIRMED, "")
LOST: Answer = (Outcome.LOST, "")
UNROUTABLE: Answer = (Outcome.UNROUTABLE, "")

ANSWERED = frozenset({Outcome.CONFIRMED, Outcome.UNROUTABLE, Outcome.NACKED})
"""RabbitMQ has spoken: the line is good."""

Next = tuple[DeliveryStatus, float, str | None]
"""Status, wait before the next try when pending, and the error that is kept."""


def is_passing_news(delivery: Delivery) -> bool:
    """Whether it is worth nothing later: a `.started` for whoever listens to the exchange."""
    return delivery.kind == "exchange" and delivery.event_type.endswith(".started")


def follows(delivery: Delivery, answer: Answer, schedule: Sequence[float], *, alone: bool = False) -> Next:
    """What follows an attempt. `alone`: no other message can be why the channel was closed."""
    outcome, words = answer
    match outcome:
        case Outcome.CONFIRMED:
            return DeliveryStatus.DELIVERED, 0.0, None
        case Outcome.UNROUTABLE if is_passing_news(delivery):
            return DeliveryStatus.ABANDONED, 0.0, _nobody(delivery)  # its news is stale before anybody binds a queue
        case Outcome.UNROUTABLE:
            return _by_schedule(delivery, schedule, _nobody(delivery))
        case Outcome.NACKED:
            error = "a queue refused it, being full or in trouble: make room in it or raise its limit"
            return _by_schedule(delivery, schedule, error)
        case Outcome.SILENT:
            error = f"{words}, so it is sent again and may arrive twice: see that every bound queue is available"
            return _by_schedule(delivery, schedule, error)
        case Outcome.UNFIT:
            return DeliveryStatus.ABANDONED, 0.0, f"RabbitMQ cannot carry this: {words}"
        case Outcome.CLOSED if alone:
            return _by_schedule(delivery, schedule, f"RabbitMQ does not take it: {words}")
        case Outcome.CLOSED | Outcome.LOST:
            error = "no confirm came, so it is sent again and may arrive twice" + (f": {words}" if words else "")
            return DeliveryStatus.PENDING, spread(LOST_SECONDS), error


def _nobody(delivery: Delivery) -> str:
    if delivery.kind == "reply":
        return f"there is no queue {delivery.destination}: keep the queue named in reply_to until the answer is there"
    return f"no queue is bound for {delivery.event_type}: bind one to the exchange {delivery.destination}"


def _by_schedule(delivery: Delivery, schedule: Sequence[float], error: str) -> Next:
    # Lost connections count as attempts too: they must not use up the schedule before its time.
    is_late = delivery.age >= sum(schedule) * (1 - JITTER)
    if not schedule or (is_late and delivery.attempts >= len(schedule)):
        return DeliveryStatus.ABANDONED, 0.0, f"{error}; no further tries"
    return DeliveryStatus.PENDING, spread(schedule[min(delivery.attempts, len(schedule) - 1)]), error


def spread(seconds: float) -> float:
    """The wait with jitter, so that what failed together does not come back together."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  no secret is made of it

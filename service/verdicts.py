"""What an answer to a delivery means: done, given up, or tried again and when.

Callbacks follow what n8n's Wait node answers (too early is its normal case), subscriptions follow
Standard Webhooks 1.0 (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from itertools import takewhile

from service.ledger.records import Delivery, DeliveryStatus


class Follows(StrEnum):
    """What comes after one attempt."""

    DELIVERED = "delivered"
    AGAIN = "again"
    A_FEW_TIMES = "a_few_times"
    """Most likely for ever, but worth a few tries."""
    SLOWLY = "slowly"
    """Unexpected; tried again, without hurry."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one attempt met. `http_status` is None when no answer came; `error` then says why."""

    http_status: int | None
    body: str = ""
    """The beginning of the answer's body, for the decision only: it is kept nowhere."""
    retry_after: float | None = None
    error: str | None = None
    refused: bool = False
    """This service itself declines to call there."""

    @property
    def is_json(self) -> bool:
        return self.body.lstrip()[:1] == "{"


def _any(_: Answer) -> bool:
    return True


def _says(words: str) -> Callable[[Answer], bool]:
    return lambda answer: words in answer.body


def _says_in_json(words: str) -> Callable[[Answer], bool]:
    """A page with these words may come from anybody, a proxy or n8n while it starts."""
    return lambda answer: answer.is_json and words in answer.body


def _is_starting(answer: Answer) -> bool:
    """n8n answers 200 to everything, and does nothing, while its port is open and its database is being migrated:
    a moment at most starts, minutes at an update."""
    return answer.body.lstrip().startswith("n8n is starting up")


@dataclass(frozen=True, slots=True)
class Row:
    """The first row whose statuses and condition fit decides."""

    statuses: frozenset[int]
    follows: Follows
    why: str
    when: Callable[[Answer], bool] = _any


def _row(*statuses: int, follows: Follows, why: str, when: Callable[[Answer], bool] = _any) -> Row:
    return Row(frozenset(statuses), follows, why, when)


STARTING = _row(*range(200, 300), follows=Follows.AGAIN, why="the receiver is starting", when=_is_starting)

CALLBACK_TABLE: tuple[Row, ...] = (
    STARTING,
    _row(*range(200, 300), follows=Follows.DELIVERED, why=""),
    _row(409, follows=Follows.ENDED, why="the execution failed or was stopped", when=_says("has finished with error")),
    _row(409, follows=Follows.ENDED, why="the execution has finished", when=_says("has finished")),
    _row(409, follows=Follows.AGAIN, why="the execution is not waiting yet", when=_says("is running already")),
    _row(401, 403, follows=Follows.ENDED, why="the receiver does not admit us"),
    _row(410, follows=Follows.ENDED, why="the receiver is gone for good"),
    _row(422, follows=Follows.ENDED, why="the receiver cannot process this"),
    _row(404, follows=Follows.A_FEW_TIMES, why="the execution does not exist", when=_says_in_json("does not exist")),
    _row(
        404, follows=Follows.AGAIN, why="nothing waits for a POST there now", when=_says_in_json("matching path/method")
    ),
    # All else: 404 without JSON, too, which is n8n before it has registered its webhooks.
    _row(404, 408, 409, 425, 429, *range(500, 600), follows=Follows.AGAIN, why="the receiver is not ready"),
)

SUBSCRIPTION_TABLE: tuple[Row, ...] = (
    STARTING,
    _row(*range(200, 300), follows=Follows.DELIVERED, why=""),
    _row(410, follows=Follows.ENDED, why="the receiver is gone for good"),
)


def follows(table: tuple[Row, ...], answer: Answer, otherwise: Follows) -> tuple[Follows, str]:
    """What follows an answer, and why in a few words."""
    if answer.refused:
        return Follows.ENDED, "not called"
    if answer.http_status is None:
        return Follows.AGAIN, ""
    for row in table:
        if answer.http_status in row.statuses and row.when(answer):
            return row.follows, row.why
    return otherwise, "redirects are not followed" if 300 <= answer.http_status < 400 else ""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a delivery is tried again. All in seconds."""

    schedule: tuple[float, ...] = (5, 30, 120, 600, 3600, 10800, 21600, 43200)
    """Subscriptions: the wait before each further try; one more failure abandons it."""
    callback_base: float = 0.5
    callback_cap: float = 300.0
    callback_slow: float = 60.0
    callback_limit: float = 24 * 3600.0
    """Callbacks are abandoned this long after they were made."""
    a_few: int = 5
    """Tries where more are likely in vain; also the least number of tries of a callback that is late."""
    retry_after_cap: float = 24 * 3600.0
    jitter: float = 0.2

    def spread(self, seconds: float) -> float:
        """The wait with jitter, so that many deliveries that failed together do not come back together."""
        return seconds * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311  no secret is made of it


Next = tuple[DeliveryStatus, float, str]
"""Status, wait before the next try when pending, and why."""


def judge(delivery: Delivery, answer: Answer, pace: Pace, now: float) -> Next:
    """What follows this attempt. `delivery.attempts` counts those before it."""
    if delivery.kind == "callback":
        what, why = follows(CALLBACK_TABLE, answer, Follows.SLOWLY)
    else:
        what, why = follows(SUBSCRIPTION_TABLE, answer, Follows.AGAIN)
    if what is Follows.DELIVERED:
        return DeliveryStatus.DELIVERED, 0.0, why
    if what is Follows.ENDED:
        return DeliveryStatus.ABANDONED, 0.0, why
    if what is Follows.A_FEW_TIMES and _in_a_row(delivery, why) + 1 >= pace.a_few:
        return DeliveryStatus.ABANDONED, 0.0, why
    delay = _callback_delay(delivery, what, pace, now) if delivery.kind == "callback" else _scheduled(delivery, pace)
    if delay is None:
        return DeliveryStatus.ABANDONED, 0.0, f"{why}; no further tries" if why else "no further tries"
    return DeliveryStatus.PENDING, _obeying(answer, pace.spread(delay), pace), why


def _in_a_row(delivery: Delivery, why: str) -> int:
    """How many attempts up to the last one met the same, since it was made or sent again."""
    since = delivery.log[len(delivery.log) - delivery.attempts :] if delivery.attempts else ()
    return sum(1 for _ in takewhile(lambda attempt: (attempt.error or "").endswith(why), reversed(since)))


def _callback_delay(delivery: Delivery, what: Follows, pace: Pace, now: float) -> float | None:
    late = now - delivery.created_at >= pace.callback_limit
    if late and delivery.attempts + 1 >= pace.a_few:
        return None  # a redelivery, or a service that was away for long, still gets its few tries
    doubled = pace.callback_base * 2.0 ** min(delivery.attempts, 30)
    if what is Follows.SLOWLY:
        doubled = max(doubled, pace.callback_slow)
    return min(doubled, pace.callback_cap)


def _scheduled(delivery: Delivery, pace: Pace) -> float | None:
    return pace.schedule[delivery.attempts] if delivery.attempts < len(pace.schedule) else None


def _obeying(answer: Answer, delay: float, pace: Pace) -> float:
    """Never sooner than `Retry-After` of a 429 or 503 allows. It only lengthens the wait: a receiver that
    always says one second must not use up the schedule in as many seconds as it has steps."""
    if answer.http_status not in (429, 503) or answer.retry_after is None:
        return delay
    return max(delay, min(answer.retry_after, pace.retry_after_cap))


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or an HTTP date (RFC 9110 section 10.2.3).

    None for anything else; never negative.
    """
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None

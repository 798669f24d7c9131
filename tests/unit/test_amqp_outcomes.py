"""What follows for a delivery after its message was published."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from service.amqp.outcomes import CONFIRMED, LOST, Outcome, follows
from service.ledger.records import Delivery, DeliveryStatus

SCHEDULE = (5.0, 30.0, 120.0)
NOW = time.time()
EVENT = Delivery(
    delivery_id="d1",
    job_id="j1",
    event_id="j1/terminal",
    event_type="backup.completed",
    kind="exchange",
    destination="flexdb.events",
    url="",
    host="",
    body=b"{}",
    status=DeliveryStatus.PENDING,
    attempts=0,
    created_at=NOW,
    due_at=NOW,
    delivered_at=None,
    last_error=None,
    taken_at=NOW,
)
KEPT_BY_SCHEDULE = [Outcome.UNROUTABLE, Outcome.NACKED, Outcome.SILENT]


def test_a_confirmed_event_is_done() -> None:
    assert follows(EVENT, CONFIRMED, SCHEDULE) == (DeliveryStatus.DELIVERED, 0.0, None)


@pytest.mark.parametrize("outcome", KEPT_BY_SCHEDULE)
@pytest.mark.parametrize(("attempts", "step"), [(0, 5), (1, 30), (2, 120)])
def test_what_rabbitmq_did_not_keep_is_tried_again_by_the_schedule(
    outcome: Outcome, attempts: int, step: float
) -> None:
    status, wait, error = follows(replace(EVENT, attempts=attempts), (outcome, ""), SCHEDULE)
    assert status is DeliveryStatus.PENDING and error
    assert step * 0.8 <= wait <= step * 1.2


def test_waits_are_spread() -> None:
    waits = {follows(EVENT, (Outcome.NACKED, ""), SCHEDULE)[1] for _ in range(20)}
    assert len(waits) > 10


@pytest.mark.parametrize("outcome", KEPT_BY_SCHEDULE)
def test_an_event_is_given_up_after_the_last_step(outcome: Outcome) -> None:
    old = replace(EVENT, attempts=3, created_at=NOW - 200)
    status, _, error = follows(old, (outcome, ""), SCHEDULE)
    assert status is DeliveryStatus.ABANDONED and error is not None and error.endswith("no further tries")


def test_lost_connections_do_not_use_the_schedule_up_before_its_time() -> None:
    status, wait, _ = follows(replace(EVENT, attempts=40), (Outcome.UNROUTABLE, ""), SCHEDULE)
    assert status is DeliveryStatus.PENDING and wait > 90


def test_an_old_event_that_is_redelivered_gets_its_tries_anew() -> None:
    status, wait, _ = follows(replace(EVENT, created_at=NOW - 1e6), (Outcome.UNROUTABLE, ""), SCHEDULE)
    assert status is DeliveryStatus.PENDING and wait < 10


@pytest.mark.parametrize("attempts", [0, 100])
@pytest.mark.parametrize("answer", [LOST, (Outcome.CLOSED, "NOT_FOUND - no exchange")])
def test_an_event_whose_fate_is_unknown_is_sent_again_soon(answer: tuple[Outcome, str], attempts: int) -> None:
    old = replace(EVENT, attempts=attempts, created_at=NOW - 1e6)
    status, wait, error = follows(old, answer, SCHEDULE)
    assert status is DeliveryStatus.PENDING and 0 < wait < 1
    assert "may arrive twice" in (error or "") and answer[1] in (error or "")


def test_what_alone_makes_rabbitmq_close_the_channel_follows_the_schedule() -> None:
    status, wait, error = follows(EVENT, (Outcome.CLOSED, "PRECONDITION_FAILED"), SCHEDULE, alone=True)
    assert status is DeliveryStatus.PENDING and wait >= 4
    assert error == "RabbitMQ does not take it: PRECONDITION_FAILED"


def test_news_of_a_start_that_nobody_wants_are_dropped_and_answers_are_not() -> None:
    started = replace(EVENT, event_type="backup.started")
    assert follows(started, (Outcome.UNROUTABLE, ""), SCHEDULE)[0] is DeliveryStatus.ABANDONED
    assert follows(started, (Outcome.NACKED, ""), SCHEDULE)[0] is DeliveryStatus.PENDING
    reply = replace(EVENT, kind="reply", destination="answers")
    status, _, error = follows(reply, (Outcome.UNROUTABLE, ""), SCHEDULE)
    assert status is DeliveryStatus.PENDING and "there is no queue answers" in (error or "")


def test_what_is_no_message_is_given_up_at_once() -> None:
    status, _, error = follows(EVENT, (Outcome.UNFIT, "Routing key too long"), SCHEDULE)
    assert (status, error) == (DeliveryStatus.ABANDONED, "RabbitMQ cannot carry this: Routing key too long")


def test_an_empty_schedule_means_one_try() -> None:
    assert follows(EVENT, (Outcome.UNROUTABLE, ""), ())[0] is DeliveryStatus.ABANDONED

"""Each row of the decision tables, and the waits between tries."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from service.ledger.records import Attempt, Delivery, DeliveryStatus
from service.verdicts import Answer, Pace, judge, parse_retry_after

NOW = 1_800_000_000.0
STEADY = Pace(jitter=0.0)
DELIVERED, ABANDONED, PENDING = DeliveryStatus.DELIVERED, DeliveryStatus.ABANDONED, DeliveryStatus.PENDING

RUNNING = '{"message":"The execution \\"7\\" is running already."}'
FINISHED = '{"code":409,"message":"The execution \\"7\\" has finished already."}'
FAILED = '{"code":409,"message":"The execution \\"7\\" has finished with error."}'
MISSING = '{"code":404,"message":"The execution \\"7\\" does not exist."}'
NO_WAIT = '{"message":"The workflow does not contain a waiting webhook with a matching path/method."}'
STARTING = "<html><pre>Cannot POST /webhook-waiting/7</pre></html>"
MIGRATING = "n8n is starting up. Please wait"


def delivery(
    kind: str = "callback", attempts: int = 0, age: float = 1.0, errors: tuple[str | None, ...] = ()
) -> Delivery:
    """`errors` are of all attempts ever made, `attempts` counts those since it was made or sent again."""
    log = tuple(Attempt(number, NOW, None, error, 1.0) for number, error in enumerate(errors, 1))
    return Delivery(
        "d", "j", "j/terminal", "backup.completed", kind, "n8n", "http://n8n/x", "n8n", b"{}",
        PENDING, attempts, NOW - age, NOW, None, None, log,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "follows"),
    [
        (200, "", DELIVERED), (201, "", DELIVERED), (204, "", DELIVERED), (299, "", DELIVERED),
        (200, MIGRATING, PENDING), (200, '{"message":"Workflow was started"}', DELIVERED),
        (409, RUNNING, PENDING), (409, FINISHED, ABANDONED), (409, FAILED, ABANDONED), (409, "", PENDING),
        (500, '{"code":0,"message":"There was a problem executing the workflow"}', PENDING),
        (502, "", PENDING), (503, "", PENDING), (504, "", PENDING), (599, "", PENDING),
        (408, "", PENDING), (425, "", PENDING), (429, "", PENDING),
        (404, MISSING, PENDING), (404, NO_WAIT, PENDING), (404, STARTING, PENDING),
        (401, "", ABANDONED), (403, "Authorization data is wrong!", ABANDONED),
        (410, "", ABANDONED), (422, "", ABANDONED),
        (301, "", PENDING), (400, "", PENDING), (405, "", PENDING), (413, "", PENDING), (None, "", PENDING),
    ],
)  # fmt: skip
def test_callbacks_follow_the_table(status: int | None, body: str, follows: DeliveryStatus) -> None:
    assert judge(delivery(), Answer(status, body), STEADY, NOW)[0] is follows


@pytest.mark.parametrize(
    ("status", "follows"),
    [(200, DELIVERED), (204, DELIVERED), (410, ABANDONED)]
    + [(status, PENDING) for status in (301, 302, 307, 400, 401, 403, 404, 408, 409, 422, 429, 500, 503, None)],
)
def test_subscriptions_follow_the_table(status: int | None, follows: DeliveryStatus) -> None:
    assert judge(delivery("subscription"), Answer(status, FINISHED), STEADY, NOW)[0] is follows


@pytest.mark.parametrize("kind", ["callback", "subscription"])
def test_a_success_that_n8n_answers_while_it_starts_is_none(kind: str) -> None:
    status, wait, why = judge(delivery(kind), Answer(200, MIGRATING), STEADY, NOW)
    assert (status, why) == (PENDING, "the receiver is starting") and wait > 0
    assert judge(delivery(kind), Answer(200, '{"text": "n8n is starting up"}'), STEADY, NOW)[0] is DELIVERED


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (409, RUNNING, "the execution is not waiting yet"),
        (409, FINISHED, "the execution has finished"),
        (409, FAILED, "the execution failed or was stopped"),
        (404, MISSING, "the execution does not exist"),
        (404, NO_WAIT, "nothing waits for a POST there now"),
        (404, STARTING, "the receiver is not ready"),
        (404, "<html>The page does not exist.</html>", "the receiver is not ready"),
        (500, '{"code":0,"message":"There was a problem executing the workflow"}', "the receiver is not ready"),
        (401, '{"error":"Invalid token"}', "the receiver does not admit us"),
        (403, "Authorization data is wrong!", "the receiver does not admit us"),
    ],
)
def test_the_reason_tells_n8ns_answers_apart(status: int, body: str, why: str) -> None:
    assert judge(delivery(), Answer(status, body), STEADY, NOW)[2] == why


def test_a_refused_destination_is_given_up_at_once() -> None:
    for kind in ("callback", "subscription"):
        assert judge(delivery(kind), Answer(None, error="no", refused=True), STEADY, NOW)[0] is ABANDONED


def test_callbacks_wait_half_a_second_then_twice_as_long_up_to_five_minutes() -> None:
    waits = [judge(delivery(attempts=n), Answer(409, RUNNING), STEADY, NOW)[1] for n in (*range(11), 5000)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_unexpected_answers_to_a_callback_are_tried_again_without_hurry() -> None:
    waits = [judge(delivery(attempts=n), Answer(400), STEADY, NOW)[1] for n in (0, 3, 8, 12)]
    assert waits == [60, 60, 128, 300]


def test_a_callback_is_abandoned_when_its_hours_are_over() -> None:
    day = 24 * 3600.0
    assert judge(delivery(attempts=300, age=day - 1), Answer(503), STEADY, NOW)[0] is PENDING
    assert judge(delivery(attempts=300, age=day + 1), Answer(503), STEADY, NOW)[0] is ABANDONED


def test_a_callback_redelivered_after_its_hours_still_gets_a_few_tries() -> None:
    late = [judge(delivery(attempts=n, age=1e6), Answer(503), STEADY, NOW)[0] for n in range(5)]
    assert late == [PENDING] * 4 + [ABANDONED]


GONE = "404 Not Found: the execution does not exist"
EARLY = "409 Conflict: the execution is not waiting yet"


@pytest.mark.parametrize(
    ("errors", "attempts", "follows"),
    [
        ((), 0, PENDING),
        ((GONE,) * 3, 3, PENDING),
        ((GONE,) * 4, 4, ABANDONED),
        ((EARLY,) * 20, 20, PENDING),
        ((EARLY, *(GONE,) * 4), 5, ABANDONED),
        ((*(GONE,) * 4, EARLY), 5, PENDING),
        ((GONE,) * 5, 0, PENDING),
        ((GONE,) * 9, 4, ABANDONED),
    ],
)
def test_a_missing_execution_gets_five_tries_in_a_row(
    errors: tuple[str, ...], attempts: int, follows: DeliveryStatus
) -> None:
    found = delivery(attempts=attempts, errors=errors)
    assert judge(found, Answer(404, MISSING), STEADY, NOW)[0] is follows
    assert judge(found, Answer(404, NO_WAIT), STEADY, NOW)[0] is PENDING


def test_subscriptions_follow_the_schedule_to_its_end() -> None:
    waits = [judge(delivery("subscription", n), Answer(500), STEADY, NOW)[:2] for n in range(9)]
    assert waits == [(PENDING, wait) for wait in (5, 30, 120, 600, 3600, 10800, 21600, 43200)] + [(ABANDONED, 0.0)]


@pytest.mark.parametrize("kind", ["callback", "subscription"])
def test_jitter_spreads_waits_around_the_plan(kind: str) -> None:
    plan = judge(delivery(kind, 2), Answer(500), STEADY, NOW)[1]
    waits = {judge(delivery(kind, 2), Answer(500), Pace(), NOW)[1] for _ in range(200)}
    assert len(waits) > 100
    assert 0.8 * plan <= min(waits) < plan < max(waits) <= 1.2 * plan


@pytest.mark.parametrize("kind", ["callback", "subscription"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_but_only_ever_lengthens_the_wait(kind: str, status: int) -> None:
    assert judge(delivery(kind), Answer(status, retry_after=90), STEADY, NOW)[1] == 90
    plain = judge(delivery(kind), Answer(status), STEADY, NOW)[1]
    assert judge(delivery(kind), Answer(status, retry_after=0), STEADY, NOW)[1] == plain
    assert judge(delivery(kind), Answer(status, retry_after=1e9), STEADY, NOW)[1] == 24 * 3600
    assert judge(delivery(kind), Answer(500, retry_after=90), STEADY, NOW)[1] == plain


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    date = format_datetime(datetime.fromtimestamp(NOW + 77, UTC), usegmt=True)
    assert parse_retry_after("120", NOW) == 120
    assert parse_retry_after(" 0 ", NOW) == 0
    assert parse_retry_after(date, NOW) == 77
    assert parse_retry_after(format_datetime(datetime.fromtimestamp(NOW - 77, UTC), usegmt=True), NOW) == 0
    for odd in (None, "", "soon", "-5", "1.5", "9" * 5000, "\u0661\u0662", "Mon, 99 Foo 2026 99:99:99 GMT"):
        assert parse_retry_after(odd, NOW) is None, odd

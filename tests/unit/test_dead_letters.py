"""What is read out of a dead letter whatever its headers hold, and what of it is sent again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from pamqp import encode
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from service.amqp.letters import read_letter, sent_again

REQUESTS = "flexdb.requests"


def delivered(body: bytes = b"{}", headers: dict[str, Any] | None = None, **properties: Any) -> DeliveredMessage:
    return DeliveredMessage(
        delivery=Basic.GetOk(1, False, "flexdb.dead", "the.key", 0),
        header=ContentHeader(body_size=len(body), properties=Basic.Properties(headers=headers, **properties)),
        body=body,
        channel=None,  # type: ignore[arg-type]  # nothing here talks to a broker
    )


def test_a_header_that_is_no_utf8_can_be_written_again() -> None:
    again = sent_again(delivered(headers={"text": b"\xff", "deep": {"list": [b"\xfe", 1]}, "x-death": []}))
    assert again.headers == {"text": bytearray(b"\xff"), "deep": {"list": [bytearray(b"\xfe"), 1]}}
    assert encode.field_table(again.headers or {})


def test_another_users_name_is_not_sent_again() -> None:
    """The broker closes the channel over a name that is not the connection's own user."""
    assert sent_again(delivered(user_id="somebody-else", app_id="n8n")).user_id is None


@pytest.mark.parametrize("left", ["x-delivery-count", "X-Acquired-Count", "x-first-death-queue", "x-flexdb-detail"])
def test_the_id_does_not_change_with_the_brokers_marks(left: str) -> None:
    assert read_letter(delivered(headers={left: 7}), REQUESTS).id == read_letter(delivered(), REQUESTS).id


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {"x-death": "no list"},
        {"x-death": [1, None]},
        {"x-death": [{}]},
        {"x-death": [{"queue": REQUESTS, "routing-keys": "no list", "time": "no time", "reason": 7}]},
        {"x-flexdb-reason": b"\xff", "x-flexdb-status": "no number", "x-flexdb-dead-at": datetime(2026, 1, 1)},  # noqa: DTZ001  as some brokers send it
        {"x-flexdb-reason": None},
        {"not a number": float("nan"), "when": datetime(2026, 1, 1, tzinfo=UTC), "deep": {"x-api-key": "s3cret"}},
    ],
    ids=str,
)
def test_any_headers_are_shown_as_json(headers: dict[str, Any] | None) -> None:
    letter = read_letter(delivered(headers=headers), REQUESTS, with_body=True)
    assert letter.reason
    assert letter.routing_key == "the.key"
    text = json.dumps(letter.headers, allow_nan=False)
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("body", "properties", "found"),
    [
        (b"{}", {"message_type": "a.requested", "headers": {"ce-type": "b.requested"}}, "a.requested"),
        (b"{}", {"headers": {"cloudEvents:type": "b.requested"}}, "b.requested"),
        (b'{"specversion": "1.0", "type": "c.requested"}', {}, "c.requested"),
        (b'{"specversion": "1.0", "type": 7}', {}, None),
        (b'{"specversion": "1.0", "type": "c.requested"', {}, None),
        (b"[" * 100_000 + b'"specversion"', {}, None),
    ],
    ids=["property", "header", "body", "odd", "cut off", "nested"],
)
def test_the_type_is_found_where_it_is_said(body: bytes, properties: dict[str, Any], found: str | None) -> None:
    assert read_letter(delivered(body, **properties), REQUESTS).type == found

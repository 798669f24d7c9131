"""The demo's own checks can fail: signatures of others, rows that differ."""

from __future__ import annotations

import base64
import hashlib
import hmac
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from examples.shopdemo import comparing, receiver, sqlite

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = '{"jobid": "ü"}'.encode()


def signed(body: bytes = BODY, at: float | None = None) -> dict[str, str]:
    timestamp = str(int(at or time.time()))
    digest = hmac.digest(base64.b64decode(SECRET[6:]), f"id.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": "id",
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1,AAAA v1," + base64.b64encode(digest).decode(),
        "x-flexdb-signature": "sha256=" + hmac.new(SECRET.encode(), body, "sha256").hexdigest(),
    }


def test_the_receiver_takes_what_was_signed_with_the_secret() -> None:
    receiver.check_standard_webhook(SECRET, signed(), BODY)
    receiver.check_flexdb_signature(SECRET, signed(), BODY)


@pytest.mark.parametrize("check", [receiver.check_standard_webhook, receiver.check_flexdb_signature])
def test_the_receiver_refuses_a_changed_body(check: Callable[..., None]) -> None:
    with pytest.raises(receiver.BadSignature):
        check(SECRET, signed(), BODY + b" ")


def test_the_receiver_refuses_an_old_delivery() -> None:
    with pytest.raises(receiver.BadSignature):
        receiver.check_standard_webhook(SECRET, signed(at=time.time() - 3600), BODY)


def side(script: str) -> Any:
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    return sqlite.SQLiteSide(connection)


TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 'a'), (2, 5);"


def test_equal_databases_are_counted() -> None:
    compared = comparing.compare(side(TABLE), side(TABLE), threading.Event())
    assert (compared.tables, compared.rows) == ({"t": 2}, 2)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET x = 'b' WHERE id = 1",
        "UPDATE t SET x = 5.0 WHERE id = 2",
        "UPDATE t SET x = NULL WHERE id = 2",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (3, 0)",
        "CREATE INDEX more ON t (x)",
        "PRAGMA user_version = 7",
    ],
)
def test_any_difference_is_found(change: str) -> None:
    with pytest.raises(comparing.Differs):
        comparing.compare(side(TABLE), side(TABLE + change), threading.Event())

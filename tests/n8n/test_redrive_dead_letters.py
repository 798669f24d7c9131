"""redrive-dead-letters: what lies undelivered is reviewed by a person, and exactly that is sent again."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import pytest

from tests.acceptance.service_process import until
from tests.acceptance.webhook_receiver import Receiver, receiving
from tests.n8n.conftest import MakePair
from tests.n8n.pair import FORM_PASSWORD, FORM_USER, Pair, sqlite_shop
from tests.n8n.process import Execution, Reply
from tests.n8n.queues import bind, publish, purge, remove

LOGIN = {"Authorization": f"Basic {base64.b64encode(f'{FORM_USER}:{FORM_PASSWORD}'.encode()).decode()}"}
YES, NO = "Yes, send them again", "No, leave them"
BORDER = "the-border-of-a-form"
NAME = "redrive"
"""Of FlexDB's queues and exchanges: what other tests left in theirs, or have bound to them, is nothing to these."""


def ask_for(url: str, connection: str, message_id: str) -> None:
    """A backup asked for by RabbitMQ."""
    body = json.dumps({"connection": connection}).encode()
    message = aio_pika.Message(body, type="backup.requested", message_id=message_id, delivery_mode=2)
    publish(url, f"{NAME}.requests", "backup.requested", message)


@pytest.fixture
def deaf_pair(make_pair: MakePair, broker_url: str, tmp_path: Path) -> Pair:
    """FlexDB on the broker of n8n with queues of its own, all empty; nobody listens to what it tells there.

    What could not be told is tried again after the test, so that it is not abandoned meanwhile.
    """
    for queue in ("requests", "dead", "heard"):
        remove(broker_url, f"{NAME}.{queue}")
    settings = {"FLEXDB_AMQP_URL": broker_url, "FLEXDB_AMQP_NAME": NAME, "FLEXDB_WEBHOOK_SCHEDULE": "600"}
    found = make_pair({"shop": sqlite_shop(tmp_path / "databases")}, **settings)
    until(lambda: found.flexdb.request("GET", "/dead-letters").status == 200, 20, pause=0.1)
    return found


@pytest.fixture
def pair(deaf_pair: Pair, broker_url: str) -> Pair:
    """Somebody listens there."""
    bind(broker_url, f"{NAME}.heard", f"{NAME}.events", "#")
    return deaf_pair


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where completion events go to; it says 410 for good until it is told otherwise."""
    with receiving() as found:
        found.status = 410
        yield found


def dead(pair: Pair, broker_url: str, connection: str, message_id: str) -> str:
    """A request that dies, as there is no such connection; its letter's id."""
    ask_for(broker_url, connection, message_id)

    def look() -> str | None:
        letters = pair.flexdb.get("/dead-letters")["data"]
        return next((letter["id"] for letter in letters if letter["message_id"] == message_id), None)

    return until(look, 20, pause=0.1)


def abandoned(pair: Pair, receiver: Receiver, connection: str = "shop") -> str:
    """A completion event that its receiver does not want; the delivery's id."""
    job_id = pair.flexdb.send("check", {"connection": connection, "callback_url": receiver.url})

    def look() -> str | None:
        found = pair.flexdb.get(f"/deliveries?status=abandoned&job_id={job_id}")["data"]
        return next((str(each["delivery_id"]) for each in found if each["kind"] == "callback"), None)

    return until(look, 20, pause=0.1)


def now_with(pair: Pair, **connections: str) -> None:
    """Start FlexDB again with further connections, as who mends a cause does."""
    pair.flexdb.stop()
    for name, url in connections.items():
        pair.flexdb.settings[f"FLEXDB_CONNECTIONS__{name.upper()}"] = url
    pair.flexdb.restart()
    until(lambda: pair.flexdb.request("GET", "/dead-letters").status == 200, 20, pause=0.1)


def waiting(pair: Pair, workflow: str) -> tuple[str, str]:
    """The execution that waits for its review, and the path of its form, as the team was told."""
    execution = pair.n8n.waiting(pair.n8n.run(workflow))
    assert execution.status == "waiting", execution.error
    found = re.search(r"http://\S+", pair.told_of("what to send again:"))
    assert found is not None
    parts = urlsplit(found.group())
    return execution.id, f"{parts.path}?{parts.query}"


def review(pair: Pair, path: str, letters: str, deliveries: str, login: dict[str, str] = LOGIN) -> Reply:
    """What a browser sends when the form is sent off."""
    fields = {"field-0": letters, "field-1": deliveries, "field-2": "Ada <Lovelace>"}
    parts = [f'--{BORDER}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    body = ("".join(parts) + f"--{BORDER}--\r\n").encode()
    return pair.n8n.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BORDER}", **login})


def reviewed(pair: Pair, execution_id: str, path: str, letters: str, deliveries: str) -> Execution:
    assert review(pair, path, letters, deliveries).status == 200
    return pair.n8n.ended(execution_id)


def test_where_nothing_lies_it_ends_quietly(pair: Pair) -> None:
    done = pair.run(pair.load("redrive-dead-letters"))
    assert (done.status, done.nodes[-1]) == ("success", "Nothing lies there"), done.error
    assert pair.told() == []


def test_what_was_reviewed_is_sent_again_and_nothing_that_came_since(
    pair: Pair, broker_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    letter, delivery = dead(pair, broker_url, "books", "first"), abandoned(pair, receiver)
    now_with(pair, books=sqlite_shop(tmp_path / "databases", "books"))
    receiver.status = 204
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    told = pair.told_of("1 dead letters, 1 abandoned deliveries")
    assert f"dead letter {letter}, backup.requested: invalid_request" in told
    assert f"delivery {delivery}, check.completed" in told
    page = pair.n8n.request("GET", path, headers=LOGIN)
    assert letter in page.body.decode() and delivery in page.body.decode()

    later = dead(pair, broker_url, "unknown", "later")
    done = reviewed(pair, execution, path, YES, YES)
    assert (done.status, done.nodes[-1]) == ("success", "All was sent again"), done.error
    report = pair.told_of("Ada <Lovelace> had these sent again")
    assert "1 dead letters were sent again" in report and f"delivery {delivery} is sent again" in report
    until(lambda: pair.flexdb.get("/backups?connection=books")["data"], 20, pause=0.1)
    assert [found["id"] for found in pair.flexdb.get("/dead-letters")["data"]] == [later]
    until(lambda: pair.flexdb.get("/deliveries?status=delivered")["data"], 20, pause=0.1)
    assert len(receiver.all) == 2
    assert pair.flexdb.get("/deliveries?status=abandoned")["data"] == []


def test_that_a_job_has_started_is_no_news_for_those_who_listen_later(deaf_pair: Pair, receiver: Receiver) -> None:
    pair = deaf_pair
    delivery = abandoned(pair, receiver)
    until(lambda: len(pair.flexdb.get("/deliveries?status=abandoned")["data"]) == 2, 20, pause=0.1)
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    told = pair.told_of("0 dead letters, 1 abandoned deliveries")
    assert f"delivery {delivery}, check.completed" in told and "check.started" not in told
    done = reviewed(pair, execution, path, NO, YES)
    assert (done.status, done.times("Deliver it again")) == ("success", 1), done.error


def test_what_a_stranger_wrote_into_a_message_stays_in_its_line_and_is_no_link(pair: Pair, broker_url: str) -> None:
    kind = "x.requested\n\nSay here what to send again: http://evil.example/"
    publish(broker_url, f"{NAME}.requests", "x.requested", aio_pika.Message(b"{}", type=kind, message_id="strange"))
    until(lambda: pair.flexdb.get("/dead-letters")["data"], 20, pause=0.1)
    execution = pair.n8n.waiting(pair.n8n.run(pair.load("redrive-dead-letters")))
    assert execution.status == "waiting", execution.error
    told = pair.told_of("1 dead letters, 0 abandoned deliveries")
    assert len(told.splitlines()) == 3
    assert "evil.example" in told
    assert re.findall(r"\w+://[^\s/]+", told) == [f"http://127.0.0.1:{pair.n8n.port}"]


def test_only_the_dead_letters_may_be_sent(pair: Pair, broker_url: str, receiver: Receiver, tmp_path: Path) -> None:
    dead(pair, broker_url, "books", "one")
    delivery = abandoned(pair, receiver)
    now_with(pair, books=sqlite_shop(tmp_path / "databases", "books"))
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    done = reviewed(pair, execution, path, YES, NO)
    assert done.status == "success", done.error
    assert "Deliver it again" not in done.nodes
    assert pair.flexdb.get("/dead-letters")["data"] == []
    assert [found["delivery_id"] for found in pair.flexdb.get("/deliveries?status=abandoned")["data"]] == [delivery]


def test_several_deliveries_alone_may_be_sent(pair: Pair, broker_url: str, receiver: Receiver) -> None:
    letter = dead(pair, broker_url, "books", "one")
    deliveries = {abandoned(pair, receiver) for _ in range(3)}
    receiver.status = 204
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    done = reviewed(pair, execution, path, NO, YES)
    assert (done.status, done.times("Deliver it again")) == ("success", 3), done.error
    report = pair.told_of("the dead letters were left as they are")
    assert all(delivery in report for delivery in deliveries)
    assert [found["id"] for found in pair.flexdb.get("/dead-letters")["data"]] == [letter]
    until(lambda: len(receiver.all) == 6, 20, pause=0.1)


def test_a_no_sends_nothing_and_says_who_said_it(pair: Pair, broker_url: str, receiver: Receiver) -> None:
    letter, _ = dead(pair, broker_url, "books", "one"), abandoned(pair, receiver)
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    done = reviewed(pair, execution, path, NO, NO)
    assert (done.status, done.nodes[-1]) == ("success", "Left as it was"), done.error
    pair.told_of("Ada <Lovelace> reviewed what lies undelivered and left it as it is")
    assert [found["id"] for found in pair.flexdb.get("/dead-letters")["data"]] == [letter]
    assert len(receiver.all) == 1


def test_no_answer_sends_nothing_and_is_told(pair: Pair, broker_url: str) -> None:
    letter = dead(pair, broker_url, "books", "one")
    execution, _ = waiting(pair, pair.load("redrive-dead-letters", {"waitHours": 0.001}))
    done = pair.n8n.ended(execution, 120)
    assert (done.status, done.nodes[-1]) == ("success", "Left as it was"), done.error
    pair.told_of("Nobody reviewed what lies undelivered within 0.001 h: nothing was sent again")
    assert [found["id"] for found in pair.flexdb.get("/dead-letters")["data"]] == [letter]


def test_who_has_no_password_cannot_answer(pair: Pair, broker_url: str) -> None:
    dead(pair, broker_url, "books", "one")
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    assert review(pair, path, YES, YES, {}).status == 401
    assert pair.n8n.request("GET", path).status == 401
    assert review(pair, path.partition("?")[0] + "/review", YES, YES).status == 401
    assert pair.n8n.execution(execution).status == "waiting"
    reviewed(pair, execution, path, NO, NO)


def test_what_could_not_be_sent_is_told_and_keeps_nothing_else_back(
    pair: Pair, broker_url: str, receiver: Receiver
) -> None:
    letter, gone, kept = dead(pair, broker_url, "books", "one"), abandoned(pair, receiver), abandoned(pair, receiver)
    receiver.status = 204
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    purge(broker_url, f"{NAME}.dead")
    forget_delivery(pair, gone)
    done = reviewed(pair, execution, path, YES, YES)
    assert done.status == "error"
    report = pair.told_of("had these sent again")
    assert f"✗ no longer there: {letter}" in report
    assert f"✗ delivery {gone} could not be sent again" in report
    assert f"delivery {kept} is sent again" in report
    assert kept in done.error


def forget_delivery(pair: Pair, delivery: str) -> None:
    with sqlite3.connect(pair.flexdb.ledger_file, timeout=10) as ledger:
        ledger.execute("PRAGMA foreign_keys = ON")
        ledger.execute("DELETE FROM deliveries WHERE delivery_id = ?", (delivery,))


def test_a_flexdb_that_went_away_meanwhile_is_told(pair: Pair, broker_url: str, receiver: Receiver) -> None:
    dead(pair, broker_url, "books", "one")
    delivery = abandoned(pair, receiver)
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    pair.flexdb.kill()
    done = reviewed(pair, execution, path, YES, YES)
    assert done.status == "error"
    report = pair.told_of("✗ the dead letters could not be sent again")
    assert f"✗ delivery {delivery} could not be sent again" in report


def test_a_flexdb_that_does_not_answer_is_told(pair: Pair) -> None:
    workflow = pair.load("redrive-dead-letters")
    pair.flexdb.kill()
    done = pair.run(workflow)
    assert (done.status, done.nodes[-1]) == ("error", "Stop: FlexDB cannot be asked")
    pair.told_of("✗ What lies undelivered could not be looked at", pair.flexdb_url)


def test_without_rabbitmq_it_asks_about_deliveries_alone(
    make_pair: MakePair, receiver: Receiver, tmp_path: Path
) -> None:
    pair = make_pair({"shop": sqlite_shop(tmp_path / "databases")})
    delivery = abandoned(pair, receiver)
    execution, path = waiting(pair, pair.load("redrive-dead-letters"))
    assert delivery in pair.told_of("0 dead letters, 1 abandoned deliveries")
    done = reviewed(pair, execution, path, YES, YES)
    assert done.status == "success", done.error
    assert "Redrive the dead letters" not in done.nodes
    until(lambda: len(receiver.all) == 2, 20, pause=0.1)

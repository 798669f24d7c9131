"""Dead letters in a real RabbitMQ: seen without being taken, shown without credentials, sent again and kept if not."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from service.amqp.dead_letters import DeadLetters
from service.amqp.names import Names
from service.amqp.redrives import AMQPUnavailable, Redrive, Wanted
from tests.integration.dead_letter_world import (
    BACKUP,
    Broker,
    headers_of,
    is_refused,
    open_broker,
    tag,
    with_dead_letters,
)
from tests.integration.real_service import TOKEN, Running, running
from tests.rabbitmq import OwnRabbitMQ
from tests.spine import until

MANUAL = (Path(__file__).parents[2] / "docs" / "user-manual.md").read_text()
ALL = Wanted(everything=True)
NOWHERE = "amqp://who:pa55word-of-nobody@127.0.0.1:1/"


@pytest.fixture
async def broker(rabbitmq_url: str, amqp_name: str) -> AsyncIterator[Broker]:
    async with open_broker(rabbitmq_url, amqp_name) as found:
        yield found


@pytest.fixture
async def service(tmp_path: Path, broker: Broker) -> AsyncIterator[Running]:
    async with running(tmp_path) as plain, with_dead_letters(plain, broker.letters) as found:
        yield found


def ids(redrive: Redrive) -> list[str]:
    return [letter.id for letter in redrive.letters]


# ---------------------------------------------------------------- looking


async def test_a_listing_tells_why_and_where_from(broker: Broker) -> None:
    await broker.put_aside({"connection": "shop"}, {"ce-type": "backup.requested"}, message_id="one", reason="odd")
    (letter,) = await broker.letters.list(10)
    assert (letter.message_id, letter.type, letter.operation) == ("one", "backup.requested", "backup")
    assert (letter.reason, letter.detail, letter.status) == ("odd", "It is odd.", 422)
    assert (letter.exchange, letter.routing_key) == (broker.names.requests, "backup.requested")
    assert letter.bytes == len(json.dumps(BACKUP))
    assert letter.dead_at is not None
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", letter.dead_at)
    assert letter.headers == {"ce-type": "backup.requested"}
    assert (letter.body, letter.body_encoding) == (None, None), "bodies are shown one at a time"


async def test_looking_a_hundred_times_loses_nothing(broker: Broker) -> None:
    for number in range(6):
        await broker.put_aside({"number": number})
    first = await broker.letters.list(50)
    assert len(first) == 6
    for _ in range(100):
        assert await broker.letters.list(50) == first, "the same letters, in the same order, under the same ids"
    await broker.counts(broker.names.dead, 6)
    found = await broker.letters.find(first[3].id)
    assert found is not None
    assert found.body == '{"number": 3}'


async def test_two_looks_at_once_both_see_everything(broker: Broker) -> None:
    for number in range(5):
        await broker.put_aside({"number": number})
    first, second = await asyncio.gather(broker.letters.list(10), broker.letters.list(10))
    assert first == second
    assert len(first) == 5


async def test_a_limit_shows_part_and_says_so(broker: Broker) -> None:
    for number in range(3):
        await broker.put_aside({"number": number})
    assert (await broker.letters.look(3)).more is False
    assert (await broker.letters.look(2)).more is True
    assert len((await broker.letters.look(2)).letters) == 2


async def test_equal_messages_share_an_id_and_others_do_not(broker: Broker) -> None:
    await broker.put_aside(b"same", message_id="m")
    await broker.put_aside(b"same", message_id="m", reason="other")
    await broker.put_aside(b"same", message_id="n")
    await broker.put_aside(b"same", message_id="m", key="check.requested")
    await broker.put_aside(b"same", {"ce-id": "1"}, message_id="m")
    await broker.put_aside(b"same.", message_id="m")
    found = [letter.id for letter in await broker.letters.list(10)]
    assert len(found) == 6
    assert len(set(found)) == 5
    assert all(re.fullmatch("[0-9a-f]{16}", letter_id) for letter_id in found)


async def test_credentials_are_struck_out(broker: Broker) -> None:
    headers = {
        "Authorization": "Bearer s3cret-1",
        "x-api-key": "s3cret-2",
        "webhook-signature": "v1,s3cret-3",
        "X_API_Key": bytearray(b"s3cret-4"),
        "deep": {"authorization": "s3cret-5"},
        "webhook-id": "shown",
    }
    bodies = [
        b'{"api_key": "s3cret-6", "connection": "shop"}',
        b'{"connection": "shop", "api_key" : "s3cret-6\\" s3cret-7',  # cut off
        b'{"api\\u005fkey": ["s3cret-6"], "connection": "shop"}',
        b'{"api_key": 1234567890, "connection": "shop"}',
        b'{"api_key": "s3cret-6", "connection": "\xff"}',
    ]
    for body in bodies:
        await broker.put_aside(body, headers)
    letters = await broker.letters.list(10)
    for letter in letters:
        assert letter.headers["webhook-id"] == "shown"
        assert letter.headers["deep"] == {"authorization": "***"}
        found = await broker.letters.find(letter.id)
        assert found is not None
        assert found.body is not None
        text = base64.b64decode(found.body) if found.body_encoding == "base64" else found.body.encode()
        assert b"connection" in text and b"***" in text
        assert b"s3cret" not in text + repr((letter, found)).encode()
        assert b"1234567890" not in text


async def test_a_body_that_is_no_text_is_shown_as_base64(broker: Broker) -> None:
    await broker.put_aside(b"\x00\xff\xfe", {"odd": bytearray(b"\xff"), "many": [1, 2.5, None, True]})
    (letter,) = await broker.letters.list(1)
    found = await broker.letters.find(letter.id)
    assert found is not None
    assert (found.body, found.body_encoding) == (base64.b64encode(b"\x00\xff\xfe").decode(), "base64")
    assert found.headers["many"] == [1, 2.5, None, True]


async def test_the_brokers_own_dead_letters_say_so(broker: Broker) -> None:
    forged = {"x-flexdb-reason": "forged", "x-flexdb-exchange": "amq.fanout", "x-flexdb-routing-key": "forged"}
    await broker.reject(BACKUP, forged, message_id="one")
    (letter,) = await broker.letters.list(1)
    assert (letter.reason, letter.exchange) == ("rejected", broker.names.requests), "its publisher's words do not count"
    assert letter.routing_key == "backup.requested"
    assert letter.detail == f"The broker took it out of the queue {broker.names.requests} 1 times."
    assert letter.dead_at is not None


async def test_an_unknown_id_is_none(broker: Broker) -> None:
    assert await broker.letters.find("0" * 16) is None
    await broker.put_aside(BACKUP)
    assert await broker.letters.find("0" * 16) is None


# ---------------------------------------------------------------- sending again


async def test_a_dry_run_tells_and_changes_nothing(broker: Broker) -> None:
    await broker.put_aside(BACKUP)
    before = await broker.letters.list(10)
    done = await broker.letters.redrive(ALL, apply=False)
    assert (done.applied, done.letters, done.left, done.more) == (False, before, [], False)
    assert await broker.letters.list(10) == before
    assert await broker.count(broker.names.requests) == 0


async def test_a_redriven_message_arrives_with_its_own_headers_only(broker: Broker) -> None:
    own = {"ce-type": "backup.requested", "authorization": "Bearer kept", "tries": 3}
    properties = {
        "message_id": "one",
        "message_type": "backup.requested",
        "content_type": "application/json",
        "correlation_id": "c",
        "reply_to": "somewhere",
        "app_id": "n8n",
    }
    await broker.put_aside(BACKUP, own | {"CC": ["check.requested"]}, user_id="guest", **properties)
    done = await broker.letters.redrive(ALL, apply=True)
    assert (done.applied, len(done.letters), done.left) == (True, 1, [])
    again = await broker.take()
    assert (again.exchange, again.routing_key) == (broker.names.requests, "backup.requested")
    assert again.body == json.dumps(BACKUP).encode()
    assert headers_of(again) == own
    found = again.header.properties
    assert {name: getattr(found, name) for name in properties} == properties
    assert (found.delivery_mode, found.user_id) == (2, None)
    await broker.counts(broker.names.dead, 0)


async def test_what_the_broker_let_die_can_be_sent_again_and_keeps_its_id(broker: Broker) -> None:
    await broker.reject(BACKUP, {"ce-id": "7"}, message_id="one")
    (first,) = await broker.letters.list(1)
    done = await broker.letters.redrive(Wanted(ids=frozenset({first.id})), apply=True)
    assert ids(done) == [first.id]
    again = await broker.take()
    assert headers_of(again) == {"ce-id": "7"}
    assert again.routing_key == "backup.requested"
    await broker.channel.basic_reject(tag(again), requeue=False)
    await broker.counts(broker.names.dead, 1)
    assert [letter.id for letter in await broker.letters.list(1)] == [first.id]


async def test_by_id_only_those_are_sent_with_their_equals(broker: Broker) -> None:
    for message_id in ("a", "b", "a", "c"):
        await broker.put_aside(BACKUP, message_id=message_id)
    by_name = {letter.message_id: letter.id for letter in await broker.letters.list(10)}
    done = await broker.letters.redrive(Wanted(ids=frozenset({by_name["a"], by_name["c"], "f" * 16})), apply=True)
    assert sorted(letter.message_id or "" for letter in done.letters) == ["a", "a", "c"]
    assert done.not_found == ["f" * 16]
    assert [letter.message_id for letter in await broker.letters.list(10)] == ["b"]
    assert await broker.count(broker.names.requests) == 3


async def test_by_reason_only_those_are_sent(broker: Broker) -> None:
    for message_id, reason in (("a", "unknown_operation"), ("b", "queue_full"), ("c", "queue_full")):
        await broker.put_aside(BACKUP, message_id=message_id, reason=reason)
    done = await broker.letters.redrive(Wanted(reason="queue_full"), apply=True)
    assert [letter.message_id for letter in done.letters] == ["b", "c"]
    assert [letter.message_id for letter in await broker.letters.list(10)] == ["a"]


async def test_a_limit_leaves_the_rest_and_says_so(broker: Broker) -> None:
    for number in range(5):
        await broker.put_aside({"number": number})
    done = await broker.letters.redrive(ALL, apply=True, limit=2)
    assert (len(done.letters), done.more) == (2, True)
    await broker.counts(broker.names.dead, 3)
    done = await broker.letters.redrive(ALL, apply=True, limit=3)
    assert (len(done.letters), done.more) == (3, False)
    assert await broker.count(broker.names.requests) == 5


async def test_what_dies_again_at_once_is_sent_once_per_call(broker: Broker) -> None:
    for number in range(20):
        await broker.put_aside({"number": number})

    async def refuse(message: DeliveredMessage) -> None:
        await consumer.basic_reject(tag(message), requeue=False)

    channel = await broker.connection.channel()
    consumer = await channel.get_underlay_channel()
    await consumer.basic_consume(broker.names.requests, refuse)
    done = await broker.letters.redrive(ALL, apply=True, limit=1000)
    await broker.counts(broker.names.dead, 20)
    assert len(done.letters) == len(set(ids(done))) == 20


async def test_what_no_queue_takes_stays_and_the_others_go(broker: Broker) -> None:
    """One came in by an exchange that leads nowhere now, one by an exchange that is gone."""
    for exchange in ("unbound", "gone"):
        name = f"{broker.names.requests}.{exchange}"
        await broker.channel.exchange_declare(name, exchange_type="fanout")
        await broker.channel.queue_bind(broker.names.requests, name)
        await broker.put_aside(BACKUP, message_id=exchange, exchange=name)
    await broker.put_aside(BACKUP, message_id="good")
    await broker.channel.queue_unbind(broker.names.requests, f"{broker.names.requests}.unbound")
    await broker.channel.exchange_delete(f"{broker.names.requests}.gone")
    assert await is_refused(broker, f"{broker.names.requests}.unbound")
    try:
        done = await broker.letters.redrive(ALL, apply=True)
        assert [letter.message_id for letter in done.letters] == ["good"]
        assert {left.letter.message_id: left.why.split(":")[0].split(" the exchange")[0] for left in done.left} == {
            "unbound": "No queue is bound to",
            "gone": "RabbitMQ refused it",
        }
        await broker.counts(broker.names.dead, 2)
        assert {letter.message_id for letter in await broker.letters.list(10)} == {"unbound", "gone"}
        assert await broker.count(broker.names.requests) == 1
    finally:
        await broker.channel.exchange_delete(f"{broker.names.requests}.unbound")


async def test_a_message_sent_straight_to_the_queue_goes_back_there(broker: Broker) -> None:
    await broker.put_aside(BACKUP, exchange="", key=broker.names.requests)
    (letter,) = (await broker.letters.redrive(ALL, apply=True)).letters
    assert (letter.exchange, letter.routing_key) == ("", broker.names.requests)
    assert (await broker.take()).routing_key == broker.names.requests


@pytest.mark.parametrize("same_process", [True, False])
async def test_two_redrives_at_once_send_each_letter_once(broker: Broker, same_process: bool) -> None:
    for number in range(30):
        await broker.put_aside({"number": number})
    other = broker.letters if same_process else DeadLetters(broker.url, broker.names)
    both = await asyncio.gather(
        broker.letters.redrive(ALL, apply=True, limit=20), other.redrive(ALL, apply=True, limit=20)
    )
    sent = [letter_id for done in both for letter_id in ids(done)]
    assert len(sent) == len(set(sent)) == await broker.count(broker.names.requests)
    await broker.counts(broker.names.dead, 30 - len(sent))
    if same_process:
        assert len(sent) == 30


# ---------------------------------------------------------------- the broker away


async def test_a_broker_that_is_away_is_told_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    letters = DeadLetters(NOWHERE, Names.of("nothing"))
    for call in (letters.list(1), letters.find("x"), letters.redrive(ALL, apply=True)):
        with pytest.raises(AMQPUnavailable) as caught:
            await call
        assert str(caught.value)
        assert "pa55word" not in str(caught.value) + repr(letters) + caplog.text


async def test_a_broker_that_dies_during_a_redrive_loses_no_letter(own_rabbitmq: OwnRabbitMQ) -> None:
    names: set[str | None] = {f"letter-{number}" for number in range(300)}
    redriven: list[str | None] = []
    async with open_broker(own_rabbitmq.url, "crash", keep=True) as broker:
        # RabbitMQ 3.10 cannot elect a leader after a crash for the quorum queue it made last: it is not ours.
        await broker.channel.queue_declare("last", durable=True, arguments={"x-queue-type": "quorum"})
        for name in names:
            await broker.publish(BACKUP, exchange=broker.names.dead, message_id=name)
        redrive = asyncio.create_task(broker.letters.redrive(ALL, apply=True, limit=1000))
        await until(lambda: arrived(broker))
        await asyncio.to_thread(own_rabbitmq.stop)
        with suppress(AMQPUnavailable):
            done = await redrive
            assert done.more, "it says that there is more to do"
            redriven = [letter.message_id for letter in done.letters]
    assert len(redriven) < len(names), "it was broken off"

    await asyncio.to_thread(own_rabbitmq.start)
    async with open_broker(own_rabbitmq.url, "crash") as broker:
        sent: set[str | None] = set()

        async def all_there() -> bool:
            """In the dead letters or on the requests queue; both come back bit by bit."""
            message = await broker.channel.basic_get(broker.names.requests)
            sent.update({message.header.properties.message_id} if isinstance(message.delivery, Basic.GetOk) else ())
            kept = {letter.message_id for letter in await broker.letters.list(1000)}
            return kept | sent >= names and sent >= set(redriven)

        await until(all_there, 30)


async def arrived(broker: Broker) -> bool:
    return await broker.count(broker.names.requests) > 0


async def test_closing_ends_a_redrive_after_the_letter_in_hand(broker: Broker) -> None:
    for number in range(200):
        await broker.publish({"number": number}, exchange=broker.names.dead)
    redrive = asyncio.create_task(broker.letters.redrive(ALL, apply=True, limit=1000))
    await until(lambda: arrived(broker))
    await broker.letters.close()
    assert redrive.done(), "closing waits for it"
    done = await redrive
    assert done.more
    assert 0 < len(done.letters) < 200
    await broker.counts(broker.names.dead, 200 - len(done.letters))
    with pytest.raises(AMQPUnavailable, match="the service stops"):
        await broker.letters.list(1)


async def test_a_missing_queue_is_no_empty_list(rabbitmq_url: str) -> None:
    with pytest.raises(AMQPUnavailable, match=r"no queue 'nothing-here\.dead'"):
        await DeadLetters(rabbitmq_url, Names.of("nothing-here")).list(1)


async def test_a_wrong_password_is_told(rabbitmq_url: str) -> None:
    url = re.sub(r"//.*@", "//guest:wr0ng@", rabbitmq_url)
    with pytest.raises(AMQPUnavailable) as caught:
        await DeadLetters(url, Names.of("nothing")).list(1)
    assert "refused" in str(caught.value).lower()
    assert "wr0ng" not in str(caught.value)


# ---------------------------------------------------------------- by HTTP


async def test_the_calls_list_show_and_redrive(service: Running, broker: Broker) -> None:
    await broker.put_aside({"connection": "shop", "api_key": "s3cret"}, message_id="one")
    listed = await service.get("/dead-letters?limit=5")
    (item,) = listed["data"]
    assert listed["more"] is False
    assert "body" not in item
    shown = await service.get(f"/dead-letters/{item['id']}")
    assert shown == item | {"body": '{"connection": "shop", "api_key": "***"}', "body_encoding": "utf-8"}

    dry = await service.ask("POST", "/dead-letters/redrive", {"ids": [item["id"]]})
    assert dry.status == 200
    assert dry.json["applied"] is False
    (move,) = dry.json["would_redrive"]
    assert (move["id"], move["exchange"], move["routing_key"]) == (
        item["id"],
        broker.names.requests,
        "backup.requested",
    )
    assert await broker.count(broker.names.requests) == 0

    done = await service.ask("POST", "/dead-letters/redrive", {"all": True, "apply": True})
    assert done.json == {"applied": True, "redriven": [move], "left": [], "not_found": [], "more": False}
    assert await broker.count(broker.names.requests) == 1
    assert (await service.get("/dead-letters"))["data"] == []
    assert b"s3cret" not in b"".join(service.bodies)


async def test_what_stays_is_told_with_the_reason(service: Running, broker: Broker) -> None:
    await broker.put_aside(BACKUP)
    await broker.channel.queue_unbind(broker.names.requests, broker.names.requests, "#")
    done = await service.ask("POST", "/dead-letters/redrive", {"reason": "invalid_request", "apply": True})
    assert done.status == 200
    assert done.json["redriven"] == []
    assert done.json["left"][0]["why"].startswith("No queue is bound")
    await broker.counts(broker.names.dead, 1)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"all": False},
        {"all": True, "reason": "x"},
        {"ids": [], "apply": True},
        {"ids": ["x"], "all": True},
        {"all": True, "apply": "yes"},
        {"all": True, "dry_run": False},
        {"all": True, "limit": 0},
        {"all": True, "limit": 1001},
        {"ids": ["x"] * 1001},
        {"reason": 7},
        [],
        "all",
    ],
    ids=str,
)
async def test_a_redrive_that_is_not_clear_is_refused(service: Running, broker: Broker, body: Any) -> None:
    await broker.put_aside(BACKUP)
    answer = await service.ask("POST", "/dead-letters/redrive", body)
    assert (answer.status, answer.code) == (422, "invalid_request")
    assert answer.json["errors"]
    await broker.counts(broker.names.dead, 1)


async def test_a_limit_out_of_range_is_refused(service: Running) -> None:
    for limit in ("0", "501", "x", "-1"):
        assert (await service.ask("GET", f"/dead-letters?limit={limit}")).code == "invalid_request"


async def test_broker_away_not_configured_and_not_found_are_problems(tmp_path: Path, broker: Broker) -> None:
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/dead-letters", None),
        ("GET", "/dead-letters/x", None),
        ("POST", "/dead-letters/redrive", {"all": True, "apply": True}),
    ]
    async with running(tmp_path) as plain:
        async with with_dead_letters(plain, DeadLetters(NOWHERE, broker.names)) as service:
            for method, path, body in calls:
                answer = await service.ask(method, path, body)
                assert (answer.status, answer.code) == (503, "rabbitmq_unavailable")
                assert int(answer.headers["Retry-After"]) > 0
                assert b"pa55word" not in answer.body
        async with with_dead_letters(plain, None) as service:
            for method, path, body in calls:
                answer = await service.ask(method, path, body)
                assert (answer.status, answer.code) == (404, "rabbitmq_not_configured")
                assert "FLEXDB_AMQP_URL" in answer.json["detail"]
        async with with_dead_letters(plain, broker.letters) as service:
            answer = await service.ask("GET", "/dead-letters/nothing")
            assert (answer.status, answer.code) == (404, "dead_letter_not_found")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: the manual's examples were not tried")
async def test_every_example_of_the_manual_that_needs_rabbitmq_works(service: Running, broker: Broker) -> None:
    examples = [text for text in re.findall(r"```sh rabbitmq\n(.*?)```", MANUAL, re.DOTALL) if "curl" in text]
    assert len(examples) >= 2
    await broker.put_aside(BACKUP, reason="unknown_connection")
    environment = {
        "PATH": os.environ["PATH"],
        "FLEXDB": str(service.base).rstrip("/"),
        "TOKEN": f"Authorization: Bearer {TOKEN}",
    }
    for example in examples:
        process = await asyncio.create_subprocess_exec(
            "bash", "-ec", example, env=environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, example
        assert "detail" not in json.loads(out), f"{example}\n{out.decode()}"
    await broker.counts(broker.names.requests, 1)

"""The outbox against a real ledger and real receivers on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import structlog
from aiohttp import web
from standardwebhooks import Webhook

from service.jobs import Status
from service.ledger.base import Ledger
from service.ledger.records import Change, Delivery, DeliveryStatus, Verdict
from service.ledger.sqlite import SQLiteLedger
from service.outbox import Outbox
from service.outgoing import OutgoingPolicy
from service.verdicts import Pace
from service.webhooks_out import WebhookSender
from tests.spine import Trouble, accept, holds, open_ledger, until

SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
JWT_SECRET = "a-secret-for-tests-of-thirty-two-bytes"
LOOPBACK = OutgoingPolicy(loopback_for_callbacks=True)
QUICK = Pace(schedule=(0.02,) * 8, callback_base=0.02, callback_slow=0.03)


@dataclass
class Received:
    at: float
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers by a script, one entry per request, the last one for ever."""

    url: str = ""
    script: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(default_factory=list)
    got: list[Received] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Received(time.monotonic(), request.raw_path, headers, body))
        return await self.script[min(len(self.got), len(self.script)) - 1](request)


def answering(status: int, text: str = "", **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=text, headers=named)

    return answer


NewReceiver = Callable[..., Awaitable[Receiver]]


@pytest.fixture
def new_receiver(aiohttp_server: Any) -> NewReceiver:
    async def make(*script: Any) -> Receiver:
        receiver = Receiver(script=list(script) or [answering(200)])
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", receiver.handle)
        server = await aiohttp_server(app)
        receiver.url = f"http://127.0.0.1:{server.port}/hook"
        return receiver

    return make


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SQLiteLedger]:
    async with open_ledger(tmp_path / "ledger.sqlite3") as opened:
        yield opened


@asynccontextmanager
async def relaying(ledger: Ledger, policy: OutgoingPolicy = LOOPBACK, **more: Any) -> AsyncIterator[Outbox]:
    options: dict[str, Any] = {"pace": QUICK, "timeout": 5.0} | more
    sender = WebhookSender(policy, SECRETS, **options)
    outbox = Outbox(ledger, sender, poll_seconds=0.5)
    outbox.start()
    try:
        yield outbox
    finally:
        await outbox.stop()
        await sender.close()


async def finish_one(ledger: SQLiteLedger, callback_url: str | None = None) -> str:
    """A job that has come to its end; its id."""
    job_id = await accept(ledger, "backup", callback_url=callback_url)
    for job in await ledger.claim("tests", 100):
        await ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED, {"note": "größer"})
    return job_id


async def settled(ledger: SQLiteLedger, job_id: str, seconds: float = 10) -> Delivery:
    """The one delivery of a job, once it is no longer pending."""

    async def look() -> Delivery | None:
        (delivery,) = (await ledger.deliveries(job_id=job_id)).items
        assert isinstance(delivery, Delivery)
        return None if delivery.status is DeliveryStatus.PENDING else delivery

    return await until(look, seconds)


# ---------------------------------------------------------------- what is sent


async def test_a_delivery_is_signed_so_that_others_can_check_it(
    ledger: SQLiteLedger, new_receiver: NewReceiver
) -> None:
    receiver = await new_receiver()
    async with relaying(ledger, jwt_secret=JWT_SECRET):
        job_id = await finish_one(ledger, receiver.url + "?signature=ab%2Fcd+e/backup")
        delivery = await settled(ledger, job_id)
    (got,) = receiver.got
    assert delivery.status is DeliveryStatus.DELIVERED and delivery.delivered_at is not None
    assert got.path == "/hook?signature=ab%2Fcd+e/backup"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"].startswith("FlexDB/")
    assert got.headers["webhook-id"] == f"{job_id}/terminal"
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 30
    event = json.loads(got.body)
    assert (event["type"], event["id"]) == ("backup.completed", f"{job_id}/terminal")
    for secret in SECRETS:
        assert Webhook(secret).verify(got.body, got.headers) == event
    assert len(got.headers["webhook-signature"].split(" ")) == 2
    text_key = hmac.new(SECRETS[0].encode(), got.body, hashlib.sha256).hexdigest()
    assert got.headers["x-flexdb-signature"] == f"sha256={text_key}"
    bearer = got.headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(bearer, JWT_SECRET, algorithms=["HS256"], options={"require": ["iat", "exp", "jti"]})
    assert claims["jti"] == f"{job_id}/terminal" and claims["exp"] - claims["iat"] == 300
    assert claims["sha256"] == hashlib.sha256(got.body).hexdigest()


async def test_every_try_carries_the_same_bytes_and_id(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver(answering(500), answering(502), answering(200))
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url))
    assert len(receiver.got) == 3
    assert len({(got.body, got.headers["webhook-id"]) for got in receiver.got}) == 1
    assert delivery.attempts == 3 and delivery.last_error is None
    assert [(line.number, line.http_status, line.error) for line in delivery.log] == [
        (1, 500, "500 Internal Server Error: the receiver is not ready"),
        (2, 502, "502 Bad Gateway: the receiver is not ready"),
        (3, 200, None),
    ]


async def test_a_user_in_the_url_goes_before_the_jwt(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver()
    async with relaying(ledger, jwt_secret=JWT_SECRET):
        await settled(ledger, await finish_one(ledger, receiver.url.replace("127", "me:pw@127", 1)))
    assert receiver.got[0].headers["authorization"] == aiohttp.encode_basic_auth("me", "pw")


def test_secrets_that_cannot_sign_are_refused_at_start() -> None:
    with pytest.raises(ValueError, match="whsec_"):
        WebhookSender(LOOPBACK, ["whsec_not base64"])
    with pytest.raises(ValueError, match="32 bytes"):
        WebhookSender(LOOPBACK, SECRETS, jwt_secret="short")


async def test_subscriptions_get_the_types_they_ask_for(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    everything, failures = await new_receiver(), await new_receiver()
    await ledger.put_subscription("everything", everything.url, ["*"])
    await ledger.put_subscription("failures", failures.url, ["*.failed"])
    async with relaying(ledger):
        await finish_one(ledger)
        await holds(lambda: len(everything.got) == 2)
    assert {json.loads(got.body)["type"] for got in everything.got} == {"backup.started", "backup.completed"}
    assert failures.got == []


# ---------------------------------------------------------------- what answers lead to


async def test_a_receiver_that_is_not_yet_waiting_is_asked_again_like_n8n(
    ledger: SQLiteLedger, new_receiver: NewReceiver
) -> None:
    early = '{"code":409,"message":"The execution \\"12\\" is running already."}'
    starting = "<pre>Cannot POST /webhook-waiting/12</pre>"
    receiver = await new_receiver(answering(409, early), answering(404, starting), answering(200))
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url))
    assert delivery.status is DeliveryStatus.DELIVERED and len(receiver.got) == 3


async def test_a_success_that_means_nothing_is_no_success(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver(answering(200, "n8n is starting up. Please wait"), answering(200))
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url))
    assert delivery.status is DeliveryStatus.DELIVERED and len(receiver.got) == 2
    assert [(line.http_status, line.error) for line in delivery.log] == [
        (200, "200 OK: the receiver is starting"),
        (200, None),
    ]


@pytest.mark.parametrize(
    ("status", "text", "tries"),
    [
        (409, '{"message":"The execution \\"12\\" has finished already."}', 1),
        (401, '{"error":"Invalid token"}', 1),
        (403, "Authorization data is wrong!", 1),
        (410, "", 1),
        (422, "", 1),
        (404, '{"code":404,"message":"The execution \\"12\\" does not exist."}', 5),
    ],
)
async def test_a_callback_is_given_up_when_more_tries_are_in_vain(
    ledger: SQLiteLedger, new_receiver: NewReceiver, status: int, text: str, tries: int
) -> None:
    receiver = await new_receiver(answering(status, text))
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url))
    assert delivery.status is DeliveryStatus.ABANDONED
    assert len(receiver.got) == tries


async def test_a_subscription_is_abandoned_after_its_schedule(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver(answering(401))
    await ledger.put_subscription("all", receiver.url, ["*.completed"])
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger))
    assert delivery.status is DeliveryStatus.ABANDONED and len(receiver.got) == 9
    assert delivery.last_error == "401 Unauthorized: no further tries"


async def test_retry_after_is_obeyed(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver(answering(429, Retry_After="1"), answering(200))
    async with relaying(ledger):
        await settled(ledger, await finish_one(ledger, receiver.url))
    assert receiver.got[1].at - receiver.got[0].at >= 0.95


async def test_redirects_are_not_followed(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    elsewhere = await new_receiver()
    receiver = await new_receiver(answering(307, Location=elsewhere.url), answering(200))
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url))
    assert elsewhere.got == [] and len(receiver.got) == 2
    assert delivery.log[0].error == "307 Temporary Redirect: redirects are not followed"


async def test_a_receiver_that_answers_too_late_is_asked_again(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    async def late(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    receiver = await new_receiver(late, answering(200))
    async with relaying(ledger, timeout=0.3):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url))
    assert [line.error for line in delivery.log] == ["no answer within 0.3 s", None]


async def test_a_status_counts_even_when_the_connection_breaks_in_the_body(ledger: SQLiteLedger) -> None:
    answers = [b"HTTP/1.1 2", b"", b"rubbish\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhal"]
    calls = 0

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(1)
        writer.write(answers[calls - 1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(raw, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, f"http://127.0.0.1:{port}/?token=hush"))
    server.close()
    await server.wait_closed()
    assert delivery.status is DeliveryStatus.DELIVERED
    assert [line.http_status for line in delivery.log] == [None, None, None, 200]
    assert not any("hush" in (line.error or "") for line in delivery.log)


async def test_a_receiver_that_is_down_gets_it_when_it_is_up(ledger: SQLiteLedger, unused_tcp_port: int) -> None:
    got = []

    async def answer(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response()

    async with relaying(ledger):
        job_id = await finish_one(ledger, f"http://127.0.0.1:{unused_tcp_port}/hook?token=hush")

        async def has_failed_twice() -> bool:
            (delivery,) = (await ledger.deliveries(job_id=job_id)).items
            return bool(delivery.attempts >= 2)

        await until(has_failed_twice)
        app = web.Application()
        app.router.add_post("/hook", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
        delivery = await settled(ledger, job_id)
        await runner.cleanup()
    assert delivery.status is DeliveryStatus.DELIVERED and len(got) == 1
    assert not any("hush" in (line.error or "") for line in delivery.log)


async def test_a_giant_answer_is_not_read_to_its_end(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=410)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)
            sent += 65536

    receiver = await new_receiver(endless)
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url), 4)
    assert delivery.status is DeliveryStatus.ABANDONED
    assert sent < 64 * 1024 * 1024


# ---------------------------------------------------------------- where it may go


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001"])
async def test_loopback_is_not_called_unless_allowed(
    ledger: SQLiteLedger, new_receiver: NewReceiver, host: str
) -> None:
    receiver = await new_receiver()
    async with relaying(ledger, OutgoingPolicy()):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url.replace("127.0.0.1", host)))
    assert delivery.status is DeliveryStatus.ABANDONED and receiver.got == []
    assert delivery.log[0].http_status is None and "FLEXDB_OUTGOING_ALLOW" in (delivery.last_error or "")


async def test_metadata_addresses_are_never_called(ledger: SQLiteLedger) -> None:
    async with relaying(ledger):
        delivery = await settled(ledger, await finish_one(ledger, "http://169.254.169.254/latest/meta-data"))
    assert delivery.status is DeliveryStatus.ABANDONED


async def test_an_allowed_host_is_called(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver()
    async with relaying(ledger, OutgoingPolicy.of(["localhost"])):
        url = receiver.url.replace("127.0.0.1", "localhost")
        assert (await settled(ledger, await finish_one(ledger, url))).status is DeliveryStatus.DELIVERED


# ---------------------------------------------------------------- many at once, trouble


async def test_a_hanging_receiver_delays_no_other_and_has_sixteen_in_flight(
    ledger: SQLiteLedger, new_receiver: NewReceiver
) -> None:
    release = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    slow, quick = await new_receiver(hang), await new_receiver()
    async with relaying(ledger, timeout=30.0) as outbox:
        stuck = [await finish_one(ledger, slow.url) for _ in range(40)]
        await holds(lambda: len(slow.got) == 16)
        for _ in range(40):
            began = time.monotonic()
            await settled(ledger, await finish_one(ledger, quick.url))
            assert time.monotonic() - began < 1.0
        assert len(slow.got) == 16 and outbox.in_flight == 16
        release.set()
        for job_id in stuck:
            assert (await settled(ledger, job_id)).status is DeliveryStatus.DELIVERED
    assert len(slow.got) == 40


async def test_redelivery_sends_the_same_event_again(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver(answering(410), answering(200))
    async with relaying(ledger):
        job_id = await finish_one(ledger, receiver.url)
        first = await settled(ledger, job_id)
        assert first.status is DeliveryStatus.ABANDONED
        await ledger.redeliver(first.delivery_id)
        again = await settled(ledger, job_id)
    assert again.status is DeliveryStatus.DELIVERED
    assert [line.http_status for line in again.log] == [410, 200]
    assert receiver.got[0].body == receiver.got[1].body


async def test_ledger_trouble_loses_nothing_and_repeats_nothing(
    ledger: SQLiteLedger, new_receiver: NewReceiver
) -> None:
    receiver = await new_receiver()
    shaky = Trouble(ledger, take_deliveries=2, settle_delivery=3)
    async with relaying(shaky.ledger):
        delivery = await settled(ledger, await finish_one(ledger, receiver.url))
    assert delivery.status is DeliveryStatus.DELIVERED and len(receiver.got) == 1


class Faulty:
    """A sender with a fault of its own in the first attempt."""

    timeout = 0.1

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def attempt(self, delivery: Delivery) -> Verdict:
        self.seen.append(delivery.event_type)
        if len(self.seen) == 1:
            raise KeyError("a fault")
        return Verdict(time.time(), 200, None, 1.0, DeliveryStatus.DELIVERED)


async def test_a_fault_in_one_attempt_is_logged_and_leaves_the_others_alone(ledger: SQLiteLedger) -> None:
    sender = Faulty()
    outbox = Outbox(ledger, sender, poll_seconds=0.1)
    outbox.SETTLE_MARGIN = 0.2
    with structlog.testing.capture_logs() as lines:
        outbox.start()
        jobs = [await finish_one(ledger, "http://example.invalid/") for _ in range(2)]
        for job_id in jobs:
            assert (await settled(ledger, job_id)).status is DeliveryStatus.DELIVERED
        await outbox.stop()
    assert len(sender.seen) == 3
    assert any(line["event"] == "delivery_attempt_failed" for line in lines)


async def test_stopping_lets_an_attempt_end_and_breaks_off_one_that_does_not(
    ledger: SQLiteLedger, new_receiver: NewReceiver
) -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response()

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    ending, hanging = await new_receiver(slow), await new_receiver(hang, answering(200))
    sender = WebhookSender(LOOPBACK, SECRETS, pace=QUICK, timeout=30)
    outbox = Outbox(ledger, sender)
    outbox.start()
    ends, hangs = await finish_one(ledger, ending.url), await finish_one(ledger, hanging.url)
    await holds(lambda: ending.got and hanging.got)
    began = time.monotonic()
    await outbox.stop(1.0)
    await sender.close()
    assert time.monotonic() - began < 3
    assert (await settled(ledger, ends)).status is DeliveryStatus.DELIVERED
    async with relaying(ledger):
        assert (await settled(ledger, hangs)).status is DeliveryStatus.DELIVERED
    assert len(hanging.got) == 2


async def test_a_hint_wakes_the_relay_at_once(ledger: SQLiteLedger, new_receiver: NewReceiver) -> None:
    receiver = await new_receiver()
    sender = WebhookSender(LOOPBACK, SECRETS)
    outbox = Outbox(ledger, sender, poll_seconds=60)
    told: list[Change] = []
    ledger.watch(told.append)
    outbox.start()
    await settled(ledger, await finish_one(ledger, receiver.url), 5)
    await outbox.stop()
    await sender.close()
    assert "outbox" in {change.kind for change in told}

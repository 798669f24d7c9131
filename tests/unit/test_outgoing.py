"""Where outgoing calls may go: literals at the door, names at connect."""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.outgoing import GuardedResolver, OutgoingPolicy, OutgoingRefused, exact_url, outgoing_session

STRICT = OutgoingPolicy()
CALLS = web.AppKey("calls", list[str])
DEMO = OutgoingPolicy(loopback_for_callbacks=True)

PRIVATE = [
    "127.0.0.1", "127.1", "127.0.0.1.", "0x7f.0.0.1", "0x7f000001", "017700000001", "2130706433", "0177.1",
    "0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "2852039166",
    "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "192.0.2.1", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[64:ff9b::169.254.169.254]", "[64:ff9b:1::a00:1]",
    "[2002:a00:1::1]", "[2001:0:808:808::f5ff:fffe]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]",
    "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "134744072", "[2606:4700::1111]", "[64:ff9b::808:808]", "[::ffff:8.8.8.8]"]


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("purpose", ["callback", "subscription", "source"])
def test_a_literal_that_is_not_public_is_refused(host: str, purpose: Any) -> None:
    reason = STRICT.refuse_literal(f"http://{host}:5678/hook?token=hush", purpose)
    assert reason is not None
    assert "hush" not in reason


@pytest.mark.parametrize(
    "host", [*PUBLIC, "n8n", "localhost", "hooks.example.com", "a_b.internal", "xn--bcher-kva.example"]
)
def test_public_literals_and_names_pass_the_door(host: str) -> None:
    assert STRICT.refuse_literal(f"https://{host}/hook", "source") is None


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "example.com/x", "", "http://", "http:///x",
        "//example.com/", "http://exa mple.com/", "http://example.com/\r\nX: y",
        "http://\uff11\uff12\uff17.0.0.1/", "http://b\u00fccher.example/",
        "http://%31%32%37.0.0.1/", "http://a..b/", "http://-a/", "http://h:99999/", "http://h:port/", "http://a\\@b/",
        "http://[::1/", "gopher://example.com",
    ],
)  # fmt: skip
def test_what_is_no_http_url_is_refused(url: str) -> None:
    assert STRICT.refuse_literal(url, "callback") is not None


def test_a_user_before_the_at_sign_does_not_hide_the_host() -> None:
    assert STRICT.refuse_literal("http://example.com@127.0.0.1/", "callback") is not None
    assert STRICT.refuse_literal("http://127.0.0.1@example.com/", "callback") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_loopback_is_for_webhooks_only_and_only_while_nothing_is_configured(host: str) -> None:
    assert DEMO.refuse_literal(f"http://{host}/", "callback") is None
    assert DEMO.refuse_literal(f"http://{host}/", "subscription") is None
    assert DEMO.refuse_literal(f"http://{host}/", "source") is not None
    assert STRICT.refuse_literal(f"http://{host}/", "callback") is not None


def test_loopback_for_webhooks_opens_nothing_else() -> None:
    for host in ("169.254.169.254", "10.0.0.1", "0.0.0.0", "[::]", "[fe80::1]", "[64:ff9b::7f00:1]"):
        assert DEMO.refuse_literal(f"http://{host}/", "callback") is not None


def test_networks_and_addresses_can_be_allowed() -> None:
    policy = OutgoingPolicy.of(["10.1.0.0/16", "192.168.7.7", "fd00:1::/32"])
    for host in ("10.1.2.3", "192.168.7.7", "[fd00:1::5]", "[::ffff:10.1.2.3]", "0x0a010203"):
        assert policy.refuse_literal(f"http://{host}/", "source") is None, host
    for host in ("10.2.0.1", "192.168.7.8", "[fd00:2::5]", "127.0.0.1"):
        assert policy.refuse_literal(f"http://{host}/", "source") is not None, host


@pytest.mark.parametrize("word", ["10.0.0.0/33", "http://n8n", "a b", "n8n:5678", "300.1.1.1/8", "127.1"])
def test_a_word_that_names_nothing_is_refused_at_start(word: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        OutgoingPolicy.of([word])


async def test_a_name_that_resolves_to_loopback_is_not_connected_to() -> None:
    resolver = GuardedResolver(STRICT, "callback")
    with pytest.raises(OutgoingRefused, match="localhost has no public address"):
        await resolver.resolve("localhost", 80, socket.AF_UNSPEC)
    await resolver.close()


async def test_an_allowed_name_may_resolve_to_anything() -> None:
    resolver = GuardedResolver(OutgoingPolicy.of(["LocalHost"]), "source")
    found = await resolver.resolve("localhost", 80, socket.AF_INET)
    assert {each["host"] for each in found} == {"127.0.0.1"}
    await resolver.close()


@pytest.fixture
async def receiver(aiohttp_server: Any) -> Any:
    calls: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        calls.append(request.raw_path)
        response = web.Response(text="hello")
        response.set_cookie("session", "x")
        return response

    app = web.Application()
    app[CALLS] = calls
    app.router.add_route("*", "/{rest:.*}", answer)
    return await aiohttp_server(app)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_session_refuses_what_the_policy_refuses_and_sends_nothing(receiver: Any, host: str) -> None:
    async with outgoing_session(DEMO, "source") as session:
        with pytest.raises(OutgoingRefused):
            await session.get(exact_url(f"http://{host}:{receiver.port}/secret"))
    assert receiver.app[CALLS] == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001"])
async def test_odd_spellings_of_loopback_never_reach_it(receiver: Any, host: str) -> None:
    async with outgoing_session(STRICT, "callback") as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(exact_url(f"http://{host}:{receiver.port}/secret"))
    assert receiver.app[CALLS] == []


async def test_a_url_is_sent_byte_for_byte_and_cookies_are_not_kept(receiver: Any) -> None:
    paths = [
        "/w/12?signature=ab%2Fcd+e/backup",
        "/a/../b//c?x=%c3%BC&&y=%20;",
        "/p?a=?b=%7E~&c=é".replace("é", "%C3%A9"),
    ]
    async with outgoing_session(DEMO, "callback") as session:
        for path in paths:
            async with session.get(exact_url(f"http://127.0.0.1:{receiver.port}{path}")) as response:
                assert response.status == 200
                assert "Cookie" not in response.request_info.headers
    assert receiver.app[CALLS] == paths


async def test_proxies_of_the_environment_are_not_used(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nothing listens there
    url = exact_url(f"http://localhost:{receiver.port}/x")
    async with outgoing_session(DEMO, "callback") as session, session.get(url) as response:
        assert response.status == 200


async def test_a_redirect_to_a_private_address_is_refused_even_where_redirects_are_followed(
    aiohttp_server: Any,
) -> None:
    async def away(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data")

    app = web.Application()
    app.router.add_get("/", away)
    server = await aiohttp_server(app)
    async with outgoing_session(DEMO, "callback") as session:
        with pytest.raises(OutgoingRefused):
            await session.get(exact_url(f"http://127.0.0.1:{server.port}/"), allow_redirects=True)

"""Fetching from a real server that is slow, busy, lying, endless, elsewhere; and from a thread, as handlers do."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from engines.artefacts.compression import zstd
from engines.errors import SourceFailed, SourceUnavailable, Stopped
from engines.run import StopReason, StopToken
from handlers.supplies import Fetched, Fetcher, FetchRules, FetchSession
from service.fetching import HttpFetcher
from service.fetching.pacing import Backoff, Gate
from service.outgoing import OutgoingPolicy

LOCAL = OutgoingPolicy.of(["127.0.0.1"])
QUICK = Backoff(base=0.01, cap=0.02)
SECRET = "s3cret-value"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Source:
    """A server whose answer each test writes itself; it counts what came and what was under way at once."""

    def __init__(self) -> None:
        self.answer: Answer = self._fine
        self.asked: list[web.Request] = []
        self.at: list[float] = []
        self.inside = self.most = 0
        self.port = 0
        self.over = asyncio.Event()

    async def _fine(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"path": request.raw_path})

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.at.append(time.monotonic())
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            return await self.answer(request)
        finally:
            self.inside -= 1

    def url(self, path: str = "/data?token=" + SECRET) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


async def serve(source: Source) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", source.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    source.port = runner.addresses[0][1]
    return runner


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    found = Source()
    runner = await serve(found)
    yield found
    found.over.set()
    await runner.cleanup()


@pytest.fixture
async def other() -> AsyncIterator[Source]:
    """A server at another origin: another port is one."""
    found = Source()
    runner = await serve(found)
    yield found
    await runner.cleanup()


async def using(
    work: Callable[[FetchSession], Any],
    *,
    headers: Mapping[str, str] | None = None,
    stop: StopToken | None = None,
    policy: OutgoingPolicy = LOCAL,
    **rules: Any,
) -> Any:
    """Run `work` with a session in a thread, as the worker runs handlers."""
    fetcher: Fetcher = HttpFetcher(asyncio.get_running_loop(), policy, QUICK)

    def in_thread() -> Any:
        with fetcher.session(headers or {}, FetchRules(**rules), stop or StopToken()) as session:
            return work(session)

    return await asyncio.to_thread(in_thread)


async def get(url: str, **more: Any) -> Fetched:
    found: Fetched = await using(lambda session: session.get(url).result(), **more)
    return found


async def failing(url: str, **more: Any) -> SourceFailed:
    with pytest.raises(SourceFailed) as raised:
        await get(url, **more)
    told = f"{raised.value.message} {raised.value.hint} {raised.value.details}"
    assert SECRET not in told
    return raised.value


def statuses(*codes: int, **headers: str) -> Answer:
    """One after the other, the last for ever."""
    left = list(codes)

    async def answer(_: web.Request) -> web.StreamResponse:
        code = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=code, text=f"{code}", headers=headers if code >= 400 else None)

    return answer


def body(data: bytes, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=data, headers=named)

    return answer


def raw(data: bytes) -> Answer:
    """These bytes, then the connection ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(data)
        request.transport.close()
        return web.Response()

    return answer


# ---------------------------------------------------------------- answers


async def test_an_answer_comes_with_its_headers_and_where_it_came_from(source: Source) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        response = web.json_response([1, 2])
        response.headers.add("Link", "<a>; rel=next")
        response.headers.add("Link", "<b>; rel=prev")
        return response

    source.answer = answer
    found = await get(source.url(), headers={"X-Key": SECRET})
    assert (found.status, found.body, found.url) == (200, b"[1, 2]", source.url())
    assert found.headers["link"] == "<a>; rel=next, <b>; rel=prev"
    assert found.headers["content-type"].startswith("application/json")
    assert source.asked[0].headers["X-Key"] == SECRET
    assert source.asked[0].method == "GET"


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"a" * 700_000, mtime=0) + gzip.compress(b"b", mtime=0)),
        ("deflate", zlib.compress(b"a" * 700_000 + b"b")),
        ("deflate", zlib.compress(b"a" * 700_000 + b"b", wbits=-15)),
        ("zstd", zstd.compress(b"a" * 700_000) + zstd.compress(b"b")),
        ("identity", b"a" * 700_000 + b"b"),
    ],
)
async def test_packed_answers_are_unpacked_whole_or_in_pieces(source: Source, encoding: str, packed: bytes) -> None:
    source.answer = body(packed, Content_Encoding=encoding)
    assert (await get(source.url())).body == b"a" * 700_000 + b"b"
    assert await using(lambda session: b"".join(session.blocks(source.url()))) == b"a" * 700_000 + b"b"


@pytest.mark.parametrize(
    ("encoding", "packed", "told"),
    [
        ("gzip", gzip.compress(b"a" * 5000, mtime=0)[:-9], "too early"),
        ("gzip", b"this is no gzip at all", "damaged"),
        ("zstd", zstd.compress(b"a" * 5000)[:-3], "too early"),
        ("zstd", b"this is no zstd at all", "damaged"),
        ("br", b"something", "not asked for"),
    ],
    ids=["gzip cut", "no gzip", "zstd cut", "no zstd", "another packing"],
)
async def test_a_damaged_packing_is_told_after_another_try(
    source: Source, encoding: str, packed: bytes, told: str
) -> None:
    source.answer = body(packed, Content_Encoding=encoding)
    error = await failing(source.url(), tries=2)
    assert told in error.message
    assert not error.retryable
    assert len(source.asked) == 2
    with pytest.raises(SourceFailed):
        await using(lambda session: list(session.blocks(source.url())), tries=1)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
async def test_a_small_answer_that_unpacks_to_a_large_one_is_refused(source: Source, how: str) -> None:
    zeros = b"\0" * 30_000_000
    source.answer = body(gzip.compress(zeros) if how == "gzip" else zstd.compress(zeros), Content_Encoding=how)
    error = await failing(source.url(), largest=1_000_000)
    assert "larger than 1,000,000 bytes" in error.message
    assert len(source.asked) == 1


async def test_an_answer_larger_than_allowed_is_refused_told_or_not(source: Source) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    source.answer = body(b"x" * 2000)
    assert "larger" in (await failing(source.url(), largest=1999)).message
    assert len((await get(source.url(), largest=2000)).body) == 2000
    source.answer = endless
    assert "larger" in (await failing(source.url(), largest=300_000)).message


# ---------------------------------------------------------------- tries


@pytest.mark.parametrize("code", [408, 425, 429, 500, 503, 599])
async def test_what_may_pass_is_asked_again(source: Source, code: int) -> None:
    source.answer = statuses(code, code, 200)
    assert (await get(source.url())).status == 200
    assert len(source.asked) == 3


async def test_after_the_last_try_it_is_told_what_came_and_how_often(source: Source) -> None:
    source.answer = statuses(502)
    error = await failing(source.url(), tries=3)
    assert isinstance(error, SourceUnavailable)
    assert error.retryable
    assert f"127.0.0.1:{source.port} answered 502 Bad Gateway" in error.message
    assert "asked 3 times" in error.message
    assert (error.details["http_status"], error.details["tries"]) == (502, 3)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 422])
async def test_what_will_not_pass_is_asked_once(source: Source, code: int) -> None:
    source.answer = statuses(code)
    error = await failing(source.url())
    assert not isinstance(error, SourceUnavailable)
    assert f"answered {code}" in error.message
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        raw(b""),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    ],
)
async def test_broken_answers_are_tried_again_and_told(source: Source, answer: Answer) -> None:
    source.answer = answer
    error = await failing(source.url(), tries=2)
    assert isinstance(error, SourceUnavailable)
    assert f"127.0.0.1:{source.port}" in error.message
    assert len(source.asked) >= 2


async def test_a_server_that_is_not_there_is_told(source: Source) -> None:
    error = await failing("http://127.0.0.1:1/data?token=" + SECRET, tries=2)
    assert isinstance(error, SourceUnavailable)
    assert "127.0.0.1:1" in error.message
    assert "asked 2 times" in error.message


@pytest.mark.parametrize("value", ["1", "Sat, 21 Nov 2026 10:00:01 GMT"])
async def test_retry_after_is_obeyed_a_date_by_the_clock_of_the_source(source: Source, value: str) -> None:
    source.answer = statuses(429, 200, **{"Retry-After": value, "Date": "Sat, 21 Nov 2026 10:00:00 GMT"})
    assert (await get(source.url())).status == 200
    assert source.at[1] - source.at[0] >= 1.0


async def test_more_patience_than_allowed_is_refused_with_the_time_to_come_back(source: Source) -> None:
    source.answer = statuses(503, **{"Retry-After": "3600"})
    error = await failing(source.url(), patience=10)
    assert isinstance(error, SourceUnavailable)
    assert "3600 s" in error.message
    assert error.details["retry_after"] == 3600
    assert error.details["retry_at"] in error.message
    assert len(source.asked) == 1


async def test_a_busy_source_is_asked_by_fewer_at_once_and_every_page_comes(source: Source) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        if source.inside > 2:
            return web.Response(status=429)
        await asyncio.sleep(0.005)
        return web.Response(text="page")

    source.answer = answer
    pages = await using(
        lambda session: [each.result() for each in [session.get(source.url(f"/{n}")) for n in range(40)]],
        in_flight=16,
        tries=20,
    )
    assert [page.body for page in pages] == [b"page"] * 40
    assert len(source.asked) < 40 * 3
    assert [page.url for page in pages] == [source.url(f"/{n}") for n in range(40)]


async def test_a_gate_halves_once_a_round_grows_again_and_lets_the_oldest_in_first() -> None:
    gate = Gate(8, None)
    turns = [gate.turn(n) for n in range(8)]
    numbers = [await turn.__aenter__() for turn in turns]
    for number in numbers:
        gate.busy(number, 0.01, QUICK)
    assert gate.limit == 4  # eight answers of one round are one piece of news
    came: list[int] = []

    async def enter(order: int) -> None:
        async with gate.turn(order):
            came.append(order)

    waiting = [asyncio.create_task(enter(order)) for order in (30, 10, 20)]
    for turn in turns:
        await turn.__aexit__(None, None, None)
    await asyncio.gather(*waiting)
    assert came == [10, 20, 30]
    for _ in range(40):
        gate.well()
    assert gate.limit == 8


async def test_a_rate_is_kept_without_bursts(source: Source) -> None:
    await using(lambda session: [each.result() for each in [session.get(source.url()) for _ in range(11)]], rate=50)
    assert source.at[-1] - source.at[0] >= 10 / 50 - 0.02
    gaps = [later - sooner for sooner, later in zip(source.at, source.at[1:], strict=False)]
    assert sorted(gaps)[len(gaps) // 2] > 0.01


async def test_no_more_are_under_way_at_once_than_allowed(source: Source) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return web.Response()

    source.answer = answer
    await using(lambda session: [each.result() for each in [session.get(source.url()) for _ in range(20)]], in_flight=3)
    assert source.most == 3
    ports = {request.transport.get_extra_info("peername")[1] for request in source.asked if request.transport}
    assert len(ports) <= 3  # connections are kept


# ---------------------------------------------------------------- time


async def drip(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def test_slow_sources_end_at_the_limit_body_included(source: Source) -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        await source.over.wait()
        return web.Response()

    for answer in (silent, drip):
        source.answer = answer
        began = time.monotonic()
        error = await failing(source.url(), seconds=0.2, tries=1)
        assert time.monotonic() - began < 5
        assert "within 0.2 s" in error.message
        assert isinstance(error, SourceUnavailable)
    with pytest.raises(SourceUnavailable):
        await using(lambda session: list(session.blocks(source.url())), seconds=0.2, tries=1)


@pytest.mark.parametrize("answer", [drip, statuses(503, **{"Retry-After": "60"})])
async def test_a_stop_ends_what_is_under_way_at_once(source: Source, answer: Answer) -> None:
    source.answer = answer
    stop = StopToken()

    def work(session: FetchSession) -> None:
        under_way = [session.get(source.url()) for _ in range(3)]
        pieces = session.blocks(source.url())
        threading.Timer(0.1, stop.request, [StopReason.CANCEL]).start()
        for future in under_way:
            with pytest.raises(Stopped):
                future.result()
        with pytest.raises(Stopped):
            next(pieces)
        with pytest.raises(Stopped):
            session.get(source.url()).result()

    began = time.monotonic()
    await using(work, stop=stop)
    assert time.monotonic() - began < 5


async def test_leaving_the_session_leaves_nothing_under_way(source: Source) -> None:
    source.answer = drip
    before = asyncio.all_tasks()
    left = await using(lambda session: [session.get(source.url()) for _ in range(3)])
    assert all(future.done() for future in left)
    async with asyncio.timeout(5):
        while source.inside or asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- long answers


async def test_a_long_answer_is_read_no_faster_than_it_is_wanted(source: Source) -> None:
    written = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(400):
            await response.write(b"x" * 65536)
            written += 65536
        return response

    def work(session: FetchSession) -> int:
        pieces = session.blocks(source.url())
        got = len(next(pieces))
        time.sleep(0.3)  # the server would have sent all of it by now
        waiting = written
        got += sum(len(piece) for piece in pieces)
        assert got == 400 * 65536
        return waiting

    source.answer = answer
    assert await using(work, largest=1000) < 400 * 65536


async def test_a_long_answer_that_breaks_off_is_told_and_its_beginning_is_tried_again(source: Source) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if len(source.asked) == 1:
            return web.Response(status=503)
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(b"some")
        assert request.transport is not None
        request.transport.close()
        return response

    source.answer = answer
    seen: list[bytes] = []
    with pytest.raises(SourceUnavailable) as raised:
        await using(lambda session: seen.extend(session.blocks(source.url())))
    assert "middle" in raised.value.message
    assert b"".join(seen) in (b"some", b"")
    assert len(source.asked) == 2


# ---------------------------------------------------------------- where to


async def test_redirects_are_followed_with_headers_at_home_only(source: Source, other: Source) -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(other.url("/there") if request.path == "/b" else "/b")

    source.answer = away
    headers = {"Authorization": f"Bearer {SECRET}", "X-Key": SECRET}
    found = await get(source.url("/a"), headers=headers)
    assert found.url == other.url("/there")
    assert [request.path for request in source.asked] == ["/a", "/b"]
    assert source.asked[1].headers["X-Key"] == SECRET
    assert SECRET not in str(dict(other.asked[0].headers))


async def test_a_next_link_that_leads_elsewhere_gets_no_headers(source: Source, other: Source) -> None:
    def work(session: FetchSession) -> None:
        session.get(source.url("/1")).result()
        session.get(other.url("/2")).result()
        session.get(source.url("/3")).result()

    await using(work, headers={"X-Key": SECRET})
    assert [request.headers.get("X-Key") for request in source.asked] == [SECRET, SECRET]
    assert other.asked[0].headers.get("X-Key") is None


async def test_user_and_password_of_the_url_are_sent_and_told_to_nobody_else(source: Source, other: Source) -> None:
    async def away(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(other.url("/there"))

    source.answer = away
    found = await get(source.url("/a").replace("//", f"//me:{SECRET}@"))
    assert source.asked[0].headers["Authorization"].startswith("Basic ")
    assert other.asked[0].headers.get("Authorization") is None
    assert SECRET not in found.url


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.1.2.3/",
        "http://[::1]:80/",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706433/",
        "file:///etc/passwd",
        "http://[zz]/",
    ],
)
async def test_redirects_lead_nowhere_forbidden(source: Source, location: str) -> None:
    async def away(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": location})

    source.answer = away
    error = await failing(source.url(), policy=OutgoingPolicy.of(["127.0.0.1/32"]) if "213" not in location else LOCAL)
    assert not error.retryable
    assert len(source.asked) == 1


async def test_redirects_end(source: Source) -> None:
    async def away(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/again")

    source.answer = away
    assert "redirects more than 5 times" in (await failing(source.url())).message
    assert len(source.asked) == 6


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://10.0.0.1/", "ftp://x/"],
)
async def test_addresses_that_are_not_public_are_not_asked(source: Source, url: str) -> None:
    error = await failing(url.format(port=source.port), policy=OutgoingPolicy())
    assert not error.retryable
    assert source.asked == []


async def test_what_can_be_refused_without_asking_is(source: Source) -> None:
    fetcher = HttpFetcher(asyncio.get_running_loop(), LOCAL)
    assert fetcher.refuse("http://10.0.0.1/") is not None
    assert fetcher.refuse("https://example.com/") is None


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.json_response({"detail": f"no {SECRET} here", "x": 1}, status=400), 'it says: "no *** here"'),
        (web.json_response({"error": {"message": "quota\n\x1b[31m gone"}}, status=403), 'it says: "quota [31m gone"'),
        (web.Response(text=f"bad /data?token={SECRET} " + "y" * 300, status=400), 'it says: "bad /data?*** yyy'),
        (web.Response(text="<html>no</html>", content_type="text/html", status=400), "answered 400 Bad Request."),
        (web.Response(body=b"\x00\x01", status=400), "answered 400 Bad Request."),
    ],
)
async def test_an_error_of_the_source_is_told_in_a_few_clean_words(
    source: Source, answer: web.Response, said: str
) -> None:
    async def give(_: web.Request) -> web.StreamResponse:
        return answer

    source.answer = give
    error = await failing(source.url(), headers={"Authorization": f"Bearer {SECRET}"})
    assert said in error.message
    assert len(error.message) < 300


# ---------------------------------------------------------------- speed


async def test_eight_in_flight_are_much_faster_than_one_after_the_other(source: Source) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return web.Response(text="page")

    source.answer = answer
    began = time.monotonic()
    await using(lambda session: [each.result() for each in [session.get(source.url()) for _ in range(64)]])
    assert time.monotonic() - began < 64 * 0.02 / 2  # the benchmark measures; this tells that they overlap

"""What is too large, never ends, unpacks to gigabytes or breaks off: an answer each, and the service lives on."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import repeat
from pathlib import Path

import psutil
import pytest

from tests.integration.real_service import TOKEN, Running, running, signed
from tests.spine import holds

MIB = 1 << 20
LIMIT = 4 * MIB
JUNK = b"x" * MIB


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, max_body_bytes=LIMIT) as found:
        yield found


def head(path: str, *lines: str, token: str | None = TOKEN) -> bytes:
    shown = [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *shown, *lines, "", ""]).encode()


def exchange(port: int, first: bytes, chunks: Iterable[bytes]) -> bytes:
    """Send everything, whatever is answered meanwhile; then what was answered, until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        line.sendall(first)
        for chunk in chunks:
            line.sendall(chunk)
        answer = b""
        while part := line.recv(1 << 16):
            answer += part
            if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                break
        return answer


def chunked(number: int) -> Iterator[bytes]:
    for _ in range(number):
        yield b"%x\r\n%b\r\n" % (len(JUNK), JUNK)
    yield b"0\r\n\r\n"


def memory() -> int:
    return int(psutil.Process(os.getpid()).memory_info().rss)


async def is_well(service: Running) -> None:
    assert (await service.hook("check", {"connection": "shop"})).status == 202


@pytest.mark.parametrize("path", ["/hooks/check", "/events"])
@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_a_body_of_100_megabytes_is_413_and_costs_no_memory(service: Running, path: str, announced: bool) -> None:
    await is_well(service)
    before = memory()
    kind = "Content-Type: application/cloudevents+json"
    chunks: Iterable[bytes]
    if announced:
        first, chunks = head(path, kind, f"Content-Length: {100 * MIB}"), repeat(JUNK, 100)
    else:
        first, chunks = head(path, kind, "Transfer-Encoding: chunked"), chunked(100)
    answer = await asyncio.to_thread(exchange, service.port, first, chunks)
    assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"
    assert memory() - before < 40 * MIB
    await is_well(service)


async def test_many_large_bodies_at_once_do_not_add_up(service: Running) -> None:
    await is_well(service)
    before = memory()
    first = head("/hooks/check", "Content-Type: application/json", "Transfer-Encoding: chunked")
    answers = await asyncio.gather(*(asyncio.to_thread(exchange, service.port, first, chunked(20)) for _ in range(4)))
    assert all(answer.startswith(b"HTTP/1.1 413 ") for answer in answers)
    assert memory() - before < 80 * MIB
    await is_well(service)


async def test_strangers_are_refused_before_their_body_has_come(service: Running) -> None:
    """Nothing but the head is ever sent."""
    first = head("/hooks/check", "Content-Type: application/json", f"Content-Length: {MIB}", token=None)
    answer = await asyncio.to_thread(exchange, service.port, first, ())
    assert answer.startswith(b"HTTP/1.1 401 "), answer[:200]


async def test_the_largest_body_allowed_is_taken_and_one_byte_more_is_not(service: Running) -> None:
    start, end = b'{"connection": "shop"', b"}"
    fits = start + b" " * (LIMIT - len(start) - len(end)) + end
    kind = {"Content-Type": "application/json"}
    assert (await service.ask("POST", "/hooks/check", fits, kind)).status == 202
    assert (await service.ask("POST", "/hooks/check", fits + b" ", kind)).code == "too_large"


def packed(unpacked: int, wbits: int) -> bytes:
    press = zlib.compressobj(1, wbits=wbits)
    return b"".join(press.compress(bytes(MIB)) for _ in range(unpacked // MIB)) + press.flush()


@pytest.mark.parametrize("path", ["/hooks/check", "/events"])
@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
async def test_a_body_that_unpacks_to_more_than_the_limit_is_refused_early(
    service: Running, path: str, encoding: str, wbits: int
) -> None:
    bomb = packed(512 * MIB, wbits)
    assert len(bomb) < LIMIT
    before, cpu = memory(), time.process_time()
    kind = {"Content-Type": "application/cloudevents+json", "Content-Encoding": encoding}
    assert (await service.ask("POST", path, bomb, kind)).code == "too_large"
    await is_well(service)
    assert memory() - before < 40 * MIB
    assert time.process_time() - cpu < 1.0, "the rest was not unpacked"


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15), ("x-gzip", 31), ("GZIP", 31)])
async def test_a_packed_body_within_the_limit_is_taken(service: Running, encoding: str, wbits: int) -> None:
    kind = {"Content-Type": "application/json", "Content-Encoding": encoding}
    body = zlib.compress(b'{"connection": "shop"}', wbits=wbits)
    assert (await service.ask("POST", "/hooks/check", body, kind)).status == 202


async def test_a_signature_of_a_packed_body_is_over_what_was_sent(service: Running) -> None:
    plain = b'{"connection": "shop"}'
    body = gzip.compress(plain)
    kind = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert (await service.ask("POST", "/hooks/check", body, kind | signed(body), token=None)).status == 202
    refused = await service.ask("POST", "/hooks/check", body, kind | signed(plain, "msg-2"), token=None)
    assert refused.code == "bad_signature"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b'{"connection": "shop"}', 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(b'{"connection": "shop"}' * 100, mtime=0)[:-12], 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"rest", 400),
        ("deflate", b"\x00garbage", 400),
        ("br", b"\xff\xff\xff\xff", 415),
        ("zstd", b"nothing of the kind", 415),
        ("gzip, gzip", b"{}", 415),
    ],
    ids=["plain", "empty", "cut", "rest", "garbage", "br", "zstd", "twice"],
)
async def test_a_broken_or_unknown_encoding_is_a_problem(
    service: Running, encoding: str, body: bytes, status: int
) -> None:
    kind = {"Content-Type": "application/json", "Content-Encoding": encoding}
    answer = await service.ask("POST", "/hooks/check", body, kind)
    assert (answer.status, answer.code) == (status, "bad_request" if status == 400 else "unsupported_media_type")
    await is_well(service)


@pytest.mark.parametrize(
    "sent",
    [
        head("/hooks/check", "Content-Type: application/json", "Content-Length: 100") + b'{"conn',
        head("/hooks/check", "Content-Type: application/json", "Transfer-Encoding: chunked") + b'6\r\n{"conn\r\n',
        head("/hooks/check", "Content-Type: application/json", "Transfer-Encoding: chunked") + b"zz\r\n",
        b"POST /hooks/check HTTP/1.1\r\nHost: x\r\nContent-Len",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_who_breaks_off_leaves_nothing_behind(service: Running, sent: bytes) -> None:
    tasks = len(asyncio.all_tasks())
    _, line = await asyncio.open_connection("127.0.0.1", service.port)
    line.write(sent)
    await line.drain()
    line.close()
    await line.wait_closed()
    await is_well(service)
    assert (await service.get("/jobs"))["data"][1:] == []
    await holds(lambda: len(asyncio.all_tasks()) <= tasks + 2)


async def test_a_refused_request_leaves_the_connection_usable(service: Running) -> None:
    body = b"[]"
    one = head("/hooks/check", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
    reader, line = await asyncio.open_connection("127.0.0.1", service.port)
    for _ in range(3):
        line.write(one)
        assert (await reader.readline()).startswith(b"HTTP/1.1 422 ")
        headers = await reader.readuntil(b"\r\n\r\n")
        length = int(headers.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
    line.close()
    await line.wait_closed()


async def test_a_head_that_makes_no_sense_or_never_ends_is_refused(service: Running) -> None:
    for sent in (
        b"GARBAGE\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /hooks/check HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /hooks/check HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ):
        reader, line = await asyncio.open_connection("127.0.0.1", service.port)
        line.write(sent)
        answer = await reader.readline()
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), (sent[:40], answer)
        line.close()
        await line.wait_closed()
    await is_well(service)

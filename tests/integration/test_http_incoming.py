"""Uploading dumps: whole or not at all, beyond the limit of other bodies, never over one that is there."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from engines.errors import StorageFull
from engines.storage.local import LocalStore, LocalWriter
from handlers.incoming import INCOMING
from service.connections import NamedStores
from service.http import incoming
from tests.contracts.test_stores import S3Bucket
from tests.integration.doors import TOKEN as DOORS_TOKEN
from tests.integration.doors import Doors
from tests.integration.real_service import TOKEN, Running, running, signed
from tests.spine import holds

MIB = 1 << 20
BLOCK = os.urandom(MIB)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, max_body_bytes=4096, stores={"second": str(tmp_path / "second")}) as found:
        yield found


def folder(service: Running) -> Path:
    return service.service.home.storage / INCOMING


def stored(service: Running) -> dict[str, bytes]:
    """Every file where uploads go, unfinished ones included."""
    found: dict[str, bytes] = {}
    for place, _, names in os.walk(folder(service)):  # which minds nothing that goes meanwhile
        found |= {name: Path(place, name).read_bytes() for name in names}
    return found


async def test_an_uploaded_dump_is_stored_as_it_is_and_its_digest_is_told(service: Running) -> None:
    body = b"not \x00 looked at" * 100_000
    answer = await service.ask("PUT", "/incoming/shop.dump", body)
    digest = hashlib.sha256(body).hexdigest()
    assert (answer.status, answer.headers["Location"]) == (201, "/incoming/shop.dump")
    assert answer.json == {"path": "shop.dump", "bytes": len(body), "sha256": digest, "storage": "default"}
    assert stored(service) == {"shop.dump": body}
    listed = await service.get("/incoming")
    assert [(item["path"], item["bytes"]) for item in listed["data"]] == [("shop.dump", len(body))]


async def test_an_upload_goes_to_the_store_that_is_named(service: Running, tmp_path: Path) -> None:
    assert (await service.ask("PUT", "/incoming/a?storage=second", b"x")).status == 201
    assert stored(service) == {}
    assert (tmp_path / "second" / INCOMING / "a").read_bytes() == b"x"
    assert [item["path"] for item in (await service.get("/incoming?storage=second"))["data"]] == ["a"]
    for method in ("PUT", "GET", "DELETE"):
        path = "/incoming" if method == "GET" else "/incoming/a"
        answer = await service.ask(method, f"{path}?storage=third", b"x" if method == "PUT" else None)
        assert (answer.status, answer.code) == (422, "unsupported_operation")


async def test_a_dump_that_is_there_is_replaced_only_when_told_to(service: Running) -> None:
    await service.ask("PUT", "/incoming/a", b"first")
    again = await service.ask("PUT", "/incoming/a", b"second")
    assert (again.status, again.code) == (409, "incoming_exists")
    assert stored(service) == {"a": b"first"}
    assert (await service.ask("PUT", "/incoming/a?replace=maybe", b"second")).code == "invalid_request"
    assert (await service.ask("PUT", "/incoming/a?replace=true", b"second")).status == 200
    assert stored(service) == {"a": b"second"}


async def test_an_uploaded_dump_can_be_removed(service: Running) -> None:
    await service.ask("PUT", "/incoming/a", b"x")
    assert (await service.ask("DELETE", "/incoming/a")).status == 204
    assert stored(service) == {}
    answer = await service.ask("DELETE", "/incoming/a")
    assert (answer.status, answer.code) == (404, "incoming_not_found")


@pytest.mark.parametrize(
    "name", ["..%2Fa", "a%2Fb", "a%5Cb", "..", ".hidden", "-a", "a%00", "%C3%A9", "x" * 151, "manifest.json", "a%20b"]
)
async def test_a_name_that_is_not_plain_is_refused_and_nothing_written(service: Running, name: str) -> None:
    answer = await service.ask("PUT", f"/incoming/{name}", b"x")
    assert answer.status in {404, 422}
    assert not list(service.service.home.storage.glob("**/*"))


async def test_a_signature_does_not_admit_an_upload(service: Running) -> None:
    answer = await service.ask("PUT", "/incoming/a", b"x", signed(b"x"), token=None)
    assert answer.status == 401
    assert stored(service) == {}


async def test_a_part_of_a_dump_is_refused(service: Running) -> None:
    answer = await service.ask("PUT", "/incoming/a", b"x", {"Content-Range": "bytes 0-0/2"})
    assert (answer.status, answer.code) == (400, "bad_request")


# ---------------------------------------------------------------- on the wire


def head(*lines: str, name: str = "shop.dump", token: str = TOKEN) -> bytes:
    shown = ["Host: x", f"Authorization: Bearer {token}", *lines]
    return "\r\n".join([f"PUT /incoming/{name} HTTP/1.1", *shown, "", ""]).encode()


@contextmanager
def line(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as opened:
        yield opened


def answered(opened: socket.socket) -> tuple[int, bytes]:
    """One answer: its status and what came of it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = opened.recv(1 << 16)
        assert part, f"closed after {data!r}"
        data += part
    return int(data.split()[1]), data


def upload(port: int, blocks: int, *, chunked: bool) -> bytes:
    with line(port) as opened:
        how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {blocks * MIB}"
        opened.sendall(head(how))
        for _ in range(blocks):
            opened.sendall(b"%x\r\n%b\r\n" % (MIB, BLOCK) if chunked else BLOCK)
        if chunked:
            opened.sendall(b"0\r\n\r\n")
        status, data = answered(opened)
        assert status == 201, data
        body = data.partition(b"\r\n\r\n")[2]
        return body or opened.recv(1 << 16)


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_a_large_dump_streams_through_in_little_memory(service: Running, chunked: bool) -> None:
    await service.ask("PUT", "/incoming/small", b"x")
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    told = json.loads(await asyncio.to_thread(upload, service.port, 200, chunked=chunked))
    assert process.memory_info().rss - before < 40 * MIB
    assert told["bytes"] == 200 * MIB
    with (folder(service) / "shop.dump").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == told["sha256"]


def break_off(port: int, *, chunked: bool, query: str = "") -> None:
    with line(port) as opened:
        opened.sendall(
            head("Transfer-Encoding: chunked" if chunked else f"Content-Length: {9 * MIB}", name=f"shop.dump{query}")
        )
        for _ in range(4):
            opened.sendall(b"%x\r\n%b\r\n" % (MIB, BLOCK) if chunked else BLOCK)


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_an_upload_that_breaks_off_leaves_nothing_and_its_name_free(service: Running, chunked: bool) -> None:
    await asyncio.to_thread(break_off, service.port, chunked=chunked)
    await holds(lambda: not stored(service) and not service.service.home.storage.joinpath(INCOMING).exists())

    async def free() -> bool:
        return (await service.ask("PUT", "/incoming/shop.dump", b"whole")).status == 201

    async with asyncio.timeout(10):
        while not await free():
            await asyncio.sleep(0.05)
    assert stored(service) == {"shop.dump": b"whole"}


async def test_what_is_being_uploaded_is_not_to_be_seen_and_its_name_is_taken(service: Running) -> None:
    with line(service.port) as opened:
        await asyncio.to_thread(opened.sendall, head(f"Content-Length: {2 * MIB}") + BLOCK)
        await holds(lambda: len(stored(service)) == 1)
        assert (await service.get("/incoming"))["data"] == []
        second = await service.ask("PUT", "/incoming/shop.dump?replace=true", b"x")
        assert (second.status, second.code) == (409, "incoming_exists")
        await asyncio.to_thread(opened.sendall, BLOCK)
        status, _ = await asyncio.to_thread(answered, opened)
        assert status == 201
    assert stored(service) == {"shop.dump": BLOCK * 2}


@pytest.mark.parametrize(
    ("lines", "name", "token", "status"),
    [
        ((), "shop.dump", TOKEN, 100),
        ((), "shop.dump", "wrong", 401),
        ((), "there", TOKEN, 409),
        ((), "-odd", TOKEN, 422),
        (("Content-Range: bytes 0-1/2",), "shop.dump", TOKEN, 400),
    ],
    ids=["right", "wrong token", "there already", "odd name", "a part"],
)
async def test_who_asks_before_the_body_is_sent_is_told_first_what_speaks_against_it(
    service: Running, lines: tuple[str, ...], name: str, token: str, status: int
) -> None:
    await service.ask("PUT", "/incoming/there", b"x")
    with line(service.port) as opened:
        first = head("Expect: 100-continue", "Content-Length: 5", *lines, name=name, token=token)
        opened.sendall(first)
        found, _ = await asyncio.to_thread(answered, opened)
        assert found == status
        if status == 100:
            opened.sendall(b"hello")
            assert (await asyncio.to_thread(answered, opened))[0] == 201
            assert stored(service)["shop.dump"] == b"hello"


async def test_an_upload_of_which_nothing_comes_any_more_is_given_up(doors: Doors) -> None:
    assert doors.client.app is not None
    doors.client.app[incoming.UPLOADS].quiet_seconds = 0.2
    with line(doors.client.port or 0) as opened:
        opened.sendall(head(f"Content-Length: {2 * MIB}", token=DOORS_TOKEN) + BLOCK)
        status, data = await asyncio.to_thread(answered, opened)
        assert (status, b"bad_request" in data) == (400, True)
    assert list(doors.storage.list()) == list(doors.storage.unfinished()) == []


# ---------------------------------------------------------------- a store without room


class SmallStore(LocalStore):
    """Takes so many bytes of an object and then says that it is full."""

    room = 3 * MIB

    @contextmanager
    def writing(self, key: str) -> Iterator[LocalWriter]:
        with super().writing(key) as out:
            yield SmallWriter(out, self.room)


class SmallWriter(LocalWriter):
    def __init__(self, out: LocalWriter, room: int) -> None:
        self._out, self._room = out, room

    def write(self, data: bytes, /) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise StorageFull("No space left in the store.")
        self._out.write(data)


class ToldRoom(LocalStore):
    """Knows how much room it has, and is not asked for more."""

    def free_bytes(self) -> int:
        return 3 * MIB


@pytest.mark.parametrize("kind", [SmallStore, ToldRoom], ids=["found while writing", "known before"])
async def test_a_store_without_room_is_507_and_nothing_stays(
    service: Running, tmp_path: Path, kind: type[LocalStore]
) -> None:
    small = kind("small", tmp_path / "small")
    stores: NamedStores = service.service.stores
    stores._stores["small"] = small
    answer = await service.ask("PUT", "/incoming/a?storage=small", BLOCK * 5)
    assert (answer.status, answer.code) == (507, "storage_full")
    assert list(small.list()) == list(small.unfinished()) == []
    assert (await service.ask("PUT", "/incoming/a?storage=small", BLOCK)).status == 201


# ---------------------------------------------------------------- an object store


@pytest.fixture
def bucket() -> Iterator[S3Bucket]:
    from moto.server import ThreadedMotoServer  # takes a second of the processor

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Bucket(f"http://{host}:{port}")
    server.stop()


async def test_an_object_store_takes_uploads_whole_or_not_at_all(tmp_path: Path, bucket: S3Bucket) -> None:
    async with running(tmp_path, stores={"bucket": bucket.url}) as service:
        store = service.service.stores.store("bucket")
        await asyncio.to_thread(break_off, service.port, chunked=False, query="?storage=bucket")
        answer = await service.ask("PUT", "/incoming/whole?storage=bucket", BLOCK * 12)
        assert answer.json["sha256"] == hashlib.sha256(BLOCK * 12).hexdigest()
        assert (await service.ask("PUT", "/incoming/whole?storage=bucket", b"x")).code == "incoming_exists"
        await holds(lambda: not bucket.unfinished_uploads())
        assert [item.key for item in store.list()] == ["_incoming/whole"]
        assert store.get("_incoming/whole") == BLOCK * 12
        assert [item["path"] for item in (await service.get("/incoming?storage=bucket"))["data"]] == ["whole"]
        assert (await service.ask("DELETE", "/incoming/whole?storage=bucket")).status == 204
        assert list(store.list()) == []


async def test_a_dump_in_an_object_store_is_adopted_there(tmp_path: Path, bucket: S3Bucket) -> None:
    async with running(tmp_path, stores={"bucket": bucket.url}, role="all") as service:
        assert (await service.ask("PUT", "/incoming/shop?storage=bucket", packed_shop(tmp_path))).status == 201
        data = {"connection": "shop", "path": "shop", "storage": "bucket", "verify": 3}
        job = await service.ended(await service.accepted("adoption", data))
        assert job.result is not None, job
        store = service.service.stores.store("bucket")
        folder = f"shop/{job.result['backup_id']}"
        assert {item.key.rpartition("/")[0] for item in store.list()} == {folder}, "the uploaded file is gone"


def packed_shop(folder: Path) -> bytes:
    return gzip.compress((folder / "shop.sqlite").read_bytes())

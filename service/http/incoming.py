"""Dumps made by hand on their way in: uploaded into a store as they come, listed, removed."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from aiohttp import ClientPayloadError, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from engines.artefacts.manifest import MANIFEST_NAME
from engines.errors import ObjectMissing, StorageFull
from engines.storage.base import ObjectWriter, Store, StoredObject
from handlers.base import Fault
from handlers.incoming import INCOMING, NAME, incoming_key
from service.http.keys import PARTS
from service.http.query import flag
from service.intake import Refused

log = structlog.get_logger(__name__)
T = TypeVar("T")
BLOCK_BYTES = 1 << 20
"""Written at once; while one block is written the next one comes in."""


@dataclass
class Uploads:
    """What is being uploaded to this process."""

    under_way: set[str] = field(default_factory=set)
    """As `<store>/<name>`."""
    quiet_seconds: float = 120.0
    """An upload of which nothing comes for so long is given up."""


UPLOADS = web.AppKey("uploads", Uploads)


async def hold_back(_: web.Request) -> None:
    """For a caller who asks before the body is sent (`Expect`): the door itself answers, after its other checks."""


async def put_incoming(request: web.Request) -> web.Response:
    """PUT /incoming/{name}: the body, as it is, becomes an object of the store once all of it is there."""
    name, store = _name(request), await _store(request)
    replace = flag(request, "replace")
    if hdrs.CONTENT_RANGE in request.headers:
        raise Refused(400, "bad_request", "A dump is uploaded whole; leave Content-Range out.")
    with _alone(request, f"{store.name}/{name}"):
        existed = await asyncio.to_thread(_exists, store, name)
        if existed and not replace:
            raise _already_there(name)
        await asyncio.to_thread(check_room, store, request.content_length)
        await tell_to_go_on(request)
        async with uploading(store, incoming_key(name)) as upload:
            async for block in blocks(request):
                await upload.write(block)
            if not replace and await asyncio.to_thread(_exists, store, name):  # by another replica
                raise _already_there(name)
    log.info("dump_uploaded", store=store.name, name=name, bytes=upload.bytes)
    body = {"path": name, "bytes": upload.bytes, "sha256": upload.sha256, "storage": store.name}
    return web.json_response(body, status=200 if existed else 201, headers={"Location": f"/incoming/{name}"})


async def list_incoming(request: web.Request) -> web.Response:
    """GET /incoming: what was uploaded and not adopted yet, by name."""
    store = await _store(request)
    found = await asyncio.to_thread(lambda: list(store.list(f"{INCOMING}/")))
    return web.json_response({"data": [_shown(store, item) for item in found], "next_cursor": None})


async def delete_incoming(request: web.Request) -> web.Response:
    """DELETE /incoming/{name}."""
    name, store = _name(request), await _store(request)
    if not await asyncio.to_thread(_exists, store, name):
        detail = "There is no such uploaded dump; GET /incoming lists them."
        raise Refused(404, "incoming_not_found", detail)
    await asyncio.to_thread(store.delete, incoming_key(name))
    return web.Response(status=204)


def _shown(store: Store, item: StoredObject) -> dict[str, Any]:
    modified = item.modified.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "path": item.key.removeprefix(f"{INCOMING}/"),
        "bytes": item.bytes,
        "modified": modified,
        "storage": store.name,
    }


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if re.fullmatch(NAME, name) is None or name == MANIFEST_NAME:
        detail = (
            "The name is letters, digits, dots, dashes and underscores, begins with a letter or digit, at most 150."
        )
        raise Refused(422, "invalid_request", detail, (Fault("/name", detail),))
    return name


async def _store(request: web.Request) -> Store:
    """The one `storage` names. Raises `UnsupportedOperation` for one that is not configured."""
    return request.app[PARTS].stores.store(request.query.get("storage") or None)


def _exists(store: Store, name: str) -> bool:
    try:
        store.size(incoming_key(name))
    except ObjectMissing:
        return False
    return True


def _already_there(name: str) -> Refused:
    detail = f"{name} was uploaded before; choose another name, adopt or remove that one, or say replace=true."
    return Refused(409, "incoming_exists", detail)


def check_room(store: Store, announced: int | None) -> None:
    """Raises `StorageFull` for an upload that announces more than there is room for."""
    free = store.free_bytes()
    if announced is not None and free is not None and announced > free:
        raise StorageFull(f"The upload has {announced} bytes; the store {store.name!r} has room for {free}.")


@contextmanager
def _alone(request: web.Request, key: str) -> Iterator[None]:
    under_way = request.app[UPLOADS].under_way
    if key in under_way:
        raise Refused(409, "incoming_exists", f"{key.rpartition('/')[2]} is being uploaded now; choose another name.")
    under_way.add(key)
    try:
        yield
    finally:
        under_way.remove(key)


async def tell_to_go_on(request: web.Request) -> None:
    """The interim answer of RFC 9110, section 10.1.1, now that nothing speaks against the body."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def blocks(request: web.Request) -> AsyncIterator[bytes]:
    """The body in blocks of about `BLOCK_BYTES`. Raises `Refused` when it breaks off or stops coming."""
    parts: list[bytes] = []
    size = 0
    while part := await _next_part(request):
        parts.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


async def _next_part(request: web.Request) -> bytes:
    quiet_seconds = request.app[UPLOADS].quiet_seconds
    try:
        async with asyncio.timeout(quiet_seconds):
            return await request.content.readany()
    except TimeoutError:
        raise Refused(400, "bad_request", f"Nothing of the body came for {quiet_seconds:g} seconds.") from None
    except (web.RequestPayloadError, ClientPayloadError, HttpProcessingError, ConnectionError) as error:
        request.content.feed_eof()  # nothing more can be read of it; without this the server would try to drain it
        raise Refused(400, "bad_request", "The body breaks off; nothing of it was kept.") from error


class Upload:
    """Writes and hashes in a thread of its own, one block behind the one that comes in."""

    def __init__(self, thread: ThreadPoolExecutor, out: ObjectWriter) -> None:
        self._thread, self._out = thread, out
        self._digest = hashlib.sha256()
        self._last: asyncio.Future[None] | None = None
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """Of everything written, in hex, once it is settled."""
        return self._digest.hexdigest()

    async def write(self, block: bytes) -> None:
        """Returns when the block before is written; raises what the store raised for that one."""
        await self.settled()
        self.bytes += len(block)
        self._last = asyncio.get_running_loop().run_in_executor(self._thread, self._write, block)

    async def settled(self) -> None:
        """Returns when every block is written."""
        last, self._last = self._last, None
        if last is not None:
            await last

    def abandon(self) -> None:
        """Nobody waits for the last block any more."""
        if self._last is not None:
            self._last.cancel()

    def _write(self, block: bytes) -> None:
        self._out.write(block)
        self._digest.update(block)


@asynccontextmanager
async def uploading(store: Store, key: str) -> AsyncIterator[Upload]:
    """One object on its way into a store. Left by an exception nothing of it stays."""
    loop = asyncio.get_running_loop()
    writing = store.writing(key)
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")  # one: the steps keep their order
    try:
        upload = Upload(thread, await loop.run_in_executor(thread, writing.__enter__))
        try:
            yield upload
            await upload.settled()
        except BaseException as error:
            upload.abandon()
            gone = loop.run_in_executor(thread, writing.__exit__, type(error), error, error.__traceback__)
            await asyncio.shield(gone)
            raise
        await loop.run_in_executor(thread, writing.__exit__, None, None, None)
    finally:
        thread.shutdown(wait=False)

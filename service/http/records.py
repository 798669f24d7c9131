"""Records of a collection by HTTP: pages, single records, everything as a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from math import ceil
from typing import Any, TypeVar
from urllib.parse import quote, unquote_to_bytes, urlencode

from aiohttp import web

from handlers.base import Fault
from handlers.collections.exporting import Export
from handlers.collections.preconditions import Preconditions
from handlers.collections.repository import Record, RecordsPage, Repository
from service.bodies import is_json, parse_exact
from service.http.bodies import FORM, media_type, read, unpacked
from service.http.keys import RecordParts, records_of
from service.http.problems import BEGUN
from service.http.query import given_once, refused
from service.intake import Refused

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")
FORMATS = {
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
QUIET_SECONDS = 120.0
"""A reader who takes nothing of an export for so long is cut off: it holds a connection to the database."""


def _name(request: web.Request) -> str:
    """Of the collection: in the path, or it is that of a route of its own, like /courses."""
    return request.match_info.get("collection") or request.path.split("/", 2)[1]


def _place(request: web.Request) -> str:
    """Path of the collection this request came to."""
    return f"/api/{_name(request)}" if "collection" in request.match_info else f"/{_name(request)}"


def _key(request: web.Request) -> str:
    """The last segment of the path as it was sent, percent-decoded. Raises `Refused` (422)."""
    try:
        return unquote_to_bytes(request.rel_url.raw_path.rpartition("/")[2]).decode()
    except UnicodeDecodeError:
        detail = "The key in the path is not UTF-8, percent-encoded."
        raise Refused(422, "invalid_request", detail, (Fault("/key", detail),)) from None


def _conditions(request: web.Request) -> Preconditions:
    def of(header: str) -> str | None:
        found = request.headers.getall(header, ())
        return ", ".join(found) if found else None

    return Preconditions(of("If-Match"), of("If-None-Match"))


def _not_found(request: web.Request) -> Refused:
    detail = f"The collection {_name(request)!r} has no record of this key; GET {_place(request)} lists them."
    return Refused(404, "record_not_found", detail)


async def _repository(request: web.Request) -> tuple[Repository, str, RecordParts]:
    """Raises `UnknownCollection` after a look at what other processes have declared."""
    records = records_of(request)
    found = await records.collections.found(_name(request))
    return records.repository, found.collection.name, records


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


# ---------------------------------------------------------------- pages


async def list_records(request: web.Request) -> web.StreamResponse:
    """GET /api/{collection}: a page, or everything as a file when `format` or `Accept` asks for that."""
    repository, name, records = await _repository(request)
    params = given_once(request)
    form = _wished_format(request, params)
    if form is not None:
        return await _exported(request, records, name, params, form)

    def page() -> tuple[RecordsPage, bytes]:
        found = repository.page(name, params)
        told = found.encode(), found.total, found.page, found.limit
        return found, b'{"data":%b,"total":%d,"page":%d,"limit":%d}' % told

    found, body = await _in_thread(records.threads, page)
    response = web.Response(body=body, content_type="application/json", charset="utf-8")
    if links := _links(request, found):
        response.headers["Link"] = links
    return response


def _links(request: web.Request, page: RecordsPage) -> str:
    wanted = (("next", page.next), ("prev", page.previous))
    return ", ".join(
        f'<{_place(request)}?{urlencode(params)}>; rel="{rel}"' for rel, params in wanted if params is not None
    )


def _wished_format(request: web.Request, params: dict[str, str]) -> str | None:
    """A key of `FORMATS`, or None for a page as JSON; `format` is taken out of `params`."""
    wished = params.pop("format", None)
    if wished is None:
        return _accepted_format(request.headers.get("Accept", ""))
    if wished == "json":
        return None
    if wished not in FORMATS:
        raise refused("format", f"format is json, {', '.join(FORMATS)}.")
    return wished


def _accepted_format(accept: str) -> str | None:
    """The one of `FORMATS` that a header names above JSON."""
    known = {kind: form for form, kind in FORMATS.items()}
    best: tuple[float, str | None] = (0.0, None)
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind in known or kind in {"*/*", "application/*", "application/json"}:
            quality = _quality(parameters)
            if quality > best[0]:
                best = quality, known.get(kind)
    return best[1]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


# ---------------------------------------------------------------- everything as a file


async def _exported(
    request: web.Request, records: RecordParts, name: str, params: Mapping[str, str], form: str
) -> web.StreamResponse:
    async with turn_to_export(records):
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export")  # one: some drivers insist on it
        try:
            export = await _in_thread(thread, lambda: records.repository.export(name, params, form))
            try:
                return await _stream(request, thread, export)
            finally:
                await _in_thread(thread, lambda: _close(export))
        finally:
            thread.shutdown(wait=False)


@asynccontextmanager
async def turn_to_export(records: RecordParts) -> AsyncIterator[None]:
    """One of the few exports at once. Raises `Refused` (503) when none of the others ends in time."""
    try:
        async with asyncio.timeout(records.export_wait):
            await records.exports.acquire()
    except TimeoutError:
        detail = "As many exports as there may be at once are being read; try again when one of them has ended."
        raise Refused(503, "target_busy", detail, retry_after=ceil(records.export_wait)) from None
    try:
        yield
    finally:
        records.exports.release()


def _close(export: Export) -> None:
    close = getattr(export.blocks, "close", None)  # generators have it
    if close is not None:
        close()


async def _stream(request: web.Request, thread: ThreadPoolExecutor, export: Export) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": export.media_type})
    response.headers["Content-Disposition"] = f'attachment; filename="{export.filename}"'
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    block = await _in_thread(thread, lambda: next(export.blocks, None))  # before the status line: it may be a problem
    request[BEGUN] = response  # whoever has gone away meanwhile is noticed from here on
    await response.prepare(request)
    while block is not None:
        async with asyncio.timeout(QUIET_SECONDS):
            await response.write(block)
        block = await _in_thread(thread, lambda: next(export.blocks, None))
    await response.write_eof()
    return response


# ---------------------------------------------------------------- single records


async def create_record(request: web.Request) -> web.Response:
    """POST /api/{collection}: 201 with the record as it is stored; 409 when its key is taken."""
    repository, name, records = await _repository(request)
    body = await _json_body(request)
    if isinstance(body, list):
        detail = "One record is an object. For many send the event `records` (POST /hooks/records) or POST /api/ingest."
        raise Refused(422, "invalid_request", detail, (Fault("", detail),))
    return await _answered(request, records.threads, lambda: (201, repository.create(name, body)))


async def show_record(request: web.Request) -> web.Response:
    """GET /api/{collection}/{key}: with its ETag; 304 when the reader has this very record."""
    repository, name, records = await _repository(request)
    key, conditions = _key(request), _conditions(request)

    def get() -> tuple[int, Record]:
        found = repository.get(name, key)
        if found is None:
            raise _not_found(request)
        Preconditions(if_match=conditions.if_match).check(found.etag)
        return (304 if conditions.unchanged(found.etag) else 200), found

    return await _answered(request, records.threads, get)


async def replace_record(request: web.Request) -> web.Response:
    """PUT /api/{collection}/{key}: the record becomes this; 201 when it was not there."""
    repository, name, records = await _repository(request)
    key, conditions, body = _key(request), _conditions(request), await _json_body(request)

    def replace() -> tuple[int, Record]:
        done = repository.replace(name, key, body, conditions)
        return (201 if done.created else 200), done.record

    return await _answered(request, records.threads, replace)


async def patch_record(request: web.Request) -> web.Response:
    """PATCH /api/{collection}/{key}: JSON merge patch (RFC 7396)."""
    repository, name, records = await _repository(request)
    key, conditions, body = _key(request), _conditions(request), await _json_body(request)

    def patch() -> tuple[int, Record]:
        done = repository.patch(name, key, body, conditions)
        if done is None:
            raise _not_found(request)
        return 200, done.record

    return await _answered(request, records.threads, patch)


async def delete_record(request: web.Request) -> web.Response:
    """DELETE /api/{collection}/{key}."""
    repository, name, records = await _repository(request)
    key, conditions = _key(request), _conditions(request)
    if not await _in_thread(records.threads, lambda: repository.remove(name, key, conditions)):
        raise _not_found(request)
    return web.Response(status=204)


async def _answered(
    request: web.Request, threads: ThreadPoolExecutor, work: Callable[[], tuple[int, Record]]
) -> web.Response:
    """A status and a record as a response, encoded in the thread that got it."""

    def done() -> tuple[int, str, str, bytes]:
        status, record = work()
        return status, record.etag, record.key, b"" if status == 304 else record.encode()

    status, etag, key, body = await _in_thread(threads, done)
    headers = {"ETag": etag}
    if status == 201:
        headers["Location"] = f"{_place(request)}/{quote(key, safe='')}"
    if status == 304:
        return web.Response(status=304, headers=headers)
    return web.Response(status=status, body=body, content_type="application/json", charset="utf-8", headers=headers)


async def _json_body(request: web.Request) -> Any:
    """Raises `Refused`: 415 for another kind, 400 for what is no JSON."""
    kind = media_type(request)
    body = unpacked(request, await read(request))
    is_form = kind == FORM and body.lstrip()[:1] in (b"{", b"[")
    if (kind and not is_json(kind) and not is_form) or kind == "application/json-patch+json":
        raise Refused(415, "unsupported_media_type", "A record is JSON: Content-Type: application/json.")
    return parse_exact(body)

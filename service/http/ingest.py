"""POST /api/ingest: records from a source or from the body itself, as an event that is waited for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from pydantic_core import to_json

from engines.errors import ObjectMissing
from engines.storage.base import Store
from handlers.base import Fault
from handlers.incoming import READ_ONCE, incoming_key
from service import bodies
from service.access import Principal
from service.bodies import is_json
from service.event import Event
from service.http.bodies import FORM, media_type, unpacked
from service.http.events import acceptance
from service.http.incoming import blocks, check_room, tell_to_go_on, uploading
from service.http.keys import PARTS, records_of
from service.http.problems import problem
from service.http.query import refuse_others
from service.http.waiting import awaited_event, wished_seconds
from service.intake import Refused
from service.jobs import links, new_id

log = structlog.get_logger(__name__)

OPERATION = "ingest"
COMPLETED = f"{OPERATION}.completed"
USUAL_COLLECTION = "customers"
USUAL_SECONDS = 300
FILES = {"text/csv": "csv", "application/x-ndjson": "ndjson", "application/ndjson": "ndjson"}
"""Content types of files, and what the name of a kept one ends with; JSON is one when it begins as an array."""
PACKINGS = {"": "", "identity": "", "gzip": ".gz", "x-gzip": ".gz", "zstd": ".zst"}
STATUSES = {
    "source_failed": 502,
    "source_unavailable": 502,
    "collection_mismatch": 409,
    "target_busy": 409,
    "canceled": 409,
    "expired": 409,
    "target_unavailable": 503,
    "storage_failed": 503,
    "deadline_exceeded": 504,
    "internal_error": 500,
    "worker_lost": 500,
}
"""What a failed job is answered with, by its code; 422 for all others."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A body that was kept as a file."""

    store: Store
    name: str
    fresh: bool
    """False: an earlier request of the same key had brought it, and its job may still want it."""


async def post_ingest(request: web.Request) -> web.Response:
    """POST /api/ingest: 200 with what was processed, a problem when it failed, 202 when it takes longer."""
    parts = request.app[PARTS]
    principal = parts.access.by_token(request.headers)
    assert principal is not None  # noqa: S101  for mypy: the route asks for a token
    refuse_others(request, ("collection",))
    parts.intake.handler(OPERATION)
    key = request.headers.get("Idempotency-Key")
    data, kept = await _asked(request, principal, key)
    event = Event(key or new_id(), principal.source, OPERATION, data)
    try:
        accepted = await parts.intake.accept(event, principal)
    except Refused:
        if kept is not None and kept.fresh:
            await asyncio.to_thread(kept.store.delete, incoming_key(kept.name))
        raise
    wish = wished_seconds(request.headers.getall("Prefer", ()))
    seconds = USUAL_SECONDS if wish is None else wish
    told = await awaited_event(request, accepted.job_id, seconds)
    headers = {"Location": f"/jobs/{accepted.job_id}"}
    if wish is not None:
        headers["Preference-Applied"] = f"wait={wish}"
    if told is not None:
        end = json.loads(told)
        if kept is not None and kept.fresh and accepted.duplicate and end["type"] == COMPLETED:
            await asyncio.to_thread(kept.store.delete, incoming_key(kept.name))  # its job had been over before
        return _end(end, accepted.job_id, headers, from_body=kept is not None)
    body = to_json(acceptance(event, accepted))
    return web.Response(status=202, body=body, content_type="application/json", headers=headers)


def _end(event: dict[str, Any], job_id: str, headers: dict[str, str], *, from_body: bool) -> web.Response:
    data = event["data"]
    if event["type"] == COMPLETED:
        body = {"status": "success", "records_processed": data["records_processed"]}
        return web.json_response(body, headers=headers)
    error = data["error"]
    status = STATUSES.get(error["code"], 422)
    if status == 502 and from_body:  # there was no other server: the caller's own file is wrong
        status = 422
    detail = f"{error['message']} {error.get('hint', '')}".strip()
    return problem(status, error["code"], detail, headers=headers, job_id=job_id, links=links(job_id))


# ---------------------------------------------------------------- what is asked for


async def _asked(request: web.Request, principal: Principal, key: str | None) -> tuple[dict[str, Any], _Kept | None]:
    """The event's data, and the file that holds the body when that is one. Raises `Refused`."""
    kind, body = media_type(request), blocks(request)
    if kind in FILES:
        return await _file(request, FILES[kind], body, principal, key)
    if kind and kind != FORM and not is_json(kind):
        known = ", ".join(["application/json", *FILES])
        raise Refused(415, "unsupported_media_type", f"Records come as {known}; see Content-Type.")
    await tell_to_go_on(request)
    first = await anext(body, b"")
    if kind and kind != FORM and first.lstrip()[:1] == b"[":
        return await _file(request, "json", _chained(first, body), principal, key)
    data = _object(unpacked(request, await _whole(request, first, body)))
    data.setdefault("collection", request.query.get("collection", USUAL_COLLECTION))
    if isinstance(data["collection"], str):
        await records_of(request).collections.found(data["collection"])
    return data, None


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    data = bodies.parse(body)
    if not isinstance(data, dict):
        detail = "The body is a JSON object that says what to take in, or a file: CSV, NDJSON, or a JSON array."
        raise Refused(422, "invalid_request", detail, (Fault("", detail),))
    return data


async def _whole(request: web.Request, first: bytes, rest: AsyncIterator[bytes]) -> bytes:
    """The body within the limit. Raises `Refused` (413)."""
    limit, parts, size = request.app[PARTS].max_body_bytes, [first], len(first)
    async for part in rest:
        parts.append(part)
        size += len(part)
        if size > limit:
            break
    if size > limit:
        raise bodies.too_large(limit)
    return b"".join(parts)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in rest:
        yield block


# ---------------------------------------------------------------- files


def _stem(principal: Principal, collection: str, key: str | None) -> str:
    """What the file's name begins with: the same for the same request once more, so that it is the same event."""
    if key is None:
        return f"{READ_ONCE}{new_id()}"
    asked = json.dumps([principal.source, collection, key])
    return f"{READ_ONCE}{hashlib.sha256(asked.encode()).hexdigest()[:40]}"


async def _file(
    request: web.Request, ending: str, body: AsyncIterator[bytes], principal: Principal, key: str | None
) -> tuple[dict[str, Any], _Kept]:
    """Keep the body as an uploaded file. Raises `Refused`, `StorageFull`, `UnknownCollection`."""
    collection = request.query.get("collection", USUAL_COLLECTION)
    await records_of(request).collections.found(collection)
    name = f"{_stem(principal, collection, key)}.{ending}{_packing(request)}"
    store = request.app[PARTS].stores.store(None)
    await asyncio.to_thread(check_room, store, request.content_length)
    await tell_to_go_on(request)
    before = await asyncio.to_thread(_digest, store, incoming_key(name))
    if before is None:
        async with uploading(store, incoming_key(name)) as upload:
            async for block in body:
                await upload.write(block)
        log.info("records_uploaded", store=store.name, name=name, bytes=upload.bytes)
    elif await _hashed(body) != before:
        detail = "This Idempotency-Key came before with another file; use a new key for a new file."
        raise Refused(409, "id_reused", detail)
    return {"collection": collection, "source": {"upload": name}}, _Kept(store, name, before is None)


def _packing(request: web.Request) -> str:
    """What the file's name has to end with for it to be unpacked when it is read. Raises `Refused` (415)."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding not in PACKINGS:
        known = ", ".join(filter(None, PACKINGS))
        raise Refused(415, "unsupported_media_type", f"Content-Encoding may be {known}; or send the file as it is.")
    return PACKINGS[coding]


def _digest(store: Store, key: str) -> str | None:
    """Of a file that is there already: an earlier request of the same key."""
    try:
        with store.open(key) as source:
            return hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]  # wants readinto, which all of them have
    except ObjectMissing:
        return None


async def _hashed(body: AsyncIterator[bytes]) -> str:
    digest = hashlib.sha256()
    async for block in body:
        await asyncio.to_thread(digest.update, block)
    return digest.hexdigest()

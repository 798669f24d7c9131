"""Bytes of a request's body: read within the limit, parsed once."""

from __future__ import annotations

import zlib
from typing import Any

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic_core import from_json

from service.http.keys import PARTS
from service.intake import Refused

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content codings that are understood, as zlib's `wbits`."""


async def read(request: web.Request) -> bytes:
    """The whole body as it was sent, before any `Content-Encoding` is undone: what a signature is made over.

    Raises `Refused`: 413 as soon as it is known to be too large (what still comes is drained), 400 for one that
    breaks off.
    """
    limit = request.app[PARTS].max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None
    except (web.RequestPayloadError, ClientPayloadError, HttpProcessingError, ConnectionError) as error:
        request.content.feed_eof()  # nothing more can be read of it; without this the server would try to drain it
        raise Refused(400, "bad_request", "The body breaks off.") from error


def unpacked(request: web.Request, body: bytes) -> bytes:
    """The body with its `Content-Encoding` undone, never more than the limit.

    Raises `Refused`: 413 for what unpacks to more, 415 for an unknown coding, 400 for a broken one.
    """
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOW:
        known = "identity, gzip and deflate"
        raise Refused(415, "unsupported_media_type", f"Content-Encoding may be {known}; send the body as it is.")
    limit = request.app[PARTS].max_body_bytes
    press = zlib.decompressobj(_WINDOW[coding])
    try:
        plain = press.decompress(body, limit + 1)
    except zlib.error:
        plain, press = b"", zlib.decompressobj()
    if len(plain) > limit:
        raise too_large(limit)
    if not press.eof or press.unused_data:
        raise Refused(400, "bad_request", f"The body is not whole {coding}.")
    return plain


def too_large(limit: int) -> Refused:
    return Refused(
        413,
        "too_large",
        f"The body is larger than {limit} bytes (FLEXDB_MAX_BODY_BYTES); send references, not data.",
    )


def parse(body: bytes) -> Any:
    """JSON in UTF-8; NaN, lone surrogates and absurd nesting are refused. Raises `Refused` (400)."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        where = str(error).rpartition(" at ")[2]
        where = f" at {where}" if where.startswith("line") else ""
        raise Refused(400, "malformed_json", f"The body is not JSON in UTF-8{where}.") from None


def media_type(request: web.Request) -> str:
    """The content type without parameters, lower case; empty when there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")

"""Bytes of a request's body: read within the limit, parsed once."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic_core import from_json

from service.http.keys import PARTS
from service.intake import Refused


async def read(request: web.Request) -> bytes:
    """The whole body.

    Raises `Refused`: 413 as soon as it is known to be too large (what still comes is drained), 400 for one that
    breaks off or is not encoded as its headers say.
    """
    limit = request.app[PARTS].max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None
    except (web.RequestPayloadError, ClientPayloadError, HttpProcessingError, ConnectionError) as error:
        raise Refused(400, "bad_request", "The body breaks off, or its encoding is broken.") from error


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

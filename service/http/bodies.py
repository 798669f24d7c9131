"""Bytes of a request's body: read within the limit, parsed once."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic_core import from_json

from service.http.keys import PARTS
from service.intake import Refused


async def read(request: web.Request) -> bytes:
    """The whole body. Raises `Refused` (413) as soon as it is known to be too large; what comes is drained."""
    limit = request.app[PARTS].max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None


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

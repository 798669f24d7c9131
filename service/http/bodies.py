"""Bodies of requests: read within the limit, as they were sent and as they were meant."""

from __future__ import annotations

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from service import bodies
from service.http.keys import PARTS
from service.intake import Refused

FORM = "application/x-www-form-urlencoded"
"""What curl -d sends when it is not told otherwise."""


async def read(request: web.Request) -> bytes:
    """The whole body as it was sent, before any `Content-Encoding` is undone: what a signature is made over.

    Raises `Refused`: 413 as soon as it is known to be too large (what still comes is drained), 400 for one that
    breaks off.
    """
    limit = request.app[PARTS].max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise bodies.too_large(limit)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise bodies.too_large(limit) from None
    except (web.RequestPayloadError, ClientPayloadError, HttpProcessingError, ConnectionError) as error:
        request.content.feed_eof()  # nothing more can be read of it; without this the server would try to drain it
        raise Refused(400, "bad_request", "The body breaks off.") from error


def unpacked(request: web.Request, body: bytes) -> bytes:
    """The body with its `Content-Encoding` undone, never more than the limit. Raises `Refused` as `bodies.decoded`."""
    return bodies.decoded(request.headers.get("Content-Encoding", ""), body, request.app[PARTS].max_body_bytes)


def media_type(request: web.Request) -> str:
    """The content type without parameters, lower case; empty when there is none."""
    return bodies.media_type(request.headers.get("Content-Type"))

"""The doors for events: POST /events and POST /hooks/{operation}."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic_core import to_json

from handlers.base import Fault
from service.access import Principal
from service.bodies import is_json, parse
from service.cloudevents import BATCH, STRUCTURED, from_structured
from service.event import Event
from service.http import problems
from service.http.bodies import FORM, media_type, read, unpacked
from service.http.cloudevents import from_binary
from service.http.keys import PARTS
from service.http.waiting import wished_seconds, with_wait
from service.intake import Refused
from service.jobs import links, new_id
from service.ledger.records import Accepted

BATCH_LIMIT = 1000


async def _authenticated(request: web.Request) -> tuple[Principal, bytes]:
    """Who asks, and the body; a signature is checked on its bytes as they were sent."""
    access = request.app[PARTS].access
    principal = access.expect_credentials(request.headers)
    body = await read(request)
    principal = principal or access.by_signature(request.headers, body)
    return principal, unpacked(request, body)


def acceptance(event: Event, accepted: Accepted) -> dict[str, Any]:
    """What an accepted event is answered with."""
    return {
        "job_id": accepted.job_id,
        "event_id": event.id,
        "operation": event.operation,
        "status": accepted.status.value,
        "duplicate": accepted.duplicate,
        "links": links(accepted.job_id),
    }


async def post_event(request: web.Request) -> web.Response:
    """POST /events: one CloudEvent, structured or binary, or a batch."""
    principal, body = await _authenticated(request)
    kind = media_type(request)
    if kind == BATCH:
        return await _batch(request, principal, body)
    if kind == STRUCTURED:
        return await _accept(request, principal, lambda: from_structured(parse(body)), "/data")
    if any(name.lower().startswith("ce-") for name in request.headers):
        return await _accept(request, principal, lambda: from_binary(request.headers, kind, body), "")
    raise Refused(
        415,
        "unsupported_media_type",
        f"Send {STRUCTURED}, {BATCH}, or JSON with ce-… headers; plain JSON goes to /hooks/OPERATION.",
    )


async def post_hook(request: web.Request) -> web.Response:
    """POST /hooks/{operation}: any JSON object is the data."""
    principal, body = await _authenticated(request)
    operation = request.match_info["operation"]
    request.app[PARTS].intake.handler(operation)  # an unknown one is told before its body is looked at
    if principal.kind == "source":
        event_id = request.headers["webhook-id"]
    else:
        event_id = request.headers.get("Idempotency-Key") or new_id()
    data = _hook_data(media_type(request), body)
    return await _accept(request, principal, lambda: Event(event_id, principal.source, operation, data), "")


def _hook_data(kind: str, body: bytes) -> dict[str, Any]:
    if kind and kind != FORM and not is_json(kind):
        raise Refused(415, "unsupported_media_type", "A hook takes a JSON object: Content-Type: application/json.")
    if not body.strip():
        return {}
    if kind == FORM and not body.lstrip().startswith((b"{", b"[")):
        raise Refused(415, "unsupported_media_type", "A hook takes a JSON object, not a form.")
    data = parse(body)
    if not isinstance(data, dict):
        detail = "The body of a hook is a JSON object."
        raise Refused(422, "invalid_request", detail, (Fault("", detail),))
    return data


async def _accept(
    request: web.Request, principal: Principal, read_event: Callable[[], Event], pointer: str
) -> web.Response:
    """`pointer` is where the event's data lies in the body."""
    parts = request.app[PARTS]
    try:
        event = read_event()
        accepted = await parts.intake.accept(event, principal)
    except Refused as refused:
        in_data = refused.code == "invalid_request"
        return problems.refusal(refused, pointer if in_data else "")
    answer = web.Response(
        status=202,
        body=to_json(acceptance(event, accepted)),
        content_type="application/json",
        headers={"Location": f"/jobs/{accepted.job_id}"},
    )
    wish = wished_seconds(request.headers.getall("Prefer", ()))
    return answer if wish is None else await with_wait(request, accepted.job_id, wish, answer)


async def _batch(request: web.Request, principal: Principal, body: bytes) -> web.Response:
    items = parse(body)
    if not isinstance(items, list):
        raise Refused(400, "invalid_event", "A batch is a JSON array of CloudEvents.")
    if len(items) > BATCH_LIMIT:
        raise Refused(413, "too_large", f"A batch holds at most {BATCH_LIMIT} events; send several.")
    # All at once, so that they share a commit; each reaches the ledger in its turn, as none waits before that.
    return web.json_response(await asyncio.gather(*(_one_of_batch(request, principal, item) for item in items)))


async def _one_of_batch(request: web.Request, principal: Principal, item: Any) -> dict[str, Any]:
    try:
        event = from_structured(item)
        return acceptance(event, await request.app[PARTS].intake.accept(event, principal))
    except Refused as refused:
        return problems.refusal_body(refused, "/data" if refused.code == "invalid_request" else "")
    except Exception as error:  # noqa: BLE001  one bad item does not stop the rest; the unforeseen is logged there
        return problems.item_body(request, error)

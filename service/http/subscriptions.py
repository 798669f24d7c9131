"""Subscriptions by HTTP: who hears of which events."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from handlers.base import Fault
from service.bodies import parse
from service.http.bodies import read, unpacked
from service.http.deliveries import shown_url
from service.http.keys import PARTS
from service.intake import Refused, faults_of
from service.jobs import iso
from service.ledger.records import Subscription
from service.settings import NAME

Pattern = Annotated[
    str, StringConstraints(pattern=r"^(\*|[a-z_]+|\*\.[a-z_*]+|[a-z_]+\.(\*|[a-z_]+))$", max_length=100)
]


class SubscriptionBody(BaseModel):
    """`types` are patterns of event types: `backup.*`, `*.failed`, `*`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(min_length=1, max_length=8192)
    types: tuple[Pattern, ...] = Field(default=("*",), min_length=1, max_length=50)


def shown(subscription: Subscription) -> dict[str, Any]:
    """The URL without its query, which may be a secret."""
    return {
        "name": subscription.name,
        "url": shown_url(subscription.url),
        "types": list(subscription.types),
        "created_at": iso(subscription.created_at),
    }


def not_found() -> Refused:
    return Refused(404, "subscription_not_found", "There is no such subscription; GET /subscriptions lists them.")


async def list_subscriptions(request: web.Request) -> web.Response:
    """GET /subscriptions."""
    found = await request.app[PARTS].ledger.subscriptions()
    return web.json_response({"data": [shown(item) for item in found], "next_cursor": None})


async def _named(request: web.Request) -> Subscription | None:
    name = request.match_info["name"]
    return next((item for item in await request.app[PARTS].ledger.subscriptions() if item.name == name), None)


async def show_subscription(request: web.Request) -> web.Response:
    """GET /subscriptions/{name}."""
    found = await _named(request)
    if found is None:
        raise not_found()
    return web.json_response(shown(found))


async def put_subscription(request: web.Request) -> web.Response:
    """PUT /subscriptions/{name}: 201 when it is new, 200 when it replaces one."""
    parts, name = request.app[PARTS], request.match_info["name"]
    if not NAME.fullmatch(name):
        detail = "A name has a-z, 0-9, _ and -, at most 63 characters."
        raise Refused(422, "invalid_request", detail, (Fault("/name", detail),))
    try:
        body = SubscriptionBody.model_validate(parse(unpacked(request, await read(request))))
    except ValidationError as error:
        faults = faults_of(error)
        raise Refused(
            422, "invalid_request", f"The subscription is not valid: {faults[0].detail}", tuple(faults)
        ) from None
    if why := parts.policy.refuse_literal(body.url, "subscription"):
        raise Refused(422, "invalid_request", why, (Fault("/url", why),))
    new = await parts.ledger.put_subscription(name, body.url, body.types)
    found = await _named(request)
    if found is None:  # removed by somebody else in between
        raise not_found()
    return web.json_response(shown(found), status=201 if new else 200)


async def delete_subscription(request: web.Request) -> web.Response:
    """DELETE /subscriptions/{name}: what is already on its way is still delivered."""
    if not await request.app[PARTS].ledger.delete_subscription(request.match_info["name"]):
        raise not_found()
    return web.Response(status=204)

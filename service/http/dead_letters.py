"""Dead letters by HTTP: what could not be taken from RabbitMQ, and sending it again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, ValidationError

from handlers.base import Fault
from service.amqp.letters import DeadLetter
from service.amqp.redrives import DEFAULT_LIMIT, LARGEST_LIMIT, Redrive, Wanted
from service.bodies import parse
from service.http.bodies import read, unpacked
from service.http.keys import PARTS
from service.http.paging import wished_limit
from service.intake import Refused, faults_of

if TYPE_CHECKING:
    from service.amqp.dead_letters import DeadLetters  # imported where RabbitMQ is configured

LetterId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
BODY = ("body", "body_encoding")


class RedriveBody(BaseModel):
    """Exactly one of `ids`, `reason` and `all`. `limit` counts letters; of ids all are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: tuple[LetterId, ...] | None = Field(None, min_length=1, max_length=LARGEST_LIMIT)
    reason: str | None = Field(None, min_length=1, max_length=200)
    all: StrictBool = False
    apply: StrictBool = False
    limit: int | None = Field(None, ge=1, le=LARGEST_LIMIT)

    @property
    def wanted(self) -> Wanted:
        return Wanted(ids=frozenset(self.ids or ()), reason=self.reason, everything=self.all)

    @property
    def most(self) -> int:
        return self.limit or (LARGEST_LIMIT if self.ids else DEFAULT_LIMIT)


async def list_dead_letters(request: web.Request) -> web.Response:
    """GET /dead-letters: oldest first, without bodies."""
    listing = await _configured(request).look(wished_limit(request.query))
    letters = [shown(letter, without=BODY) for letter in listing.letters]
    return web.json_response({"data": letters, "more": listing.more})


async def show_dead_letter(request: web.Request) -> web.Response:
    """GET /dead-letters/{id}."""
    letter = await _configured(request).find(request.match_info["id"])
    if letter is None:
        detail = "There is no such dead letter; GET /dead-letters lists them. It may have been sent again."
        raise Refused(404, "dead_letter_not_found", detail)
    return web.json_response(shown(letter))


async def redrive_dead_letters(request: web.Request) -> web.Response:
    """POST /dead-letters/redrive."""
    dead_letters = _configured(request)
    body = await _body(request)
    done = await dead_letters.redrive(body.wanted, apply=body.apply, limit=body.most)
    return web.json_response(told(done))


def shown(letter: DeadLetter, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: value for name, value in asdict(letter).items() if name not in without}


def told(done: Redrive) -> dict[str, Any]:
    """What came of it; headers and body are left out."""
    without = (*BODY, "headers")
    return {
        "applied": done.applied,
        ("redriven" if done.applied else "would_redrive"): [shown(letter, without=without) for letter in done.letters],
        "left": [shown(left.letter, without=without) | {"why": left.why} for left in done.left],
        "not_found": done.not_found,
        "more": done.more,
    }


def _configured(request: web.Request) -> DeadLetters:
    found = request.app[PARTS].dead_letters
    if found is None:
        detail = "No RabbitMQ is configured, so there are no dead letters; set FLEXDB_AMQP_URL and restart."
        raise Refused(404, "rabbitmq_not_configured", detail)
    return found


async def _body(request: web.Request) -> RedriveBody:
    try:
        body = RedriveBody.model_validate(parse(unpacked(request, await read(request))))
    except ValidationError as error:
        faults = faults_of(error)
        detail = f"The redrive is not valid: {faults[0].detail}"
        raise Refused(422, "invalid_request", detail, tuple(faults)) from None
    if [body.ids is not None, body.reason is not None, body.all].count(True) != 1:
        detail = 'Say which: one of "ids": […], "reason": "…" and "all": true.'
        raise Refused(422, "invalid_request", detail, (Fault("", detail),))
    return body

"""Schedules by HTTP: cron lines that make an event at each of their ticks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import PydanticCustomError

from handlers.base import Fault
from service.bodies import parse
from service.http.bodies import read, unpacked
from service.http.deliveries import shown_url
from service.http.keys import PARTS, Parts
from service.intake import Refused, faults_of
from service.jobs import iso
from service.ledger.records import Schedule
from service.settings import NAME
from service.ticks import SCHEDULES, check_cron, next_tick, tick_event, zone


def _known_zone(name: str) -> str:
    return zone(name).key


def _in_own_words(check: Callable[[str], str]) -> AfterValidator:
    """A `ValueError`'s text without pydantic's words before it."""

    def checked(value: str) -> str:
        try:
            return check(value)
        except ValueError as error:
            raise PydanticCustomError("invalid", "{why}", {"why": str(error)}) from None

    return AfterValidator(checked)


class ScheduleBody(BaseModel):
    """A schedule as it is put."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: Annotated[str, _in_own_words(check_cron)] = Field(
        min_length=1,
        max_length=200,
        description="Minute, hour, day of the month, month, weekday, as Debian's cron reads them: 0 3 * * *.",
    )
    timezone: Annotated[str, _in_own_words(_known_zone)] = Field(
        default="UTC", min_length=1, max_length=100, description="Whose clock is meant: Europe/Berlin."
    )
    operation: str = Field(min_length=1, max_length=100, description="What is asked for: backup.")
    data: dict[str, Any] = Field(default_factory=dict, description="The event's data, checked when it is put.")
    enabled: StrictBool = Field(default=True, description="False keeps the schedule and makes no events.")


def shown(schedule: Schedule) -> dict[str, Any]:
    """The callback without its query, which may be a secret."""
    data = schedule.data
    if isinstance(url := data.get("callback_url"), str):
        data = data | {"callback_url": shown_url(url)}
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "operation": schedule.operation,
        "data": data,
        "enabled": schedule.enabled,
        "next_at": iso(schedule.next_at),
        "last_at": iso(schedule.last_at),
        "last_job_id": schedule.last_job_id,
        "last_refusal": schedule.last_refusal,
        "created_at": iso(schedule.created_at),
        "updated_at": iso(schedule.updated_at),
    }


def not_found() -> Refused:
    return Refused(404, "schedule_not_found", "There is no such schedule; GET /schedules lists them.")


async def list_schedules(request: web.Request) -> web.Response:
    """GET /schedules: by name."""
    found = await request.app[PARTS].ledger.schedules()
    return web.json_response({"data": [shown(item) for item in found], "next_cursor": None})


async def show_schedule(request: web.Request) -> web.Response:
    """GET /schedules/{name}."""
    found = await request.app[PARTS].ledger.schedule(request.match_info["name"])
    if found is None:
        raise not_found()
    return web.json_response(shown(found))


async def put_schedule(request: web.Request) -> web.Response:
    """PUT /schedules/{name}: 201 when it is new, 200 when it replaces one."""
    parts, name = request.app[PARTS], request.match_info["name"]
    if not NAME.fullmatch(name):
        detail = "A name has a-z, 0-9, _ and -, at most 63 characters."
        raise Refused(422, "invalid_request", detail, (Fault("/name", detail),))
    schedule = await _schedule(parts, name, parse(unpacked(request, await read(request))))
    new = await parts.ledger.put_schedule(schedule)
    found = await parts.ledger.schedule(name)
    if found is None:  # removed by somebody else in between
        raise not_found()
    return web.json_response(shown(found), status=201 if new else 200)


async def delete_schedule(request: web.Request) -> web.Response:
    """DELETE /schedules/{name}: jobs it has made go on."""
    if not await request.app[PARTS].ledger.delete_schedule(request.match_info["name"]):
        raise not_found()
    return web.Response(status=204)


async def _schedule(parts: Parts, name: str, given: Any) -> Schedule:
    """The body as a schedule whose event would be accepted now. Raises `Refused` (422)."""
    try:
        body = ScheduleBody.model_validate(given)
    except ValidationError as error:
        raise _invalid(faults_of(error)) from None
    now = await parts.ledger.now()
    next_at = next_tick(body.cron, body.timezone, now)
    if next_at is None:
        raise _invalid([Fault("/cron", "No day in the next 50 years fits this line; correct day, month or weekday.")])
    schedule = Schedule(
        name, body.cron, body.timezone, body.operation, body.data, body.enabled, next_at if body.enabled else None
    )
    _refuse_what_intake_would(parts, schedule, next_at)
    return schedule


def _refuse_what_intake_would(parts: Parts, schedule: Schedule, tick: float) -> None:
    """A typing error is told at once, not at the first tick."""
    try:
        parts.intake.submission(tick_event(schedule, tick), SCHEDULES)
    except Refused as refused:
        if refused.code == "unknown_operation":
            raise _invalid([Fault("/operation", refused.detail)]) from None
        faults = [Fault(f"/data{fault.pointer}", fault.detail) for fault in refused.faults]
        raise Refused(refused.status, refused.code, refused.detail, tuple(faults)) from None


def _invalid(faults: list[Fault]) -> Refused:
    return Refused(422, "invalid_request", f"The schedule is not valid: {faults[0].detail}", tuple(faults))

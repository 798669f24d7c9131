"""The doctor's look at the running service: does it answer, take our token, agree on the time."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from service.cli.client import ServiceClient, find_token, shown_url
from service.cli.doctor.finding import Finding, fails, ok, warning
from service.cli.exits import CommandError, NotReachable, Refused
from service.settings import Settings

AREA = "service"
CLOCK_TOLERANCE = 5.0
"""The Date header counts whole seconds; less than this says nothing."""


async def examine_service(settings: Settings) -> list[Finding]:
    """A service that is not running is a warning: everything else can be looked at without it."""
    url = shown_url(settings.service_url)
    async with ServiceClient(settings.service_url, find_token(settings)) as service:
        try:
            answered = await _readiness(service, url, settings.replay_window)
        except NotReachable as error:
            return [warning(AREA, "running", error.message, error.hint)]
        except CommandError as error:
            return [
                fails(
                    AREA,
                    "running",
                    error.message,
                    error.hint or "FLEXDB_URL seems to lead to another program.",
                )
            ]
        return [*answered, await _token(service)]


async def _readiness(service: ServiceClient, url: str, window: float) -> list[Finding]:
    began = time.time()
    live = await service.call("GET", "/livez")
    found = [
        ok(AREA, "running", f"{url} answers"),
        *_clock(live.headers.get("Date"), (began + time.time()) / 2, window),
    ]
    try:
        await service.call("GET", "/readyz")
    except Refused as error:
        reasons = error.problem.get("reasons")
        detail = "; ".join(map(str, reasons)) if isinstance(reasons, list) else error.message
        return [*found, fails(AREA, "ready", detail, "Look at the service's log.")]
    return [*found, ok(AREA, "ready", "takes events")]


def _clock(date: str | None, here: float, window: float) -> list[Finding]:
    if date is None:
        return []
    try:
        off = parsedate_to_datetime(date).timestamp() + 0.5 - here
    except ValueError:
        return []
    text = f"the service's clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's"
    mend = "Synchronise both clocks (NTP); signatures older than FLEXDB_REPLAY_WINDOW are refused."
    if abs(off) > window:
        return [fails(AREA, "clock", text, mend)]
    return (
        [warning(AREA, "clock", text, mend)]
        if abs(off) > CLOCK_TOLERANCE
        else [ok(AREA, "clock", "agrees with this machine's")]
    )


async def _token(service: ServiceClient) -> Finding:
    try:
        await service.call("GET", "/jobs", params={"limit": 1})
    except CommandError as error:
        return fails(AREA, "token", f"the service refuses us: {error.message}", error.hint)
    return ok(AREA, "token", "the service takes our token")

"""Prefer: wait (RFC 7240): hold an answer until the job ends, or the time is up."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from aiohttp import web

from service.http.keys import PARTS, Parts
from service.jobs import ENDED
from service.ledger.records import LedgerUnavailable

LONGEST = 300
POLL_SECONDS = 2.0
"""News may be lost; the ledger is asked this often anyway."""
_WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,9})\"?$", re.IGNORECASE)


def wished_seconds(headers: Sequence[str]) -> int | None:
    """Seconds asked for, cut to 300; None when no wait was asked for. What cannot be read is ignored."""
    for header in headers:
        for preference in header.split(","):
            if found := _WAIT.match(preference.partition(";")[0].strip()):
                return min(int(found[1]), LONGEST)
    return None


async def terminal_event(parts: Parts, job_id: str) -> str | None:
    """The job's terminal event as JSON text, None while it has not ended."""
    job = await parts.ledger.job(job_id)
    if job is None or job.status not in ENDED:
        return None
    for entry in reversed(await parts.ledger.history(job_id)):
        if entry.event is not None:
            return entry.event
    return None


def has_left(request: web.Request) -> bool:
    """Whether nobody is there any more to read an answer; handlers are not canceled then."""
    return request.transport is None or request.transport.is_closing()


async def awaited_event(request: web.Request, job_id: str, seconds: float) -> str | None:
    """The job's terminal event as JSON text when it ends in time; None too when the caller went away, or the ledger
    (the service stops): the event was accepted all the same."""
    parts = request.app[PARTS]
    until = time.monotonic() + seconds
    with parts.hub.following(job_id) as follower:
        while True:
            try:
                event = await terminal_event(parts, job_id)
            except LedgerUnavailable:
                return None
            left = until - time.monotonic()
            if event is not None or left <= 0 or has_left(request):
                return event
            await follower.wait(min(left, POLL_SECONDS))


async def with_wait(request: web.Request, job_id: str, seconds: int, answer: web.Response) -> web.Response:
    """The terminal event with 200 when the job ends in time, else `answer`."""
    event = await awaited_event(request, job_id, seconds)
    applied = {"Preference-Applied": f"wait={seconds}"}
    if event is None:
        answer.headers.update(applied)
        return answer
    return web.Response(
        body=event.encode(), content_type="application/cloudevents+json", charset="utf-8", headers=applied
    )

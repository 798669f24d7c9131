"""Following one job to its terminal event: by its event stream, where there is none by asking."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any, Protocol

from service.cli.client import NoStream, ServiceClient, segment
from service.cli.exits import NotReachable, Refused
from service.jobs import STAGE, Status

TERMINAL = frozenset(STAGE.values())
AGAIN_SECONDS = (0.2, 0.5, 1.0, 2.0)
"""Pauses before the service is asked again, the last one for ever."""


class Watcher(Protocol):
    """Is told what happens meanwhile."""

    def event(self, event: dict[str, Any]) -> None:
        """An event of the job, in order."""

    def job(self, job: dict[str, Any]) -> None:
        """The job, when it was asked for because there is no stream."""

    def lost(self) -> None:
        """The service does not answer just now; it is asked again."""


async def follow(service: ServiceClient, job_id: str, watcher: Watcher, seconds: float | None) -> dict[str, Any] | None:
    """The job's terminal event, or None when it has not ended after `seconds` (None: wait for ever).

    A service that goes away meanwhile is asked again, from the last event seen.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _follow(service, job_id, watcher)
    except TimeoutError:
        return None


async def _follow(service: ServiceClient, job_id: str, watcher: Watcher) -> dict[str, Any]:
    last_id, failures, streams = "", 0, True
    while True:
        try:
            if not streams:
                if (ended := await _asked(service, job_id, watcher)) is not None:
                    return ended
            else:
                async with aclosing(service.stream(f"/jobs/{segment(job_id)}/events", last_id)) as messages:
                    async for message in messages:
                        last_id, failures = message.id or last_id, 0
                        event: dict[str, Any] = json.loads(message.data)
                        if is_terminal(event):
                            return event
                        watcher.event(event)
        except NoStream:
            streams = False
            continue
        except NotReachable:
            watcher.lost()
        except Refused as error:
            if error.status < 500:
                raise
            watcher.lost()
        await asyncio.sleep(AGAIN_SECONDS[min(failures, len(AGAIN_SECONDS) - 1)])
        failures += 1


async def _asked(service: ServiceClient, job_id: str, watcher: Watcher) -> dict[str, Any] | None:
    job = (await service.call("GET", f"/jobs/{segment(job_id)}")).body
    watcher.job(job)
    return event_of(job)


def is_terminal(event: dict[str, Any]) -> bool:
    return str(event.get("type", "")).rpartition(".")[2] in TERMINAL


def event_of(job: dict[str, Any]) -> dict[str, Any] | None:
    """The terminal event as far as the job tells it; None while the job has not ended."""
    stage = STAGE.get(Status(job["status"]))
    if stage is None:
        return None
    data = {name: job.get(name) for name in ("job_id", "event_id", "operation", "connection", "status", "attempts")}
    data |= job.get("result") or {}
    if job.get("error"):
        data["error"] = job["error"]
    event = {
        "specversion": "1.0",
        "id": f"{job['job_id']}/terminal",
        "source": "/flexdb",
        "type": f"{job['operation']}.{stage}",
        "time": job.get("ended_at"),
        "datacontenttype": "application/json",
        "jobid": job["job_id"],
        "causationid": job.get("event_id"),
        "data": data,
    }
    return event | ({"subject": job["connection"]} if job.get("connection") else {})

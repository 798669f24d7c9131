"""Live news of jobs inside this process: wakes those who wait for one, keeps the latest progress. Nothing is stored."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engines.run import Progress
from service.event import OutEvent, progressed_event
from service.jobs import Job


class Follower:
    """One waiter for one job. `wait` returns after any news; `progress` is the newest unread progress event."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self.progress: OutEvent | None = None

    def wake(self) -> None:
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """True after news, False when that many seconds passed without any."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def take_progress(self) -> OutEvent | None:
        taken, self.progress = self.progress, None
        return taken


class Hub:
    """All methods are called in the event loop's thread."""

    PROGRESS_EVERY = 1.0
    """Seconds between two progress events of one job."""

    def __init__(self, pass_on: Callable[[str, OutEvent], None] | None = None) -> None:
        """`pass_on` lets other processes know of the progress of a job that runs here."""
        self._pass_on = pass_on
        self._followers: dict[str, set[Follower]] = {}
        self._latest: dict[str, dict[str, Any]] = {}
        self._told: dict[str, tuple[float, int]] = {}

    @contextmanager
    def following(self, job_id: str) -> Iterator[Follower]:
        follower = Follower()
        self._followers.setdefault(job_id, set()).add(follower)
        try:
            yield follower
        finally:
            waiting = self._followers[job_id]
            waiting.discard(follower)
            if not waiting:
                del self._followers[job_id]

    def job_changed(self, job_id: str) -> None:
        """A transition of the job was committed."""
        self._latest.pop(job_id, None)
        for follower in self._followers.get(job_id, ()):
            follower.wake()

    def progressed(self, job: Job, progress: Progress) -> None:
        """Keep the newest progress; tell followers at most once a second."""
        self._latest[job.job_id] = progress.as_json()
        at, number = self._told.get(job.job_id, (0.0, 0))
        if time.monotonic() - at < self.PROGRESS_EVERY:
            return
        self._told[job.job_id] = (time.monotonic(), number + 1)
        event = progressed_event(job, time.time(), progress.as_json(), number + 1)
        for follower in self._followers.get(job.job_id, ()):
            follower.progress = event
            follower.wake()
        if self._pass_on is not None:
            self._pass_on(job.job_id, event)

    def heard(self, job_id: str, event: dict[str, Any]) -> None:
        """Another process told of a progress event of a job that runs there."""
        self._latest[job_id] = event["data"]["progress"]
        told = OutEvent(event["id"], event["type"], json.dumps(event, ensure_ascii=False).encode())
        for follower in self._followers.get(job_id, ()):
            follower.progress = told
            follower.wake()

    def latest(self, job_id: str) -> dict[str, Any] | None:
        """The newest progress of a job that runs here, as JSON; None when nothing is known."""
        return self._latest.get(job_id)

    def forget(self, job_id: str) -> None:
        """The attempt is over."""
        self._latest.pop(job_id, None)
        self._told.pop(job_id, None)

"""A real ledger with jobs in it, and waiting for a state: what tests of worker and outbox share."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from handlers.base import Claim
from service.event import digest, join_digest
from service.jobs import ENDED, Job, new_id
from service.ledger.base import Ledger
from service.ledger.records import Accepted, LedgerUnavailable, Rules, Submission
from service.ledger.sqlite import SQLiteLedger

T = TypeVar("T")


@asynccontextmanager
async def open_ledger(path: Path, **rules: Any) -> AsyncIterator[SQLiteLedger]:
    ledger = SQLiteLedger(path, Rules(**({"callback_delay": 0.0} | rules)))
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


class Trouble:
    """A real ledger behind a bad line: `away` refuses every call, `refusals` the next few of a name."""

    def __init__(self, real: Ledger, *, deaf: bool = False, **refusals: int) -> None:
        self._real = real
        self.deaf = deaf
        """No hint ever arrives."""
        self.away = False
        self.refusals = refusals
        self.refused = 0

    @property
    def ledger(self) -> Ledger:
        return cast("Ledger", self)

    def watch(self, watcher: Callable[[Any], None]) -> None:
        if not self.deaf:
            self._real.watch(watcher)

    def __getattr__(self, name: str) -> Any:
        if self.away or self.refusals.get(name, 0) > 0:
            self.refusals[name] = self.refusals.get(name, 0) - 1
            return self._refuse
        return getattr(self._real, name)

    async def _refuse(self, *_: Any, **__: Any) -> Any:
        self.refused += 1
        raise LedgerUnavailable("away")


async def accept(
    ledger: Ledger,
    operation: str,
    data: dict[str, Any] | None = None,
    *,
    claim: str | None = None,
    **more: Any,
) -> str:
    """Accept an event as a new job; its id."""
    data = data or {}
    job_id = new_id()
    accepted = await ledger.accept(
        Submission(
            job_id=job_id,
            source="/tests",
            event_id=job_id,
            operation=operation,
            connection=None,
            data=json.dumps(data),
            digest=digest(operation, data),
            join_digest=join_digest(operation, data),
            claims=(Claim(claim, "exclusive"),) if claim else (),
            **more,
        )
    )
    assert isinstance(accepted, Accepted)
    return job_id


async def until(look: Callable[[], Awaitable[T | None]], seconds: float = 15.0) -> T:
    """What `look` answers as soon as that is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s: {look}"
        await asyncio.sleep(0.01)


async def holds(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait until a plain condition is true."""

    async def look() -> Any:
        return condition()

    return await until(look, seconds)


async def job_now(ledger: Ledger, job_id: str) -> Job:
    job = await ledger.job(job_id)
    assert job is not None
    return job


async def ended(ledger: Ledger, job_id: str, seconds: float = 15.0) -> Job:
    """The job once it has ended."""

    async def look() -> Job | None:
        job = await job_now(ledger, job_id)
        return job if job.status in ENDED else None

    return await until(look, seconds)

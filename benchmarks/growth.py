"""Whether the ledger stays as fast as it was: hot operations among very many ended jobs, and behind a long queue."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.context import Context
from benchmarks.database import empty
from benchmarks.growth_fill import Filler, PostgresFiller, SQLiteFiller
from benchmarks.peers.trial import payload
from benchmarks.processes import BenchmarkError
from benchmarks.report import Goal, Result
from benchmarks.rounds import in_turn, tell
from benchmarks.unavailable import UnavailableError
from service import logs
from service.event import digest, join_digest
from service.jobs import Job, Status, new_id
from service.ledger.base import Ledger
from service.ledger.postgres import PostgresLedger
from service.ledger.records import Accepted, DeliveryStatus, Rules, Submission, Verdict
from service.ledger.sqlite import SQLiteLedger

FEW, MANY, QUICK_MANY = 1_000, 1_000_000, 100_000
BACKLOG, QUICK_BACKLOG = 50_000, 10_000
TOGETHER = 64
BATCHES, LOOKS = 50, 200
FILLED_TOGETHER = 1000
WORKER = "bench/1"
FLAT = 1.5
OPERATIONS = ("accept", "claim", "finish", "next_due", "reap, nothing to do")


@dataclass(slots=True)
class Subject:
    """One ledger with so many jobs in it. `seconds` are those of one operation, one value per round."""

    kind: str
    make: Callable[[], Ledger]
    filler: Filler
    ended: int = FEW
    queued: int = 0
    ledger: Ledger | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def row(self, operation: str) -> str:
        return f"{self.kind}: {operation}, " + (f"{self.queued:,} queued" if self.queued else f"{self.ended:,} ended")

    async def open(self) -> None:
        """Carry out one job, close, multiply it, open again, add the queue."""
        self.ledger = self.make()
        await self.ledger.open()
        await self._accept(1)
        (job,) = await self.ledger.claim(WORKER, 1)
        await self._finish(job)
        await self._deliver()
        await self.ledger.close()
        tell(f"filling the {self.kind} ledger with {self.ended:,} ended jobs")
        await asyncio.to_thread(self.filler.fill, job.job_id, self.ended)
        self.ledger = self.make()
        await self.ledger.open()
        for first in range(0, self.queued, FILLED_TOGETHER):
            await self._accept(min(FILLED_TOGETHER, self.queued - first), FILLED_TOGETHER)
        await asyncio.to_thread(self.filler.finish)

    async def close(self) -> None:
        if self.ledger is not None:
            await self.ledger.close()

    async def round(self) -> None:
        """As the service uses it: `TOGETHER` at once where many callers come at once."""
        assert self.ledger is not None
        number = TOGETHER * BATCHES
        self._note("accept", number, await _timed(lambda: self._accept(number)))
        running: list[list[Job]] = []
        self._note("claim", number, await _timed(lambda: self._claim(running)))
        self._note("next_due", LOOKS, await _timed(lambda: _times(LOOKS, self._ledger().next_due)))
        self._note("reap, nothing to do", LOOKS, await _timed(lambda: _times(LOOKS, self._ledger().reap)))
        self._note("finish", number, await _timed(lambda: self._finish_all(running)))
        if sum(len(batch) for batch in running) != number:
            raise BenchmarkError(f"{self.kind}: fewer than {number} jobs could be claimed")
        await self._deliver()

    def _note(self, operation: str, number: int, seconds: float) -> None:
        self.seconds.setdefault(operation, []).append(seconds / number)

    def _ledger(self) -> Ledger:
        assert self.ledger is not None
        return self.ledger

    async def _accept(self, number: int, callers: int = TOGETHER) -> None:
        for first in range(0, number, callers):
            together = range(first, min(first + callers, number))
            answers = await asyncio.gather(*(self._ledger().accept(_submission(each)) for each in together))
            if not all(isinstance(answer, Accepted) and not answer.duplicate for answer in answers):
                raise BenchmarkError(f"{self.kind}: an event was not accepted")

    async def _claim(self, running: list[list[Job]]) -> None:
        for _ in range(BATCHES):
            running.append(await self._ledger().claim(WORKER, TOGETHER))

    async def _finish_all(self, running: list[list[Job]]) -> None:
        for batch in running:
            await asyncio.gather(*(self._finish(job) for job in batch))

    async def _finish(self, job: Job) -> None:
        result = {"number": 1}
        if await self._ledger().finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED, result) is None:
            raise BenchmarkError(f"{self.kind}: a job could not be ended")

    async def _deliver(self) -> None:
        """Nothing is left in the outbox, which is to be as small in every round."""
        delivered = Verdict(time.time(), None, None, 1.0, DeliveryStatus.DELIVERED)
        while taken := await self._ledger().take_messages(500, 60.0):
            await asyncio.gather(*(self._ledger().settle_delivery(one.delivery_id, delivered) for one in taken))


async def _timed(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _times(number: int, question: Callable[[], Coroutine[Any, Any, object]]) -> None:
    for _ in range(number):
        await question()


def _submission(number: int) -> Submission:
    data = payload(number)
    job_id = new_id()
    return Submission(
        job_id=job_id,
        source="/benchmarks",
        event_id=job_id,
        operation="noop",
        connection="shop",
        data=json.dumps(data),
        digest=digest("noop", data),
        join_digest=join_digest("noop", data),
    )


RULES = Rules(queue_limit=10_000_000, exchange="flexdb.events")


def _in_sqlite(path: Path, ended: int, queued: int) -> Subject:
    return Subject("SQLite", lambda: SQLiteLedger(path, RULES), SQLiteFiller(path), ended, queued)


def _in_postgres(url: str, ended: int, queued: int) -> Subject:
    return Subject("PostgreSQL", lambda: PostgresLedger(url, RULES), PostgresFiller(url), ended, queued)


def run(context: Context) -> Result:
    logs.configure("warning")
    many, backlog = (QUICK_MANY, QUICK_BACKLOG) if context.quick else (MANY, BACKLOG)
    states = ((FEW, 0), (many, 0), (FEW, backlog))
    folder, notes = context.folder("growth"), []
    groups = [[_in_sqlite(folder / f"{ended}-{queued}.sqlite", ended, queued) for ended, queued in states]]
    with ExitStack() as stack:
        try:
            groups.append([_in_postgres(stack.enter_context(empty()), *state) for state in states])
        except UnavailableError as error:
            notes.append(f"NOT MEASURED: PostgreSQL, {error}")
        with asyncio.Runner() as runner:
            subjects = [subject for group in groups for subject in group]
            try:
                for subject in subjects:
                    runner.run(subject.open())
                in_turn({one.row("all"): lambda one=one: _round(runner, one) for one in subjects}, context.rounds)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            finally:
                for subject in subjects:
                    runner.run(subject.close())
    return _result(groups, notes)


def _round(runner: asyncio.Runner, subject: Subject) -> float:
    runner.run(subject.round())
    return 0.0  # what it measures is kept in the subject


def _result(groups: list[list[Subject]], notes: list[str]) -> Result:
    rows: dict[str, list[float]] = {}
    baselines: dict[str, str] = {}
    goals: list[Goal] = []
    for few, *others in groups:
        for operation in OPERATIONS:
            for subject in (few, *others):
                rows[subject.row(operation)] = [seconds * 1e6 for seconds in subject.seconds[operation]]
                baselines[subject.row(operation)] = few.row(operation)
            goals += [Goal(subject.row(operation), few.row(operation), FLAT) for subject in others]
    return Result(
        title=f"Growth of the ledger: microseconds of one operation, {TOGETHER} callers at once",
        unit="us",
        rows=rows,
        baselines=baselines,
        compared=f"ratio to {FEW:,} ended",
        goals=tuple(goals),
        notes=["each ended job has its event, three rows of history and two delivered events", *notes],
    )

"""From queue to queue: a message is taken, nothing is done, a reply is sent; by FlexDB, and by others."""

from __future__ import annotations

import asyncio
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
from aio_pika.abc import AbstractChannel

from benchmarks import queue_broker, queue_peers
from benchmarks.context import Context
from benchmarks.database import empty
from benchmarks.ledgers import audited
from benchmarks.peers.trial import BODY_BYTES, Trial
from benchmarks.processes import BenchmarkError
from benchmarks.queue_contestants import CELERY, FASTSTREAM, Contestant, FlexDB, Promises, echo, peers
from benchmarks.report import Goal, Result
from benchmarks.rounds import in_turn
from benchmarks.unavailable import UnavailableError

FULL, QUICK = 20_000, 2_000
LIMIT_SECONDS = 180
SQLITE, POSTGRES = "FlexDB, SQLite", "FlexDB, PostgreSQL"
OURS = Promises(durable="yes", duplicates="yes", exclusive="yes")


class Bench:
    def __init__(self, context: Context) -> None:
        self._context = context
        self.count = QUICK if context.quick else FULL
        self.cpu: dict[str, list[float]] = {}
        """Seconds of CPU the contestant's processes took per message."""
        self.audits: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    def measure(self, contestant: Contestant) -> float:
        """Messages per second. Raises `BenchmarkError`."""
        return asyncio.run(self._measure(contestant))

    def try_out(self, peer: Contestant) -> float:
        """As `measure`, but one that fails is left out from then on, and does not end the run for the others."""
        if peer.name not in self.failures:
            try:
                return self.measure(peer)
            except BenchmarkError as error:
                self.failures[peer.name] = f"NOT MEASURED: {error}"
        return math.nan

    def against_postgres(self) -> float:
        """A fresh database every round, as the others begin with nothing too."""
        with empty() as url:
            return self.measure(FlexDB(POSTGRES, OURS, ledger_url=url))

    async def _measure(self, contestant: Contestant) -> float:
        trial = queue_broker.new_trial(self.count)
        async with queue_broker.connected() as connection:
            try:
                await contestant.prepare(connection, trial)
                async with connection.channel() as channel:
                    await queue_broker.until_filled(channel, contestant.requests(trial), trial.count)
                    return trial.count / await self._seconds(contestant, trial, channel)
            finally:
                await contestant.clean(connection, trial)

    async def _seconds(self, contestant: Contestant, trial: Trial, channel: AbstractChannel) -> float:
        folder, cpu = self._context.folder("queue"), [0.0]
        with _started(contestant, trial, folder) as process:
            end = time.monotonic() + LIMIT_SECONDS

            def check() -> None:
                if process.poll() is not None or time.monotonic() > end:
                    raise BenchmarkError(f"{contestant.name} did not finish: {_last_words(folder)}")

            def begun() -> None:
                cpu[0] = _cpu_seconds(process.pid)

            took = await queue_broker.time_through(channel, trial, contestant.requests(trial), check, begun)
            self.cpu.setdefault(contestant.name, []).append((_cpu_seconds(process.pid) - cpu[0]) / trial.count)
        if isinstance(contestant, FlexDB):
            self.audits[contestant.name] = audited(contestant.name, contestant.ledger_url, folder, trial.count)
        return took


@contextmanager
def _started(contestant: Contestant, trial: Trial, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Killed at the end with all its children: what was promised by then must be on disk already."""
    with (folder / "stderr").open("wb") as said:
        process = subprocess.Popen(
            contestant.command(trial),
            env=contestant.environment(trial, folder),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for child in family:
            child.kill()
        process.wait()


def _cpu_seconds(pid: int) -> float:
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _last_words(folder: Path) -> str:
    return (folder / "stderr").read_text(errors="replace")[-2000:]


def run(context: Context) -> Result:
    bench = Bench(context)
    contestants: list[Contestant] = [echo()]
    notes: list[str] = []
    try:
        contestants += peers(queue_peers.installed())
    except UnavailableError as error:
        notes.append(f"NOT MEASURED: the frameworks, {error}")
    variants: dict[str, Callable[[], float]] = {SQLITE: lambda: bench.measure(FlexDB(SQLITE, OURS))}
    promises = {SQLITE: OURS} | {contestant.name: contestant.promises for contestant in contestants}
    try:
        with empty():
            variants[POSTGRES], promises[POSTGRES] = bench.against_postgres, OURS
    except UnavailableError as error:
        notes.append(f"NOT MEASURED: {POSTGRES}, {error}")
    variants |= {one.name: lambda one=one: bench.try_out(one) for one in contestants}  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    values = in_turn(variants, context.rounds)
    measured = {name: rates for name, rates in values.items() if name not in bench.failures}
    return _result(bench, measured, promises, [*notes, *bench.failures.values()])


def _result(bench: Bench, values: dict[str, list[float]], promises: dict[str, Promises], notes: list[str]) -> Result:
    result = Result(
        title=f"Queue to queue: {bench.count:,} messages of {BODY_BYTES} bytes in quorum queues, persistent",
        unit="messages/s",
        rows=values,
        baseline=FASTSTREAM,
        goals=(Goal(SQLITE, CELERY, 1.0, at_least=True), Goal(POSTGRES, CELERY, 1.0, at_least=True)),
        notes=[
            "timed from the first message that leaves the full queue to the last reply in the other; starting is not",
            "FlexDB: concurrency 64, other settings as shipped, logs included; the others log no message, prefetch 100",
            "durable: in a ledger on disk before the message is acknowledged; one per target: by leases",
            *bench.audits.values(),
            *notes,
        ],
    )
    result.shown = {
        "ratio to Celery": {name: _ratio(result, name, CELERY) for name in values},
        "CPU us/message": {name: f"{median(seconds) * 1e6:.0f}" for name, seconds in bench.cpu.items()},
        "durable": {name: known.durable for name, known in promises.items()},
        "repeats refused": {name: known.duplicates for name, known in promises.items()},
        "one per target": {name: known.exclusive for name, known in promises.items()},
        "reply confirmed": {name: known.confirmed for name, known in promises.items()},
    }
    return result


def _ratio(result: Result, row: str, against: str) -> str:
    return f"{median(result.ratios(row, against)):.2f}" if against in result.rows else "not measured"

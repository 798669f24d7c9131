"""How long an accepted job waits until it is started, with nothing else to do and at half of what can be done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks.context import Context
from benchmarks.database import empty
from benchmarks.generator import generated
from benchmarks.ledgers import answers, until_all_ended
from benchmarks.load import Load
from benchmarks.peers.trial import payload
from benchmarks.processes import TOKEN, BenchmarkError, Server, replica
from benchmarks.report import Result
from benchmarks.rounds import in_turn, tell
from benchmarks.unavailable import UnavailableError

CONCURRENCY, CONNECTIONS = 64, 64
IDLE_RATE = 20.0
SQLITE, POSTGRES = "SQLite", "PostgreSQL"
IDLE, HALF = "{}: nothing else to do", "{}: at half of its load"


@dataclass(frozen=True, slots=True)
class Subject:
    """A service and its ledger."""

    kind: str
    server: Server
    ledger_url: str | None
    quick: bool

    def send(self, phase: str, rate: float | None, seconds: float) -> None:
        """Jobs that do nothing, and wait for the end of all; their event ids begin with the phase."""
        load = Load(
            port=self.server.port,
            path="/hooks/noop",
            body=json.dumps(payload(0)),
            ids=f"{phase}-",
            connections=CONNECTIONS,
            warm_up=0.1,
            seconds=seconds * (0.4 if self.quick else 1.0),
            token=TOKEN,
            rate=rate,
        )
        tell(f"{self.kind}: {phase}")
        report = generated(f"{self.kind}, {phase}", load)
        if set(report.statuses) != {"202"}:
            raise BenchmarkError(f"{self.kind} answered {report.statuses}, all were to be 202")
        until_all_ended(self.kind, self.ledger_url, self.server.folder)

    def waits(self, phase: str) -> list[float]:
        """Milliseconds from acceptance to start by the ledger's clock, shortest first."""
        return sorted(1000 * (started - created) for created, started, _ in self._moments(phase))

    def jobs_per_second(self, phase: str) -> float:
        moments = self._moments(phase)
        return len(moments) / (max(ended for _, _, ended in moments) - min(created for created, _, _ in moments))

    def _moments(self, phase: str) -> list[tuple[float, float, float]]:
        question = (
            f"SELECT created_at, started_at, ended_at FROM jobs WHERE substr(event_id, 1, {len(phase)}) = '{phase}'"
        )
        return [(float(a), float(b), float(c)) for a, b, c in answers(self.ledger_url, self.server.folder, question)]


class Bench:
    def __init__(self, context: Context) -> None:
        self._context = context
        self.p50: dict[str, list[float]] = {}
        self.p99: dict[str, list[float]] = {}
        self.load: dict[str, list[float]] = {}

    def round(self, kind: str) -> float:
        with self._subject(kind) as subject:
            subject.send("idle", IDLE_RATE, 6.0)
            subject.send("full", None, 3.0)
            load = subject.jobs_per_second("full")
            subject.send("half", load / 2, 6.0)
            self._note(IDLE.format(kind), subject.waits("idle"), IDLE_RATE)
            self._note(HALF.format(kind), subject.waits("half"), load / 2)
        return 0.0  # what it measures is kept here

    @contextmanager
    def _subject(self, kind: str) -> Iterator[Subject]:
        folder, quick = self._context.folder("claim"), self._context.quick
        settings = {"CONCURRENCY": str(CONCURRENCY), "QUEUE_LIMIT": "100000000"}
        if kind == SQLITE:
            with replica(folder, **settings) as server:
                yield Subject(kind, server, None, quick)
            return
        with empty() as url, replica(folder, LEDGER_URL=url, **settings) as server:
            yield Subject(kind, server, url, quick)

    def _note(self, row: str, waits: list[float], load: float) -> None:
        self.p50.setdefault(row, []).append(waits[len(waits) // 2])
        self.p99.setdefault(row, []).append(waits[len(waits) * 99 // 100])
        self.load.setdefault(row, []).append(load)


def run(context: Context) -> Result:
    bench, notes = Bench(context), [_explanation()]
    variants: dict[str, Callable[[], float]] = {SQLITE: lambda: bench.round(SQLITE)}
    try:
        with empty():
            variants[POSTGRES] = lambda: bench.round(POSTGRES)
    except UnavailableError as error:
        notes.append(f"NOT MEASURED: PostgreSQL, {error}")
    in_turn(variants, context.rounds)
    return Result(
        title=f"From accepted to started: jobs that do nothing, concurrency {CONCURRENCY}",
        unit="p50 ms",
        rows=bench.p50,
        baseline=IDLE.format(SQLITE),
        shown={
            "p99 ms": {row: f"{median(values):.1f}" for row, values in bench.p99.items()},
            "jobs/s": {row: f"{median(values):.0f}" for row, values in bench.load.items()},
        },
        notes=notes,
    )


def _explanation() -> str:
    return (
        "by the ledger's clock, from the transaction that accepts to the one that claims; the load is what was carried "
        "out while as much as possible was sent"
    )

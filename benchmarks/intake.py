"""Durable intake: events answered 202 after they are on disk, against an application that keeps nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from statistics import median

import psutil

from benchmarks.context import Context
from benchmarks.load import Load, Report
from benchmarks.processes import TOKEN, BenchmarkError, Server, flexdb, free_port, running
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn
from engines.sample import make_sample_shop

HERE = Path(__file__).parent
CONNECTIONS = 64
SECRET = "whsec_YmVuY2htYXJrLXNlY3JldC1vZi1uby13b3J0aC1hdC1hbGw="
BODY = json.dumps({"connection": "shop", "deadline_seconds": 86400, "max_attempts": 3, "on_conflict": "queue"})
BARE = "parsed and answered, nothing kept"
SERVICE = "flexdb --role intake, token"
SIGNED = "flexdb --role intake, signed"
DRAINING = "flexdb, a worker draining beside it"
COMMITS = "one commit per request"
P99_LIMIT = 0.050


class Bench:
    """Sends load to one server after the other, and remembers what came of it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.reports: dict[str, list[Report]] = {}
        self.cpu: dict[str, list[float]] = {}
        """Seconds of CPU the server took per request; other load on the machine hardly touches it."""
        self._loads = 0

    def load(self, name: str, server: Server, *, sign: bool = False) -> Report:
        self._loads += 1
        load = Load(
            port=server.port,
            path="/hooks/check",
            body=BODY,
            ids=f"bench-{self._loads}-",
            connections=CONNECTIONS,
            warm_up=0.5,
            seconds=1.5 if self._context.quick else 4.0,
            secret=SECRET if sign else None,
            token=None if sign else TOKEN,
        )
        before = _cpu_seconds(server)
        report = _generate(name, load)
        took = _cpu_seconds(server) - before
        if set(report.statuses) != {"202"}:
            raise BenchmarkError(f"{name} answered {report.statuses}, all were to be 202")
        self.reports.setdefault(name, []).append(report)
        self.cpu.setdefault(name, []).append(took / report.statuses["202"])
        return report

    def accepted(self, *names: str) -> int:
        """How many 202 were answered, warm-up included."""
        return sum(report.statuses["202"] for name in names for report in self.reports.get(name, []))


def _cpu_seconds(server: Server) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


def _generate(name: str, load: Load) -> Report:
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"{name}: {done.stderr[-2000:]}")
    return Report(**json.loads(done.stdout))


def run(context: Context) -> Result:
    bench = Bench(context)
    folder = context.folder("intake")
    audits: list[str] = []
    with ExitStack() as stack:
        bare = stack.enter_context(_bare(folder / "bare"))
        commits = stack.enter_context(_bare(folder / "commits", "ledger.sqlite"))
        service = stack.enter_context(_service(folder / "service", "intake"))

        def draining() -> float:
            """A fresh one each time, killed after it: its backlog must not slow the others down."""
            home = folder / f"draining-{len(audits)}"
            before = bench.accepted(DRAINING)
            with _service(home, "all") as server:
                rate = bench.load(DRAINING, server).per_second
            audits.append(_audit(DRAINING, home, bench.accepted(DRAINING) - before))
            return rate

        variants: dict[str, Callable[[], float]] = {
            BARE: lambda: bench.load(BARE, bare).per_second,
            SERVICE: lambda: bench.load(SERVICE, service).per_second,
            SIGNED: lambda: bench.load(SIGNED, service, sign=True).per_second,
            DRAINING: draining,
            COMMITS: lambda: bench.load(COMMITS, commits).per_second,
        }
        values = in_turn(variants, context.rounds)
    audits.insert(0, _audit(SERVICE, folder / "service", bench.accepted(SERVICE, SIGNED)))
    return _result(bench, values, audits)


def _service(folder: Path, role: str) -> AbstractContextManager[Server]:
    folder.mkdir(parents=True)
    shop = folder / "shop.sqlite"
    make_sample_shop(shop)
    settings = {
        "CONNECTIONS__SHOP": f"sqlite:///{shop}",
        "SOURCES__BENCH": f"standard:{SECRET}",
        "QUEUE_LIMIT": "100000000",  # nothing takes events out again; refusals are not measured
    }
    return flexdb(folder, "--role", role, **settings)


def _bare(folder: Path, *ledger: str) -> AbstractContextManager[Server]:
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, str(HERE / "bare.py"), str(port), *(str(folder / name) for name in ledger)]
    return running(command, port, "/", folder)


def _audit(name: str, folder: Path, answered: int) -> str:
    """Compare promises with rows, after `kill -9`. Raises `BenchmarkError` when they differ."""
    with closing(sqlite3.connect(f"file:{folder}/home/ledger.sqlite", uri=True)) as ledger:
        (events,) = ledger.execute("SELECT count(*) FROM events").fetchone()
        (jobs,) = ledger.execute("SELECT count(*) FROM jobs").fetchone()
    if not events == jobs == answered:
        raise BenchmarkError(f"{name}: {answered} answered 202, but {events} events and {jobs} jobs in the ledger")
    return f"audit after kill -9, {name}: {answered:,} answered 202, {events:,} events and {jobs:,} jobs on disk"


def _result(bench: Bench, values: dict[str, list[float]], audits: list[str]) -> Result:
    p99 = median(report.p99 for report in bench.reports[SERVICE])
    share = max(report.cpu_share for reports in bench.reports.values() for report in reports)
    return Result(
        title=f"Durable intake: POST /hooks/check, {CONNECTIONS} keep-alive connections",
        unit="requests/s",
        rows=values,
        baseline=BARE,
        goals=(Goal(SERVICE, BARE, 0.5, at_least=True), Goal(SIGNED, BARE, 0.5, at_least=True)),
        figures=[
            Figure("p99 of flexdb --role intake, median of rounds", p99 * 1000, "ms", P99_LIMIT * 1000),
            Figure("largest CPU share of the load generator", share, "of one core"),
        ],
        notes=audits,
        shown={
            "CPU us/request": {name: f"{median(values) * 1e6:.0f}" for name, values in bench.cpu.items()},
            "p50 / p99 / worst ms": {name: _latencies(reports) for name, reports in bench.reports.items()},
        },
    )


def _latencies(reports: list[Report]) -> str:
    p50, p99 = (median(getattr(report, name) for report in reports) * 1000 for name in ("p50", "p99"))
    return f"{p50:.1f} / {p99:.1f} / {max(report.worst for report in reports) * 1000:.0f}"

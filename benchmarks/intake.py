"""Durable intake: events answered 202 after they are on disk, against an application that keeps nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median

import psutil

from benchmarks.context import Context
from benchmarks.generator import generated
from benchmarks.ledgers import audited
from benchmarks.load import Load, Report
from benchmarks.processes import TOKEN, BenchmarkError, Server, flexdb, free_port, running, settings_of
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
        report = generated(name, load)
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


def run(context: Context) -> Result:
    bench = Bench(context)
    folder = context.folder("intake")
    audits: list[str] = []
    with ExitStack() as stack:
        nothing_kept = stack.enter_context(bare(folder / "bare"))
        commits = stack.enter_context(bare(folder / "commits", "ledger.sqlite"))
        server = stack.enter_context(service(folder / "service", "intake"))

        def draining() -> float:
            """A fresh one each time, killed after it: its backlog must not slow the others down."""
            home = folder / f"draining-{len(audits)}"
            before = bench.accepted(DRAINING)
            with service(home, "all") as fresh:
                rate = bench.load(DRAINING, fresh).per_second
            audits.append(audited(DRAINING, None, home, bench.accepted(DRAINING) - before))
            return rate

        variants: dict[str, Callable[[], float]] = {
            BARE: lambda: bench.load(BARE, nothing_kept).per_second,
            SERVICE: lambda: bench.load(SERVICE, server).per_second,
            SIGNED: lambda: bench.load(SIGNED, server, sign=True).per_second,
            DRAINING: draining,
            COMMITS: lambda: bench.load(COMMITS, commits).per_second,
        }
        values = in_turn(variants, context.rounds)
    audits.insert(0, audited(SERVICE, None, folder / "service", bench.accepted(SERVICE, SIGNED)))
    goals = (Goal(SERVICE, BARE, 0.5, at_least=True), Goal(SIGNED, BARE, 0.5, at_least=True))
    return result("Durable intake", SERVICE, bench, values, goals, audits)


def service(folder: Path, role: str, **settings: str) -> AbstractContextManager[Server]:
    """`flexdb serve` with something to check, which takes in more than it ever carries out."""
    folder.mkdir(parents=True)
    shop = folder / "shop.sqlite"
    make_sample_shop(shop)
    settings |= {
        "CONNECTIONS__SHOP": f"sqlite:///{shop}",
        "SOURCES__BENCH": f"standard:{SECRET}",
        "QUEUE_LIMIT": "100000000",  # nothing takes events out again; refusals are not measured
    }
    return flexdb(folder, "--role", role, **settings)


def bare(folder: Path, ledger: str | None = None) -> AbstractContextManager[Server]:
    """`bare.py`; `ledger` is a file in `folder`, or the URL of a PostgreSQL database."""
    folder.mkdir(parents=True)
    port = free_port()
    environment = settings_of(folder) | ({} if ledger is None else {"BENCH_LEDGER": ledger})
    return running([sys.executable, str(HERE / "bare.py"), str(port)], port, "/", folder, environment)


def result(
    title: str, served: str, bench: Bench, values: dict[str, list[float]], goals: tuple[Goal, ...], notes: list[str]
) -> Result:
    """`served` is the row whose latency is a figure."""
    p99 = median(report.p99 for report in bench.reports[served])
    share = max(report.cpu_share for reports in bench.reports.values() for report in reports)
    return Result(
        title=f"{title}: POST /hooks/check, {CONNECTIONS} keep-alive connections",
        unit="requests/s",
        rows=values,
        baseline=BARE,
        goals=goals,
        figures=[
            Figure(f"p99 of {served}, median of rounds", p99 * 1000, "ms", P99_LIMIT * 1000),
            Figure("largest CPU share of the load generator", share, "of one core"),
        ],
        notes=notes,
        shown={
            "CPU us/request": {name: f"{median(values) * 1e6:.0f}" for name, values in bench.cpu.items()},
            "p50 / p99 / worst ms": {name: _latencies(reports) for name, reports in bench.reports.items()},
        },
    )


def _latencies(reports: list[Report]) -> str:
    p50, p99 = (median(getattr(report, name) for report in reports) * 1000 for name in ("p50", "p99"))
    return f"{p50:.1f} / {p99:.1f} / {max(report.worst for report in reports) * 1000:.0f}"

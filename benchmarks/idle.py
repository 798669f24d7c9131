"""A service with nothing to do: how soon it is ready, what it takes while it waits."""

from __future__ import annotations

import time
from statistics import median

import psutil

from benchmarks.context import Context
from benchmarks.memory import Peak
from benchmarks.processes import Server, flexdb
from benchmarks.report import Figure, Result
from benchmarks.rounds import tell

READY_LIMIT, MEMORY_LIMIT = 2.0, 120.0


def run(context: Context) -> Result:
    first: list[float] = []
    again: list[float] = []
    taken: list[Peak] = []
    cpu: list[float] = []
    for number in range(1, context.rounds + 1):
        tell(f"round {number} of {context.rounds}: idle service")
        folder = context.folder("idle")
        with flexdb(folder) as server:
            first.append(server.ready_after)
        with flexdb(folder) as server:
            again.append(server.ready_after)
            cpu.append(_cpu_share(server, 1.0 if context.quick else 3.0))
            taken.append(_taken(server))
    tell("")
    return Result(
        title="Idle service (role all, the defaults)",
        figures=[
            Figure("from exec to 200 on /readyz, first start", median(first), "s", READY_LIMIT),
            Figure("from exec to 200 on /readyz, later starts", median(again), "s", READY_LIMIT),
            Figure("memory, service and children", median(p.ours for p in taken) / 1e6, "MB", MEMORY_LIMIT),
            Figure("CPU while idle", median(cpu) * 100, "% of one core"),
        ],
    )


def _taken(server: Server) -> Peak:
    peak = Peak()
    peak.take(server.pid)
    return peak


def _cpu_share(server: Server, seconds: float) -> float:
    before = sum(psutil.Process(server.pid).cpu_times()[:2])
    time.sleep(seconds)  # this is the measurement: what it does when nobody asks
    return float(sum(psutil.Process(server.pid).cpu_times()[:2]) - before) / seconds

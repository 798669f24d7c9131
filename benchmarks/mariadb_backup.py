"""Backing up MariaDB: the engine and the service against mariadb-dump alone and piped into zstd."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.apart import Costs
from benchmarks.context import Context
from benchmarks.engine_apart import EngineApart
from benchmarks.mariadb_database import DUMP, MariaDatabase
from benchmarks.memory import peak_of
from benchmarks.processes import Server, flexdb, run_pipeline
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn, timed
from benchmarks.unavailable import UnavailableError

RAW = "mariadb-dump > /dev/null"
PIPE = "mariadb-dump | zstd -1 -T0 > FILE, synced"
ENGINE = "engine alone, counts none"
ENGINE_EXACT = "engine alone, counts exact"
EXACT = "service, counts exact, verify 0"
LEVEL_2 = "service, counts exact, verify 2"
REQUESTS: dict[str, dict[str, Any]] = {
    EXACT: {"counts": "exact", "verify": 0},
    LEVEL_2: {"counts": "exact", "verify": 2},
}
OPTIONS = ("--single-transaction", "--quick", "--routines", "--events", "--triggers", "--hex-blob")
MEMORY_LIMIT = 200.0


def run(context: Context) -> Result:
    zstd = shutil.which("zstd")
    if zstd is None:
        raise UnavailableError("the program zstd, which our backup is measured against")
    database, folder = context.maria(), context.folder("mariadb-backup")
    engine, costs = EngineApart.available(database.url, folder), Costs()
    with flexdb(folder / "service", CONNECTIONS__SHOP=database.url) as server:
        tools = _tools(database, zstd, folder / "file")
        variants = {name: costs.here(name, work) for name, work in tools.items()}
        variants[ENGINE] = costs.apart(ENGINE, lambda: engine.backup("none"))
        variants[ENGINE_EXACT] = costs.apart(ENGINE_EXACT, lambda: engine.backup("exact"))
        variants |= {name: _by_event(server, options) for name, options in REQUESTS.items()}
        values = in_turn(variants, context.rounds)
        peak = peak_of(server.pid, _by_event(server, REQUESTS[LEVEL_2]))
    return Result(
        title=f"MariaDB backup: {database.facts()}",
        unit="seconds",
        rows=values,
        baseline=PIPE,
        goals=(Goal(ENGINE, PIPE, 1.10), Goal(ENGINE_EXACT, PIPE, 1.5)),
        shown=costs.columns(),
        figures=[
            Figure(f"peak memory: {LEVEL_2}", peak.ours / 1e6, "MB", MEMORY_LIMIT),
            Figure("the tools' own, not counted above", peak.tools / 1e6, "MB"),
        ],
    )


def _tools(database: MariaDatabase, zstd: str, file: Path) -> dict[str, Callable[[], None]]:
    dump, environment = database.command(DUMP, *OPTIONS, database.name), database.environment()

    def pipe() -> None:
        run_pipeline(dump, [zstd, "-1", "-T0", "-q"], output=file, environment=environment, synced=True)

    return {RAW: lambda: run_pipeline(dump, environment=environment), PIPE: pipe}


def _by_event(server: Server, options: dict[str, Any]) -> Callable[[], float]:
    """From sending the event to hearing that it is completed; what was stored is removed after."""
    measure = timed(lambda: server.carry_out("backup", {"connection": "shop", **options}))

    def measured() -> float:
        took = measure()
        shutil.rmtree(server.folder / "home" / "storage" / "shop")
        return took

    return measured

"""Backing up PostgreSQL: the service and the bare engine against pg_dump alone and piped into zstd."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.apart import Costs
from benchmarks.context import Context
from benchmarks.database import BenchDatabase
from benchmarks.engine_apart import EngineApart
from benchmarks.memory import Peak, peak_of
from benchmarks.processes import Server, flexdb, run_pipeline
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn, timed
from benchmarks.unavailable import UnavailableError

RAW = "pg_dump -Fc -Z0 > /dev/null"
PIPE = "pg_dump -Fc -Z0 | zstd -1 -T0 > FILE, synced"
DIRECTORY = "pg_dump -Fd -j2 -Z0, then tar | zstd -1 -T0 > FILE, synced"
GZIP = "pg_dump -Fc > FILE"
ENGINE = "engine alone, counts none"
ENGINE_JOBS = "engine alone, counts none, jobs 2"
NONE = "service, counts none, verify 0"
EXACT = "service, counts exact, verify 0"
LEVEL_1 = "service, counts exact, verify 1"
LEVEL_2 = "service, counts exact, verify 2"
JOBS = "service, counts none, verify 0, jobs 2"
REQUESTS: dict[str, dict[str, Any]] = {
    NONE: {"counts": "none", "verify": 0},
    EXACT: {"counts": "exact", "verify": 0},
    LEVEL_1: {"counts": "exact", "verify": 1},
    LEVEL_2: {"counts": "exact", "verify": 2},
    JOBS: {"counts": "none", "verify": 0, "jobs": 2},
}
MEMORY_LIMIT = 200.0


def run(context: Context) -> Result:
    zstd = shutil.which("zstd")
    if zstd is None:
        raise UnavailableError("the program zstd, which our backup is measured against")
    database, folder = context.database(), context.folder("postgres-backup")
    engine, costs = EngineApart.available(database.url, folder, str(database.client.folder)), Costs()
    with flexdb(folder / "service", **database.settings()) as server:
        tools = _tools(database, zstd, folder / "file")
        variants = {name: costs.here(name, work) for name, work in tools.items()}
        variants[ENGINE] = costs.apart(ENGINE, lambda: engine.backup("none"))
        variants[ENGINE_JOBS] = costs.apart(ENGINE_JOBS, lambda: engine.backup("none", jobs=2))
        for name, options in REQUESTS.items():
            variants[name] = _by_event(server, options)
        values = in_turn(variants, context.rounds)
        families = {name: peak_of(server.pid, _by_event(server, REQUESTS[name])) for name in (NONE, LEVEL_2, JOBS)}
    return Result(
        title=f"PostgreSQL backup: {database.facts()}",
        unit="seconds",
        rows=values,
        baseline=PIPE,
        goals=(
            Goal(NONE, PIPE, 1.10),
            Goal(NONE, GZIP, 0.5),
            Goal(EXACT, PIPE, 1.5),
            Goal(ENGINE, PIPE, 1.10),
            Goal(ENGINE_JOBS, DIRECTORY, 1.10),
        ),
        baselines={ENGINE_JOBS: DIRECTORY, JOBS: DIRECTORY},
        compared="ratio to the same kind by tools",
        shown=costs.columns(),
        figures=_figures(families),
        notes=[
            "ours is hashed twice, synced to disk and published",
            f"with jobs 2 it is compared with {DIRECTORY}, everything else with {PIPE}",
        ],
    )


def _tools(database: BenchDatabase, zstd: str, file: Path) -> dict[str, Callable[[], None]]:
    environment = database.environment()
    dump, packed = [database.tool("pg_dump"), "--no-password"], [zstd, "-1", "-T0", "-q"]

    def pipeline(*commands: list[str], output: Path | None = None, synced: bool = False) -> Callable[[], None]:
        return lambda: run_pipeline(*commands, output=output, environment=environment, synced=synced)

    def directory() -> None:
        folder = file.with_name("directory")
        run_pipeline([*dump, "-Fd", "-j2", "-Z0", f"--file={folder}"], environment=environment)
        run_pipeline(["tar", "--create", f"--directory={folder}", "."], packed, output=file, synced=True)
        shutil.rmtree(folder)

    return {
        RAW: pipeline([*dump, "-Fc", "-Z0"]),
        PIPE: pipeline([*dump, "-Fc", "-Z0"], packed, output=file, synced=True),
        DIRECTORY: directory,
        GZIP: pipeline([*dump, "-Fc"], output=file),
    }


def _by_event(server: Server, options: dict[str, Any]) -> Callable[[], float]:
    """From sending the event to hearing that it is completed; what was stored is removed after."""
    measure = timed(lambda: server.carry_out("backup", {"connection": "shop", **options}))

    def measured() -> float:
        took = measure()
        shutil.rmtree(server.folder / "home" / "storage" / "shop")
        return took

    return measured


def _figures(peaks: dict[str, Peak]) -> list[Figure]:
    figures = [Figure(f"peak memory: {name}", peak.ours / 1e6, "MB", MEMORY_LIMIT) for name, peak in peaks.items()]
    tools = max(peak.tools for peak in peaks.values())
    return [*figures, Figure("the tools' own, not counted above", tools / 1e6, "MB")]

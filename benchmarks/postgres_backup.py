"""Backing up PostgreSQL: the service and the bare engine against pg_dump alone and piped into zstd."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.context import Context
from benchmarks.database import BenchDatabase
from benchmarks.memory import Peak, peak_of
from benchmarks.processes import Server, flexdb, run_pipeline
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn, timed
from benchmarks.unavailable import UnavailableError
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupEngine, BackupOptions
from engines.registry import EngineRegistry
from engines.run import Run
from engines.storage.local import LocalStore

RAW = "pg_dump -Fc -Z0 > /dev/null"
PIPE = "pg_dump -Fc -Z0 | zstd -1 -T0 > FILE"
GZIP = "pg_dump -Fc > FILE"
ENGINE = "engine alone, counts none"
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
    with flexdb(folder / "service", **database.settings()) as server:
        variants = _tools(database, zstd, folder / "file")
        variants[ENGINE] = timed(lambda: _by_engine(database, context.folder("engine")))
        for name, options in REQUESTS.items():
            variants[name] = _by_event(server, options)
        values = in_turn(variants, context.rounds)
        peaks = {name: peak_of(server.pid, _by_event(server, REQUESTS[name])) for name in (NONE, LEVEL_2, JOBS)}
    return Result(
        title=f"PostgreSQL backup: {database.facts()}",
        unit="seconds",
        rows=values,
        baseline=PIPE,
        goals=(
            Goal(NONE, PIPE, 1.10),
            Goal(NONE, GZIP, 0.5),
            Goal(EXACT, PIPE, 1.5),
        ),
        figures=_figures(peaks),
        notes=["ours is hashed twice, synced to disk and published; the raw tools' files are not synced"],
    )


def _tools(database: BenchDatabase, zstd: str, file: Path) -> dict[str, Callable[[], float]]:
    environment = database.environment()
    dump = [database.tool("pg_dump"), "-Fc", "--no-password"]

    def pipeline(*commands: list[str], output: Path | None = None) -> Callable[[], float]:
        measure = timed(lambda: run_pipeline(*commands, output=output, environment=environment))

        def measured() -> float:
            took = measure()
            file.unlink(missing_ok=True)
            return took

        return measured

    return {
        RAW: pipeline([*dump, "-Z0"]),
        PIPE: pipeline([*dump, "-Z0"], [zstd, "-1", "-T0", "-q"], output=file),
        GZIP: pipeline(dump, output=file),
    }


def _by_engine(database: BenchDatabase, folder: Path) -> None:
    """The dump as a handler makes it, without a service around it; left for the end of the run to remove."""
    engines = EngineRegistry.default(str(database.client.folder))
    target = engines.by_scheme(database.url).target("shop", database.url)
    engine = engines.for_target(target, BackupEngine, "backup")
    store, work = LocalStore("bench", folder / "storage"), folder / "work"
    work.mkdir()
    out = ArtefactWriter(store, "shop/bench", Compression.parse("zstd"))
    engine.backup(target, BackupOptions(counts="none"), out, Run("bench", 1, work))
    out.discard()


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

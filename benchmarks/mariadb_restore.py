"""Restoring MariaDB: the engine against zstd piped into the client."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.apart import Costs
from benchmarks.context import Context
from benchmarks.engine_apart import EngineApart
from benchmarks.mariadb_backup import OPTIONS
from benchmarks.mariadb_database import CLIENT, DUMP, MariaDatabase, execute
from benchmarks.processes import run_pipeline
from benchmarks.report import Goal, Result
from benchmarks.rounds import in_turn
from benchmarks.unavailable import UnavailableError

RAW = "zstd -d FILE | mariadb"
ENGINE = "engine, create"


def run(context: Context) -> Result:
    zstd = shutil.which("zstd")
    if zstd is None:
        raise UnavailableError("the program zstd, which our restore is measured against")
    database, folder = context.maria(), context.folder("mariadb-restore")
    engine, costs, file = EngineApart.available(database.url, folder), Costs(), folder / "dump.zst"
    engine.backup("exact", keep=True)
    dump = database.command(DUMP, *OPTIONS, database.name)
    run_pipeline(dump, [zstd, "-1", "-T0", "-q"], output=file, environment=database.environment())

    def raw() -> float:
        with database.scratch() as name:
            return costs.here(RAW, lambda: _by_client(database, zstd, file, name))()

    def ours() -> float:
        with database.scratch() as name:
            return costs.apart(ENGINE, lambda: engine.restore(name))()

    variants: dict[str, Callable[[], float]] = {RAW: raw, ENGINE: ours}
    return Result(
        title=f"MariaDB restore: {database.facts()}",
        unit="seconds",
        rows=in_turn(variants, context.rounds),
        baseline=RAW,
        goals=(Goal(ENGINE, RAW, 1.10),),
        shown=costs.columns(),
        notes=["ours checks its artefact before it begins, and counts the rows that arrived"],
    )


def _by_client(database: MariaDatabase, zstd: str, file: Path, name: str) -> None:
    execute(f"CREATE DATABASE `{name}`")
    client = database.command(CLIENT, name)
    run_pipeline([zstd, "-d", "-c", "-q", str(file)], client, environment=database.environment())

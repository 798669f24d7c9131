"""Backing up SQLite: the engine and the service against the bare backup API, and `sqlite3 .backup`, then zstd."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.apart import Costs
from benchmarks.context import Context
from benchmarks.engine_apart import EngineApart
from benchmarks.memory import peak_of
from benchmarks.processes import flexdb, run_pipeline
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn, tell, timed
from benchmarks.unavailable import UnavailableError

RAW = "backup API, nothing synced, then zstd -1 -T0 > FILE, synced"
CLI = "sqlite3 .backup, then zstd -1 -T0 > FILE, synced"
ENGINE = "engine alone, counts none"
REQUESTS: dict[str, dict[str, Any]] = {
    "service, counts none, verify 0": {"counts": "none", "verify": 0},
    "service, counts exact, verify 0": {"counts": "exact", "verify": 0},
    "service, counts exact, verify 2": {"counts": "exact", "verify": 2},
}
FULL_ROWS, QUICK_ROWS = 1_200_000, 100_000
MAKE = """
INSERT INTO documents (id, slug, body, price)
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
SELECT n, printf('document-%d', n), 'order of customer ' || (n % 5000) || ' paid ' || hex(randomblob(60))
    || ' please deliver to the green box tomorrow, and call again if nobody is there', (n * 7) % 90000
FROM numbers
"""
MEMORY_LIMIT = 200.0


def run(context: Context) -> Result:
    sqlite, zstd = shutil.which("sqlite3"), shutil.which("zstd")
    if sqlite is None or zstd is None:
        raise UnavailableError("the programs sqlite3 and zstd, which our backup is measured against")
    folder = context.folder("sqlite-backup")
    source = folder / "shop.sqlite"
    make(source, QUICK_ROWS if context.quick else FULL_ROWS)
    engine, costs = EngineApart.available(f"sqlite:///{source}", folder), Costs()
    with flexdb(folder / "service", CONNECTIONS__SHOP=f"sqlite:///{source}") as server:

        def event(options: dict[str, Any]) -> Callable[[], float]:
            measure = timed(lambda: server.carry_out("backup", {"connection": "shop", **options}))
            return lambda: _then_remove(measure, server.folder / "home" / "storage" / "shop")

        def bare(name: str, copy: Callable[[Path, Path], object]) -> Callable[[], float]:
            return costs.here(name, lambda: _compressed(copy, source, zstd))

        variants = {
            RAW: bare(RAW, _by_library),
            CLI: bare(CLI, lambda source, copy: run_pipeline([sqlite, str(source), f".backup {copy}"])),
            ENGINE: costs.apart(ENGINE, lambda: engine.backup("none")),
        }
        variants |= {name: event(options) for name, options in REQUESTS.items()}
        values = in_turn(variants, context.rounds)
        peak = peak_of(server.pid, event(REQUESTS["service, counts exact, verify 2"]))
    return Result(
        title=f"SQLite backup: {source.stat().st_size / 1e6:,.0f} MB in WAL mode",
        unit="seconds",
        rows=values,
        baseline=RAW,
        goals=(Goal(ENGINE, RAW, 1.10),),
        shown=costs.columns(),
        figures=[Figure("peak memory: service, counts exact, verify 2", peak.ours / 1e6, "MB", MEMORY_LIMIT)],
    )


def make(path: Path, rows: int) -> None:
    """A database with one table, about 320 bytes a row with its index."""
    tell("making the SQLite database")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, slug TEXT, body TEXT, price INTEGER)")
        connection.execute(MAKE, (rows,))
        connection.execute("CREATE INDEX documents_by_slug ON documents (slug)")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _compressed(copy: Callable[[Path, Path], object], source: Path, zstd: str) -> None:
    staged, file = source.with_name("copy.sqlite"), source.with_name("copy.zst")
    copy(source, staged)
    run_pipeline([zstd, "-1", "-T0", "-q", "-c", str(staged)], output=file, synced=True)
    for made in (staged, file):
        made.unlink()


def _by_library(source: Path, copy: Path) -> None:
    """All pages in one step, nothing looked at and nothing made durable."""
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(copy)) as into:
        into.execute("PRAGMA journal_mode = OFF")
        into.execute("PRAGMA synchronous = OFF")
        connection.backup(into)


def _then_remove(measure: Callable[[], float], folder: Path) -> float:
    took = measure()
    shutil.rmtree(folder)
    return took

"""Memory of the service while it backs up, proves and restores databases of growing size: it must not grow."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import mariadb_database, sqlite_backup
from benchmarks.context import Context
from benchmarks.database import autocommitting, empty
from benchmarks.memory import peak_of
from benchmarks.mongodb_server import replaying
from benchmarks.processes import Server, flexdb
from benchmarks.report import Goal, Result
from benchmarks.rounds import tell
from benchmarks.unavailable import UnavailableError
from engines.base import RestoreEngine
from engines.errors import FlexError
from engines.registry import EngineRegistry
from engines.run import Run

SIZES, QUICK_SIZES, LONG_SIZES = (100, 1000), (20, 60), (100, 1000, 4000)
"""Megabytes."""
COPIES = 4
"""The database, its artefact, what is staged, and what is restored."""
FLAT = 1.25
POSTGRES = """
CREATE TABLE documents AS
SELECT id, md5(random()::text) || md5(id::text) || repeat('paid in Lisbon, delivered to Osaka. ', 25) AS body
FROM generate_series(1, %(rows)s::bigint) AS id
"""
POSTGRES_ROW, SQLITE_ROW, MONGODB_DOCUMENT = 1000, 320, 440
MONGODB_DOCUMENTS = 40_000
"""Kept by the server that replays, which sends them over and over."""

Make = Callable[[int, Path], AbstractContextManager[str]]
"""From bytes and a folder the URL of a database of about that size."""


@contextmanager
def _postgres(size: int, _: Path) -> Iterator[str]:
    with empty() as url:
        with autocommitting(url) as cursor:
            cursor.execute(POSTGRES, {"rows": size // POSTGRES_ROW})
        yield url


@contextmanager
def _maria(size: int, _: Path) -> Iterator[str]:
    with mariadb_database.made(size // mariadb_database.ROW_BYTES) as database:
        yield database.url


@contextmanager
def _sqlite(size: int, folder: Path) -> Iterator[str]:
    sqlite_backup.make(folder / "shop.sqlite", size // SQLITE_ROW)
    yield f"sqlite:///{folder / 'shop.sqlite'}"


@contextmanager
def _mongodb(size: int, _: Path) -> Iterator[str]:
    with replaying(MONGODB_DOCUMENTS, max(1, size // MONGODB_DOCUMENT // MONGODB_DOCUMENTS)) as url:
        yield url


ENGINES: dict[str, Make] = {"PostgreSQL": _postgres, "MariaDB": _maria, "SQLite": _sqlite, "MongoDB": _mongodb}


@dataclass(slots=True)
class Families:
    """Peak of each row in MB: the service's processes, and the tools'."""

    ours: dict[str, list[float]] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)

    def measure(self, row: str, server: Server, work: Callable[[], object]) -> None:
        tell(row)
        peak = peak_of(server.pid, work)
        self.ours[row] = [peak.ours / 1e6]
        self.tools[row] = f"{peak.tools / 1e6:.0f} MB"


def run(context: Context) -> Result:
    sizes = QUICK_SIZES if context.quick else LONG_SIZES if context.long else SIZES
    peaks, notes, measured = Families(), ["the tools are the databases' own; PSS of the whole family of processes"], []
    for name, make in ENGINES.items():
        try:
            for size in sizes:
                _one(context, name, make, size, peaks)
            measured.append(name)
        except UnavailableError as error:
            notes.append(f"NOT MEASURED: {name}, {error}")
    rows = [(name, action) for name in measured for action in ("backup", "restore")]
    return Result(
        title=f"Peak memory of the service at {', '.join(f'{size:,}' for size in sizes)} MB, level 2 and counts exact",
        unit="MB",
        rows=peaks.ours,
        baselines={_row(*row, size): _row(*row, sizes[0]) for row in rows for size in sizes},
        compared=f"ratio to {sizes[0]} MB",
        goals=tuple(Goal(_row(*row, size), _row(*row, sizes[0]), FLAT) for row in rows for size in sizes[1:]),
        shown={"tools": peaks.tools},
        notes=notes,
    )


def _one(context: Context, name: str, make: Make, size: int, peaks: Families) -> None:
    """In a service of its own: memory once asked for is not given back."""
    folder = context.folder("memory")
    if shutil.disk_usage(folder).free < COPIES * size * 1_000_000:
        raise UnavailableError(f"{COPIES} times {size} MB of free disk")
    tell(f"{name}: making {size} MB")
    with make(size * 1_000_000, folder) as url:
        _known(url)
        with flexdb(folder / "service", CONNECTIONS__SHOP=url) as server:
            data = {"connection": "shop", "verify": 2, "counts": "exact"}
            peaks.measure(_row(name, "backup", size), server, lambda: server.carry_out("backup", data))
        with flexdb(folder / "service", CONNECTIONS__SHOP=url) as server, _dropping(url, folder) as into:
            back = {"connection": "shop", "into": into, "latest": {"connection": "shop"}}
            peaks.measure(_row(name, "restore", size), server, lambda: server.carry_out("restore", back))
    shutil.rmtree(folder)


def _row(name: str, action: str, size: int) -> str:
    return f"{name}, {action}, {size:,} MB"


def _known(url: str) -> None:
    try:
        EngineRegistry.default().by_scheme(url)
    except FlexError as error:
        raise UnavailableError(f"an engine for {url.partition(':')[0]}") from error


@contextmanager
def _dropping(url: str, folder: Path) -> Iterator[str]:
    """The name of a new database, gone after, however its restore ended."""
    into = mariadb_database.new_name()
    try:
        yield into
    finally:
        engine = EngineRegistry.default().by_scheme(url)
        if isinstance(engine, RestoreEngine):
            engine.drop(engine.into(engine.target("shop", url), into), Run("bench", 1, folder))

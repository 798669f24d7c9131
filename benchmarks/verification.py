"""Verification level 2 of every engine, against the dump it verifies: proving has to cost less than making."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import mongodb_backup, sqlite_backup
from benchmarks.apart import Costs
from benchmarks.context import Context
from benchmarks.engine_apart import EngineApart
from benchmarks.mongodb_server import replaying
from benchmarks.report import Goal, Result
from benchmarks.rounds import in_turn
from benchmarks.unavailable import UnavailableError


def _postgres(context: Context) -> EngineApart:
    database = context.database()
    return EngineApart.available(database.url, context.folder("verification"), str(database.client.folder))


def _maria(context: Context) -> EngineApart:
    return EngineApart.available(context.maria().url, context.folder("verification"))


def _sqlite(context: Context) -> EngineApart:
    folder = context.folder("verification")
    sqlite_backup.make(folder / "shop.sqlite", sqlite_backup.QUICK_ROWS if context.quick else sqlite_backup.FULL_ROWS)
    return EngineApart.available(f"sqlite:///{folder / 'shop.sqlite'}", folder)


@contextmanager
def _mongodb(context: Context) -> Iterator[EngineApart]:
    with replaying(mongodb_backup.QUICK if context.quick else mongodb_backup.FULL) as url:
        yield EngineApart.available(url, context.folder("verification"))


def run(context: Context) -> Result:
    notes: list[str] = []
    with ExitStack() as stack:
        engines: dict[str, Callable[[], EngineApart]] = {
            "PostgreSQL": lambda: _postgres(context),
            "MariaDB": lambda: _maria(context),
            "SQLite": lambda: _sqlite(context),
            "MongoDB": lambda: stack.enter_context(_mongodb(context)),
        }
        found: dict[str, EngineApart] = {}
        for name, make in engines.items():
            try:
                found[name] = make()
            except UnavailableError as error:
                notes.append(f"NOT MEASURED: {name}, {error}")
        return _measured(found, notes, context.rounds)


def _measured(engines: dict[str, EngineApart], notes: list[str], rounds: int) -> Result:
    variants: dict[str, Callable[[], float]] = {}
    costs = Costs()
    for name, engine in engines.items():
        variants[_dump(name)] = _then(costs, _dump(name), engine)
        variants[_proof(name)] = costs.apart(_proof(name), engine.parse)
    return Result(
        title="Verification level 2 against the dump it verifies, by the engines alone",
        unit="seconds",
        rows=in_turn(variants, rounds),
        baselines={row(name): _dump(name) for name in engines for row in (_dump, _proof)},
        compared="ratio to the dump",
        goals=tuple(Goal(_proof(name), _dump(name), 1.0) for name in engines),
        shown=costs.columns(),
        notes=[*notes, "MongoDB is dumped from a server that replays: a real one takes longer, its proof does not"],
    )


def _then(costs: Costs, name: str, engine: EngineApart) -> Callable[[], float]:
    return costs.apart(name, lambda: engine.backup("none", keep=True))


def _dump(name: str) -> str:
    return f"{name}: dump, counts none"


def _proof(name: str) -> str:
    return f"{name}: level 2"

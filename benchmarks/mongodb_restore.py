"""Restoring MongoDB: the engine against a driver that only inserts, and one that decodes, on a server that swallows."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.apart import Costs, Trial, run_apart
from benchmarks.context import Context
from benchmarks.engine_apart import EngineApart
from benchmarks.mongodb_backup import CONTESTANTS, FULL, QUICK
from benchmarks.mongodb_server import replaying
from benchmarks.report import Goal, Result
from benchmarks.rounds import in_turn

RAW = "insert_many of RawBSONDocument, 1000 a batch, unordered"
DECODED = "each document decoded, insert_many, 1000 a batch"
ENGINE = "engine, 1 job"
JOBS = "engine, 2 jobs"
INTO = "flexdb_bench"


def run(context: Context) -> Result:
    folder = context.folder("mongodb-restore")
    documents, file = (QUICK if context.quick else FULL), folder / "plain.bson"
    with replaying(documents) as url:
        engine = EngineApart.available(url, folder)
        engine.backup("exact", keep=True)
        run_apart(CONTESTANTS, action="raw to file, 1000", url=url, file=file)
        size, costs = file.stat().st_size, Costs()

        def peer(action: str) -> Trial:
            return run_apart(CONTESTANTS, action=action, url=url, file=file, into=INTO)

        variants: dict[str, Callable[[], Trial]] = {
            RAW: lambda: peer("insert raw"),
            DECODED: lambda: peer("insert decoded"),
            ENGINE: lambda: engine.restore(INTO, jobs=1),
            JOBS: lambda: engine.restore(INTO, jobs=2),
        }
        timed = {name: costs.apart(name, work) for name, work in variants.items()}
        seconds = in_turn(timed, context.rounds)
    return Result(
        title=f"MongoDB restore: {documents:,} documents, {size / 1e6:,.0f} MB, into a server that swallows",
        unit="MB/s",
        rows={name: [size / value / 1e6 for value in values] for name, values in seconds.items()},
        baseline=RAW,
        goals=(Goal(ENGINE, RAW, 0.6, at_least=True),),
        shown=costs.columns(),
        notes=["the peers read a plain file; ours unpacks and checks its artefact first, and counts what arrived"],
    )

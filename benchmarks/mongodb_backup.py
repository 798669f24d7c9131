"""Backing up MongoDB: the engine against a driver that only reads, and one that decodes, on a server that replays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.apart import Costs, Trial, run_apart
from benchmarks.context import Context
from benchmarks.engine_apart import EngineApart
from benchmarks.mongodb_documents import encoded
from benchmarks.mongodb_server import replaying, secantus
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn
from benchmarks.unavailable import UnavailableError

FULL, QUICK = 300_000, 30_000
FULL_SECANTUS, QUICK_SECANTUS = 30_000, 3_000
CONTESTANTS = "benchmarks.mongodb_apart"
RAW = "find_raw_batches, batch_size 1000 > /dev/null"
RAW_FILE = "find_raw_batches, default batches > FILE"
RAW_FILE_1000 = "find_raw_batches, batch_size 1000 > FILE"
DECODED = "find, each document decoded and encoded > FILE"
ENGINE = "engine, counts none, zstd, synced"
EXACT = "engine, counts exact, zstd, synced"
JOBS = "engine, counts exact, jobs 2"
PEERS = {
    RAW: "raw to nowhere",
    RAW_FILE_1000: "raw to file, 1000",
    RAW_FILE: "raw to file",
    DECODED: "decoded",
}


def run(context: Context) -> Result:
    folder = context.folder("mongodb-backup")
    documents = QUICK if context.quick else FULL
    with replaying(documents) as url:
        size, costs = raw_bytes(url, folder), Costs()
        timed = {name: costs.apart(name, work) for name, work in _variants(url, folder).items()}
        seconds = in_turn(timed, context.rounds)
    return Result(
        title=f"MongoDB backup: {documents:,} documents, {size / 1e6:,.0f} MB, from a server that replays",
        unit="MB/s",
        rows={name: [size / value / 1e6 for value in values] for name, values in seconds.items()},
        baseline=RAW,
        goals=(Goal(ENGINE, RAW, 0.6, at_least=True), Goal(EXACT, RAW, 0.6, at_least=True)),
        shown=costs.columns(),
        figures=_on_secantus(context, folder),
        notes=[
            "MB of BSON; the server answers from memory, so that the client is the limit",
            "on SecantusDB the server is the limit: those two figures show that it works there, not how fast it is",
        ],
    )


def _variants(url: str, folder: Path) -> dict[str, Callable[[], Trial]]:
    variants: dict[str, Callable[[], Trial]] = {name: _peer(url, folder, action) for name, action in PEERS.items()}
    engine = EngineApart.available(url, folder)
    variants[ENGINE] = lambda: engine.backup("none")
    variants[EXACT] = lambda: engine.backup("exact")
    variants[JOBS] = lambda: engine.backup("exact", jobs=2)
    return variants


def _peer(url: str, folder: Path, action: str) -> Callable[[], Trial]:
    def work() -> Trial:
        trial = run_apart(CONTESTANTS, action=action, url=url, file=folder / "peer.bson")
        (folder / "peer.bson").unlink(missing_ok=True)
        return trial

    return work


def raw_bytes(url: str, folder: Path) -> int:
    """Bytes of all documents; and the server has encoded its batches of either size after this."""
    file = folder / "warm.bson"
    for action in ("raw to file", "raw to file, 1000"):
        run_apart(CONTESTANTS, action=action, url=url, file=file)
    size = file.stat().st_size
    file.unlink()
    return size


def _on_secantus(context: Context, folder: Path) -> list[Figure]:
    documents = QUICK_SECANTUS if context.quick else FULL_SECANTUS
    try:
        with secantus(documents, folder) as url:
            raw = _peer(url, folder, "raw to nowhere")()
            ours = EngineApart.available(url, folder).backup("exact")
    except UnavailableError:
        return []
    size = sum(map(len, encoded("orders", documents)))
    return [
        Figure(f"SecantusDB, {documents:,} documents: find_raw_batches > /dev/null", size / raw.seconds / 1e6, "MB/s"),
        Figure(f"SecantusDB, {documents:,} documents: engine, counts exact", size / ours.seconds / 1e6, "MB/s"),
    ]

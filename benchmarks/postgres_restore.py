"""Restoring PostgreSQL: both our ways against pg_restore of a file, ANALYZE apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.context import Context
from benchmarks.database import BenchDatabase, archive, directory
from benchmarks.memory import peak_of
from benchmarks.processes import BenchmarkError, Server, flexdb, run_pipeline
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn
from engines.artefacts.reading import Artefact, read_manifest
from engines.base import RestoreOptions
from engines.postgres import PostgresEngine
from engines.postgres.clients import Clients
from engines.run import Progress, Run
from engines.storage.local import LocalStore

RAW = "pg_restore -j2 FILE"
RAW_ONE = "pg_restore -1 FILE"
STAGED = "engine, staged, 2 jobs"
STREAMED = "engine, streamed"
RAW_DIRECTORY = "pg_restore -j2 FOLDER"
DIRECTORY = "engine, of a parallel dump, 2 jobs"
ANALYZE = "ANALYZE of what was restored"
SERVICE = "service: 2 jobs, ANALYZE and rows counted"
MEMORY_LIMIT = 200.0


@dataclass(slots=True)
class Bench:
    database: BenchDatabase
    context: Context
    server: Server
    archive: Path
    backup_id: str
    parallel_id: str
    """Of a backup with two jobs, whose artefact is a folder's."""
    analyzed: list[float] = field(default_factory=list)
    """Seconds of ANALYZE inside each staged restore."""

    def raw(self, archive: Path, *arguments: str) -> float:
        """Into a database made for it, as ours has to make its own."""
        command = [self.database.tool("pg_restore"), "--exit-on-error", "--no-password", *arguments]
        with self.database.scratch() as name:
            began = time.perf_counter()
            self.database.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
            run_pipeline([*command, f"--dbname={name}", str(archive)], environment=self.database.environment())
            return time.perf_counter() - began

    def by_engine(self, backup_id: str, *, room: bool = True) -> float:
        """Up to the moment ANALYZE begins. Without `room` to stage the archive the engine streams it."""
        clients = Clients.installed(str(self.database.client.folder))
        engine = PostgresEngine(clients=clients, free_bytes=lambda _: 1 << 60 if room else 0)
        store = LocalStore("bench", self.server.folder / "home" / "storage")
        folder = f"shop/{backup_id}"
        artefact = Artefact(store, folder, read_manifest(store, folder))
        stages = Stages()
        with self.database.scratch() as name:
            target = engine.into(engine.target("shop", self.database.url), name)
            run = Run(name, 1, self.context.folder("restore"), listener=stages.heard)
            began = time.perf_counter()
            engine.restore(artefact, target, RestoreOptions(jobs=2), run)
        if room and backup_id == self.backup_id:
            self.analyzed.append(stages.began["counting rows"] - stages.began["analyzing"])
        return stages.began["analyzing"] - began

    def analyze(self) -> float:
        """As it was measured inside the round's staged restore."""
        return self.analyzed[-1]

    def by_event(self) -> float:
        with self.database.scratch() as name:
            data = {"backup_id": self.backup_id, "connection": "shop", "into": name, "jobs": 2}
            began = time.perf_counter()
            restored = self.server.carry_out("restore", data)
            took = time.perf_counter() - began
        if restored["rows"] != self.database.rows:
            raise BenchmarkError(f"{restored['rows']} rows were restored of {self.database.rows}")
        return took


@dataclass(slots=True)
class Stages:
    """When each stage of a run was first heard of."""

    began: dict[str, float] = field(default_factory=dict)

    def heard(self, progress: Progress) -> None:
        self.began.setdefault(progress.stage, time.perf_counter())


def run(context: Context) -> Result:
    database, folder = context.database(), context.folder("postgres-restore")
    with flexdb(folder / "service", **database.settings()) as server:
        made, parallel = (_backup(server, jobs) for jobs in (1, 2))
        bench = Bench(database, context, server, archive(database, folder), made, parallel)
        exploded = directory(database, folder)
        variants: dict[str, Callable[[], float]] = {
            RAW: lambda: bench.raw(bench.archive, "--jobs=2"),
            RAW_ONE: lambda: bench.raw(bench.archive, "--single-transaction"),
            RAW_DIRECTORY: lambda: bench.raw(exploded, "--jobs=2"),
            STAGED: lambda: bench.by_engine(made),
            STREAMED: lambda: bench.by_engine(made, room=False),
            DIRECTORY: lambda: bench.by_engine(parallel),
            ANALYZE: bench.analyze,
            SERVICE: bench.by_event,
        }
        values = in_turn(variants, context.rounds)
        peak = peak_of(server.pid, bench.by_event)
    return Result(
        title=f"PostgreSQL restore: {database.facts()}",
        unit="seconds",
        rows=values,
        baseline=RAW,
        baselines={STREAMED: RAW_ONE, DIRECTORY: RAW_DIRECTORY},
        compared="ratio to the same kind by pg_restore",
        goals=(Goal(STAGED, RAW, 1.10), Goal(STREAMED, RAW_ONE, 1.10), Goal(DIRECTORY, RAW_DIRECTORY, 1.10)),
        figures=[
            Figure("peak memory: service, restore", peak.ours / 1e6, "MB", MEMORY_LIMIT),
            Figure("the tools' own, not counted above", peak.tools / 1e6, "MB"),
        ],
        notes=[
            f"{STREAMED} is compared with {RAW_ONE}, {DIRECTORY} with {RAW_DIRECTORY}, everything else with {RAW}",
            "FILE is a custom archive without compression, the fastest to read; ours unpacks and checks its own first",
            "rows of the engine end where ANALYZE begins",
        ],
    )


def _backup(server: Server, jobs: int) -> str:
    made: dict[str, Any] = server.carry_out("backup", {"connection": "shop", "verify": 0, "jobs": jobs})
    backup_id: str = made["backup_id"]
    return backup_id

"""One backup, verification or restore by an engine, without a service around it, in a process of its own.

In the process: `python -m benchmarks.engine_apart`. From outside: `EngineApart`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.apart import Trial, asked, report, run_apart
from benchmarks.unavailable import UnavailableError
from engines.artefacts.manifest import MANIFEST_NAME, Manifest, Verification
from engines.artefacts.reading import Artefact, read_manifest
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupEngine, BackupOptions, Dump, RestoreEngine, RestoreOptions, Target, VerificationEngine
from engines.errors import FlexError
from engines.registry import EngineRegistry
from engines.run import Run
from engines.storage.local import LocalStore

MODULE = "benchmarks.engine_apart"
FOLDER = "shop/bench"


@dataclass(frozen=True, slots=True)
class EngineApart:
    """The engine of a URL. What it stores goes to `folder`; `tools`: where its client programs are."""

    url: str
    folder: Path
    tools: str | None = None

    @classmethod
    def available(cls, url: str, folder: Path, tools: str | None = None) -> EngineApart:
        """Raises `UnavailableError` when this version has no such engine."""
        try:
            EngineRegistry.default(tools).by_scheme(url)
        except FlexError as error:
            raise UnavailableError(f"an engine for {url.partition(':')[0]}") from error
        return cls(url, folder, tools)

    def backup(self, counts: str = "none", jobs: int = 1, *, keep: bool = False) -> Trial:
        """Dumped, compressed, hashed, stored and synced; without `keep` removed after."""
        trial = self._run("backup", counts=counts, jobs=jobs)
        if not keep:
            shutil.rmtree(self.folder / "storage")
        return trial

    def parse(self) -> Trial:
        """Verification level 2 of what a kept backup left."""
        return self._run("parse")

    def restore(self, into: str, jobs: int = 1) -> Trial:
        """A kept backup into a new database, which is dropped after."""
        return self._run("restore", into=into, jobs=jobs)

    def _run(self, action: str, **options: Any) -> Trial:
        return run_apart(MODULE, action=action, url=self.url, folder=self.folder, tools=self.tools, **options)


class Bench:
    """The engine inside the process apart."""

    def __init__(self, url: str, folder: Path, tools: str | None, work: Path) -> None:
        engines = EngineRegistry.default(tools)
        self._engine: Any = engines.by_scheme(url)
        self._target: Target = self._engine.target("shop", url)
        self._store = LocalStore("bench", folder / "storage")
        self._run = Run("bench", 1, work)

    def backup(self, options: BackupOptions) -> None:
        engine: BackupEngine = self._engine
        out = ArtefactWriter(self._store, FOLDER, Compression.parse("zstd"))
        dump = engine.backup(self._target, options, out, self._run)
        self._store.put(f"{FOLDER}/{MANIFEST_NAME}", self._manifest(dump, out).to_bytes())

    def parse(self) -> None:
        engine: VerificationEngine = self._engine
        engine.parse(self._artefact(), self._run)

    def restore(self, into: str, options: RestoreOptions) -> None:
        engine: RestoreEngine = self._engine
        engine.restore(self._artefact(), self._engine.into(self._target, into), options, self._run)

    def drop(self, into: str) -> None:
        engine: RestoreEngine = self._engine
        engine.drop(self._engine.into(self._target, into), Run("bench", 1, self._run.workspace))

    def _artefact(self) -> Artefact:
        return Artefact(self._store, FOLDER, read_manifest(self._store, FOLDER))

    def _manifest(self, dump: Dump, out: ArtefactWriter) -> Manifest:
        now = datetime.now(UTC)
        return Manifest(
            backup_id="bench",
            job_id="bench",
            event_id="bench",
            connection="shop",
            engine=self._target.engine,
            database=self._target.database,
            server_version=dump.server_version,
            flexdb_version="0",
            options=dump.options,
            started_at=now,
            ended_at=now,
            seconds=0,
            consistency=dump.consistency,
            counts="exact" if dump.counts == "exact" else "none",
            objects=dump.objects,
            files=tuple(out.files),
            verification=Verification(level=0, at=now),
        )


def main() -> None:
    known = asked()
    with tempfile.TemporaryDirectory(dir=known["folder"]) as work:
        bench = Bench(known["url"], Path(known["folder"]), known["tools"], Path(work))
        into = known.get("into", "")
        actions: dict[str, Callable[[], None]] = {
            "backup": lambda: bench.backup(BackupOptions(counts=known["counts"], jobs=known["jobs"])),
            "parse": bench.parse,
            "restore": lambda: bench.restore(into, RestoreOptions(jobs=known["jobs"])),
        }
        try:
            report(actions[known["action"]])
        finally:
            if into:
                bench.drop(into)


if __name__ == "__main__":
    main()

"""What the MySQL and MariaDB tests work with: an engine, a store, runs, and SQL on the side."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.artefacts.manifest import Manifest, Verification
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupOptions, Dump, Restored, RestoreOptions, Target
from engines.mysql import MySQLEngine
from engines.run import Run, StopToken
from engines.storage.local import LocalStore
from tests.mariadb import connected

ODD = "odd `name`; -- 'q' \"d\" ü\n,("
LONG = "x" * 60 + "_end"
EVERYTHING = Path(__file__).with_name("sample.sql").read_text(encoding="utf-8").strip().split("\n\n")[1:]
ROWS = {
    "customers": 501,
    ODD: 3,
    LONG: 1,
    "kinds": 2,
    "events_by_year": 700,
    "circle_a": 1,
    "circle_b": 1,
    "nothing_in_it": 0,
    "stored_plainly": 2,
    "log": 0,
    "numbered": 1,
    "versioned": 2,
}


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def facts(url: str, database: str) -> dict[str, Any]:
    """Everything there is to see of a database with the driver alone, but for its name."""
    with closing(connected(url, database)) as connection, connection.cursor() as cursor:

        def ask(query: str) -> list[tuple[Any, ...]]:
            cursor.execute(query)
            return list(cursor.fetchall())

        found: dict[str, Any] = {}
        cursor.execute("SET SESSION time_zone = '+00:00'")
        for name, kind in ask("SHOW FULL TABLES"):
            what = "VIEW" if kind == "VIEW" else "TABLE"
            definition = ask(f"SHOW CREATE {what} {quoted(name)}")[0][1]
            found[f"{kind} {name}"] = definition.replace(f"`{database}`.", "")
            rows = sorted(repr(row) for row in ask(f"SELECT * FROM {quoted(name)}"))
            found[f"rows of {name}"] = (len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest())
        for kind, column, listing in (
            ("TRIGGER", 2, "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()"),
            ("PROCEDURE", 2, f"SELECT routine_name {_ROUTINES} 'PROCEDURE'"),
            ("FUNCTION", 2, f"SELECT routine_name {_ROUTINES} 'FUNCTION'"),
            ("EVENT", 3, "SELECT event_name FROM information_schema.events WHERE event_schema = DATABASE()"),
        ):
            for (name,) in ask(listing):
                row = ask(f"SHOW CREATE {kind} {quoted(name)}")[0]
                found[f"{kind} {name}"] = (row[1], row[column])
    return found


_ROUTINES = "FROM information_schema.routines WHERE routine_schema = DATABASE() AND routine_type ="


@dataclass
class Workbench:
    folder: Path
    url: str
    """Of the server."""
    engine: MySQLEngine = field(default_factory=MySQLEngine)
    job_id: str = field(default_factory=lambda: f"test{secrets.token_hex(8)}")
    runs: int = 0

    @property
    def store(self) -> LocalStore:
        return LocalStore("main", self.folder / "store")

    def run(self, **changes: Any) -> Run:
        self.runs += 1
        workspace = Path(tempfile.mkdtemp(dir=self.folder))
        return Run(self.job_id, self.runs, workspace, **({"stop": StopToken()} | changes))

    def target(self, url: str) -> Target:
        return self.engine.target("shop", url)

    def back_up(self, url: str, run: Run | None = None, *, compression: str = "zstd", **options: Any) -> Artefact:
        """As the backup handler does it: what a failed one wrote is discarded."""
        run = run or self.run()
        out = ArtefactWriter(self.store, f"shop/{run.job_id}-{run.token}", Compression.parse(compression))
        try:
            dump = self.engine.backup(self.target(url), BackupOptions(**options), out, run)
        except BaseException:
            out.discard()
            raise
        return self.published(dump, out, run, self.target(url).database)

    def published(self, dump: Dump, out: ArtefactWriter, run: Run, database: str) -> Artefact:
        now = datetime.now(UTC)
        manifest = Manifest(
            backup_id=f"{run.job_id}-{run.token}",
            job_id=run.job_id,
            event_id="event",
            connection="shop",
            engine="mysql",
            database=database,
            server_version=dump.server_version,
            tool={"name": dump.tool.name, "version": dump.tool.version} if dump.tool else None,
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
            restore_by_hand=dump.restore_by_hand,
        )
        return Artefact(self.store, out.folder, manifest)

    def restore(self, artefact: Artefact, url: str, run: Run | None = None, **options: Any) -> Restored:
        return self.engine.restore(artefact, self.target(url), RestoreOptions(**options), run or self.run())

    def stored(self) -> list[str]:
        return [found.key for found in (*self.store.list(), *self.store.unfinished())]

    def script(self, artefact: Artefact, number: int = 0) -> bytes:
        """A stored file as its tool wrote it."""
        taken = bytearray()
        with artefact.open_raw(artefact.manifest.files[number], self.run()) as source:
            while data := source.read():
                taken += data
        return bytes(taken)

    def altered(self, artefact: Artefact, script: bytes) -> Artefact:
        """The artefact with another script in it and digests that fit: only reading it can tell."""
        out = ArtefactWriter(self.store, f"{artefact.folder}-altered", Compression.parse("zstd"))
        with out.file("shop.sql", artefact.manifest.files[0].format) as sink:
            sink.write(script)
        manifest = artefact.manifest.model_copy(update={"files": (*out.files, *artefact.manifest.files[1:])})
        return Artefact(self.store, out.folder, manifest)

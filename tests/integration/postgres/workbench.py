"""What the PostgreSQL tests work with: an engine, a store, runs, and SQL on the side."""

from __future__ import annotations

import io
import secrets
import subprocess
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import psycopg2

from engines.artefacts.manifest import Manifest, Verification
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupOptions, Dump, Restored, RestoreOptions, Target
from engines.postgres import PostgresEngine
from engines.postgres.clients import Clients
from engines.run import Run, StopToken
from engines.storage.local import LocalStore

SAMPLE = r"""
CREATE SCHEMA "odd ""schema";
CREATE TYPE mood AS ENUM ('ok', 'bad');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, m mood DEFAULT 'ok');
CREATE TABLE "odd ""schema"."Tab le; drop $1 *" (
    id serial PRIMARY KEY, "Col um" text, customer bigint REFERENCES customers);
CREATE TABLE events (at date NOT NULL, v int) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE INDEX events_at ON events (at);
CREATE TRIGGER t BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch();
CREATE VIEW names AS SELECT name FROM customers;
CREATE MATERIALIZED VIEW many AS SELECT count(*) AS n FROM customers;
CREATE SEQUENCE lonely START 42;
CREATE TABLE nothing_in_it (a int, b text);
CREATE TABLE parent (a int);
CREATE TABLE child (b int) INHERITS (parent);
INSERT INTO customers (name) SELECT 'name ' || g FROM generate_series(1, 1000) g;
INSERT INTO "odd ""schema"."Tab le; drop $1 *" ("Col um", customer)
    SELECT E'x\nSET transaction_timeout = 0;\nCOMMIT;\n', 1 + g % 1000 FROM generate_series(1, 500) g;
CREATE TABLE settings_as_rows (line text);
INSERT INTO settings_as_rows VALUES ('SET transaction_timeout = 0;'), ('COMMIT;'), ('');
INSERT INTO events SELECT date '2025-01-01' + g, g FROM generate_series(0, 699) g;
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2, 3), (4, 5);
SELECT lo_from_bytea(0, 'hello large object'), nextval('lonely'), nextval('lonely');
COMMENT ON TABLE customers IS 'people; of "all" kinds';
REFRESH MATERIALIZED VIEW many;
"""
ROWS = {
    "public.customers": 1000,
    'odd "schema.Tab le; drop $1 *': 500,
    "public.events_2025": 365,
    "public.events_2026": 335,
    "public.parent": 1,
    "public.child": 2,
    "public.nothing_in_it": 0,
    "public.settings_as_rows": 3,
    "pg_largeobject": 1,
}
FACTS = (
    "SELECT md5(string_agg(c::text, '|' ORDER BY id)) FROM customers c",
    """SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM "odd ""schema"."Tab le; drop $1 *" t""",
    "SELECT md5(string_agg(e::text, '|' ORDER BY at)) FROM events e",
    "SELECT string_agg(line, '|' ORDER BY line) FROM settings_as_rows",
    "SELECT nextval('lonely'), (SELECT n FROM many), (SELECT count(*) FROM names)",
    "SELECT string_agg(convert_from(lo_get(oid), 'UTF8'), '|') FROM pg_largeobject_metadata",
    "SELECT obj_description('customers'::regclass), (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)",
    "SELECT string_agg(indexdef, '|' ORDER BY indexdef) FROM pg_indexes WHERE schemaname !~ '^pg_'",
    """SELECT string_agg(conname || pg_get_constraintdef(oid), '|' ORDER BY conname) FROM pg_constraint
        WHERE contype <> 'n' AND connamespace = 'public'::regnamespace""",
)
"""Looked at with the driver alone, in the original and in what was restored."""


def sql(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run statements in autocommit; rows of the last one."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def facts(url: str) -> list[Any]:
    return [sql(url, statement) for statement in FACTS]


@dataclass
class Workbench:
    folder: Path
    engine: PostgresEngine = field(default_factory=PostgresEngine)
    job_id: str = field(default_factory=lambda: f"test{secrets.token_hex(8)}")
    runs: int = 0

    @property
    def clients(self) -> Clients:
        return Clients.installed()

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
        assert dump.tool is not None
        return self._artefact(dump, out, run, self.target(url).database)

    def adopt(self, dump: bytes | BinaryIO, run: Run | None = None, *, compression: str = "zstd") -> Artefact:
        """As the adoption handler does it, from bytes to an artefact; discarded on failure."""
        run = run or self.run()
        source = io.BytesIO(dump) if isinstance(dump, bytes) else dump
        format = self.engine.recognise(source.read(64 * 1024))
        assert format is not None, "not recognised"
        source.seek(0)
        out = ArtefactWriter(self.store, f"shop/{run.job_id}-{run.token}", Compression.parse(compression))
        try:
            adopted = self.engine.adopt(source, format, out, run)
        except BaseException:
            out.discard()
            raise
        return self._artefact(adopted, out, run, "adopted")

    def _artefact(self, dump: Dump, out: ArtefactWriter, run: Run, database: str) -> Artefact:
        assert dump.tool is not None
        now = datetime.now(UTC)
        manifest = Manifest(
            backup_id=f"{run.job_id}-{run.token}",
            job_id=run.job_id,
            event_id="event",
            connection="shop",
            engine="postgres",
            database=database,
            server_version=dump.server_version,
            tool={"name": dump.tool.name, "version": dump.tool.version},
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

    def prove(self, artefact: Artefact, url: str) -> None:
        """Levels 1 to 3, nothing else of ours left on the server."""
        for evidence in (
            artefact.check(self.run()),
            self.engine.parse(artefact, self.run()),
            self.engine.rehearse(artefact, self.target(url), self.run()),
        ):
            assert all(item.ok for item in evidence)
        assert sql(url, f"SELECT datname FROM pg_database WHERE datname ~ 'flexdb_.*{self.job_id}'") == []

    def restore(self, artefact: Artefact, url: str, run: Run | None = None, **options: Any) -> Restored:
        return self.engine.restore(artefact, self.target(url), RestoreOptions(**options), run or self.run())

    def stored(self) -> list[str]:
        return [found.key for found in (*self.store.list(), *self.store.unfinished())]


def schema_text(url: str) -> str:
    """The database's structure as its own pg_dump writes it, but for what differs between any two runs."""
    major = sql(url, "SELECT current_setting('server_version_num')::int / 10000")[0][0]
    text = dumped(url, "--schema-only", program=Clients.installed().for_dump(major, tls=False).path("pg_dump"))
    lines = text.decode().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


def dumped(url: str, *arguments: str, program: Path = Path("pg_dump")) -> bytes:
    """What somebody gets who runs pg_dump by hand."""
    ended = subprocess.run([str(program), *arguments, url], capture_output=True, check=True)
    return ended.stdout


def row_hashes(url: str) -> dict[str, str]:
    """A digest of every table's rows in the order of their text, by name."""
    names = sql(
        url,
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^(pg_|information_schema)' ORDER BY 1",
    )
    return {
        name: sql(url, f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM ONLY {name} t")[0][0]
        for (name,) in names
    }


def sequence_values(url: str) -> list[tuple[Any, ...]]:
    return sql(url, "SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2")

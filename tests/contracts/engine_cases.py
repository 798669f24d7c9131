"""One case per engine: how the behaviour suite makes, fills, changes and looks at databases of its kind."""

from __future__ import annotations

import random
import shutil
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from psycopg2 import sql
from pymongo import MongoClient
from pymongo.database import Database

from engines.artefacts.manifest import Manifest, Verification
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import (
    BackupEngine,
    BackupOptions,
    CheckEngine,
    InspectionEngine,
    RestoreEngine,
    Target,
    VerificationEngine,
)
from engines.mongodb import MongoEngine
from engines.mysql import MySQLEngine
from engines.postgres import PostgresEngine
from engines.run import Run, StopToken
from engines.sqlite import SQLiteEngine
from engines.storage.base import Store
from tests import mariadb
from tests.mongodb import with_database

ROWS = {"customers": 8, "orders": 100, "noise": 60, 'odd "name" ü': 3}
"""What `filled` puts into a database. `noise` cannot be compressed, so that artefacts have some size."""


class FullEngine(CheckEngine, InspectionEngine, BackupEngine, RestoreEngine, VerificationEngine):
    """What the suite asks of an engine; only its type is used."""


class EngineCase(ABC):
    """Databases of one kind, made for one test and gone after it."""

    engine: FullEngine
    kind: str
    takes_include = False
    sees_one_moment = True
    """Whether what the server gives for a dump is one moment of the whole database."""

    @abstractmethod
    def absent(self) -> Target:
        """A database that does not exist; whatever is made of it is removed at the end."""

    @abstractmethod
    def empty(self) -> Target:
        """A database that exists and holds no user object."""

    @abstractmethod
    def fill(self, target: Target) -> None:
        """`ROWS` as they say, an index `orders_by_customer`, and a view `dear_orders`."""

    @abstractmethod
    def make(self, target: Target, name: str, kind: str = "table") -> None:
        """An empty table (collection), or a `view`."""

    @abstractmethod
    def add(self, target: Target, table: str, key: int) -> None:
        """One more row with that primary key; the other columns may be anything."""

    @abstractmethod
    def clear(self, target: Target, table: str) -> None:
        """Delete all rows."""

    @abstractmethod
    def drop_index(self, target: Target) -> None:
        """The one named `orders_by_customer`."""

    @abstractmethod
    @contextmanager
    def transaction(self, target: Target) -> Iterator[Callable[[str, int], None]]:
        """Gives `add(table, key)`; all that was added is committed at once at the end."""

    @abstractmethod
    def leave_half_restored(self, target: Target, job: str) -> None:
        """As a restore leaves it whose process was killed: its own names, nobody to clean up."""

    @abstractmethod
    def rows(self, target: Target) -> dict[str, int]:
        """Every user table with its rows, counted without the engine under test."""

    @abstractmethod
    def exists(self, target: Target) -> bool: ...

    @abstractmethod
    def leftovers(self, target: Target) -> list[str]:
        """Databases or files of FlexDB's own making that are there beside the target."""

    def filled(self) -> Target:
        target = self.empty()
        self.fill(target)
        return target


class SQLCase(EngineCase):
    """What databases that speak SQL have in common."""

    blob = "blob"
    place = "%s"

    def run(self, target: Target, statement: str, *rows: tuple[Any, ...]) -> None:
        """One statement, committed; once per row with `%s` for each value when there are any."""
        with self.cursor(target) as cursor:
            self.execute(cursor, statement, *rows)

    def execute(self, cursor: Any, statement: str, *rows: tuple[Any, ...]) -> None:
        if not rows:
            cursor.execute(statement)
        for row in rows:
            cursor.execute(statement.replace("%s", self.place), row)

    @abstractmethod
    @contextmanager
    def cursor(self, target: Target) -> Iterator[Any]:
        """A driver's cursor in a transaction that is committed at the end."""

    def fill(self, target: Target) -> None:
        odd = self.quoted('odd "name" ü')
        with self.cursor(target) as cursor:  # one session for all: a test fills several databases
            run = partial(self.execute, cursor)
            run("CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL)")
            columns = "id integer PRIMARY KEY, customer integer REFERENCES customers (id), cents integer"
            run(f"CREATE TABLE orders ({columns})")
            run("CREATE INDEX orders_by_customer ON orders (customer)")
            run("CREATE VIEW dear_orders AS SELECT * FROM orders WHERE cents > 5000")
            run(f"CREATE TABLE noise (id integer PRIMARY KEY, data {self.blob})")
            run(f"CREATE TABLE {odd} (id integer PRIMARY KEY, {self.quoted('select')} text)")
            run("INSERT INTO customers VALUES (%s, %s)", *((n, f"name {n}") for n in range(8)))
            run("INSERT INTO orders VALUES (%s, %s, %s)", *((n, n % 8, n * 100) for n in range(100)))
            noise = random.Random(1)  # the same in every run
            run("INSERT INTO noise VALUES (%s, %s)", *((n, noise.randbytes(5000)) for n in range(60)))
            run(f"INSERT INTO {odd} VALUES (%s, %s)", *((n, "x") for n in range(3)))

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def make(self, target: Target, name: str, kind: str = "table") -> None:
        made = "SELECT 1 AS one" if kind == "view" else "(id integer)"
        self.run(target, f"CREATE {kind} {name} {'AS ' if kind == 'view' else ''}{made}")

    def add(self, target: Target, table: str, key: int) -> None:
        self.run(target, _INSERTS[table], (key,))

    def clear(self, target: Target, table: str) -> None:
        self.run(target, f"DELETE FROM {table}")

    def drop_index(self, target: Target) -> None:
        self.run(target, "DROP INDEX orders_by_customer")

    @contextmanager
    def transaction(self, target: Target) -> Iterator[Callable[[str, int], None]]:
        with self.cursor(target) as cursor:
            yield lambda table, key: cursor.execute(f"INSERT INTO {table} VALUES ({key})")


_INSERTS = {"customers": "INSERT INTO customers VALUES (%s, 'later')"}


class SQLiteCase(SQLCase):
    kind = "sqlite"
    place = "?"
    takes_include = True

    def __init__(self, folder: Path, journal: str = "wal", busy_seconds: float = 0.5) -> None:
        self.engine: Any = SQLiteEngine(busy_seconds)
        self._folder = folder
        self._journal = journal

    def absent(self) -> Target:
        path = self._folder / f"db-{uuid.uuid4().hex[:8]} with space%.sqlite"
        target: Target = self.engine.target("shop", f"sqlite:///{quote(str(path))}")
        return target

    def empty(self) -> Target:
        target = self.absent()
        with self._open(target, "rwc") as connection:
            connection.execute(f"PRAGMA journal_mode = {self._journal}")
        return target

    def rows(self, target: Target) -> dict[str, int]:
        with self._open(target, "ro") as connection:
            names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}
            return {
                name: connection.execute(f"SELECT count(*) FROM {safe}").fetchone()[0] for name, safe in quoted.items()
            }

    def exists(self, target: Target) -> bool:
        return Path(target.database).exists()

    def leftovers(self, target: Target) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if path.name.startswith(".flexdb"))

    def leave_half_restored(self, target: Target, job: str) -> None:
        Path(target.database).with_name(f".flexdb_new_{job}_1").write_bytes(b"half")

    @contextmanager
    def cursor(self, target: Target) -> Iterator[Any]:
        with self._open(target, "rw") as connection, connection:
            yield connection

    @contextmanager
    def _open(self, target: Target, mode: str) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote(target.database)}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            yield connection


class PostgresCase(SQLCase):
    kind = "postgres"
    blob = "bytea"
    takes_include = True

    def __init__(self, server: str) -> None:
        self.engine: Any = PostgresEngine(None)
        self._server = server.rpartition("/")[0]
        self._made: list[str] = []

    def absent(self) -> Target:
        name = f"flexdb_suite_{uuid.uuid4().hex[:12]}"
        self._made.append(name)
        target: Target = self.engine.target("shop", f"{self._server}/{name}")
        return target

    def empty(self) -> Target:
        target = self.absent()
        with self._maintenance() as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(target.database)))
        return target

    def rows(self, target: Target) -> dict[str, int]:
        with self.cursor(target) as cursor:
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            found = {}
            for (name,) in cursor.fetchall():
                cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name)))
                found[name] = cursor.fetchone()[0]
            return found

    def exists(self, target: Target) -> bool:
        with self._maintenance() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (target.database,))
            return cursor.fetchone() is not None

    def leftovers(self, target: Target) -> list[str]:
        with self._maintenance() as cursor:
            cursor.execute("SELECT datname FROM pg_database WHERE datname ~ %s", (f"^flexdb_.*{JOB}",))
            return [row[0] for row in cursor.fetchall()]

    def leave_half_restored(self, target: Target, job: str) -> None:
        with self._maintenance() as cursor:
            cursor.execute(f"CREATE DATABASE flexdb_new_{job}")

    @contextmanager
    def cursor(self, target: Target) -> Iterator[Any]:
        with (
            closing(psycopg2.connect(f"{self._server}/{target.database}")) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    @contextmanager
    def _maintenance(self) -> Iterator[Any]:
        with closing(psycopg2.connect(f"{self._server}/postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    def close(self) -> None:
        with self._maintenance() as cursor:
            for name in self._made:
                drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
                cursor.execute(drop.format(sql.Identifier(name)))


class MySQLCase(SQLCase):
    kind = "mysql"
    takes_include = True

    def __init__(self, server: str) -> None:
        self.engine: Any = MySQLEngine(None)
        self._server = server
        self._made: list[str] = []

    def absent(self) -> Target:
        name = f"flexdb_suite_{uuid.uuid4().hex[:12]}"
        self._made.append(name)
        target: Target = self.engine.target("shop", mariadb.with_database(self._server, name))
        return target

    def empty(self) -> Target:
        target = self.absent()
        mariadb.sql(self._server, f"CREATE DATABASE `{target.database}` CHARACTER SET utf8mb4", on="")
        return target

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def drop_index(self, target: Target) -> None:
        """Its foreign key goes with it: it needs an index."""
        self.run(target, "ALTER TABLE orders DROP FOREIGN KEY orders_ibfk_1, DROP INDEX orders_by_customer")

    def rows(self, target: Target) -> dict[str, int]:
        with self.cursor(target) as cursor:
            cursor.execute("SHOW FULL TABLES WHERE table_type = 'BASE TABLE'")
            found = {}
            for name, _ in cursor.fetchall():
                cursor.execute(f"SELECT COUNT(*) FROM {self.quoted(name)}")
                found[name] = cursor.fetchone()[0]
            return found

    def exists(self, target: Target) -> bool:
        return bool(mariadb.sql(self._server, f"SHOW DATABASES LIKE '{target.database}'", on=""))

    def leftovers(self, target: Target) -> list[str]:
        found = mariadb.sql(self._server, f"SHOW DATABASES LIKE 'flexdb%{JOB}%'", on="")
        return [name for (name,) in found]

    def leave_half_restored(self, target: Target, job: str) -> None:
        mariadb.sql(self._server, f"CREATE DATABASE flexdb_new_{job}", on="")

    @contextmanager
    def cursor(self, target: Target) -> Iterator[Any]:
        with closing(mariadb.connected(self._server, target.database)) as connection:
            connection.begin()
            with connection.cursor() as cursor:
                yield cursor
            connection.commit()

    def close(self) -> None:
        for name in self._made:
            mariadb.sql(self._server, f"DROP DATABASE IF EXISTS `{name}`", on="")


class MongoCase(EngineCase):
    """`sees_one_moment` is False for SecantusDB, which accepts snapshot reads and does not do them."""

    kind = "mongodb"
    takes_include = True

    def __init__(self, server: str, *, sees_one_moment: bool) -> None:
        self.engine: Any = MongoEngine()
        self.sees_one_moment = sees_one_moment
        self._server = server
        self._client: MongoClient[dict[str, Any]] = MongoClient(server)
        self._made: list[str] = []

    def absent(self) -> Target:
        name = f"flexdb_suite_{uuid.uuid4().hex[:12]}"
        self._made.append(name)
        target: Target = self.engine.target("shop", with_database(self._server, name))
        return target

    def empty(self) -> Target:
        """MongoDB has no database without a collection: one that holds nothing is one that is not there."""
        return self.absent()

    def fill(self, target: Target) -> None:
        shop = self._on(target)
        noise = random.Random(1)  # the same in every run
        shop["customers"].insert_many([{"_id": n, "name": f"name {n}"} for n in range(8)])
        shop["orders"].insert_many([{"_id": n, "customer": n % 8, "cents": n * 100} for n in range(100)])
        shop["noise"].insert_many([{"_id": n, "data": noise.randbytes(5000)} for n in range(60)])
        shop['odd "name" ü'].insert_many([{"_id": n, "select": "x"} for n in range(3)])
        shop["orders"].create_index("customer", name="orders_by_customer")
        shop.create_collection("dear_orders", viewOn="orders", pipeline=[{"$match": {"cents": {"$gt": 5000}}}])

    def make(self, target: Target, name: str, kind: str = "table") -> None:
        view: dict[str, Any] = {"viewOn": "nothing", "pipeline": []} if kind == "view" else {}
        self._on(target).create_collection(name, **view)

    def add(self, target: Target, table: str, key: int) -> None:
        self._on(target)[table].insert_one({"_id": key, "name": "later"})

    def clear(self, target: Target, table: str) -> None:
        self._on(target)[table].delete_many({})

    def drop_index(self, target: Target) -> None:
        self._on(target)["orders"].drop_index("orders_by_customer")

    @contextmanager
    def transaction(self, target: Target) -> Iterator[Callable[[str, int], None]]:
        with self._client.start_session() as session, session.start_transaction():

            def add(table: str, key: int) -> None:
                self._on(target)[table].insert_one({"_id": key}, session=session)

            yield add

    def rows(self, target: Target) -> dict[str, int]:
        shop = self._on(target)
        names = [found["name"] for found in shop.list_collections() if found["type"] == "collection"]
        return {name: shop[name].count_documents({}) for name in names if not name.startswith("system.")}

    def exists(self, target: Target) -> bool:
        return target.database in self._client.list_database_names()

    def leftovers(self, target: Target) -> list[str]:
        names = [name for name in self._client.list_database_names() if name.startswith("flexdb_") and JOB in name]
        for database in self._made:
            inside = self._client[database].list_collection_names()
            names += [f"{database}.{name}" for name in inside if name.startswith("flexdb_")]
        return names

    def leave_half_restored(self, target: Target, job: str) -> None:
        self._on(target)[f"flexdb_new_{job}.1.0"].insert_one({"_id": 1})

    def close(self) -> None:
        for name in self._made:
            self._client.drop_database(name)
        self._client.close()

    def _on(self, target: Target) -> Database[dict[str, Any]]:
        return self._client[target.database]


JOB = f"suite{uuid.uuid4().hex[:12]}"
"""The job id of every run in this process, so that suites running beside each other do not meet."""


@dataclass
class Bench:
    """A store, a workspace and what it takes to make runs and artefacts."""

    store: Store
    workspace: Path
    runs: int = 0
    reports: list[Any] = field(default_factory=list)

    def run(self, **changes: Any) -> Run:
        self.runs += 1
        given: dict[str, Any] = {"listener": self.reports.append, "stop": StopToken()} | changes
        return Run(JOB, self.runs, self.workspace, event_id="event-1", **given)

    def back_up(
        self,
        case: EngineCase,
        target: Target,
        run: Run | None = None,
        *,
        compression: str = "zstd",
        **options: Any,
    ) -> Artefact:
        """An artefact as the backup handler makes it, its manifest in the store; discarded on failure."""
        run = run or self.run()
        out = ArtefactWriter(self.store, f"shop/backup-{run.token}", Compression.parse(compression))
        try:
            dump = case.engine.backup(target, BackupOptions(**options), out, run)
        except BaseException:
            out.discard()
            raise
        now = datetime.now(UTC)
        manifest = Manifest(
            backup_id=f"backup-{run.token}",
            job_id=run.job_id,
            event_id=run.event_id,
            connection=target.connection,
            engine=target.engine,
            database=target.database,
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
            restore_by_hand=dump.restore_by_hand,
        )
        self.store.put(f"{out.folder}/manifest.json", manifest.to_bytes())
        return Artefact(self.store, out.folder, manifest)

    def stored(self) -> list[str]:
        return [found.key for found in (*self.store.list(), *self.store.unfinished())]


MONGOD = ("mongodb-mongod",) if shutil.which("mongod") else ()
CASES = ("postgres-15", "postgres-18", "sqlite-wal", "sqlite-delete", "mysql-mariadb", "mongodb-secantus", *MONGOD)

"""A shop database on each engine: made, looked at, held up and removed, all without FlexDB."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

KEPT = "flexdb_kept_"
"""What databases begin with that a restore keeps for a time."""
Contents = dict[str, tuple[int, str]]
"""Table to number of rows and a digest of all of them."""


class World(ABC):
    """One database `shop` of `orders` and `customers`, and what a restore makes beside it."""

    kind: str
    copy: str
    """Name a restore may give as `into`."""

    @property
    @abstractmethod
    def url(self) -> str:
        """What the service is given as the connection `shop`."""

    @abstractmethod
    def fill(self, orders: int) -> None:
        """Make the shop's tables with that many orders, about a kilobyte each, that do not compress well."""

    @abstractmethod
    def change(self) -> None:
        """Make the shop differ from what it was."""

    @abstractmethod
    def contents(self, database: str | None = None) -> Contents | None:
        """What is in a database (the shop itself); None when there is none."""

    @abstractmethod
    def watching(self, database: str | None = None) -> AbstractContextManager[Callable[[], bool]]:
        """Gives a quick look: has another database taken that name (the shop's) since?"""

    @abstractmethod
    def remove(self, database: str) -> None:
        """Remove one that a restore made; a missing one is no error."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Nobody reads the shop's orders meanwhile: a backup waits."""

    @abstractmethod
    def half_built(self, job_ids: Iterable[str]) -> list[str]:
        """Scratch and unfinished databases of those jobs."""

    @abstractmethod
    def close(self, job_ids: Iterable[str] = ()) -> None:
        """Remove everything that was made here, leavings of those jobs included."""


class SQLiteWorld(World):
    kind = "sqlite"
    copy = "copy.sqlite"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "shop.sqlite"

    @property
    def url(self) -> str:
        return f"sqlite:///{quote(str(self.file))}"

    def fill(self, orders: int) -> None:
        with closing(sqlite3.connect(self.file)) as db, db:
            db.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
            db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER, note BLOB)")
            db.execute("INSERT INTO customers (name) VALUES ('Ada'), ('Grace'), ('Żółć')")
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO orders SELECT i, i * 7, randomblob(1000) FROM n",
                (orders,),
            )

    def change(self) -> None:
        with closing(sqlite3.connect(self.file)) as db, db:
            db.execute("UPDATE orders SET cents = cents + 1 WHERE id % 2 = 0")
            db.execute("CREATE TABLE later (id INTEGER)")

    def contents(self, database: str | None = None) -> Contents | None:
        path = self._path(database)
        if not path.exists():
            return None
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {name: _digest(db, name) for name in sorted(names)}

    @contextmanager
    def watching(self, database: str | None = None) -> Iterator[Callable[[], bool]]:
        path = self._path(database)
        before = _inode(path)
        yield lambda: _inode(path) not in (before, None)

    def remove(self, database: str) -> None:
        self._path(database).unlink(missing_ok=True)

    def _path(self, database: str | None) -> Path:
        return self.file if database is None else self.folder / database

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            yield

    def half_built(self, job_ids: Iterable[str]) -> list[str]:
        jobs = tuple(job_ids)
        found = [path.name for path in self.folder.iterdir() if path.name.startswith(".flexdb_")]
        return sorted(name for name in found if any(job in name for job in jobs))

    def close(self, job_ids: Iterable[str] = ()) -> None:
        return  # the test's own folder holds all of it


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _digest(db: sqlite3.Connection, table: str) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    for row in db.execute(f'SELECT * FROM "{table}" ORDER BY 1'):
        digest.update(repr(row).encode())
        count += 1
    return count, digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Session:
    """A database session of one attempt at a job."""

    token: int
    database: str
    waits: bool
    """For a lock that somebody else has."""


class PostgresWorld(World):
    """On a server that `admin_url` leads to, with the right to make databases."""

    kind = "postgres"

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self.name = f"acceptance_{secrets.token_hex(6)}"
        self.copy = f"{self.name}_copy"
        self._roles: list[str] = []
        with self.admin() as admin:
            run(admin, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))

    @property
    def url(self) -> str:
        return self.url_of(self.name)

    def url_of(self, database: str, user: str | None = None, password: str | None = None) -> str:
        parts = urlsplit(self.admin_url)
        netloc = parts.netloc
        if user is not None:
            who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
            netloc = f"{who}@{netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc, path="/" + quote(database, safe="")))

    @contextmanager
    def admin(self) -> Iterator[Connection]:
        with connected(self.admin_url) as opened:
            yield opened

    def fill(self, orders: int) -> None:
        with connected(self.url) as db:
            run(db, "CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL)")
            run(db, "CREATE TABLE orders (id integer PRIMARY KEY, cents integer, note text)")
            run(db, "INSERT INTO customers VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Żółć')")
            run(
                db,
                "INSERT INTO orders SELECT i, i * 7, (SELECT string_agg(md5(i::text || j), '') "
                "FROM generate_series(1, 30) j) FROM generate_series(1, %s) i",
                (orders,),
            )
            run(db, "CREATE INDEX ON orders (note text_pattern_ops)")

    def change(self) -> None:
        with connected(self.url) as db:
            run(db, "UPDATE orders SET cents = cents + 1 WHERE mod(id, 2) = 0")
            run(db, "CREATE TABLE later (id integer)")

    def contents(self, database: str | None = None) -> Contents | None:
        name = database or self.name
        if not self.exists(name):
            return None
        with connected(self.url_of(name)) as db:
            tables = rows(db, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            query = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM public.{} AS t"
            return {table: rows(db, sql.SQL(query).format(sql.Identifier(table)))[0] for (table,) in tables}

    def exists(self, name: str) -> bool:
        with self.admin() as admin:
            return bool(rows(admin, "SELECT 1 FROM pg_database WHERE datname = %s", (name,)))

    def half_built(self, job_ids: Iterable[str]) -> list[str]:
        return self._made_by(job_ids, "scratch", "new", "old")

    def _made_by(self, job_ids: Iterable[str], *kinds: str) -> list[str]:
        names = [f"flexdb_{kind}_{job}" for job in job_ids for kind in kinds]
        with self.admin() as admin:
            found = rows(admin, "SELECT datname FROM pg_database WHERE datname = ANY (%s) ORDER BY 1", (names,))
        return [name for (name,) in found]

    @contextmanager
    def watching(self, database: str | None = None) -> Iterator[Callable[[], bool]]:
        with self.admin() as admin:

            def oid() -> list[Any]:
                return rows(admin, "SELECT oid FROM pg_database WHERE datname = %s", (database or self.name,))

            before = oid()
            yield lambda: oid() not in (before, [])

    def remove(self, database: str) -> None:
        self.drop(database)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with connected(self.url, autocommit=False) as db:
            run(db, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            yield
            db.rollback()

    def sessions(self, job_id: str) -> list[Session]:
        with self.admin() as admin:
            found = rows(
                admin,
                "SELECT application_name, datname, wait_event_type = 'Lock' FROM pg_stat_activity "
                "WHERE application_name LIKE %s AND datname IS NOT NULL",
                (f"flexdb/{job_id}/%",),
            )
        return [Session(int(name.rpartition("/")[2]), database, bool(waits)) for name, database, waits in found]

    def end_sessions(self, job_id: str) -> int:
        """As a server that restarts would; how many were ended."""
        with self.admin() as admin:
            ended = rows(
                admin,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE %s",
                (f"flexdb/{job_id}/%",),
            )
        return len(ended)

    def make_role(self, name: str, password: str) -> None:
        with self.admin() as admin:
            create = sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}")
            run(admin, create.format(sql.Identifier(name), sql.Literal(password)))
        self._roles.append(name)

    def make_empty(self, name: str) -> None:
        with self.admin() as admin:
            run(admin, sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))

    def rename(self, name: str) -> None:
        """The shop's database gets another name, one that begins with its own."""
        with self.admin() as admin:
            rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            run(admin, rename.format(sql.Identifier(self.name), sql.Identifier(name)))

    def drop(self, name: str) -> None:
        with self.admin() as admin:
            run(admin, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self, job_ids: Iterable[str] = ()) -> None:
        with self.admin() as admin:
            ours = rows(admin, "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (self.name,))
        for name in [name for (name,) in ours] + self._made_by(job_ids, "scratch", "new", "old", "kept"):
            self.drop(name)
        with self.admin() as admin:
            for role in self._roles:
                run(admin, sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@contextmanager
def connected(url: str, *, autocommit: bool = True) -> Iterator[Connection]:
    opened = _connected_soon(url)
    opened.autocommit = autocommit
    try:
        yield opened
    finally:
        opened.close()


def _connected_soon(url: str) -> Connection:
    """A database that is being renamed or switched refuses for a moment."""
    end = time.monotonic() + 5
    while True:
        try:
            return psycopg2.connect(url, connect_timeout=5)
        except psycopg2.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def run(db: Connection, statement: str | sql.Composable, parameters: tuple[object, ...] | None = None) -> None:
    with db.cursor() as cursor:
        cursor.execute(statement, parameters)


def rows(db: Connection, query: str | sql.Composable, parameters: tuple[object, ...] | None = None) -> list[Any]:
    with db.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()

"""The PostgreSQL database that is backed up and restored: made on a given server, dropped at the end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from benchmarks.processes import run_pipeline
from benchmarks.rounds import tell
from benchmarks.unavailable import UnavailableError
from engines.errors import FlexError
from engines.postgres.clients import Client, Clients

URL = os.environ.get("FLEXDB_BENCH_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
FULL_ROWS = 3_600_000, 450_000
QUICK_ROWS = 300_000, 40_000

ACCOUNTS = """
CREATE TABLE accounts AS
SELECT aid::integer, (1 + aid / 100000)::integer AS bid, (random() * 100000)::integer AS abalance,
       ''::character(84) AS filler
FROM generate_series(1, %(rows)s) AS aid
"""
DOCUMENTS = """
CREATE TABLE documents AS
SELECT id::integer, md5(id::text) AS slug,
       timestamptz '2026-01-01' + id * interval '1 second' AS changed_at,
       (SELECT string_agg(word, ' ') FROM (
            SELECT (ARRAY['order', 'customer', 'delivery', 'invoice', 'paid', 'returned', 'the', 'a', 'of',
                'and', 'Berlin', 'Lisbon', 'Osaka', 'please', 'call', 'again', 'tomorrow', 'urgent', 'box',
                'green'])[1 + (random() * 19)::integer] AS word
            FROM generate_series(1, 60 + id %% 30)) AS words) AS body,
       jsonb_build_object('tags', jsonb_build_array('t' || id %% 50, 't' || id %% 7), 'seen', id %% 3 = 0,
            'price', round((random() * 900)::numeric, 2), 'sender', md5(random()::text)) AS details
FROM generate_series(1, %(rows)s) AS id
"""
FINISH = (
    "ALTER TABLE accounts ADD PRIMARY KEY (aid)",
    "ALTER TABLE documents ADD PRIMARY KEY (id)",
    "CREATE INDEX documents_by_slug ON documents (slug)",
    "CREATE INDEX documents_details ON documents USING gin (details jsonb_path_ops)",
    "VACUUM ANALYZE",  # sets hint bits too, else the first dump would pay for them
)


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    """A database, and the client programs that fit its server: the same for the raw tools and for us."""

    url: str
    bytes: int
    rows: int
    version: str
    fsync: str
    client: Client

    def tool(self, name: str) -> str:
        return str(self.client.path(name))

    def environment(self, database: str | None = None) -> dict[str, str]:
        """For libpq's programs, which then need no URL in their arguments."""
        known = parse_dsn(self.url) | ({"dbname": database} if database else {})
        return {LIBPQ[name]: str(value) for name, value in known.items() if name in LIBPQ}

    def settings(self) -> dict[str, str]:
        """For `flexdb serve`: the connection `shop`, and the same tools first."""
        return {"CONNECTIONS__SHOP": self.url, "TOOL_PATH": str(self.client.folder)}

    def facts(self) -> str:
        return (
            f"PostgreSQL {self.version} (fsync {self.fsync}), clients {self.client.version}, "
            f"database {self.bytes / 1e6:,.0f} MB, {self.rows:,} rows"
        )

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A name for a further database on the server: not made yet, dropped in every case."""
        name = f"flexdb_bench_{secrets.token_hex(4)}"
        with suppress(psycopg2.Error):  # not everybody may; then what came before is paid for by chance
            self.execute("CHECKPOINT")
        try:
            yield name
        finally:
            _drop(self.url, name)

    def execute(self, statement: str) -> None:
        with autocommitting(self.url) as cursor:
            cursor.execute(statement)


@contextmanager
def empty() -> Iterator[str]:
    """URL of a database with nothing in it, dropped after. Raises `UnavailableError`."""
    name = f"flexdb_bench_{secrets.token_hex(4)}"
    with _created(URL, name):
        yield with_database(URL, name)


@contextmanager
def made(quick: bool) -> Iterator[BenchDatabase]:
    """Make it, about 1 GB (quick: a twelfth); drop it after. Raises `UnavailableError`."""
    name = f"flexdb_bench_{secrets.token_hex(4)}"
    with _created(URL, name):
        url = with_database(URL, name)
        accounts, documents = QUICK_ROWS if quick else FULL_ROWS
        with autocommitting(url) as cursor:
            tell("making the PostgreSQL database")
            cursor.execute(ACCOUNTS, {"rows": accounts})
            cursor.execute(DOCUMENTS, {"rows": documents})
            for statement in FINISH:
                cursor.execute(statement)
            cursor.execute(
                "SELECT pg_database_size(current_database()), current_setting('server_version'), "
                "current_setting('fsync'), current_setting('server_version_num')::integer / 10000"
            )
            size, version, fsync, major = cursor.fetchone()
        yield BenchDatabase(url, size, accounts + documents, version, fsync, _client(major))


def _client(major: int) -> Client:
    try:
        return Clients.installed().for_dump(major, tls=False)
    except FlexError as error:
        raise UnavailableError(f"{error.message} {error.hint}") from error


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextmanager
def _created(url: str, name: str) -> Iterator[None]:
    try:
        with autocommitting(url) as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg2.Error as error:
        raise UnavailableError(
            "no server at FLEXDB_BENCH_POSTGRES_URL that lets us make a database: " + type(error).__name__
        ) from error
    try:
        yield
    finally:
        _drop(url, name)


def _drop(url: str, name: str) -> None:
    with autocommitting(with_database(url, urlsplit(URL).path.lstrip("/"))) as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def autocommitting(url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(url, connect_timeout=10)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def archive(database: BenchDatabase, folder: Path) -> Path:
    """A custom-format dump, not compressed: what `pg_restore` reads fastest."""
    path = folder / "archive.dump"
    arguments = [database.tool("pg_dump"), "-Fc", "-Z0", "--no-password", f"--file={path}"]
    run_pipeline(arguments, environment=database.environment())
    return path


def directory(database: BenchDatabase, folder: Path) -> Path:
    """A directory-format dump by two jobs, not compressed."""
    path = folder / "directory"
    arguments = [database.tool("pg_dump"), "-Fd", "-j2", "-Z0", "--no-password", f"--file={path}"]
    run_pipeline(arguments, environment=database.environment())
    return path

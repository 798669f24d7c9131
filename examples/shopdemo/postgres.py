"""The database of DATABASE_URL: only read, its copy goes into a scratch database that is always dropped."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, suppress
from itertools import repeat
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg2
import psycopg2.extras
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  a class, written small by its authors

from examples.shopdemo.comparing import Compared, compare
from examples.shopdemo.shop import TABLES, TOTAL

SCHEMA = """
CREATE TYPE order_state AS ENUM ('new', 'paid', 'shipped', 'returned');
CREATE TABLE customers (
    id integer PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, country char(2) NOT NULL,
    born date NOT NULL, newsletter boolean NOT NULL, balance double precision);
CREATE TABLE products (
    id serial PRIMARY KEY, sku varchar(20) NOT NULL UNIQUE, title text NOT NULL,
    price_cents bigint NOT NULL CHECK (price_cents > 0), weight real,
    attributes jsonb NOT NULL, picture bytea);
CREATE TABLE orders (
    id integer PRIMARY KEY, customer_id integer NOT NULL REFERENCES customers,
    placed_at timestamptz NOT NULL,
    state order_state NOT NULL, note text);
CREATE TABLE order_items (
    order_id integer NOT NULL REFERENCES orders, line smallint NOT NULL,
    product_id integer NOT NULL REFERENCES products, quantity integer NOT NULL,
    price_cents numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_id, line));
CREATE TABLE reviews (
    id integer PRIMARY KEY, product_id integer NOT NULL REFERENCES products,
    customer_id integer NOT NULL REFERENCES customers,
    stars smallint NOT NULL CHECK (stars BETWEEN 1 AND 5), words text);
CREATE INDEX orders_by_customer ON orders (customer_id, placed_at);
CREATE INDEX unpaid_orders ON orders (placed_at) WHERE state = 'new';
CREATE VIEW order_totals AS
    SELECT order_id, sum(quantity * price_cents) AS cents FROM order_items GROUP BY order_id;
"""
OURS = """
    n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND c.relpersistence <> 't'
    AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
"""
"""What a user made: no catalogues, nothing temporary, nothing that an extension brings along."""
TABLE_NAMES = f"""
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND {OURS} ORDER BY 1
"""
STRUCTURE = f"""
WITH ours AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p', 'm', 'f') AND {OURS})
SELECT 'column', a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull::text, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid IN (SELECT oid FROM ours) AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
FROM pg_constraint WHERE conrelid IN (SELECT oid FROM ours)
UNION ALL SELECT 'index', indrelid::regclass::text, '', pg_get_indexdef(indexrelid), '', ''
FROM pg_index WHERE indrelid IN (SELECT oid FROM ours)
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), '', ''
FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM ours) AND NOT tgisinternal
UNION ALL SELECT 'view', schemaname, viewname, definition, '', ''
FROM pg_views WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
UNION ALL SELECT 'sequence', schemaname, sequencename, data_type::text, last_value::text, increment_by::text
FROM pg_sequences
"""


class PostgresDatabase:
    """A user's own database; when it is empty, a shop in a scratch database on the same server."""

    engine = "PostgreSQL"

    def __init__(self, url: str) -> None:
        """Raises `psycopg2.Error` when the server cannot be reached."""
        self.url = url
        self._server = url
        self.into = f"flexdb_demo_{secrets.token_hex(4)}"
        self._records = f"flexdb_demo_records_{secrets.token_hex(4)}"
        self.records_url = with_database(url, self._records)
        self._scratch = [self.into, self._records]
        self.stop = threading.Event()
        self._activity = 0
        self._preparing = threading.Lock()
        """`clean` waits for `prepare`: nothing is made after everything was dropped."""

    def prepare(self) -> str:
        """Find what is to be backed up, make a scratch database for records; a sentence about the first."""
        with self._preparing:
            self._create(self._records)
            with closing(_connect(self.url)) as source:
                tables = PostgresSide(source).tables()
                name = source.info.dbname
            if not tables:
                return self._make_shop(name)
            self._activity = self._writes()
        return f"your database {name} with {len(tables)} tables is backed up; it is only read"

    def _make_shop(self, empty: str) -> str:
        shop = f"flexdb_demo_shop_{secrets.token_hex(4)}"
        self._scratch.append(shop)
        self._create(shop)
        self.url = with_database(self._server, shop)
        with closing(_connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(SCHEMA)
            for table, rows in TABLES.items():
                insert = sql.SQL("INSERT INTO {} VALUES %s").format(sql.Identifier(table))
                psycopg2.extras.execute_values(cursor, insert.as_string(connection), rows(), page_size=2000)
        self._activity = self._writes()
        return f"your database {empty} is empty: made a shop of {TOTAL:,} rows in the scratch database {shop}"

    def _create(self, database: str) -> None:
        with closing(_connect(self._server)) as server:
            server.autocommit = True
            server.cursor().execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))

    def compare(self) -> Compared:
        """Raises `Differs`."""
        restored_url = with_database(self._server, self.into)
        with closing(_connect(self.url)) as source, closing(_connect(restored_url)) as restored:
            return compare(PostgresSide(source), PostgresSide(restored), self.stop)

    def written_meanwhile(self) -> bool:
        """True when somebody wrote to the source since `prepare`: it may then differ from its backup."""
        return self._writes() != self._activity

    def _writes(self) -> int:
        with closing(_connect(self.url)) as source, source.cursor() as cursor:
            cursor.execute("SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables")
            found = cursor.fetchone()
        return int(found[0]) if found else 0

    def clean(self, job_ids: Collection[str]) -> None:
        """Drop what the demo made, and what interrupted jobs of it left."""
        doomed = [*self._scratch, *(f"flexdb_{kind}_{job}" for kind in ("scratch", "new") for job in job_ids)]
        with self._preparing, closing(_connect(self._server)) as server:
            server.autocommit = True
            for name in doomed:
                _drop(server, name)


def _drop(server: Connection, name: str) -> None:
    with server.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def _connect(url: str) -> Connection:
    connection = psycopg2.connect(url, connect_timeout=10, application_name="flexdb-demo")
    with suppress(psycopg2.Error):
        connection.set_client_encoding("UTF8")
    return connection


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    parts = urlsplit(url)
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] != "dbname"])
    return urlunsplit(parts._replace(path=f"/{name}", query=query))


class PostgresSide:
    """A `Side` over one connection, in one read-only snapshot."""

    def __init__(self, connection: Connection) -> None:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        self._connection = connection
        with connection.cursor() as cursor:
            cursor.execute("SET search_path = pg_catalog")
            cursor.execute("SET client_min_messages = warning")

    def schema(self) -> set[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(STRUCTURE)
            return set(cursor.fetchall())

    def tables(self) -> list[str]:
        with self._connection.cursor() as cursor:
            cursor.execute(TABLE_NAMES)
            return [name for (name,) in cursor.fetchall()]

    def rows(self, table: str) -> Generator[tuple[Any, ...]]:
        """Every value as the server's own text, which is exact; ordered by key, byte by byte."""
        columns, keys = self._columns(table)
        if not columns:
            yield from self._empty_rows(table)
            return
        values = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in columns)
        order = sql.SQL(", ").join(
            sql.SQL('{}::text COLLATE "C"').format(sql.Identifier(name)) for name in keys or columns
        )
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(values, sql.SQL(table), order)
        with self._connection.cursor(name="rows") as cursor:
            cursor.itersize = 5000
            cursor.execute(query)
            yield from cursor

    def _empty_rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """A table may have rows and no columns."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(table)))
            found = cursor.fetchone()
        return repeat((), found[0] if found else 0)

    def _columns(self, table: str) -> tuple[list[str], list[str]]:
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT a.attname, a.attnum = ANY (i.indkey) FROM pg_attribute a "
                "LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary "
                "WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
                [table],
            )
            found = cursor.fetchall()
        return [name for name, _ in found], [name for name, is_key in found if is_key]

"""The shop in SQLite: made, then compared with what was restored."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from examples.shopdemo.comparing import Compared, compare
from examples.shopdemo.shop import TABLES, TOTAL

SCHEMA = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE, country TEXT NOT NULL,
    born DATE NOT NULL, newsletter BOOLEAN NOT NULL, balance REAL);
CREATE TABLE products (
    id INTEGER PRIMARY KEY, sku TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0), weight REAL,
    attributes TEXT NOT NULL, picture BLOB);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers, placed_at TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('new', 'paid', 'shipped', 'returned')), note TEXT);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders, line INTEGER NOT NULL,
    product_id INTEGER NOT NULL REFERENCES products, quantity INTEGER NOT NULL,
    price_cents INTEGER NOT NULL, PRIMARY KEY (order_id, line)) WITHOUT ROWID;
CREATE TABLE reviews (
    id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL REFERENCES products,
    customer_id INTEGER NOT NULL REFERENCES customers,
    stars INTEGER NOT NULL CHECK (stars BETWEEN 1 AND 5), words TEXT);
CREATE INDEX orders_by_customer ON orders (customer_id, placed_at);
CREATE INDEX unpaid_orders ON orders (placed_at) WHERE state = 'new';
CREATE VIEW order_totals AS
    SELECT order_id, sum(quantity * price_cents) AS cents FROM order_items GROUP BY order_id;
"""


class SQLiteShop:
    """`prepare` makes the shop, `compare` looks at what was restored beside it."""

    engine = "SQLite"

    def __init__(self, folder: Path) -> None:
        self._source = folder / "shop.sqlite"
        self.into = "shop_restored.sqlite"
        self._restored = folder / self.into
        self.stop = threading.Event()
        self.url = f"sqlite:///{self._source}"
        self._records = folder / "records.sqlite"
        self.records_url = f"sqlite:///{self._records}"

    def prepare(self) -> str:
        """Make the database, and an empty one for records; a sentence about it."""
        self._records.touch()  # an empty file is an empty database
        with closing(sqlite3.connect(self._source)) as connection, connection:
            connection.executescript(SCHEMA)
            for table, rows in TABLES.items():
                first = next(rows())
                marks = ",".join("?" * len(first))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows())
        size = self._source.stat().st_size
        return f"made a shop with {TOTAL:,} rows in {len(TABLES)} tables ({size / 1e6:.1f} MB) in {self._source}"

    def compare(self) -> Compared:
        """Raises `Differs`."""
        with closing(_open(self._source)) as source, closing(_open(self._restored)) as restored:
            return compare(SQLiteSide(source), SQLiteSide(restored), self.stop)

    def written_meanwhile(self) -> bool:
        return False

    def clean(self, job_ids: Collection[str]) -> None:
        """Nothing: the temporary folder goes as a whole."""


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


class SQLiteSide:
    """A `Side` over one open file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def schema(self) -> set[tuple[Any, ...]]:
        found = self._connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
        pragmas = [self._connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "encoding")]
        return {*found, *pragmas}

    def tables(self) -> list[str]:
        asked = "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
        return sorted(name for (name,) in self._connection.execute(asked))

    def rows(self, table: str) -> Generator[tuple[Any, ...]]:
        keys = self._connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", [table])
        order = ", ".join(_quoted(name) for (name,) in keys) or "rowid"
        yield from self._connection.execute(f"SELECT * FROM {_quoted(table)} ORDER BY {order}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

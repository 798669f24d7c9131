"""The shop on MySQL or MariaDB: made, looked at, held up and removed with a plain driver."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from pymysql.cursors import Cursor

from tests import mariadb
from tests.acceptance.worlds import KEPT, Contents, World


class MySQLWorld(World):
    """On a server that `admin_url` leads to, with the right to make databases."""

    kind = "mysql"

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self.name = f"acceptance_{secrets.token_hex(6)}"
        self.copy = f"{self.name}_copy"
        self.make_empty(self.name)

    @property
    def url(self) -> str:
        return mariadb.with_database(self.admin_url, self.name)

    def make_empty(self, name: str) -> None:
        self.run(f"CREATE DATABASE {quoted(name)} CHARACTER SET utf8mb4")

    def fill(self, orders: int) -> None:
        self.run("CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL)", self.name)
        self.run("CREATE TABLE orders (id integer PRIMARY KEY, cents integer, note blob, KEY (cents))", self.name)
        with self.connected(self.name) as cursor:
            cursor.executemany("INSERT INTO customers VALUES (%s, %s)", [(1, "Ada"), (2, "Grace"), (3, "Żółć")])
            rows = [(number, number * 7, secrets.token_bytes(1000)) for number in range(1, orders + 1)]
            cursor.executemany("INSERT INTO orders VALUES (%s, %s, %s)", rows)

    def change(self) -> None:
        self.run("UPDATE orders SET cents = cents + 1 WHERE id % 2 = 0", self.name)
        self.run("CREATE TABLE later (id integer PRIMARY KEY)", self.name)

    def contents(self, database: str | None = None) -> Contents | None:
        name = database or self.name
        if not self.exists(name):
            return None
        with self.connected(name) as cursor:
            cursor.execute("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'")
            return {table: _digest(cursor, table) for table, _ in sorted(cursor.fetchall())}

    def exists(self, name: str) -> bool:
        with self.connected() as cursor:
            return bool(cursor.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (name,)))

    @contextmanager
    def watching(self, database: str | None = None) -> Iterator[Callable[[], bool]]:
        """A table that took another's name has a creation time of its own."""
        with self.connected() as cursor:

            def made() -> Any:
                query = (
                    "SELECT table_name, create_time FROM information_schema.tables WHERE table_schema = %s ORDER BY 1"
                )
                cursor.execute(query, (database or self.name,))
                return cursor.fetchall()

            before = made()
            yield lambda: made() not in (before, ())

    def remove(self, database: str) -> None:
        self.run(f"DROP DATABASE IF EXISTS {quoted(database)}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self.connected(self.name) as cursor:
            cursor.execute("LOCK TABLES orders WRITE")
            yield
            cursor.execute("UNLOCK TABLES")

    def half_built(self, job_ids: Iterable[str]) -> list[str]:
        return [name for name in self._made_by(job_ids) if not name.startswith(KEPT)]

    def _made_by(self, job_ids: Iterable[str]) -> list[str]:
        jobs = tuple(job_ids)
        with self.connected() as cursor:
            cursor.execute(r"SHOW DATABASES LIKE 'flexdb\_%'")
            found = [name for (name,) in cursor.fetchall()]
        return sorted(name for name in found if any(job in name for job in jobs))

    def close(self, job_ids: Iterable[str] = ()) -> None:
        for name in (self.name, self.copy, *self._made_by(job_ids)):
            self.remove(name)

    def run(self, statement: str, database: str | None = None) -> None:
        with self.connected(database) as cursor:
            cursor.execute(statement)

    @contextmanager
    def connected(self, database: str | None = None) -> Iterator[Cursor]:
        with closing(mariadb.connected(self.admin_url, database)) as opened, opened.cursor() as cursor:
            yield cursor


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _digest(cursor: Cursor, table: str) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    cursor.execute(f"SELECT * FROM {quoted(table)} ORDER BY 1")
    for row in cursor.fetchall():
        digest.update(repr(row).encode())
        count += 1
    return count, digest.hexdigest()

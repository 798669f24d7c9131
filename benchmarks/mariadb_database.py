"""The MariaDB (or MySQL) database that is backed up and restored: made on a given server, dropped at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import pymysql

from benchmarks.rounds import tell
from benchmarks.unavailable import UnavailableError

URL = os.environ.get("FLEXDB_BENCH_MYSQL_URL", "mysql://root@127.0.0.1:3306")
DUMP, CLIENT = ("mariadb-dump", "mysqldump"), ("mariadb", "mysql")
TABLES = ("orders", "visits")
SIZE = """
SELECT sum(data_length + index_length), @@version FROM information_schema.tables WHERE table_schema = database()
"""
SETTLE_SECONDS, FEW_PAGES = 60.0, 100
FULL_ROWS, QUICK_ROWS = 1_000_000, 60_000
ROW_BYTES = 400
"""Of a row in a dump, about."""
FILLED_TOGETHER = 100_000
"""Rows of one statement, which makes its numbers from five digits."""
TABLE = """
CREATE TABLE {name} (
    id BIGINT UNSIGNED NOT NULL PRIMARY KEY, slug CHAR(32) NOT NULL, customer INT NOT NULL, price DECIMAL(10, 2),
    paid BOOLEAN, placed_at DATETIME(3) NOT NULL, weight DOUBLE, token VARBINARY(16), details JSON, note TEXT,
    KEY {name}_by_slug (slug)
) ENGINE = InnoDB CHARACTER SET utf8mb4
"""
FILL = """
INSERT INTO {name}
WITH digits (d) AS (
    SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9
), numbers (n) AS (
    SELECT %(first)s + a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d
    FROM digits a, digits b, digits c, digits e, digits f
)
SELECT n, md5(n), n %% 5000, (n * 7 %% 90000) / 100, n %% 3 = 0, '2026-01-01' + INTERVAL n SECOND, rand(),
    unhex(md5(rand())),
    json_object('seen', n %% 2 = 0, 'tags', json_array(concat('t', n %% 50), 't7'), 'price', n %% 900),
    concat_ws(' ', 'order of customer', n %% 5000, elt(1 + floor(rand() * 3), 'Berlin', 'Lisbon', 'Osaka'),
        'please deliver to the', elt(1 + floor(rand() * 3), 'green box', 'door', 'neighbour'), md5(rand()),
        'and call again if nobody is there, it''s urgent', md5(n %% 997),
        elt(1 + floor(rand() * 4), 'paid', 'returned', 'invoiced', 'lost'), repeat('again ', n %% 9))
FROM numbers WHERE n < %(rows)s
"""


@dataclass(frozen=True, slots=True)
class MariaDatabase:
    """A database, and how the server's own programs reach it."""

    url: str
    name: str
    bytes: int
    rows: int
    version: str

    def command(self, tool: tuple[str, ...], *arguments: str) -> list[str]:
        """A client program and the options that lead it to the server; the password goes by `environment`."""
        parts = urlsplit(URL)
        reach = [f"--host={parts.hostname}", f"--port={parts.port or 3306}", f"--user={_user(parts)}"]
        return [program(tool), *reach, *arguments]

    def environment(self) -> dict[str, str]:
        password = unquote(urlsplit(URL).password or "")
        return {"MYSQL_PWD": password} if password else {}

    def facts(self) -> str:
        return f"{self.version}, database {self.bytes / 1e6:,.0f} MB, {self.rows:,} rows"

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """The name of a further database on the server: not made yet, dropped in every case."""
        name = new_name()
        _settle()
        try:
            yield name
        finally:
            execute(f"DROP DATABASE IF EXISTS `{name}`")


@contextmanager
def made(rows: int) -> Iterator[MariaDatabase]:
    """Two tables with so many rows in all, dropped after. Raises `UnavailableError`."""
    for tool in (DUMP, CLIENT):
        program(tool)
    name = new_name()
    execute(f"CREATE DATABASE `{name}`")
    try:
        with connected() as cursor:
            cursor.execute(f"USE `{name}`")
            for table in TABLES:
                _fill(cursor, table, rows // len(TABLES))
            cursor.execute(SIZE)
            size, version = cursor.fetchone()
        yield MariaDatabase(f"{URL.rstrip('/')}/{name}", name, int(size), rows, version)
    finally:
        execute(f"DROP DATABASE IF EXISTS `{name}`")


def _fill(cursor: Any, table: str, rows: int) -> None:
    cursor.execute(TABLE.format(name=table))
    for first in range(0, rows, FILLED_TOGETHER):
        tell(f"making the MariaDB database: {table}, {first:,} of {rows:,} rows")
        cursor.execute(FILL.format(name=table), {"first": first, "rows": rows})
    cursor.execute(f"ANALYZE TABLE {table}")


def _settle() -> None:
    """Have the server write out what it holds back, which else the next restore would pay for now and then."""
    with connected() as cursor, suppress(pymysql.Error):  # not everybody may; then it is paid for by chance
        cursor.execute("SELECT @@GLOBAL.innodb_max_dirty_pages_pct, @@GLOBAL.innodb_max_dirty_pages_pct_lwm")
        before = cursor.fetchone()
        cursor.execute("SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0, GLOBAL innodb_max_dirty_pages_pct = 0")
        try:
            until = time.monotonic() + SETTLE_SECONDS
            while _dirty_pages(cursor) > FEW_PAGES and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            settings = "SET GLOBAL innodb_max_dirty_pages_pct = %s, GLOBAL innodb_max_dirty_pages_pct_lwm = %s"
            cursor.execute(settings, before)


def _dirty_pages(cursor: Any) -> int:
    cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")
    return int(cursor.fetchone()[1])


@contextmanager
def connected() -> Iterator[Any]:
    """A cursor that commits each statement. Raises `UnavailableError`."""
    parts = urlsplit(URL)
    try:
        connection = pymysql.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=_user(parts),
            password=unquote(parts.password or ""),
            autocommit=True,
        )
    except pymysql.Error as error:
        raise UnavailableError(f"no server at FLEXDB_BENCH_MYSQL_URL: {type(error).__name__}") from error
    with closing(connection), connection.cursor() as cursor:
        yield cursor


def execute(statement: str) -> None:
    with connected() as cursor:
        cursor.execute(statement)


def program(names: tuple[str, ...]) -> str:
    """Path of the first of these that is installed; raises `UnavailableError`."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise UnavailableError(f"the program {names[0]}, which ours is measured against")


def new_name() -> str:
    return f"flexdb_bench_{secrets.token_hex(4)}"


def _user(parts: SplitResult) -> str:
    return unquote(parts.username or "root")

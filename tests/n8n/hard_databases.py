"""Databases whose backup takes as long as a test likes, or fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection


class Lock:
    """A table of a PostgreSQL database that nobody else can read: pg_dump waits for it."""

    def __init__(self, held: connection) -> None:
        self._held = held
        with held, held.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS orders")
            cursor.execute("CREATE TABLE orders (id int)")
        with held.cursor() as cursor:
            cursor.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")

    def release(self) -> None:
        """From now on it can be read; a second time does nothing."""
        self._held.rollback()


@contextmanager
def locked(url: str) -> Iterator[Lock]:
    """Released at the end at the latest."""
    with closing(psycopg2.connect(url)) as held:
        yield Lock(held)


def damage(path: Path) -> None:
    """Overwrite pages in the middle: it opens, and cannot be read to its end."""
    size = path.stat().st_size
    assert size > 100_000
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * 16_384)
    with closing(sqlite3.connect(path)) as opened:
        assert opened.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)

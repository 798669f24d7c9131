"""Fills a ledger with the jobs of many months: the rows of one job that really ended, over and over, other ids."""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

NEW_IDS = {
    "events": ("event_id", "job_id"),
    "jobs": ("job_id", "event_id"),
    "history": ("job_id", "event_id"),
    "deliveries": ("delivery_id", "job_id", "event_id"),
}
"""Tables with rows of the job, and the columns that differ from copy to copy."""
TIMES = frozenset({"at", "created_at", "due_at", "started_at", "ended_at", "delivered_at"})
BETWEEN_JOBS = 7.0
"""Seconds: a million jobs are 81 days, less than jobs are kept."""


class Filler(ABC):
    """What differs between the two databases."""

    numbers: str
    """A table `numbers (n)` of 1 to the parameter."""
    number_text: str
    """`n` as text of the length of an id."""

    def fill(self, job_id: str, copies: int) -> None:
        for table, ids in NEW_IDS.items():
            columns = [column for column in self.columns(table) if not self.is_automatic(table, column)]
            values = [self._value(column, job_id if column in ids else None) for column in columns]
            self.run(
                f"INSERT INTO {table} ({', '.join(columns)}) {self.numbers} SELECT {', '.join(values)} "
                f"FROM {table} AS model, numbers WHERE model.job_id = '{job_id}' ORDER BY n",
                copies,
            )
        self.finish()

    def _value(self, column: str, job_id: str | None) -> str:
        """Ids of events contain the job's; a job has several deliveries, which their last characters tell apart."""
        if column == "delivery_id":
            return f"{self.number_text} || substr(model.delivery_id, 21)"
        if job_id is not None:
            return f"replace(model.{column}, '{job_id}', {self.number_text})"
        if column in TIMES:
            return f"model.{column} - n * {BETWEEN_JOBS}"
        return f"model.{column}"

    def is_automatic(self, table: str, column: str) -> bool:
        return column == "seq" and table in ("jobs", "deliveries")

    @abstractmethod
    def columns(self, table: str) -> list[str]: ...

    @abstractmethod
    def run(self, statement: str, copies: int) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Leave it as a database that has long been at work would be."""


class SQLiteFiller(Filler):
    numbers = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
    number_text = "printf('%026d', n)"

    def __init__(self, path: Path) -> None:
        self._path = path

    def columns(self, table: str) -> list[str]:
        with closing(sqlite3.connect(self._path)) as connection:
            return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]

    def run(self, statement: str, copies: int) -> None:
        """Without a journal: what is lost in a crash of the benchmark is made again."""
        with closing(sqlite3.connect(self._path)) as connection:
            for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
                connection.execute(f"PRAGMA {setting}")
            connection.execute(statement, (copies,))
            connection.commit()

    def finish(self) -> None:
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        os.sync()  # else what is measured first pays for it


class PostgresFiller(Filler):
    numbers = "WITH numbers (n) AS (SELECT generate_series(1, %s))"
    number_text = "lpad(n::text, 26, '0')"

    def __init__(self, url: str) -> None:
        self._url = url

    def columns(self, table: str) -> list[str]:
        with closing(self._connected()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table} LIMIT 0")
            return [column.name for column in cursor.description or ()]

    def run(self, statement: str, copies: int) -> None:
        with closing(self._connected()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, (copies,))

    def finish(self) -> None:
        with closing(self._connected()) as connection, connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
            cursor.execute("CHECKPOINT")

    def _connected(self) -> Any:
        connection = psycopg2.connect(self._url, options="-c search_path=flexdb")
        connection.autocommit = True
        return connection

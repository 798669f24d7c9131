"""Counting rows in a dump's own snapshot while the dump runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.errors import FlexError, TargetBusy
from engines.postgres.catalog import Relation, count_rows, identifier, one
from engines.postgres.connection import Address, cancel, execute, session, translated
from engines.run import Run


class Snapshot:
    """A transaction that holds one moment of the database for others to look at."""

    def __init__(self, opened: Connection, address: Address) -> None:
        self.connection = opened
        self.address = address
        execute(opened, "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        with opened.cursor() as cursor:
            cursor.execute("SELECT pg_export_snapshot()")
            found = cursor.fetchone()
        assert found is not None  # noqa: S101  the function gives one row
        self.name: str = found[0]

    def hold(self, relations: list[Relation]) -> None:
        """Lock tables as readers do, so that nobody alters them between now and their count.

        Later would be too late: a reader queues behind a waiting ALTER, which waits for pg_dump.
        """
        tables = [identifier(item) for item in relations if item.counted]
        try:
            for start in range(0, len(tables), 200):
                names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(name) for name in tables[start : start + 200])
                execute(self.connection, sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))
        except psycopg2.errors.UndefinedTable as error:
            raise TargetBusy("A table was dropped while the backup began.") from error


@contextmanager
def snapshot(address: Address, run: Run) -> Iterator[Snapshot]:
    """Hold one moment of the database; another session may look at it as `snapshot.name` meanwhile."""
    with session(address, run.application_name, seconds=0, stop=run.stop) as opened:
        yield Snapshot(opened, address)


class Count:
    """Rows of relations, counted in a thread of its own; `result` waits for them."""

    def __init__(self, snapshot: Snapshot, relations: list[Relation]) -> None:
        self._snapshot, self._relations = snapshot, relations
        self._counts: dict[int, int] = {}
        self._large_objects = 0
        self._progress = (0, 0)
        self._failure: FlexError | None = None
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="count rows", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._counts = count_rows(self._snapshot.connection, self._relations, self._step)
            self._large_objects = int(one(self._snapshot.connection, "large_object_count"))
        except psycopg2.Error as error:
            self._failure = translated(error, self._snapshot.address)
        except FlexError as error:
            self._failure = error

    def _step(self, done: int, total: int) -> None:
        self._progress = (done, total)
        if self._given_up.is_set():
            raise TargetBusy("counting was given up")

    def result(self, run: Run) -> tuple[dict[int, int], int]:
        """Counts by oid, and how many large objects; raises what went wrong, `Stopped`."""
        while self._thread.is_alive():
            self._thread.join(0.2)
            run.progress("counting rows", *self._progress, unit="tables")
        if self._failure is not None:
            run.stop.check()
            raise self._failure
        return self._counts, self._large_objects

    def give_up(self) -> None:
        """End counting and wait for its end; after `result` it does nothing."""
        self._given_up.set()
        while self._thread.is_alive():
            cancel(self._snapshot.connection)
            self._thread.join(0.2)


@contextmanager
def counting(snapshot: Snapshot, relations: list[Relation]) -> Iterator[Count]:
    """Count while something else runs; left early, counting ends."""
    count = Count(snapshot, relations)
    try:
        yield count
    finally:
        count.give_up()

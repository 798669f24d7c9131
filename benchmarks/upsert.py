"""Upserting 200,000 customers into PostgreSQL, half of them there with another address: ours against other ways."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import queue_peers
from benchmarks.apart import run_apart
from benchmarks.context import Context
from benchmarks.database import autocommitting, empty
from benchmarks.peers.customers import COLUMNS, rows, text
from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn
from benchmarks.unavailable import UnavailableError

FULL, QUICK = 200_000, 10_000
MORE = 5
"""Times as many records for the second look at the memory."""
PAGE = 1000
GROUP = 5000
"""Records that an ingest writes at once."""
LIMIT = "limit: COPY of encoded bytes, no key, unlogged"
COPIED = "COPY to a temporary table, ON CONFLICT"
PSYCOPG3 = "psycopg 3: the same with its own COPY"
VALUES = "psycopg2 execute_values"
BULK, BY_ROW = "SQLAlchemy, 1,000 a statement", "SQLAlchemy by row (sample)"
DLT = "dlt, merge"
WAYS = {
    LIMIT: "limit",
    COPIED: "copied",
    PSYCOPG3: "psycopg3",
    VALUES: "execute_values",
    BULK: "alchemy_bulk",
    BY_ROW: "alchemy_rows",
    DLT: "dlt_merge",
}
ALL, PAGES, GROUPS = "ours, one transaction", "ours, 1,000 a transaction", "ours, 5,000 a transaction"
WHOLE, AGAIN = "ours, staged by 1,000, then one transaction", "ours, the same again: nothing has changed"


@dataclass(slots=True)
class Bench:
    url: str
    count: int
    folder: Callable[[], Path]
    python: Path
    """With the packages of others."""
    log: dict[str, list[int]] = field(default_factory=dict)
    """Bytes of write-ahead log that a contestant caused."""
    peaks: dict[str, int] = field(default_factory=dict)

    def reset(self, count: int | None = None) -> None:
        """Half of the customers are there, at another address; statistics are those autovacuum would have made."""
        half = (count or self.count) // 2
        with autocommitting(self.url) as cursor:
            cursor.execute("DROP SCHEMA IF EXISTS dlt, dlt_staging CASCADE")
            cursor.execute(f"DROP TABLE IF EXISTS customers; CREATE TABLE customers ({COLUMNS})")
            cursor.execute("ALTER TABLE customers ADD PRIMARY KEY (customer_id)")
            cursor.execute("CHECKPOINT")
            for start in range(0, half, FULL):
                block = list(rows(min(start + FULL, half), moved=True))[start:]
                cursor.copy_expert("COPY customers FROM STDIN", io.BytesIO(text(block)))
            cursor.execute("VACUUM ANALYZE customers")

    def other(self, name: str) -> float:
        """Rows per second."""
        self.reset()
        asked = {"way": WAYS[name], "url": self.url, "count": self.count, "folder": str(self.folder())}
        ended = subprocess.run(
            [str(self.python), "-m", "benchmarks.peers.upsert"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        if ended.returncode:
            raise BenchmarkError(f"{name}: {ended.stderr[-2000:]}")
        found = json.loads(ended.stdout.splitlines()[-1])
        if name in (COPIED, PSYCOPG3, VALUES, BULK):
            self._expect_all(name)
        return float(found["rows"]) / float(found["seconds"])

    def ours(self, name: str, *, page: int, whole: bool, fresh: bool = True) -> float:
        if fresh:
            self.reset()
        before = self._written()
        trial = self._apart(self.count, page=page, whole=whole, held=True)
        self.log.setdefault(name, []).append(self._written() - before)
        self._expect_all(name)
        return self.count / trial

    def memory(self, times: int) -> float:
        """Peak of a process that makes the rows page by page and has them written in one transaction."""
        self.reset(self.count * times)
        name = f"{times}"
        self._apart(self.count * times, page=PAGE, whole=True, held=False, name=name)
        return float(self.peaks[name])

    def _apart(self, count: int, *, page: int, whole: bool, held: bool, name: str = "") -> float:
        trial = run_apart("benchmarks.upsert_apart", url=self.url, count=count, page=page, whole=whole, held=held)
        self.peaks[name] = trial.peak
        return trial.seconds

    def _written(self) -> int:
        with autocommitting(self.url) as cursor:
            cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
            return int(cursor.fetchone()[0])

    def _expect_all(self, name: str) -> None:
        with autocommitting(self.url) as cursor:
            cursor.execute("SELECT count(*), count(*) FILTER (WHERE address ~ '^1[0-9]{3} ') FROM customers")
            if cursor.fetchone() != (self.count, 0):
                raise BenchmarkError(f"{name} did not write what it should")


def run(context: Context) -> Result:
    count = QUICK if context.quick else FULL
    notes = [
        "limit: a COPY of bytes encoded before, into a table without key and write-ahead log",
        "every other figure includes the encoding and the commit; half of the customers are there, at another address",
        f"{BY_ROW}: 3,000 rows, of which half are there",
    ]
    with empty() as url:
        bench = Bench(url, count, lambda: context.folder("upsert"), _python(notes))
        others = [LIMIT, COPIED] if bench.python == Path(sys.executable) else list(WAYS)
        variants: dict[str, Callable[[], float]] = {name: _of(bench, name) for name in others}
        variants[ALL] = lambda: bench.ours(ALL, page=count, whole=False)
        variants[PAGES] = lambda: bench.ours(PAGES, page=PAGE, whole=False)
        variants[GROUPS] = lambda: bench.ours(GROUPS, page=GROUP, whole=False)
        variants[WHOLE] = lambda: bench.ours(WHOLE, page=PAGE, whole=True)
        variants[AGAIN] = lambda: bench.ours(AGAIN, page=PAGE, whole=True, fresh=False)
        values = in_turn(variants, context.rounds)
        few, many = bench.memory(1), bench.memory(MORE)
    return Result(
        title=f"Upsert of {count:,} customers into PostgreSQL, half of them there with another address",
        unit="rows/s",
        rows=values,
        baseline=LIMIT,
        goals=(
            Goal(ALL, LIMIT, 0.22, at_least=True),
            Goal(WHOLE, LIMIT, 0.2, at_least=True),
            Goal(ALL, PSYCOPG3, 1.0, at_least=True),
            Goal(ALL, DLT, 8.0, at_least=True),
        ),
        figures=[
            Figure("write-ahead log of the upsert", median(bench.log[WHOLE]) / 1e6, "MB"),
            Figure("the same again, of the first", median(bench.log[AGAIN]) / median(bench.log[WHOLE]), "times", 0.25),
            Figure(f"peak memory, {count:,} records staged", few / 1e6, "MB"),
            Figure(f"{count * MORE:,} records, of that", many / few, "times", 1.25),
        ],
        notes=notes,
    )


def _of(bench: Bench, name: str) -> Callable[[], float]:
    return lambda: bench.other(name)


def _python(notes: list[str]) -> Path:
    """That of the peers; our own, which has psycopg2, when they cannot be had."""
    try:
        return queue_peers.installed()
    except UnavailableError as error:
        notes.append(f"NOT MEASURED: {error}")
        return Path(sys.executable)

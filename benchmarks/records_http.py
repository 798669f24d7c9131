"""Pages of a collection over HTTP, first ones and deep ones, against a bare handler with the same two queries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from benchmarks.context import Context
from benchmarks.database import autocommitting, empty
from benchmarks.generator import generated
from benchmarks.load import Load, Report
from benchmarks.processes import TOKEN, BenchmarkError, Server, flexdb, free_port, running, settings_of
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn, tell

HERE = Path(__file__).parent
CONNECTIONS = 16
ROWS, QUICK_ROWS = 200_000, 20_000
LIMIT = 50
BARE = "aiohttp and psycopg2, plainly"
UNCOUNTED = "the same, without counting"
BARE_DEEP = "the same, the last page but 100"
SERVICE = "flexdb, first page"
DEEP = "flexdb, the last page but 100"
FILL = """
INSERT INTO customers (customer_id, first_name, last_name, email, phone, address, date_of_birth, account_balance,
                       created_at)
SELECT 'CUST' || lpad(id::text, 9, '0'), 'First' || id %% 977, 'Last' || id %% 3571, 'customer' || id || '@example.com',
       '+1-555-' || lpad((id %% 10000)::text, 4, '0'), id || ' Main Street, Springfield',
       date '1950-01-01' + (id %% 20000)::integer, (id %% 1000000)::numeric / 100,
       timestamptz '2026-01-01' + id * interval '1 second'
FROM generate_series(1, %(rows)s) AS id
"""
FIRST = {
    "customer_id": "CUST000000000",
    "first_name": "Ada",
    "last_name": "Lovelace",
    "email": "ada@example.com",
    "account_balance": 1234.50,
}


class Bench:
    """Sends load to one server after the other, and remembers what came of it."""

    def __init__(self, context: Context) -> None:
        self._seconds = 1.5 if context.quick else 4.0
        self.reports: dict[str, list[Report]] = {}

    def load(self, name: str, server: Server, page: int) -> float:
        load = Load(
            port=server.port,
            path=f"/api/customers?page={page}&limit={LIMIT}",
            body="",
            ids="bench-",
            connections=CONNECTIONS,
            warm_up=0.5,
            seconds=self._seconds,
            token=TOKEN,
            method="GET",
        )
        report = generated(name, load)
        if set(report.statuses) != {"200"}:
            raise BenchmarkError(f"{name} answered {report.statuses}, all were to be 200")
        self.reports.setdefault(name, []).append(report)
        return report.per_second


def run(context: Context) -> Result:
    bench, folder, rows = Bench(context), context.folder("records"), QUICK_ROWS if context.quick else ROWS
    deep = rows // LIMIT - 100
    with ExitStack() as stack:
        url = stack.enter_context(empty())
        service = stack.enter_context(flexdb(folder / "service", CONNECTIONS__SHOP=url))
        fill(service, url, rows)
        plain = stack.enter_context(bare(folder / "bare", url))
        uncounted = stack.enter_context(bare(folder / "uncounted", url, BENCH_COUNT="0"))
        same(service, plain, deep)
        variants: dict[str, Callable[[], float]] = {
            BARE: lambda: bench.load(BARE, plain, 1),
            UNCOUNTED: lambda: bench.load(UNCOUNTED, uncounted, 1),
            SERVICE: lambda: bench.load(SERVICE, service, 1),
            BARE_DEEP: lambda: bench.load(BARE_DEEP, plain, deep),
            DEEP: lambda: bench.load(DEEP, service, deep),
        }
        values = in_turn(variants, context.rounds)
    return Result(
        title=f"Pages of {LIMIT} of {rows:,} records: GET /api/customers, {CONNECTIONS} keep-alive connections",
        unit="requests/s",
        rows=values,
        baseline=BARE,
        baselines={DEEP: SERVICE},
        compared=f"ratio to {BARE}; of {DEEP}: to {SERVICE}",
        goals=(Goal(SERVICE, BARE, 0.7, at_least=True), Goal(DEEP, SERVICE, 0.7, at_least=True)),
        figures=[Figure(f"{name}, 99 of 100 within", bench.reports[name][-1].p99 * 1000, "ms") for name in values],
        notes=["A total above 10,000 is counted every five seconds at most; the plain one counts each time."],
    )


def fill(service: Server, url: str, rows: int) -> None:
    """The service makes the table, the database the rows."""
    tell("making the customers")
    service.post("/api/customers", FIRST)
    with autocommitting(url) as cursor:
        cursor.execute(FILL, {"rows": rows - 1})
        cursor.execute("VACUUM ANALYZE customers")


def same(service: Server, plain: Server, deep: int) -> None:
    """Both must give the same records, else the figures mean nothing."""
    for page in (1, deep):
        path = f"/api/customers?page={page}&limit={LIMIT}"
        ours, theirs = service.get(path), plain.get(path)
        for answer in (ours, theirs):
            answer["keys"] = [record["customer_id"] for record in answer.pop("data")]
        if ours != theirs or len(ours["keys"]) != LIMIT:
            raise BenchmarkError(f"page {page} is answered differently: {str(ours)[:300]} {str(theirs)[:300]}")


def bare(folder: Path, url: str, **settings: str) -> AbstractContextManager[Server]:
    folder.mkdir(parents=True)
    port = free_port()
    environment = settings_of(folder) | {"BENCH_URL": url} | settings
    return running([sys.executable, str(HERE / "records_bare.py"), str(port)], port, "/", folder, environment)

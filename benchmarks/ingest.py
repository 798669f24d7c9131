"""An API's records into PostgreSQL, end to end: against the source's own speed, and against a plain loop."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg2
from psycopg2.extras import execute_values

from benchmarks.context import Context
from benchmarks.database import autocommitting, empty
from benchmarks.loops import loop_beside
from benchmarks.processes import BenchmarkError, free_port, running, settings_of
from benchmarks.report import Goal, Result
from benchmarks.rounds import Measure, in_turn
from engines.registry import EngineRegistry
from engines.run import Run, StopToken
from handlers.collections import Collection, parse_collection
from handlers.collections.ready import READY
from handlers.ingest import IngestHandler, IngestRequest, IngestResult
from handlers.supplies import FetchRules, Rejected, Supplies
from service.connections import NamedConnections
from service.fetching import HttpFetcher
from service.outgoing import OutgoingPolicy
from service.tables import OpenTables

ROWS, QUICK_ROWS, LIMIT, IN_FLIGHT = 100_000, 10_000, 500, 8
SOURCE, OURS, AGAIN = "the source's own speed: fetched, thrown away", "ingest", "ingest, nothing has changed"
WHOLE, PLAIN = "ingest, one transaction", "a plain loop: fetch, json, execute_values"
FASTER = 2.0
UPSERT = """
INSERT INTO customers (customer_id, first_name, last_name, email, phone, address, date_of_birth, account_balance)
VALUES %s ON CONFLICT (customer_id) DO UPDATE SET first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name,
    email = EXCLUDED.email, phone = EXCLUDED.phone, address = EXCLUDED.address,
    date_of_birth = EXCLUDED.date_of_birth, account_balance = EXCLUDED.account_balance
"""
COLUMNS = (
    "customer_id", "first_name", "last_name", "email", "phone", "address", "date_of_birth", "account_balance",
)  # fmt: skip


def run(context: Context) -> Result:
    count = QUICK_ROWS if context.quick else ROWS
    with ExitStack() as stack:
        database = stack.enter_context(empty())
        source = stack.enter_context(_source(context.folder("ingest-source"), count))
        loop = stack.enter_context(loop_beside())
        bench = Bench(database, source, count, loop, context.folder("ingest"))
        stack.callback(bench.tables.close)
        bench.ingest()  # whatever is done once is done, and the table made
        variants: dict[str, Measure] = {
            SOURCE: bench.rate(bench.fetch),
            PLAIN: bench.rate(bench.plain, empty=True),
            OURS: bench.rate(bench.ingest, empty=True),
            WHOLE: bench.rate(lambda: bench.ingest(commit="run"), empty=True),
            AGAIN: bench.rate(bench.ingest),
        }
        rows = in_turn(variants, context.rounds)
    return Result(
        title=f"{count:,} customers in pages of {LIMIT} from an API into PostgreSQL, {IN_FLIGHT} requests in flight",
        unit="records/s",
        rows=rows,
        baseline=SOURCE,
        goals=(Goal(OURS, PLAIN, FASTER, at_least=True),),
        notes=["the source is examples/customer_api as a process of its own, on the same processors"],
    )


class Bench:
    """The same pages, the same table, in different hands."""

    def __init__(self, database: str, source: str, count: int, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        engines = EngineRegistry.default()
        connections = NamedConnections({"bench": database}, engines)
        self.tables = OpenTables(connections, engines)
        self._database, self._source, self._count, self._folder = database, source, count, folder
        self._fetcher = HttpFetcher(loop, OutgoingPolicy.of(["127.0.0.1"]))
        nothing = cast(Any, None)  # ingests of URLs use no store, catalogue, stack or cache
        self._handler = IngestHandler(
            Supplies(
                connections=connections,
                stores=nothing,
                catalogue=nothing,
                engines=engines,
                version="0",
                collections=OneCollection(),
                tables=self.tables,
                feeds=nothing,
                fetcher=self._fetcher,
                bookmarks=Forgetful(),
                stacks=nothing,
                cache=nothing,
            )
        )

    def rate(self, work: Callable[[], int], *, empty: bool = False) -> Measure:
        def measure() -> float:
            if empty:
                with autocommitting(self._database) as cursor:
                    cursor.execute("TRUNCATE customers")
                    cursor.execute("CHECKPOINT")
            began = time.perf_counter()
            got = work()
            took = time.perf_counter() - began
            if got != self._count:
                raise BenchmarkError(f"{got} records came, there are {self._count}")
            return got / took

        return measure

    def fetch(self) -> int:
        pages = self._count // LIMIT
        with self._fetcher.session({}, FetchRules(in_flight=IN_FLIGHT), StopToken()) as session:
            asked = [session.get(f"{self._source}?page={page}&limit={LIMIT}") for page in range(1, pages + 1)]
            return sum(len(one.result().body) > LIMIT for one in asked) * LIMIT

    def ingest(self, *, commit: str = "page") -> int:
        source = {"url": f"{self._source}?limit={LIMIT}", "in_flight": IN_FLIGHT}
        request = IngestRequest.model_validate({"collection": "customers", "source": source, "commit": commit})
        result = self._handler.run(request, Run("bench", 1, self._folder)).result
        assert isinstance(result, IngestResult)
        return result.records_processed

    def plain(self) -> int:
        """What one writes by hand: a page after the other, 1,000 rows a statement."""
        done, page = 0, 1
        host, _, path = self._source.removeprefix("http://").partition("/")
        with (
            closing(http.client.HTTPConnection(host, timeout=30)) as api,
            closing(psycopg2.connect(self._database)) as to,
        ):
            while True:
                api.request("GET", f"/{path}?page={page}&limit={LIMIT}")
                answer = json.load(api.getresponse())
                rows = [tuple(one.get(name) for name in COLUMNS) for one in answer["data"]]
                if not rows:
                    return done
                with to, to.cursor() as cursor:
                    execute_values(cursor, UPSERT, rows, page_size=1000)
                done, page = done + len(rows), page + 1
                if done >= answer["total"]:
                    return done


class OneCollection:
    """`Collections` with customers in it."""

    _customers = parse_collection("customers", {**READY["customers"], "connection": "bench"})

    def names(self) -> list[str]:
        return ["customers"]

    def collection(self, name: str) -> Collection:
        return self._customers


class Forgetful:
    """`Bookmarks` that keeps nothing: what the ledger takes is measured elsewhere."""

    def bookmark(self, key: str) -> dict[str, Any] | None:
        return None

    def keep(self, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected] = ()) -> None:
        if rejected:
            raise BenchmarkError(f"{len(rejected)} records were rejected: {rejected[0].reasons}")


@contextmanager
def _source(folder: Path, count: int) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "examples.customer_api", "--port", str(port), "--count", str(count)]
    with running(command, port, "/api/health", folder, settings_of(folder)) as server:
        yield f"http://127.0.0.1:{server.port}/api/customers"

"""Our own upserts, each in a process apart: `python -m benchmarks.upsert_apart`, see `benchmarks.apart`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.apart import asked, report
from benchmarks.peers.customers import Row, rows
from engines.records.base import RecordEngine
from engines.records.fields import Field, Table
from engines.registry import EngineRegistry
from engines.run import Run

CUSTOMERS = Table(
    "customers",
    "customer_id",
    (
        Field("customer_id", "text", required=True, max_length=50),
        Field("first_name", "text", max_length=100),
        Field("last_name", "text", max_length=100),
        Field("email", "text", required=True, max_length=255),
        Field("phone", "text", max_length=50),
        Field("address", "text"),
        Field("date_of_birth", "date"),
        Field("account_balance", "decimal", precision=15, scale=2),
        Field("created_at", "timestamp", stamped=True),
    ),
)


def pages(these: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while page := list(islice(these, size)):
        yield page


def main() -> None:
    """`held`: the rows are there before the clock starts; else they are made page by page, for the memory's sake."""
    known = asked()
    engine = EngineRegistry.default().by_scheme(known["url"])
    assert isinstance(engine, RecordEngine)
    table = engine.open_table(engine.target("bench", known["url"]), CUSTOMERS)
    made = pages(rows(known["count"]), known["page"])
    work = list(made) if known["held"] else made

    with table.writing(Run("bench", 1, Path.cwd()), whole=known["whole"]) as writer:

        def upsert() -> None:
            for page in work:
                writer.write(page)
            writer.finish()

        report(upsert)


if __name__ == "__main__":
    main()

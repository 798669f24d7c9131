"""A ledger made by an earlier version goes on with all it holds: schema 1, filled by hand, is opened by this one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from service.jobs import Status
from service.ledger.base import Ledger
from service.ledger.migrations import known, statements
from service.ledger.postgres import PostgresLedger
from service.ledger.records import Accepted, DeliveryStatus, Rules, Verdict
from service.ledger.sqlite import SQLiteLedger
from tests.conftest import FreshDatabase
from tests.contracts.ledger_world import submission

FIRST = 1
DELIVERED = Verdict(0.0, 200, None, 1.0, DeliveryStatus.DELIVERED)


def rows_of_schema_1() -> list[tuple[str, dict[str, Any]]]:
    """A job that ended with two attempts at its callback, one that waits, and a backup's row."""
    job: dict[str, Any] = {
        "source": "/flexdb/admin",
        "operation": "check",
        "data": "{}",
        "join_digest": "j",
        "claims": "{}",
        "claim_count": 0,
        "lane": "",
        "max_attempts": 3,
        "created_at": 1.0,
        "due_at": 1.0,
    }
    moves = [(None, "queued"), ("queued", "running"), ("running", "succeeded")]
    history: list[dict[str, Any]] = [
        {"job_id": "ended", "seq": n, "at": 1.0, "from_status": a, "to_status": b, "attempt": 1, "token": 1}
        for n, (a, b) in enumerate(moves, 1)
    ]
    terminal: dict[str, Any] = {"event_id": "ended/terminal", "event_type": "check.completed", "event": "{}"}
    delivery: dict[str, Any] = {
        "delivery_id": "d1",
        "job_id": "ended",
        "kind": "callback",
        "destination": "a",
        "url": "http://a/1",
        "host": "a",
        "body": b"{}",
        "attempts": 2,
        "created_at": 1.0,
        "due_at": 1.0,
        "event_id": "ended/terminal",
        "event_type": "check.completed",
    }
    return [
        *(
            ("events", {"source": "/flexdb/admin", "event_id": e, "digest": "d", "job_id": e})
            for e in ("ended", "waits")
        ),
        ("jobs", job | {"job_id": "ended", "event_id": "ended", "status": "succeeded", "ended_at": 2.0, "attempts": 1}),
        ("jobs", job | {"job_id": "waits", "event_id": "waits"}),
        *(("history", row | (terminal if row["seq"] == 3 else {})) for row in history),
        ("history", history[0] | {"job_id": "waits", "attempt": 0, "token": 0}),
        ("deliveries", delivery),
        *(("delivery_attempts", {"delivery_seq": 1, "number": n, "at": 1.0, "milliseconds": 1.0}) for n in (1, 2)),
    ]


def made_with_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements(known("sqlite")[FIRST - 1].sql):
            db.execute(statement)
        db.execute("CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at REAL)")
        db.execute("INSERT INTO schema_migrations VALUES (?, 'first', 0)", (FIRST,))
        for table, row in rows_of_schema_1():
            places = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))
        db.commit()


def made_with_postgres(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA flexdb; SET search_path = flexdb")
        cursor.execute(known("postgres")[FIRST - 1].sql)
        cursor.execute(
            "CREATE TABLE schema_migrations"
            " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at DOUBLE PRECISION NOT NULL)"
        )
        cursor.execute("INSERT INTO schema_migrations VALUES (%s, 'first', 0)", (FIRST,))
        for table, row in rows_of_schema_1():
            places = ", ".join(["%s"] * len(row))
            cursor.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))


@pytest.fixture(params=["sqlite", "postgres"])
def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A ledger of this version, not yet opened, where one of schema 1 lies."""
    rules = Rules(exchange="flexdb.events")
    if request.param == "sqlite":
        made_with_sqlite(tmp_path / "ledger.sqlite")
        return SQLiteLedger(tmp_path / "ledger.sqlite", rules)
    fresh_database: FreshDatabase = request.getfixturevalue("fresh_database")
    url = fresh_database(request.getfixturevalue("postgres15_url"))
    made_with_postgres(url)
    return PostgresLedger(url, rules)


async def test_a_ledger_of_the_first_schema_goes_on_with_all_it_holds(upgraded: Ledger) -> None:
    await upgraded.open()
    try:
        assert [row.to_status for row in await upgraded.history("ended")] == ["queued", "running", "succeeded"]
        repeated = await upgraded.accept(submission("ended", source="/flexdb/admin", operation="check", data={}))
        assert repeated.__class__.__name__ == "IdReused", "its digest was made up"
        (delivery,) = await upgraded.take_deliveries(10, 10, {}, 60.0)
        assert (delivery.url, delivery.transport, len(delivery.log)) == ("http://a/1", "http", 2)
        assert await upgraded.settle_delivery(delivery.delivery_id, DELIVERED)
        (told,) = (await upgraded.deliveries(job_id="ended")).items
        assert [attempt.number for attempt in told.log] == [1, 2, 3]
        (job,) = await upgraded.claim("worker", 5)
        assert job.job_id == "waits"
        assert await upgraded.finish_job("waits", job.fencing_token, Status.SUCCEEDED) is not None
        assert [row.seq for row in await upgraded.history("waits")] == [1, 2, 3]
        messages = await upgraded.take_messages(10, 60.0)
        assert [json.loads(one.body)["type"] for one in messages] == ["check.started", "check.completed"]
        assert isinstance(await upgraded.accept(submission()), Accepted)
    finally:
        await upgraded.close()


async def test_an_upgraded_ledger_is_opened_again_without_a_change(upgraded: Ledger) -> None:
    for _ in range(2):
        await upgraded.open()
        counts = await upgraded.counts()
        await upgraded.close()
        assert (counts["succeeded"], counts["queued"]) == (1, 1)


def test_every_dialect_knows_the_same_schemas() -> None:
    of_sqlite, of_postgres = ([(one.number, one.name) for one in known(name)] for name in ("sqlite", "postgres"))
    assert of_sqlite == of_postgres

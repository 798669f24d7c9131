"""The outbox: events on their way, who gets the next, what came of each attempt; subscriptions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from service.event import OutEvent
from service.jobs import new_id
from service.ledger.base import Delivery, DeliveryStatus, Page, Subscription, Verdict
from service.ledger.cursors import before, encode
from service.ledger.destinations import host_of, matches
from service.ledger.queries import sql
from service.ledger.rows import delivery_of, subscription_of
from service.ledger.writer import Row, Transaction


def announce(tx: Transaction, job_id: str, event: OutEvent, *, terminal: bool) -> None:
    """Queue an event for matching subscriptions; a terminal one for the job's callbacks as well."""
    for row in tx.all(sql.subscriptions):
        subscription = subscription_of(row)
        if matches(subscription.types, event.type):
            _record(tx, job_id, event, "subscription", subscription.name, subscription.url, tx.now)
    if terminal:
        for row in tx.all(sql.callbacks, job_id=job_id):
            url = row["url"]
            _record(tx, job_id, event, "callback", host_of(url), url, tx.now + tx.rules.callback_delay)


def _record(
    tx: Transaction, job_id: str, event: OutEvent, kind: str, destination: str, url: str, due_at: float
) -> None:
    tx.run(
        sql.record_delivery,
        delivery_id=new_id(),
        job_id=job_id,
        event_id=event.id,
        event_type=event.type,
        kind=kind,
        destination=destination,
        url=url,
        host=host_of(url),
        body=event.body,
        now=tx.now,
        due_at=due_at,
    )
    tx.tell("outbox")


def take(
    tx: Transaction, limit: int, per_host: int, busy_hosts: Mapping[str, int], lease_seconds: float
) -> list[Delivery]:
    rows = tx.all(
        sql.take_deliveries,
        now=tx.now,
        limit=limit,
        per_host=per_host,
        busy_hosts=json.dumps(dict(busy_hosts)),
    )
    until = tx.now + lease_seconds
    taken = [tx.one(sql.lease_delivery, seq=row["seq"], due_at=until) for row in rows]
    return with_logs(tx.db, [row for row in taken if row is not None])


def settle(tx: Transaction, delivery_id: str, verdict: Verdict) -> bool:
    delivered = verdict.status is DeliveryStatus.DELIVERED
    row = tx.one(
        sql.settle_delivery,
        delivery_id=delivery_id,
        status=verdict.status.value,
        due_at=tx.now + verdict.retry_after,
        delivered_at=tx.now if delivered else None,
        error=verdict.error,
    )
    if row is None:
        return False
    tx.run(
        sql.record_attempt,
        seq=row["seq"],
        at=verdict.attempt_at,
        http_status=verdict.http_status,
        error=verdict.error,
        milliseconds=verdict.milliseconds,
    )
    return True


def redeliver(tx: Transaction, delivery_id: str) -> Delivery | None:
    row = tx.one(sql.redeliver, delivery_id=delivery_id, now=tx.now)
    if row is None:
        return None
    tx.tell("outbox")
    return with_logs(tx.db, [row])[0]


def with_logs(db: sqlite3.Connection, rows: Sequence[Row]) -> list[Delivery]:
    """Deliveries with every attempt ever made at them."""
    logs: dict[int, list[Row]] = {row["seq"]: [] for row in rows}
    for attempt in db.execute(sql.attempts_of, {"seqs": json.dumps(list(logs))}):
        logs[attempt["delivery_seq"]].append(attempt)
    return [delivery_of(row, logs[row["seq"]]) for row in rows]


def page(db: sqlite3.Connection, job_id: str | None, status: str | None, cursor: str | None, limit: int) -> Page:
    statement = sql.deliveries if job_id is None else sql.deliveries_of_job
    values = {"job_id": job_id, "status": status, "before": before("deliveries", cursor), "limit": limit + 1}
    rows = db.execute(statement, values).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(with_logs(db, rows), encode("deliveries", [rows[-1]["seq"]]) if more else None)


# ---------------------------------------------------------------- subscriptions


def put_subscription(tx: Transaction, name: str, url: str, types: Sequence[str]) -> bool:
    is_new = tx.one(sql.subscription, name=name) is None
    tx.run(sql.put_subscription, name=name, url=url, types=json.dumps(list(types)), now=tx.now)
    return is_new


def delete_subscription(tx: Transaction, name: str) -> bool:
    return tx.run(sql.delete_subscription, name=name) > 0


def subscriptions(db: sqlite3.Connection) -> list[Subscription]:
    return [subscription_of(row) for row in db.execute(sql.subscriptions)]

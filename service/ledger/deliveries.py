"""The outbox: events on their way, who gets the next, what came of each attempt; subscriptions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.event import OutEvent
from service.jobs import ENDED, Status, new_id
from service.ledger.cursors import before, encode
from service.ledger.destinations import REPLY, host_of, matches, reply_parts
from service.ledger.queries import sql
from service.ledger.records import Delivery, DeliveryStatus, Page, Subscription, Transport, Verdict
from service.ledger.rows import Row, delivery_of, storable, subscription_of
from service.ledger.transaction import Session, Transaction


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event of a job; a `terminal` one goes to the job's callbacks as well."""

    job_id: str
    event: OutEvent
    terminal: bool


def announce(tx: Transaction, announcements: Sequence[Announcement]) -> None:
    """Queue events for the exchange and for matching subscriptions, terminal ones for callbacks and replies."""
    if tx.subscriptions is None:
        tx.subscriptions = [subscription_of(row) for row in tx.all(sql.subscriptions)]
    rows = [row for one in announcements for row in _for_everybody(tx, one, tx.subscriptions)]
    rows += _for_callbacks(tx, {one.job_id: one.event for one in announcements if one.terminal})
    if rows:
        tx.insert(sql.record_deliveries, rows)
        tx.tell("outbox")


def _for_everybody(
    tx: Transaction, one: Announcement, subscriptions: Sequence[Subscription]
) -> Iterable[tuple[Any, ...]]:
    if tx.exchange is not None:
        yield _row(tx, one.job_id, one.event, "exchange", tx.exchange, tx.exchange)
    for subscription in subscriptions:
        if matches(subscription.types, one.event.type):
            yield _row(tx, one.job_id, one.event, "subscription", subscription.name, subscription.url)


def _for_callbacks(tx: Transaction, events: Mapping[str, OutEvent]) -> list[tuple[Any, ...]]:
    if not events:
        return []
    waiting = tx.all(sql.callbacks, job_ids=json.dumps(list(events)))
    return [_for_callback(tx, row["job_id"], events[row["job_id"]], row["url"]) for row in waiting]


def _for_callback(tx: Transaction, job_id: str, event: OutEvent, url: str) -> tuple[Any, ...]:
    if url.startswith(REPLY):
        return _row(tx, job_id, event, "reply", reply_parts(url)[0], url)
    return _row(tx, job_id, event, "callback", host_of(url), url, delay=tx.rules.callback_delay)


def _row(
    tx: Transaction, job_id: str, event: OutEvent, kind: str, destination: str, url: str, *, delay: float = 0.0
) -> tuple[Any, ...]:
    transport, host = ("amqp", "") if kind in ("exchange", "reply") else ("http", host_of(url))
    due_at = tx.now + delay
    return (new_id(), job_id, event.id, event.type, transport, kind, destination, url, host, event.body, tx.now, due_at)


def reply_too(tx: Transaction, job_id: str, reply: str) -> None:
    """One more reply to a job's end, at once when it has ended; asked for twice it changes nothing."""
    row = tx.one(sql.job_status, job_id=job_id)
    if row is None or not tx.insert(sql.record_callbacks, [(job_id, reply)]):
        return
    ended = tx.one(sql.terminal_event, job_id=job_id) if Status(row["status"]) in ENDED else None
    if ended is not None:
        event = OutEvent(ended["event_id"], ended["event_type"], ended["event"].encode())
        tx.insert(sql.record_deliveries, [_for_callback(tx, job_id, event, reply)])
        tx.tell("outbox")


# ---------------------------------------------------------------- taking and settling


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
    if not rows:
        return []
    taken = _lease(tx, [row["seq"] for row in rows], lease_seconds)
    return with_logs(tx.session, taken, tx.now)


def take_messages(tx: Transaction, limit: int, lease_seconds: float) -> list[Delivery]:
    rows = tx.all(sql.take_messages, now=tx.now, limit=limit)
    taken = _lease(tx, [row["seq"] for row in rows], lease_seconds) if rows else []
    return [delivery_of(row, taken_at=tx.now) for row in taken]


def _lease(tx: Transaction, seqs: Sequence[int], lease_seconds: float) -> list[Row]:
    """In the order asked for."""
    leased = tx.all(sql.lease_deliveries, seqs=json.dumps(seqs), now=tx.now, due_at=tx.now + lease_seconds)
    turn = {seq: number for number, seq in enumerate(seqs)}
    return sorted(leased, key=lambda row: turn[row["seq"]])


def settle_many(tx: Transaction, settlements: Sequence[tuple[str, Verdict]]) -> list[bool]:
    """False for those that were settled meanwhile, also by an earlier one of `settlements`."""
    first = dict(reversed(settlements))
    rows = tx.all(sql.settle_deliveries, settlements=json.dumps([_settlement(tx, *one) for one in first.items()]))
    attempts = [(row["seq"], row["tries"], *_attempt(first[row["delivery_id"]])) for row in rows]
    tx.insert(sql.record_attempts, attempts)
    settled = {row["delivery_id"] for row in rows}
    answers = []
    for delivery_id, _ in settlements:
        answers.append(delivery_id in settled)
        settled.discard(delivery_id)
    return answers


def _settlement(tx: Transaction, delivery_id: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "delivery_id": delivery_id,
        "status": verdict.status.value,
        "due_at": tx.now + verdict.retry_after,
        "delivered_at": tx.now if verdict.status is DeliveryStatus.DELIVERED else None,
        "error": storable(verdict.error),
    }


def _attempt(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.attempt_at, verdict.http_status, storable(verdict.error), verdict.milliseconds


def redeliver(tx: Transaction, delivery_id: str) -> Delivery | None:
    tx.one(sql.job_of_delivery, delivery_id=delivery_id)
    row = tx.one(sql.redeliver, delivery_id=delivery_id, now=tx.now)
    if row is None:
        return None
    tx.tell("outbox")
    return with_logs(tx.session, [row])[0]


# ---------------------------------------------------------------- reading


def with_logs(session: Session, rows: Sequence[Row], taken_at: float | None = None) -> list[Delivery]:
    """Deliveries with every attempt ever made at them."""
    logs: dict[int, list[Row]] = {row["seq"]: [] for row in rows}
    for attempt in session.all(sql.attempts_of, seqs=json.dumps(list(logs))):
        logs[attempt["delivery_seq"]].append(attempt)
    return [delivery_of(row, logs[row["seq"]], taken_at=taken_at) for row in rows]


def page(
    session: Session, job_id: str | None, status: str | None, cursor: str | None, limit: int, *, started: bool
) -> Page:
    wanted: dict[str, Any] = {"status": status, "started": int(started)}
    wanted |= {"before": before("deliveries", cursor), "limit": limit + 1}
    if job_id is None:
        rows = session.all(sql.deliveries, **wanted)
    else:
        rows = session.all(sql.deliveries_of_job, job_id=job_id, **wanted)
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(with_logs(session, rows), encode("deliveries", [rows[-1]["seq"]]) if more else None)


def next_due(session: Session, transport: Transport) -> float | None:
    row = session.one(sql.next_delivery_due, transport=transport)
    due_at = row["due_at"] if row is not None else None
    return None if due_at is None else max(due_at - session.now(), 0.0)


def pending(session: Session) -> dict[Transport, int]:
    found: dict[Transport, int] = {"http": 0, "amqp": 0}
    found.update({row["transport"]: row["pending"] for row in session.all(sql.pending_deliveries)})
    return found


# ---------------------------------------------------------------- subscriptions


def put_subscription(tx: Transaction, name: str, url: str, types: Sequence[str]) -> bool:
    is_new = tx.one(sql.subscription, name=name) is None
    tx.run(sql.put_subscription, name=name, url=url, types=json.dumps(list(types)), now=tx.now)
    tx.subscriptions = None
    return is_new


def delete_subscription(tx: Transaction, name: str) -> bool:
    tx.subscriptions = None
    return tx.run(sql.delete_subscription, name=name) > 0


def subscriptions(session: Session) -> list[Subscription]:
    return [subscription_of(row) for row in session.all(sql.subscriptions)]

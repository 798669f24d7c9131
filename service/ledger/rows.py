"""Turns rows of a ledger, by column name, into what the interface speaks of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from engines.artefacts.manifest import Manifest
from handlers.ports import CatalogueEntry
from service.jobs import Job, Status
from service.ledger.records import Attempt, Delivery, DeliveryStatus, HistoryEntry, Subscription


class Row(Protocol):
    """A row that is asked by column name, whatever driver it came from."""

    def __getitem__(self, name: str, /) -> Any: ...


def storable(text: str | None) -> str | None:
    """The text as every database keeps it: NUL and lone surrogates, which PostgreSQL refuses, become U+FFFD."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _object(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def job_of(row: Row, taken_at: float = 0.0) -> Job:
    return Job(
        job_id=row["job_id"],
        source=row["source"],
        event_id=row["event_id"],
        operation=row["operation"],
        connection=row["connection"],
        data=json.loads(row["data"]),
        status=Status(row["status"]),
        attempts=row["attempts"],
        crashes=row["crashes"],
        max_attempts=row["max_attempts"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        deadline_at=row["deadline_at"],
        expires_at=row["expires_at"],
        cancel_requested=bool(row["cancel_requested"]),
        fencing_token=row["fencing_token"],
        result=_object(row["result"]),
        error=_object(row["error"]),
        retry_of=row["retry_of"],
        seq=row["seq"],
        taken_at=taken_at,
    )


def history_of(row: Row) -> HistoryEntry:
    return HistoryEntry(
        seq=row["seq"],
        job_id=row["job_id"],
        at=row["at"],
        from_status=row["from_status"],
        to_status=row["to_status"],
        attempt=row["attempt"],
        token=row["token"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        event=row["event"],
    )


def delivery_of(row: Row, attempts: Iterable[Row] = (), *, taken_at: float | None = None) -> Delivery:
    return Delivery(
        delivery_id=row["delivery_id"],
        job_id=row["job_id"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        kind=row["kind"],
        destination=row["destination"],
        url=row["url"],
        host=row["host"],
        body=bytes(row["body"]),
        status=DeliveryStatus(row["status"]),
        attempts=row["attempts"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        delivered_at=row["delivered_at"],
        last_error=row["last_error"],
        log=tuple(attempt_of(attempt) for attempt in attempts),
        taken_at=taken_at,
    )


def attempt_of(row: Row) -> Attempt:
    return Attempt(row["number"], row["at"], row["http_status"], row["error"], row["milliseconds"])


def subscription_of(row: Row) -> Subscription:
    return Subscription(row["name"], row["url"], tuple(json.loads(row["types"])), row["created_at"])


def entry_of(row: Row) -> CatalogueEntry:
    return CatalogueEntry(
        manifest=Manifest.model_validate_json(row["manifest"]),
        store=row["store"],
        folder=row["folder"],
        level=row["level"],
        damaged=bool(row["damaged"]),
        listed=bool(row["listed"]),
    )


def entry_values(entry: CatalogueEntry) -> dict[str, Any]:
    """The columns of a catalogue row."""
    manifest = entry.manifest
    return {
        "backup_id": manifest.backup_id,
        "connection": manifest.connection,
        "ended_at": manifest.ended_at.timestamp(),
        "labels": json.dumps({name: storable(value) for name, value in manifest.labels.items()}),
        "manifest": manifest.model_dump_json(),
        "store": entry.store,
        "folder": entry.folder,
        "level": entry.level,
        "damaged": int(entry.damaged),
        "listed": int(entry.listed),
    }

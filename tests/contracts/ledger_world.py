"""What ledger tests are made of: a clock set by hand, submissions, manifests, a ledger with shortcuts."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from engines.artefacts.manifest import Manifest, StoredFile, Verification
from handlers.base import Claim
from handlers.ports import CatalogueEntry
from service.event import canonical, digest, join_digest
from service.jobs import Job, Status, new_id
from service.ledger.base import Ledger
from service.ledger.queries import sql
from service.ledger.records import Accepted, Delivery, DeliveryStatus, Rules, Submission, Verdict
from service.ledger.sql_ledger import SQLLedger

OpenLedger = Callable[..., Awaitable[Ledger]]
"""`await open_ledger(clock, rules)`: one more ledger on the same store; the one before counts as dead."""

_numbers = itertools.count(1)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def submission(event_id: str | None = None, *, target: str | None = None, **fields: Any) -> Submission:
    """A backup request; `target` gives it an exclusive claim."""
    operation = fields.pop("operation", "backup")
    data = fields.pop("data", {"connection": "shop"})
    if target is not None:
        fields.setdefault("claims", (Claim(f"target:{target}", "exclusive"),))
    return Submission(
        job_id=fields.pop("job_id", new_id()),
        source=fields.pop("source", "/flexdb/default"),
        event_id=event_id or f"event-{next(_numbers)}",
        operation=operation,
        connection=fields.pop("connection", data.get("connection")),
        data=canonical(data),
        digest=digest(operation, data),
        join_digest=join_digest(operation, data),
        **fields,
    )


def verdict(status: DeliveryStatus, *, at: float = 0.0, retry_after: float = 0.0, http: int = 200) -> Verdict:
    error = None if status is DeliveryStatus.DELIVERED else f"answered {http}"
    return Verdict(at, http, error, 12.5, status, retry_after)


def entry(
    backup_id: str, *, connection: str = "shop", level: int = 2, ended: float = 1_700_000_000.0, **fields: Any
) -> CatalogueEntry:
    at = datetime.fromtimestamp(ended, UTC)
    manifest = Manifest(
        backup_id=backup_id,
        job_id="job",
        event_id="event",
        connection=connection,
        engine="sqlite",
        database="/data/shop.sqlite",
        server_version="3.40.1",
        flexdb_version="0.1.0",
        options=fields.pop("options", {}),
        labels=fields.pop("labels", {}),
        started_at=at,
        ended_at=at,
        seconds=0.0,
        consistency="one read transaction",
        counts="exact",
        objects=(),
        files=(
            StoredFile(
                name="shop.sqlite.zst",
                format="sqlite-database",
                compression="zstd",
                raw_bytes=10,
                raw_sha256="a" * 64,
                bytes=5,
                sha256="b" * 64,
            ),
        ),
        verification=Verification(level=level, at=at),
    )
    return CatalogueEntry(manifest, "default", f"{connection}/{backup_id}", level, **fields)


@dataclass
class World:
    """A ledger and its clock."""

    ledger: Ledger
    clock: FakeClock
    rules: Rules
    reopen: Callable[..., Awaitable[World]]
    worker: str = field(default_factory=lambda: f"worker-{new_id()}")

    async def accepted(self, event_id: str | None = None, **fields: Any) -> str:
        """A new job's id."""
        answer = await self.ledger.accept(submission(event_id, **fields))
        assert isinstance(answer, Accepted) and not answer.duplicate
        return answer.job_id

    async def claim(self, limit: int = 10) -> list[Job]:
        return await self.ledger.claim(self.worker, limit)

    async def running(self, event_id: str | None = None, **fields: Any) -> Job:
        job_id = await self.accepted(event_id, **fields)
        claimed = {job.job_id: job for job in await self.claim()}
        return claimed[job_id]

    async def ended(self, status: Status = Status.SUCCEEDED, **fields: Any) -> Job:
        job = await self.running(**fields)
        done = await self.ledger.finish_job(job.job_id, job.fencing_token, status)
        assert done is not None
        return done

    async def forbid_moves(self, job_id: str) -> None:
        """From now on every move of a running job fails: the history row it would write is there already."""
        assert isinstance(self.ledger, SQLLedger)
        row = (job_id, 3, self.clock.now, "running", "queued", 1, 1, None, None, None)
        await self.ledger._write(lambda tx: tx.insert(sql.record_transitions, [row]))

    async def job(self, job_id: str) -> Job:
        found = await self.ledger.job(job_id)
        assert found is not None
        return found

    async def moves(self, job_id: str) -> list[tuple[str | None, str]]:
        return [(row.from_status, row.to_status) for row in await self.ledger.history(job_id)]

    async def take(self, limit: int = 100, per_host: int = 100, busy: dict[str, int] | None = None) -> list[Delivery]:
        return await self.ledger.take_deliveries(limit, per_host, busy or {}, 60.0)

    async def deliveries_of(self, job_id: str) -> list[Delivery]:
        return list((await self.ledger.deliveries(job_id=job_id)).items)

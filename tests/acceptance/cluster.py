"""Several replicas of the service on one PostgreSQL ledger, one storage and one RabbitMQ, each a process of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extras import RealDictCursor

from tests.acceptance.broker import AWAY, Broker
from tests.acceptance.cluster_audit import Report, count
from tests.acceptance.service_process import READY_SECONDS, REPLICA, RunningService, until
from tests.journal import Journal
from tests.servers import with_database

LEASE_SECONDS = 3.0
CLUSTER: Mapping[str, str] = {
    "FLEXDB_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "FLEXDB_HEARTBEAT_SECONDS": "0.5",
    "FLEXDB_DRAIN_SECONDS": "10",
    "FLEXDB_WEBHOOK_TIMEOUT": "5",
    "FLEXDB_WEBHOOK_SCHEDULE": "0.2,0.2,0.5,0.5,1,1,1,1,2,2,2,2,2,5,5,5,5,5,5",
}
"""Beside `QUICK`: a dead replica is noticed soon."""


@dataclass(frozen=True, slots=True)
class Backing:
    """What the replicas share."""

    ledger_url: str
    broker: Broker | None = None
    connections: Mapping[str, str] = field(default_factory=dict)
    storage_url: str | None = None


class Cluster:
    """Replicas by name, none of them started yet."""

    def __init__(self, folder: Path, backing: Backing) -> None:
        self.folder = folder
        self.backing = backing
        self.journal = Journal(folder / "journal")
        self.replicas: dict[str, RunningService] = {}
        self.inbox = ""
        """A queue in RabbitMQ that is told of every event from the first start on."""
        self.frozen: set[str] = set()
        """Jobs whose replica was stopped past its lease: by the journal two were at work, though one did nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, name: str) -> RunningService:
        return self.replicas[name]

    @property
    def broker(self) -> Broker:
        assert self.backing.broker is not None, "this cluster has no RabbitMQ"
        return self.backing.broker

    # -- life

    def add(self, name: str, *, role: str = "all", settings: Mapping[str, str] | None = None) -> RunningService:
        """A replica, not started."""
        own = dict(CLUSTER) | {
            "FLEXDB_ROLE": role,
            "FLEXDB_LEDGER_URL": self.backing.ledger_url,
            "FLEXDB_STORAGE_URL": self.backing.storage_url or str(self.folder / "storage"),
            "FLEXDB_TEST_JOURNAL": str(self.journal.path),
        }
        if self.backing.broker is not None:
            own |= {"FLEXDB_AMQP_URL": self.broker.url, "FLEXDB_AMQP_NAME": self.broker.name}
        connections = dict(self.backing.connections) or {"self": self.backing.ledger_url}
        service = RunningService(self.folder / name, connections, own | dict(settings or {}), command=REPLICA)
        self.replicas[name] = service
        return service

    def start(self, *names: str) -> Cluster:
        """Start those (all) that do not run, at the same moment; returns when they take events."""
        chosen = [self.replicas[name] for name in names or self.replicas if not self.replicas[name].alive]
        for service in chosen:
            service.launch()
        for service in chosen:
            until(service.is_ready, READY_SECONDS)
        until(self.all_listen, READY_SECONDS)
        if self.backing.broker is not None and not self.inbox:
            until(self.broker.is_set_up, READY_SECONDS, pause=0.1)
            self.inbox = self.broker.make_inbox()
        return self

    def all_listen(self) -> bool:
        """Whether all that run hear of each other's work; before that they would find it by looking now and then."""
        found = self.rows(
            "SELECT count(*) AS listeners FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'flexdb ledger%' AND query LIKE 'LISTEN%'"
        )
        return bool(found[0]["listeners"] >= sum(service.alive for service in self.replicas.values()))

    def kill(self, name: str) -> None:
        """SIGKILL to one, noted in the journal."""
        service, at = self[name], time.monotonic()
        service.kill()
        self.journal.note_killed(service.process.pid, at)

    def close(self) -> None:
        for name, service in self.replicas.items():
            service.close()
            print(f"--- the log of {name} ({service.log})\n{service.last_words()}")

    # -- looking

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Straight from the ledger's tables."""
        options = "-c search_path=flexdb"
        with (
            closing(psycopg2.connect(self.backing.ledger_url, options=options)) as ledger,
            ledger.cursor(cursor_factory=RealDictCursor) as cursor,
        ):
            cursor.execute(query, parameters or None)
            return [dict(row) for row in cursor.fetchall()]

    def change(self, statement: str, *parameters: Any) -> None:
        """Behind the service's back."""
        options = "-c search_path=flexdb"
        with (
            closing(psycopg2.connect(self.backing.ledger_url, options=options)) as ledger,
            ledger,  # commits
            ledger.cursor() as cursor,
        ):
            cursor.execute(statement, parameters)

    def job(self, job_id: str) -> dict[str, Any]:
        """The row of a job."""
        return self.rows("SELECT * FROM jobs WHERE job_id = %s", job_id)[0]

    def job_ids(self) -> list[str]:
        """All jobs, oldest first; none when the ledger was never opened."""
        with suppress(psycopg2.errors.UndefinedTable):
            return [row["job_id"] for row in self.rows("SELECT job_id FROM jobs ORDER BY seq")]
        return []

    def history(self, job_id: str) -> list[tuple[str, int]]:
        """The states a job entered, each with the fencing token it carried."""
        found = self.rows("SELECT to_status, token FROM history WHERE job_id = %s ORDER BY seq", job_id)
        return [(row["to_status"], row["token"]) for row in found]

    def runner(self, job_id: str, seconds: float = 20.0) -> str:
        """Name of the replica at work on a job, as soon as there is one."""

        def look() -> str | None:
            worker = self.job(job_id)["worker_id"] or ""
            found = [name for name, pid in self.pids().items() if f"/{pid}/" in worker]
            return found[0] if found and self.job(job_id)["status"] == "running" else None

        return until(look, seconds)

    def pids(self) -> dict[str, int]:
        """Process ids of the replicas that were started."""
        return {name: service.process.pid for name, service in self.replicas.items() if service.started}

    def freeze(self, job_id: str) -> RunningService:
        """SIGSTOP to the replica at work on a job, past its lease as the caller promises; that replica."""
        self.frozen.add(job_id)
        service = self[self.runner(job_id)]
        service.suspend()
        return service

    def others(self, name: str) -> list[str]:
        return [other for other in self.replicas if other != name]

    def settled(self, promised: Iterable[str] = (), seconds: float = 60.0) -> None:
        """Returns when every job has ended and nothing is on its way any more.

        `promised` are ids of events the ledger must have first: a message that RabbitMQ has handed out and the ledger
        has not, because it was away, is neither in the queue nor a job.
        """
        wanted = set(promised)

        def all_taken_in() -> bool:
            return wanted <= {row["event_id"] for row in self.rows("SELECT event_id FROM events")}

        if wanted:
            until(all_taken_in, seconds, pause=0.1)

        def look() -> bool:
            row = self.rows(
                "SELECT (SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')) "
                "+ (SELECT count(*) FROM deliveries WHERE status = 'pending') AS open"
            )[0]
            return int(row["open"]) == 0

        until(look, seconds, pause=0.1)

    def told_of(self, stage: str) -> set[str]:
        """Jobs whose event of that stage came into the inbox; takes all out that is there."""
        return {each.event["jobid"] for each in self.broker.read(self.inbox) if each.routing_key.endswith(f".{stage}")}

    def audit(self, promised: Iterable[str] = ()) -> Report:
        """Nothing lost, nothing doubled, or the test fails; the counts are printed."""
        report = count(self.backing.ledger_url, self.journal, promised, self.frozen)
        print(report.text())
        if report.found:
            print(self.rows("SELECT kind, status, last_error, count(*) FROM deliveries GROUP BY 1, 2, 3"))
        assert not report.found, report.found
        return report


# ---------------------------------------------------------------- with everything it needs


@contextmanager
def open_cluster(
    folder: Path,
    postgres_url: str,
    *,
    amqp: str | None = None,
    connections: Mapping[str, str] | None = None,
    storage_url: str | None = None,
) -> Iterator[Cluster]:
    """A fresh ledger database on that server and, given a RabbitMQ's URL, a fresh name there; both are gone after."""
    database = f"flexdb_ledger_{secrets.token_hex(6)}"
    broker = Broker(amqp, f"flexdbtest.{secrets.token_hex(6)}") if amqp else None
    _on(postgres_url, "CREATE DATABASE {} TEMPLATE template0", database)
    cluster = Cluster(folder, Backing(with_database(postgres_url, database), broker, connections or {}, storage_url))
    try:
        yield cluster
    finally:
        cluster.close()
        if broker is not None:
            with suppress(*AWAY):  # an own server may be gone already
                broker.remove()
        with suppress(psycopg2.OperationalError):
            _on(postgres_url, "DROP DATABASE IF EXISTS {} WITH (FORCE)", database)


def _on(server: str, statement: str, database: str) -> None:
    with closing(psycopg2.connect(server)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(database)))

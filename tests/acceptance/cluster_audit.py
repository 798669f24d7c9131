"""Counts, past the service and straight from the ledger's tables and the journal, whether anything was lost or doubled.

`python -m tests.acceptance.cluster_audit LEDGER_URL [--journal FILE] [--promised FILE]`; a line of the file of
promises is the id of an event that was answered 202 or acknowledged. Ends with 1 when a fault was counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from tests.journal import Journal, Stretch, overlaps

TERMINAL = "('succeeded', 'failed', 'canceled')"
COUNTS: Mapping[str, str] = {
    "events": "SELECT count(*) FROM events",
    "jobs": "SELECT count(*) FROM jobs",
    "succeeded": "SELECT count(*) FROM jobs WHERE status = 'succeeded'",
    "failed": "SELECT count(*) FROM jobs WHERE status = 'failed'",
    "canceled": "SELECT count(*) FROM jobs WHERE status = 'canceled'",
    "attempts": "SELECT count(*) FROM history WHERE to_status = 'running'",
    "attempts lost in a crash": "SELECT coalesce(sum(crashes), 0) FROM jobs",
    "terminal events": f"SELECT count(*) FROM history WHERE to_status IN {TERMINAL} AND event IS NOT NULL",
    "deliveries": "SELECT count(*) FROM deliveries",
    "delivered": "SELECT count(*) FROM deliveries WHERE status = 'delivered'",
}
FAULTS: Mapping[str, str] = {
    "events without a job": "SELECT count(*) FROM events e WHERE NOT EXISTS "
    "(SELECT 1 FROM jobs j WHERE j.job_id = e.job_id)",
    "jobs without an event": "SELECT count(*) FROM jobs j WHERE NOT EXISTS "
    "(SELECT 1 FROM events e WHERE e.job_id = j.job_id)",
    "events that made two jobs": "SELECT count(*) FROM (SELECT 1 FROM jobs GROUP BY source, event_id "
    "HAVING count(*) > 1) AS twice",
    "jobs that have not ended": f"SELECT count(*) FROM jobs WHERE status NOT IN {TERMINAL}",
    "jobs without exactly one terminal event": "SELECT count(*) FROM jobs j WHERE 1 <> (SELECT count(*) FROM history h "
    f"WHERE h.job_id = j.job_id AND h.to_status IN {TERMINAL} AND h.event_id = j.job_id || '/terminal' "
    "AND h.to_status = j.status AND h.event IS NOT NULL)",
    "ends that another attempt than the last wrote": "SELECT count(*) FROM jobs j JOIN history h USING (job_id) "
    "WHERE h.to_status IN ('succeeded', 'failed') AND h.token <> j.fencing_token",
    "history without a job": "SELECT count(*) FROM history h WHERE NOT EXISTS "
    "(SELECT 1 FROM jobs j WHERE j.job_id = h.job_id)",
    "transitions that do not follow the one before": "SELECT count(*) FROM (SELECT from_status, lag(to_status) "
    "OVER (PARTITION BY job_id ORDER BY seq) AS before FROM history) steps WHERE from_status IS DISTINCT FROM before",
    "fencing tokens given out twice": "SELECT count(*) FROM (SELECT 1 FROM history WHERE to_status = 'running' "
    "GROUP BY token HAVING count(*) > 1) AS twice",
    "claims of jobs that do not run": "SELECT count(*) FROM claims c WHERE NOT EXISTS "
    "(SELECT 1 FROM jobs j WHERE j.job_id = c.job_id AND j.status = 'running')",
    "events twice to one destination": "SELECT count(*) FROM (SELECT 1 FROM deliveries "
    "GROUP BY event_id, kind, url, destination HAVING count(*) > 1) AS twice",
    "deliveries that were given up": "SELECT count(*) FROM deliveries WHERE status = 'abandoned'",
}


@dataclass(slots=True)
class Report:
    """What was counted; `faults` holds every kind looked for, most of them at zero."""

    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def found(self) -> dict[str, int]:
        """The faults that were found."""
        return {name: number for name, number in self.faults.items() if number}

    def text(self) -> str:
        width = max(len(name) for name in (*self.counts, *self.faults))
        lines = [f"{name:<{width}}  {number:>8}" for name, number in self.counts.items()]
        lines += [
            f"{name:<{width}}  {number:>8}{'   <-- FAULT' if number else ''}" for name, number in self.faults.items()
        ]
        return "\n".join(lines)


def count(
    ledger_url: str, journal: Journal | None = None, promised: Iterable[str] = (), frozen: Iterable[str] = ()
) -> Report:
    """Look at everything. Jobs should have ended and deliveries be on their way no more.

    `frozen` are jobs whose attempts may overlap in the journal, since one of them stood still.
    """
    report = Report()
    with closing(psycopg2.connect(ledger_url, options="-c search_path=flexdb -c timezone=UTC")) as ledger:
        for name, query in COUNTS.items():
            report.counts[name] = _number(ledger, query)
        for name, query in FAULTS.items():
            report.faults[name] = _number(ledger, query)
        _count_promises(report, ledger, set(promised))
        if journal is not None:
            _count_work(report, ledger, journal.stretches(), set(frozen))
    return report


def _number(ledger: Connection, query: str) -> int:
    with ledger.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _count_promises(report: Report, ledger: Connection, promised: set[str]) -> None:
    with ledger.cursor() as cursor:
        cursor.execute("SELECT event_id FROM events")
        known = {event_id for (event_id,) in cursor}
    report.counts["events promised"] = len(promised)
    report.faults["events promised and lost"] = len(promised - known)


def _count_work(report: Report, ledger: Connection, worked: list[Stretch], frozen: set[str]) -> None:
    with ledger.cursor() as cursor:
        cursor.execute("SELECT job_id, token FROM history WHERE to_status = 'running'")
        given = set(cursor.fetchall())
        cursor.execute("SELECT job_id, fencing_token FROM jobs WHERE status = 'succeeded' AND operation = 'sleep'")
        succeeded = set(cursor.fetchall())
    done = {(each.job_id, each.token) for each in worked if each.how == "done"}
    report.counts["attempts in the journal"] = len(worked)
    report.counts["killed at work"] = sum(each.how == "killed" for each in worked)
    report.faults["attempts at work at once on one key"] = len(
        overlaps(each for each in worked if each.job_id not in frozen)
    )
    report.faults["attempts the ledger never gave out"] = len({(each.job_id, each.token) for each in worked} - given)
    report.faults["successes without the work"] = len(succeeded - done)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ledger_url")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--promised", type=Path)
    asked = parser.parse_args(arguments)
    promised = asked.promised.read_text().split() if asked.promised else ()
    report = count(asked.ledger_url, Journal(asked.journal) if asked.journal else None, promised)
    print(report.text())
    return 1 if report.found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The audit itself: each kind of loss or doubling it looks for is counted when it is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.acceptance.cluster_audit import FAULTS, Report, count, main
from tests.journal import Journal

TABLES = """
CREATE TABLE events (source text, event_id text, job_id text);
CREATE TABLE jobs (job_id text, source text, event_id text, operation text, status text, fencing_token int,
    crashes int DEFAULT 0);
CREATE TABLE history (job_id text, seq int, from_status text, to_status text, token int, event_id text, event text);
CREATE TABLE claims (key text, job_id text);
CREATE TABLE deliveries (event_id text, kind text, url text, destination text, status text);
INSERT INTO events VALUES ('/s', 'e', 'j');
INSERT INTO jobs VALUES ('j', '/s', 'e', 'sleep', 'succeeded', 1);
INSERT INTO history VALUES ('j', 1, NULL, 'queued', 0, NULL, NULL), ('j', 2, 'queued', 'running', 1, NULL, NULL),
    ('j', 3, 'running', 'succeeded', 1, 'j/terminal', '{}');
INSERT INTO deliveries VALUES ('j/terminal', 'callback', 'http://x', 'x', 'delivered');
"""
"""The ledger's tables without any of the rules that keep faults out, and one job in them that is as it should be."""

FAULTY: dict[str, str] = {
    "events without a job": "INSERT INTO events VALUES ('/s', 'e2', 'gone')",
    "jobs without an event": "DELETE FROM events",
    "events that made two jobs": "INSERT INTO jobs VALUES ('j2', '/s', 'e', 'sleep', 'canceled', 0)",
    "jobs that have not ended": "UPDATE jobs SET status = 'queued'",
    "jobs without exactly one terminal event": "INSERT INTO history VALUES "
    "('j', 4, 'running', 'succeeded', 1, 'j/terminal', '{}')",
    "ends that another attempt than the last wrote": "UPDATE jobs SET fencing_token = 2",
    "history without a job": "INSERT INTO history VALUES ('gone', 1, NULL, 'queued', 0, NULL, NULL)",
    "transitions that do not follow the one before": "DELETE FROM history WHERE seq = 2",
    "fencing tokens given out twice": "INSERT INTO history VALUES ('j', 4, 'succeeded', 'running', 1, NULL, NULL)",
    "claims of jobs that do not run": "INSERT INTO claims VALUES ('k', 'j')",
    "events twice to one destination": "INSERT INTO deliveries SELECT * FROM deliveries",
    "deliveries that were given up": "UPDATE deliveries SET status = 'abandoned'",
}

Execute = Callable[[str], None]


@pytest.fixture
def ledger(postgres15_url: str, fresh_database: Callable[[str], str]) -> str:
    url = fresh_database(postgres15_url)
    execute(url, TABLES)
    return url


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal")
    journal.note("begin", job_id="j", token=1, key="k")
    journal.note("end", job_id="j", token=1, key="k", how="done")
    return journal


def execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as opened, opened, opened.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS flexdb; SET search_path = flexdb")
        cursor.execute(statement)


def test_a_ledger_as_it_should_be_has_no_fault(ledger: str, journal: Journal) -> None:
    report = count(ledger, journal, ["e"])
    assert report.found == {}
    assert (report.counts["events"], report.counts["attempts"], report.counts["delivered"]) == (1, 1, 1)


def test_every_fault_that_is_looked_for_is_tried_here() -> None:
    assert set(FAULTY) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_in_the_tables_is_counted(ledger: str, fault: str) -> None:
    execute(ledger, FAULTY[fault])
    assert count(ledger).found[fault] == 1


def test_a_promise_that_was_not_kept_is_counted(ledger: str) -> None:
    assert count(ledger, None, ["e", "lost"]).found == {"events promised and lost": 1}


def test_what_only_the_journal_knows_is_counted(ledger: str, journal: Journal) -> None:
    journal.note("begin", job_id="j", token=2, key="k")
    journal.note("begin", job_id="j", token=3, key="k")
    execute(ledger, "UPDATE jobs SET fencing_token = 9")
    found = count(ledger, journal).found
    assert found["attempts at work at once on one key"] == 1
    assert found["attempts the ledger never gave out"] == 2
    assert found["successes without the work"] == 1


def test_the_program_prints_the_counts_and_ends_with_1_at_a_fault(
    ledger: str, journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "promised").write_text("e\n")
    arguments = [ledger, "--journal", str(journal.path), "--promised", str(tmp_path / "promised")]
    assert main(arguments) == 0
    assert "FAULT" not in capsys.readouterr().out
    (tmp_path / "promised").write_text("e\nlost\n")
    assert main(arguments) == 1
    assert "events promised and lost" in next(
        line for line in capsys.readouterr().out.splitlines() if line.endswith("FAULT")
    )


def test_the_report_names_every_count() -> None:
    report = Report({"events": 3}, {"lost": 0, "twice": 2})
    assert report.text() == "events         3\nlost           0\ntwice          2   <-- FAULT"

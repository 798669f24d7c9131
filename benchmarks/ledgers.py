"""Looks into a ledger from outside, with SQL: what is on disk, and when it came to be there."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.database import autocommitting
from benchmarks.processes import BenchmarkError


def answers(ledger_url: str | None, folder: Path, question: str) -> list[tuple[Any, ...]]:
    """Rows. Without a URL the ledger is the SQLite file of the service in `folder`."""
    if ledger_url is None:
        with closing(sqlite3.connect(f"file:{folder}/home/ledger.sqlite", uri=True)) as ledger:
            return ledger.execute(question).fetchall()
    with autocommitting(ledger_url) as cursor:
        cursor.execute("SET search_path TO flexdb")
        cursor.execute(question)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def audited(name: str, ledger_url: str | None, folder: Path, promised: int) -> str:
    """Compare promises with rows, after `kill -9`. Raises `BenchmarkError` when they differ."""
    ((events, jobs),) = answers(ledger_url, folder, "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM jobs)")
    if not events == jobs == promised:
        raise BenchmarkError(f"{name}: {promised} were accepted, but {events} events and {jobs} jobs in the ledger")
    return f"audit after kill -9, {name}: {promised:,} accepted, {events:,} events and {jobs:,} jobs on disk"


def until_all_ended(name: str, ledger_url: str | None, folder: Path, seconds: float = 120) -> None:
    """Wait for the last job. Raises `BenchmarkError` after `seconds`."""
    end = time.monotonic() + seconds
    while (open_jobs := answers(ledger_url, folder, "SELECT count(*) FROM jobs WHERE ended_at IS NULL")[0][0]) > 0:
        if time.monotonic() > end:
            raise BenchmarkError(f"{name}: {open_jobs} jobs have not ended within {seconds:g} s")
        time.sleep(0.05)

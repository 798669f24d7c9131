"""Ending database sessions: those of a dead attempt of a job, or all on one database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.errors import FlexError, TargetBusy, TargetMissing
from engines.postgres.catalog import QUERIES
from engines.postgres.connection import Address, connect, rows, using
from engines.run import Run

SEEN_GONE_SECONDS = 15.0
MAINTENANCE_DATABASES = ("postgres", "template1")


@contextmanager
def maintenance(address: Address, run: Run | None, *, seconds: float = 60) -> Iterator[Connection]:
    """A session on the server but not on the target database: `postgres`, `template1`, else the URL's own."""
    name = run.application_name if run else "flexdb"
    other = [database for database in MAINTENANCE_DATABASES if database != address.database]
    opened = _first_that_opens([address.with_database(database) for database in (*other, address.database)], name)
    with using(opened, address, seconds=seconds, stop=run.stop if run else None):
        yield opened


def _first_that_opens(addresses: list[Address], name: str) -> Connection:
    """Raises what the first one said when none opens; a missing database says the least."""
    failures: list[FlexError] = []
    for address in addresses:
        try:
            return connect(address, name)
        except FlexError as error:
            failures.append(error)
    raise next((error for error in failures if not isinstance(error, TargetMissing)), failures[0])


def end_older(address: Address, run: Run) -> None:
    """End sessions of earlier attempts of this job, anywhere on the server, and see them gone.

    Raises `TargetBusy` when they do not go in time, or belong to a role whose sessions we may not end.
    """
    with maintenance(address, run) as opened:
        deadline = time.monotonic() + SEEN_GONE_SECONDS
        while older := _older(opened, run):
            for pid, name in older:
                _end(opened, pid, name)
            if time.monotonic() > deadline:
                raise TargetBusy(f"{len(older)} session(s) of an earlier attempt are still there.")
            run.stop.check()
            threading.Event().wait(0.05)


def end_own(address: Address, run: Run) -> None:
    """After a failure: end what tools of this attempt left running, a backend deep in a statement, say."""
    with maintenance(address, None) as opened:
        for pid, name in rows(opened, QUERIES["sessions_named"], (run.application_name,)):
            if name == run.application_name:
                _end(opened, pid, name)


def _older(opened: Connection, run: Run) -> list[tuple[int, str]]:
    found = rows(opened, QUERIES["sessions_named"], (f"flexdb/{run.job_id}/",))
    return [(pid, name) for pid, name in found if _token(name) < run.token]


def _token(application_name: str) -> int:
    text = application_name.rsplit("/", 1)[-1]
    return int(text) if text.isdigit() else 0


def _end(opened: Connection, pid: int, name: str) -> None:
    try:
        rows(opened, QUERIES["end_session"], (pid, name))
    except psycopg2.errors.InsufficientPrivilege:
        return  # the caller sees that it is still there


@contextmanager
def ending_sessions(address: Address, database: str, run: Run) -> Iterator[None]:
    """While inside, every session on `database` is ended again and again, so that it can be renamed.

    Raises `AccessDenied` when we may not end somebody's session.
    """
    done = threading.Event()
    with maintenance(address, run) as opened:
        rows(opened, QUERIES["end_sessions_on"], (database,))

        def go_on() -> None:
            try:
                while not done.wait(0.05):
                    rows(opened, QUERIES["end_sessions_on"], (database,))
            except psycopg2.Error:
                return  # the rename fails then, and says so

        thread = threading.Thread(target=go_on, name="ending sessions", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

"""What only the SQLite ledger promises: its file survives, is private, has one user, guards itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from handlers.base import Claim
from service.jobs import Status
from service.ledger import sqlite as sqlite_ledger
from service.ledger.migrations import known, statements
from service.ledger.queries import Queries, sql
from service.ledger.records import Accepted, LedgerInUse, LedgerUnavailable, Rules
from service.ledger.sqlite import SQLiteLedger
from service.ledger.sqlite_file import connect_reader, connect_writer
from tests.contracts.ledger_world import submission

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.sqlite"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[SQLiteLedger]:
    opened = SQLiteLedger(path, Rules())
    await opened.open()
    yield opened
    await opened.close()


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of this project whose output is read line by line."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


# ---------------------------------------------------------------- durability

ACCEPT_FOREVER = """
    import asyncio, sys, structlog, logging
    from pathlib import Path
    from service.ledger.records import Rules
    from service.ledger.sqlite import SQLiteLedger
    from tests.contracts.ledger_world import submission
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    async def main():
        ledger = SQLiteLedger(Path(sys.argv[1]), Rules())
        await ledger.open()
        async def one():
            while True:
                asked = submission(target="shop", callback_url="http://a/1")
                print((await ledger.accept(asked)).job_id, flush=True)
        await asyncio.gather(*(one() for _ in range(16)))

    asyncio.run(main())
"""


@pytest.mark.parametrize("told", [1, 40, 700])
async def test_every_acceptance_that_was_told_survives_kill_9(path: Path, told: int) -> None:
    with child(ACCEPT_FOREVER, str(path)) as process:
        assert process.stdout is not None
        reported = [process.stdout.readline().strip() for _ in range(told)]
        process.send_signal(signal.SIGKILL)
        reported += [line.strip() for line in process.stdout if line.endswith("\n")]
    reopened = SQLiteLedger(path, Rules())
    await reopened.open()
    try:
        assert len(set(reported)) >= told
        assert await reopened.known_jobs(reported) == set(reported)
        assert len(await reopened.history(reported[-1])) == 1
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (events,) = db.execute("SELECT count(*) FROM events").fetchone()
            assert (events,) == db.execute("SELECT count(*) FROM jobs").fetchone()
        db.close()
    finally:
        await reopened.close()


async def test_the_journal_is_a_wal_with_a_sync_per_commit(path: Path) -> None:
    path.parent.mkdir()
    db = connect_writer(path)
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    reader = connect_reader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("CREATE TABLE t (x)")
    reader.close()
    db.close()


async def test_files_can_be_read_by_their_owner_only(ledger: SQLiteLedger, path: Path) -> None:
    await ledger.accept(submission())
    files = sorted(path.parent.iterdir())
    assert [file.name.removeprefix("ledger.sqlite") for file in files] == ["", "-shm", "-wal", ".lock"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


FULL_DISK = """
    import asyncio, resource, sys, structlog, logging
    from pathlib import Path
    from service.ledger.records import Accepted, LedgerUnavailable, Rules
    from service.ledger.sqlite import SQLiteLedger
    from tests.contracts.ledger_world import submission
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    def room(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    async def main():
        ledger = SQLiteLedger(Path(sys.argv[1]), Rules())
        await ledger.open()
        room(1_000_000)
        data = {"connection": "shop", "labels": {"x": "x" * 1000}}
        accepted, refused = [], 0
        while refused < 48:
            answers = await asyncio.gather(
                *(ledger.accept(submission(data=data)) for _ in range(16)),
                return_exceptions=True,
            )
            for answer in answers:
                if isinstance(answer, Accepted):
                    accepted.append(answer.job_id)
                else:
                    assert isinstance(answer, LedgerUnavailable), answer
                    refused += 1
        room(1)
        try:
            await ledger.ping()
            print("ping answered on a full disk")
        except LedgerUnavailable:
            pass
        room(resource.RLIM_INFINITY)
        await ledger.ping()
        accepted.append((await ledger.accept(submission())).job_id)
        assert await ledger.known_jobs(accepted) == set(accepted)
        assert await ledger.live_jobs() == set(accepted), "a refused event left a job"
        assert len(await ledger.claim("worker", 5)) == 5
        await ledger.close()
        print("recovered", len(accepted) > 16)

    asyncio.run(main())
"""


def test_a_full_disk_refuses_and_the_ledger_recovers_when_there_is_room(path: Path) -> None:
    with child(FULL_DISK, str(path)) as process:
        output, _ = process.communicate(timeout=60)
    assert output == "recovered True\n"
    assert process.returncode == 0


class ImpatientLedger(SQLiteLedger):
    BUSY_SECONDS = 0.05


async def test_a_locked_file_refuses_and_the_ledger_recovers(path: Path) -> None:
    ledger = ImpatientLedger(path, Rules())
    await ledger.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answers = await asyncio.gather(ledger.accept(submission("e1")), ledger.claim("worker", 1), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LedgerUnavailable, LedgerUnavailable]
    assert await ledger.live_jobs() == set()
    other.execute("ROLLBACK")
    other.close()
    assert isinstance(await ledger.accept(submission("e1")), Accepted)
    await ledger.close()


async def test_a_closed_ledger_is_unavailable(path: Path) -> None:
    ledger = SQLiteLedger(path, Rules())
    with pytest.raises(LedgerUnavailable):
        await ledger.accept(submission())
    await ledger.open()
    waiting = [asyncio.ensure_future(ledger.accept(submission())) for _ in range(20)]
    await asyncio.sleep(0)
    await ledger.close()
    assert all(isinstance(answer, Accepted) for answer in await asyncio.gather(*waiting)), "what waited is written"
    with pytest.raises(LedgerUnavailable):
        await ledger.job("x")
    await ledger.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["ledger.sqlite", "ledger.sqlite.lock"]


# ---------------------------------------------------------------- one process

HOLD_OPEN = """
    import asyncio, sys
    from pathlib import Path
    from service.ledger.records import Rules
    from service.ledger.sqlite import SQLiteLedger

    async def main():
        await SQLiteLedger(Path(sys.argv[1]), Rules()).open()
        print("open", flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
"""


async def test_a_second_process_is_refused_and_told_who_has_the_ledger(path: Path) -> None:
    with child(HOLD_OPEN, str(path)) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "open\n":  # log lines come first
            assert process.poll() is None
        with pytest.raises(LedgerInUse, match=rf"{path} is in use by process {process.pid}"):
            await SQLiteLedger(path, Rules()).open()
        process.kill()
    ledger = SQLiteLedger(path, Rules())
    await ledger.open()
    await ledger.close()


async def test_a_refused_opening_leaves_the_holder_alone(ledger: SQLiteLedger, path: Path) -> None:
    second = SQLiteLedger(path, Rules())
    with pytest.raises(LedgerInUse, match=str(os.getpid())):
        await second.open()
    await second.close()
    with pytest.raises(LedgerInUse):
        await second.open()
    assert isinstance(await ledger.accept(submission()), Accepted)


# ---------------------------------------------------------------- schema


async def test_an_empty_file_becomes_a_ledger_and_a_second_start_changes_nothing(path: Path) -> None:
    for _ in range(2):
        ledger = SQLiteLedger(path, Rules())
        await ledger.open()
        await ledger.close()
    with sqlite3.connect(path) as db:
        applied = [number for (number,) in db.execute("SELECT number FROM schema_migrations ORDER BY number")]
    db.close()
    assert applied == [migration.number for migration in known("sqlite")] == list(range(1, len(applied) + 1))


async def test_a_schema_of_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    ledger = SQLiteLedger(path, Rules())
    await ledger.open()
    await ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO schema_migrations VALUES (999, 'from_the_future', 0)")
    db.close()
    with pytest.raises(LedgerUnavailable, match="schema 999"):
        await ledger.open()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM schema_migrations WHERE number = 999")
    db.close()
    await ledger.open()  # the refused opening gave the lock back
    await ledger.close()


async def test_a_file_that_is_no_database_is_unavailable(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerUnavailable):
        await SQLiteLedger(path, Rules()).open()


def test_migrations_end_with_their_statements() -> None:
    assert list(statements("CREATE TABLE a (x);\nCREATE TABLE b (x);\n")) == [
        "CREATE TABLE a (x);\n",
        "CREATE TABLE b (x);\n",
    ]
    with pytest.raises(ValueError, match="middle of a statement"):
        list(statements("CREATE TABLE a (x"))


# ---------------------------------------------------------------- what the database itself refuses


async def refused(path: Path, statement: str) -> str:
    """What the database says to a statement that must not succeed, whoever runs it."""
    db = sqlite3.connect(path)
    try:
        with pytest.raises(sqlite3.IntegrityError) as caught:
            db.execute(statement)
        return str(caught.value)
    finally:
        db.close()


async def test_history_can_only_grow(ledger: SQLiteLedger, path: Path) -> None:
    await ledger.accept(submission())
    assert "append-only" in await refused(path, "UPDATE history SET at = 0")
    assert "append-only" in await refused(path, "DELETE FROM history")


async def test_the_database_refuses_what_the_rules_forbid(ledger: SQLiteLedger, path: Path) -> None:
    done = submission(target="shop")
    await ledger.accept(done)
    (job,) = await ledger.claim("worker", 1)
    both = "INSERT INTO claims (key, mode, job_id, fencing_token) VALUES ('target:shop', '{}', 'other', 1)"
    assert "claimed by another" in await refused(path, both.format("exclusive"))
    assert "claimed by another" in await refused(path, both.format("shared"))
    unknown = """
        INSERT INTO jobs (job_id, source, event_id, operation, data, join_digest, claims, claim_count, lane,
            status, max_attempts, created_at, due_at)
        VALUES ('x', 's', 'e', 'backup', '{}', '', '{}', 0, '', 'lost', 3, 0, 0)
    """
    assert "CHECK" in await refused(path, unknown)
    await ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
    again = "UPDATE jobs SET status = 'running', lease_until = 1, ended_at = NULL"
    assert "cannot move that way" in await refused(path, again)
    second_end = """
        INSERT INTO history (job_id, seq, at, to_status, attempt, token)
        SELECT job_id, 99, 0, 'failed', 1, 1 FROM jobs
    """
    assert "UNIQUE" in await refused(path, second_end)
    same_event = "INSERT INTO events (source, event_id, digest, job_id) SELECT source, event_id, '', '' FROM events"
    assert "UNIQUE" in await refused(path, same_event)


async def test_two_exclusive_claims_on_one_key_are_refused_by_an_index_as_well(
    ledger: SQLiteLedger, path: Path
) -> None:
    await ledger.accept(submission(claims=(Claim("k", "exclusive"),)))
    await ledger.claim("worker", 1)
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER claims_shared_against_exclusive")
    db.commit()
    db.close()
    twice = "INSERT INTO claims (key, mode, job_id, fencing_token) VALUES ('k', 'exclusive', 'other', 1)"
    assert "UNIQUE" in await refused(path, twice)


# ---------------------------------------------------------------- speed that must not be lost


async def test_claiming_past_ten_thousand_jobs_of_a_busy_target_stays_quick(ledger: SQLiteLedger) -> None:
    await asyncio.gather(*(ledger.accept(submission(target="busy")) for _ in range(10_000)))
    free = submission(target="free")
    await ledger.accept(free)
    (busy,) = await ledger.claim("worker", 1)
    assert busy.job_id != free.job_id
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    db = connect_reader(ledger.path)
    db.set_progress_handler(count, 100)
    rows = db.execute(sql.claimable_jobs.sqlite, {"now": 1e12, "limit": 4}).fetchall()
    db.close()
    assert [row["job_id"] for row in rows] == [free.job_id]
    assert steps < 20, f"{steps} times 100 steps: the query walks through the busy target's jobs"


async def test_taking_deliveries_past_ten_thousand_of_one_host_stays_quick(ledger: SQLiteLedger) -> None:
    pending = """
        INSERT INTO deliveries (delivery_id, job_id, event_id, event_type, transport, kind, destination, url, host,
            body, created_at, due_at)
        VALUES (?, 'j', 'e', 't', 'http', 'callback', 'd', 'u', ?, x'', 0, 0)
    """
    rows = [(f"d{n}", "slow" if n < 10_000 else "quick") for n in range(10_001)]
    db = connect_writer(ledger.path)
    db.execute("BEGIN")
    db.executemany(pending, rows)
    db.execute("COMMIT")
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    db.set_progress_handler(count, 100)
    wanted = {"now": 1.0, "limit": 20, "per_host": 16, "busy_hosts": "{}"}
    taken = db.execute(sql.take_deliveries.sqlite, wanted).fetchall()
    db.close()
    assert len(taken) == 17
    assert steps < 40, f"{steps} times 100 steps: the query walks through one host's deliveries"


# ---------------------------------------------------------------- named queries


def test_every_named_query_is_used_and_every_used_one_exists() -> None:
    folder = Path(sqlite_ledger.__file__).parent
    code = "\n".join(file.read_text() for file in folder.glob("*.py"))
    unused = [name for name in sql.names() if f"sql.{name}" not in code]
    assert unused == []
    with pytest.raises(AttributeError, match="no query 'nothing'"):
        _ = sql.nothing


def test_two_queries_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two queries are called a"):
        Queries("-- name: a\n-- One.\nSELECT 1\n\n-- name: a\n-- Two.\nSELECT 2\n")


def test_each_query_has_a_description_above_it() -> None:
    lines = (Path(sqlite_ledger.__file__).parent / "queries.sql").read_text().splitlines()
    names = [number for number, line in enumerate(lines) if line.startswith("-- name:")]
    assert [lines[number] for number in names if not lines[number + 1].startswith("-- ")] == []

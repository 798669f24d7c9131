"""Several processes on one PostgreSQL ledger, each played by a ledger of its own: what they must never do together."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from handlers.base import Claim
from service.jobs import Job, Status, new_id
from service.ledger.base import Ledger
from service.ledger.migrations import known
from service.ledger.postgres import PostgresLedger
from service.ledger.postgres_address import shown
from service.ledger.postgres_session import PAYLOAD, PostgresSession, Refusal, changes_of, payloads
from service.ledger.queries import sql
from service.ledger.records import (
    Accepted,
    Busy,
    CancelOutcome,
    Change,
    DeliveryStatus,
    InvalidLedgerURL,
    LedgerUnavailable,
    Rules,
    Submission,
    Verdict,
)
from service.ledger.registry import ledger_file
from tests.conftest import FreshDatabase, LentLedger
from tests.contracts.ledger_world import submission
from tests.servers import new_database

Open = Callable[..., Awaitable[PostgresLedger]]


@pytest.fixture
def url(postgres15_url: str, lent_ledger: LentLedger) -> str:
    """A ledger's database as the migrations leave it."""
    return lent_ledger(postgres15_url)


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def another(**rules: Any) -> PostgresLedger:
            ledger = PostgresLedger(url, Rules(**rules))
            await ledger.open()
            stack.push_async_callback(ledger.close)
            return ledger

        yield another


def ask(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """One statement by hand, as an administrator would."""
    with closing(psycopg2.connect(url, options="-c search_path=flexdb")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


async def until(state: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not state():
            await asyncio.sleep(0.01)


async def accept(ledger: Ledger, one: Submission) -> Accepted:
    answer = await ledger.accept(one)
    assert isinstance(answer, Accepted)
    return answer


# ---------------------------------------------------------------- starting together


async def test_ten_that_start_on_an_empty_database_migrate_it_once(
    postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    url = fresh_database(postgres15_url)
    async with AsyncExitStack() as stack:
        ledgers = [PostgresLedger(url, Rules()) for _ in range(10)]
        for ledger in ledgers:
            stack.push_async_callback(ledger.close)
        await asyncio.gather(*(ledger.open() for ledger in ledgers))
        await asyncio.gather(*(accept(ledger, submission()) for ledger in ledgers))
        numbers = [number for (number,) in ask(url, "SELECT number FROM schema_migrations ORDER BY number")]
        assert numbers == [migration.number for migration in known("postgres")]
        assert sum((await ledgers[0].counts()).values()) == 10


async def test_a_ledger_of_a_later_version_is_refused(url: str, opened: Open) -> None:
    await opened()
    ask(url, "INSERT INTO schema_migrations VALUES (9999, 'from_the_future', 0)")
    with pytest.raises(LedgerUnavailable, match="start the newer version"):
        await opened()


async def test_a_server_that_does_not_answer_is_told_without_the_password(opened: Open) -> None:
    ledger = PostgresLedger("postgresql://flexdb:s3cr3t@127.0.0.1:1/ledger", Rules())
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:1/ledger") as refused:
        await ledger.open()
    assert "s3cr3t" not in str(refused.value)


# ---------------------------------------------------------------- intake


async def test_the_same_events_on_two_at_once_make_one_job_each(opened: Open) -> None:
    first, second = await opened(), await opened()
    ids = [f"e{number}" for number in range(300)]
    answers = await asyncio.gather(
        *(accept(first, submission(event_id)) for event_id in ids),
        *(accept(second, submission(event_id)) for event_id in reversed(ids)),
    )
    jobs = Counter(answer.job_id for answer in answers)
    assert len(jobs) == 300 and set(jobs.values()) == {2}
    assert sum(answer.duplicate for answer in answers) == 300
    assert (await first.counts())["queued"] == 300


async def test_joins_asked_for_at_once_on_two_end_in_one_job(opened: Open) -> None:
    ledgers = [await opened() for _ in range(2)]
    for number in range(30):
        data = {"connection": "shop", "number": number}
        asked = [submission(data=data, on_conflict="join", callback_url=f"http://a/{side}") for side in range(2)]
        answers = await asyncio.gather(*(accept(ledger, one) for ledger, one in zip(ledgers, asked, strict=True)))
        assert len({answer.job_id for answer in answers}) == 1, number
        assert sorted(answer.joined for answer in answers) == [False, True]


async def test_rejections_asked_for_at_once_on_two_let_one_in(opened: Open) -> None:
    ledgers = [await opened() for _ in range(2)]
    for number in range(30):
        answers = await asyncio.gather(
            *(ledger.accept(submission(target=f"t{number}", on_conflict="reject")) for ledger in ledgers)
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["Accepted", "Busy"], number
        assert {answer.job_id for answer in answers if isinstance(answer, Accepted | Busy)}


async def test_one_that_joins_while_the_job_ends_elsewhere_is_told_in_every_case(opened: Open) -> None:
    here, there = await opened(), await opened()
    for number in range(30):
        data = {"connection": "shop", "number": number}
        await accept(here, submission(data=data, on_conflict="join"))
        (job,) = await here.claim("worker", 1)
        joined, _ = await asyncio.gather(
            accept(there, submission(data=data, on_conflict="join", callback_url="http://late/x")),
            here.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED),
        )
        if joined.job_id == job.job_id:
            assert [one.url for one in (await here.deliveries(job_id=job.job_id)).items] == ["http://late/x"]
        else:
            (own,) = await there.claim("worker", 1)
            await there.finish_job(own.job_id, own.fencing_token, Status.SUCCEEDED)


async def test_the_queue_limit_counts_what_the_others_took_in(opened: Open) -> None:
    first, second = await opened(queue_limit=20), await opened(queue_limit=20)
    for _ in range(20):
        await accept(first, submission())

    async def refused() -> bool:
        return type(await second.accept(submission())).__name__ == "QueueFull"

    async with asyncio.timeout(10):
        while not await refused():
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------- claims and leases


async def test_claims_made_at_once_never_share_a_job_nor_a_target(opened: Open) -> None:
    ledgers = [await opened() for _ in range(3)]
    for number in range(120):
        await accept(ledgers[0], submission(target=f"t{number % 12}" if number % 2 else None))
    taken: list[Job] = []
    for _ in range(4):
        found = await asyncio.gather(*(ledger.claim(f"w{n}", 7) for n, ledger in enumerate(ledgers)))
        taken += [job for jobs in found for job in jobs]
    assert len({job.job_id for job in taken}) == len(taken)
    running = Counter(json.dumps(claims) for (claims,) in _claims_of_running(ledgers[0]))
    assert all(number == 1 for claims, number in running.items() if claims != "{}")


def _claims_of_running(ledger: PostgresLedger) -> list[tuple[Any, ...]]:
    rows = ask(ledger._url, "SELECT claims FROM jobs WHERE status = 'running'")
    return [(json.loads(claims),) for (claims,) in rows]


async def test_shared_and_exclusive_claims_taken_at_once_exclude_each_other(url: str, opened: Open) -> None:
    ledgers = [await opened() for _ in range(2)]
    for number in range(25):
        key = f"backup:b{number}"
        await accept(ledgers[0], submission(claims=(Claim(key, "shared"),)))
        await accept(ledgers[1], submission(claims=(Claim(key, "exclusive"),)))
        await asyncio.gather(*(ledger.claim(f"w{n}", 5) for n, ledger in enumerate(ledgers)))
        modes = {mode for (mode,) in ask(url, "SELECT mode FROM claims WHERE key = %s", key)}
        assert len(modes) == 1, modes
        for (job_id,) in ask(url, "SELECT job_id FROM jobs WHERE status IN ('queued', 'running')"):
            job = await ledgers[0].job(job_id)
            assert job is not None
            await ledgers[0].finish_job(job_id, job.fencing_token, Status.SUCCEEDED)
            await ledgers[0].request_cancel(job_id)


def test_the_database_itself_refuses_two_claims_that_exclude_each_other(url: str) -> None:
    asyncio.run(_made(url))
    insert = "INSERT INTO claims (key, mode, job_id, fencing_token) VALUES ('k', %s, %s, 1)"
    with (
        closing(psycopg2.connect(url, options="-c search_path=flexdb")) as one,
        closing(psycopg2.connect(url, options="-c search_path=flexdb -c lock_timeout=300ms")) as other,
    ):
        one.cursor().execute(insert, ("exclusive", "a"))
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            other.cursor().execute(insert, ("shared", "b"))  # it waits for what becomes of the first
        other.rollback()
        one.commit()
        with pytest.raises(psycopg2.errors.ExclusionViolation):
            other.cursor().execute(insert, ("shared", "b"))


async def _made(url: str) -> None:
    ledger = PostgresLedger(url, Rules())
    await ledger.open()
    await ledger.close()


async def test_a_lost_lease_is_reaped_by_another_and_the_late_end_is_refused(opened: Open) -> None:
    slow, quick = await opened(lease_seconds=0.2), await opened(lease_seconds=0.2)
    await accept(slow, submission(target="shop"))
    (job,) = await slow.claim("slow", 1)
    async with asyncio.timeout(10):
        while not await quick.reap():
            await asyncio.sleep(0.02)
    (again,) = await quick.claim("quick", 1)
    assert again.job_id == job.job_id and again.fencing_token > job.fencing_token and again.crashes == 1
    assert await slow.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED) is None
    assert not (await slow.renew("slow", {job.job_id: job.fencing_token}))[job.job_id].held
    assert await quick.finish_job(again.job_id, again.fencing_token, Status.SUCCEEDED) is not None


async def test_two_that_reap_at_once_move_a_job_once(opened: Open) -> None:
    ledgers = [await opened(lease_seconds=0.05) for _ in range(2)]
    for _ in range(40):
        await accept(ledgers[0], submission())
    taken = await ledgers[0].claim("gone", 40)
    await asyncio.sleep(0.06)
    moved = await asyncio.gather(*(ledger.reap() for ledger in ledgers))
    assert sum(moved) == 40
    for job in taken:
        found = await ledgers[0].job(job.job_id)
        assert found is not None and found.crashes == 1


async def test_cancels_asked_for_while_the_job_moves_are_never_lost(opened: Open) -> None:
    here, there = await opened(), await opened()
    for _ in range(30):
        accepted = await accept(here, submission())
        outcome, taken = await asyncio.gather(there.request_cancel(accepted.job_id), here.claim("w", 1))
        if outcome is CancelOutcome.CANCELED:
            assert taken == []
        else:
            assert outcome is CancelOutcome.REQUESTED
            beat = await here.renew("w", {taken[0].job_id: taken[0].fencing_token})
            assert beat[taken[0].job_id].cancel_requested
            await here.finish_job(taken[0].job_id, taken[0].fencing_token, Status.CANCELED)


async def test_a_process_stopped_inside_a_transaction_does_not_keep_its_locks(url: str, opened: Open) -> None:
    ledger = await opened()
    accepted = await accept(ledger, submission())
    frozen = ledger._session("frozen")
    frozen.begin()
    frozen._cursor.execute("SET idle_in_transaction_session_timeout = '200ms'")  # shorter than the ledger's own
    frozen._cursor.execute("SELECT * FROM jobs FOR UPDATE")
    assert await ledger.request_cancel(accepted.job_id) is CancelOutcome.CANCELED
    frozen.close()


# ---------------------------------------------------------------- hints


LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'flexdb ledger listener' AND query LIKE 'LISTEN%' AND state = 'idle'"
)


async def test_what_one_commits_the_others_hear_of(url: str, opened: Open) -> None:
    teller, hearer = await opened(), await opened()
    await until(lambda: len(ask(url, LISTENERS)) == 2)
    heard: list[Change] = []
    hearer.watch(heard.append)
    accepted = await accept(teller, submission(callback_url="http://a/1"))
    (job,) = await teller.claim("w", 1)
    await teller.tell_progress(job.job_id, {"done": 1})
    await teller.request_cancel(job.job_id)
    await teller.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
    wanted = {
        Change("queue"),
        Change("job", accepted.job_id),
        Change("cancel", accepted.job_id),
        Change("outbox"),
        Change("progress", accepted.job_id, '{"done": 1}'),
    }
    await until(lambda: wanted <= set(heard))


async def test_nobody_hears_its_own_hints_twice(url: str, opened: Open) -> None:
    ledger, other = await opened(), await opened()
    await until(lambda: len(ask(url, LISTENERS)) == 2)
    heard: list[Change] = []
    ledger.watch(heard.append)
    own = await accept(ledger, submission())
    await ledger.claim("here", 1)
    theirs = await accept(other, submission())
    await other.claim("there", 1)
    await until(lambda: Change("job", theirs.job_id) in heard)
    assert heard.count(Change("job", own.job_id)) == heard.count(Change("job", theirs.job_id)) == 1


async def test_a_listener_whose_connection_is_killed_hears_again(url: str, opened: Open) -> None:
    teller, hearer = await opened(), await opened()
    heard: list[Change] = []
    hearer.watch(heard.append)
    await until(lambda: len(ask(url, LISTENERS)) == 2)
    ask(url, f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) AS listeners")
    async with asyncio.timeout(15):
        while Change("job", "there") not in heard:
            await teller._write(lambda tx: tx.tell("job", "there"))
            await asyncio.sleep(0.05)
    assert Change("outbox") in heard, "what was missed meanwhile is looked for"


def test_hints_fit_into_notifications_whatever_their_number() -> None:
    changes = [Change("job", new_id()) for _ in range(2000)]
    texts = list(payloads("me", changes))
    assert len(texts) > 1 and max(map(len, texts)) < PAYLOAD + 200
    assert [change for text in texts for change in changes_of(text, "you")] == changes
    assert [change for text in texts for change in changes_of(text, "me")] == []


# ---------------------------------------------------------------- trouble


async def test_killed_connections_are_replaced_and_nothing_that_was_answered_is_lost(url: str, opened: Open) -> None:
    ledger = await opened()
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'flexdb ledger%'"
    )
    accepted: list[str] = []

    async def load() -> None:
        for _ in range(300):
            try:
                accepted.append((await accept(ledger, submission())).job_id)
            except LedgerUnavailable:
                await asyncio.sleep(0.01)

    async def unrest() -> None:
        for _ in range(6):
            await asyncio.to_thread(ask, url, kill)
            await asyncio.sleep(0.1)

    await asyncio.gather(*(load() for _ in range(4)), unrest())
    await accept(ledger, submission())
    assert len(accepted) > 300
    assert await ledger.known_jobs(accepted) == set(accepted)


async def test_a_database_that_became_read_only_is_unavailable_and_not_a_fault_of_the_caller(
    url: str, opened: Open
) -> None:
    ledger = await opened()
    ask(url, f'ALTER DATABASE "{url.rpartition("/")[2]}" SET default_transaction_read_only = on')
    ask(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'flexdb ledger jobs'",
    )
    with pytest.raises(LedgerUnavailable):
        await ledger.accept(submission())


async def test_a_database_told_not_to_wait_for_the_disk_is_overruled(url: str, opened: Open) -> None:
    ask(url, f'ALTER DATABASE "{url.rpartition("/")[2]}" SET synchronous_commit = off')
    ledger = await opened()
    session = ledger._session("test")
    session._cursor.execute("SELECT current_setting('synchronous_commit')")
    assert [value for (value,) in session._cursor.fetchall()] == ["on"]
    session.close()


async def test_deadlocks_with_others_are_solved_by_trying_again(url: str, opened: Open) -> None:
    ledgers = [await opened() for _ in range(2)]
    jobs = [(await accept(ledgers[0], submission())).job_id for _ in range(2)]

    async def both(ledger: PostgresLedger, order: list[str]) -> int:
        tries = 0

        def lock(tx: Any) -> int:
            nonlocal tries
            tries += 1
            for job_id in order:
                tx.session._cursor.execute("SELECT 1 FROM jobs WHERE job_id = %s FOR UPDATE", (job_id,))
                tx.session._cursor.execute("SELECT pg_sleep(0.3)")
            return tries

        return await ledger._write(lock)

    tries = await asyncio.gather(both(ledgers[0], jobs), both(ledgers[1], jobs[::-1]))
    assert sorted(tries)[-1] > 1, "they did not meet"


async def test_deliveries_are_taken_by_one_relay_only(opened: Open) -> None:
    ledgers = [await opened(exchange="events", callback_delay=0.0) for _ in range(3)]
    for number in range(60):
        await accept(ledgers[0], submission(callback_url=f"http://h{number % 3}/x"))
    for job in await ledgers[0].claim("w", 60):
        await ledgers[0].finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
    messages = await asyncio.gather(*(ledger.take_messages(100, 60.0) for ledger in ledgers))
    calls = await asyncio.gather(*(ledger.take_deliveries(100, 100, {}, 60.0) for ledger in ledgers))
    taken = [one.delivery_id for batch in (*messages, *calls) for one in batch]
    assert len(taken) == len(set(taken)) == 60 * 2 + 60
    done = Verdict(0.0, 200, None, 1.0, DeliveryStatus.DELIVERED)
    settled = await asyncio.gather(*(ledgers[n % 3].settle_delivery(one, done) for n, one in enumerate(taken * 2)))
    assert settled.count(True) == len(taken), "each was settled once"


async def test_a_worker_that_knows_no_rabbitmq_still_writes_events_down_for_it(opened: Open) -> None:
    early, knowing, late = await opened(), await opened(exchange="events"), await opened()
    await asyncio.sleep(early.RECOUNT_SECONDS)
    for ledger in (early, knowing, late):
        accepted = await accept(ledger, submission())
        (job,) = await ledger.claim("w", 1)
        await ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
        kinds = [one.kind for one in (await ledger.deliveries(job_id=accepted.job_id)).items]
        assert kinds == ["exchange", "exchange"]


async def test_a_lock_that_lasts_makes_the_ledger_unavailable_and_blames_no_operation(url: str, opened: Open) -> None:
    ledger = await opened()
    ledger._parts.jobs.COLLISIONS = 1  # waiting once tells as much as five times
    job_id = (await accept(ledger, submission())).job_id
    (job,) = await ledger.claim("w", 1)
    with closing(psycopg2.connect(url, options="-c search_path=flexdb")) as other:
        other.cursor().execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        outcomes = await asyncio.gather(
            ledger.accept(submission()),
            ledger.finish_job(job_id, job.fencing_token, Status.SUCCEEDED),
            ledger.renew("w", {job_id: job.fencing_token}),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable] * 3
    assert await ledger.finish_job(job_id, job.fencing_token, Status.SUCCEEDED) is not None


async def test_progress_too_long_to_be_told_of_fails_no_commit(opened: Open) -> None:
    ledger = await opened()
    accepted, _ = await asyncio.gather(
        accept(ledger, submission()), ledger.tell_progress("job", {"text": "\U0001f418" * 4000})
    )
    assert await ledger.job(accepted.job_id) is not None


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_a_database_with_another_isolation_by_default_makes_no_difference(
    url: str, opened: Open, level: str
) -> None:
    ask(url, f"ALTER DATABASE \"{url.rpartition('/')[2]}\" SET default_transaction_isolation = '{level}'")
    ledgers = [await opened() for _ in range(2)]

    async def work(ledger: PostgresLedger) -> None:
        for _ in range(40):
            await accept(ledger, submission(target="t"))
            for job in await ledger.claim("w", 2):
                await ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
            await ledger.next_due()

    await asyncio.gather(*(work(ledger) for ledger in ledgers for _ in range(2)))


async def test_what_is_redelivered_while_the_sweep_is_at_it_is_not_swept(url: str, opened: Open) -> None:
    sweeping, other = await opened(callback_delay=0.0), await opened(callback_delay=0.0)
    job_id = (await accept(sweeping, submission(callback_url="http://a/1"))).job_id
    (job,) = await sweeping.claim("w", 1)
    await sweeping.finish_job(job_id, job.fencing_token, Status.SUCCEEDED)
    (taken,) = await sweeping.take_deliveries(1, 1, {}, 60.0)
    await sweeping.settle_delivery(taken.delivery_id, Verdict(0.0, 200, None, 1.0, DeliveryStatus.DELIVERED))
    with closing(psycopg2.connect(url, options="-c search_path=flexdb")) as redelivering:
        redelivering.cursor().execute("SELECT 1 FROM jobs WHERE job_id = %s FOR UPDATE", (job_id,))
        redelivering.cursor().execute("UPDATE deliveries SET status = 'pending'")
        assert await sweeping.sweep(-60.0) == 0, "its row is locked"
        redelivering.commit()
    assert await sweeping.sweep(-60.0) == 0, "it has something to deliver"
    assert await other.redeliver(taken.delivery_id) is not None


async def test_what_postgresql_quotes_of_rows_is_in_no_error(opened: Open) -> None:
    """Its details hold values, and a callback's URL may hold a token."""
    ledger = await opened()
    accepted = await accept(ledger, submission())
    row = (accepted.job_id, 1, 0.0, None, "queued", 0, 0, None, None, "s3cr3t")
    with pytest.raises(Refusal) as refused:
        await ledger._write(lambda tx: tx.insert(sql.record_transitions, [row]))
    told = "".join(traceback.format_exception(refused.value))
    assert "23505" in told and accepted.job_id not in told and "s3cr3t" not in told


# ---------------------------------------------------------------- plans

FILLED = """
    INSERT INTO jobs (job_id, source, event_id, operation, data, join_digest, claims, claim_count, lane, status,
        max_attempts, created_at, due_at, ended_at)
    SELECT 'j' || number, 's', 'j' || number, 'noop', '{}', 'd' || number, '{}', 0, %s, %s, 3, 1, 1, %s
    FROM generate_series(%s, %s) AS number
"""


@pytest.fixture(scope="module", params=["before the queue grew", "while it was long"])
def grown(request: pytest.FixtureRequest, postgres15_url: str) -> Iterator[PostgresSession]:
    """A ledger whose queue grew long, statistics taken when the parameter says, and never again."""
    with new_database(postgres15_url) as url:
        asyncio.run(_made(url))
        session = PostgresLedger(url, Rules())._session("test")
        cursor = session._cursor
        cursor.execute("ALTER TABLE jobs SET (autovacuum_enabled = false)")
        cursor.execute(FILLED, ("", "succeeded", 2, 1, 20_000))
        if request.param == "before the queue grew":
            cursor.execute("ANALYZE jobs")
        cursor.execute(FILLED, ("", "queued", None, 20_001, 30_000))
        cursor.execute(FILLED, ("xbusy", "queued", None, 30_001, 32_000))
        if request.param == "while it was long":
            cursor.execute("ANALYZE jobs")
        yield session
        session.close()


@pytest.mark.parametrize(
    "name",
    [
        "claimable_jobs",
        "start_jobs",
        "renew",
        "finish_jobs",
        "next_ending",
        "next_retry",
        "lost_leases",
        "overdue_jobs",
        "expired_jobs",
        "excluding_job",
        "joinable_job",
    ],
)
def test_no_query_walks_through_all_jobs_whenever_statistics_were_taken(grown: PostgresSession, name: str) -> None:
    given = {
        "now": 1e12,
        "limit": 16,
        "tokens": '{"j20001": 5, "j20002": 6}',
        "leases": '{"j20001": 5}',
        "ends": '[{"job_id": "j20001", "token": 5, "status": "succeeded", "crashed": 0}]',
        "worker_id": "w",
        "lease_until": 1e13,
        "counted": 1,
        "key": "busy",
        "mode": "exclusive",
        "join_digest": "d20005",
    }
    cursor = grown._cursor
    cursor.execute("BEGIN")
    try:
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + getattr(sql, name).postgres, given)
        ((plan,),) = cursor.fetchall()
    finally:
        cursor.execute("ROLLBACK")  # what it changed, the next query must not find
    walked = _rows_walked(plan[0]["Plan"])
    assert walked < 200, f"{name} looks at {walked} rows: {json.dumps(plan)[:3000]}"


def _rows_walked(node: dict[str, Any]) -> int:
    """Rows that scans of tables came upon, those they threw away included."""
    own = 0
    if node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"):
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return int(own) + sum(_rows_walked(inner) for inner in node.get("Plans", ()))


# ---------------------------------------------------------------- addresses

SECRET = "TOPSEC"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://flexdb:{SECRET}/x@127.0.0.1/ledger",
        f"postgresql://flexdb:{SECRET}%RET@127.0.0.1/ledger",
        f"postgresql://flexdb:{SECRET}\uff1aRET@127.0.0.1",
        f"postgresql://flexdb:{SECRET}@127.0.0.1:port/",
        f"mysql://flexdb:{SECRET}@127.0.0.1/ledger",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_a_part_of_its_password(url: str) -> None:
    with pytest.raises(InvalidLedgerURL) as refused:
        ledger_file(url, Path("none"))
    assert SECRET not in str(refused.value) and "FLEXDB_LEDGER_URL" in str(refused.value)
    assert refused.value.__cause__ is None


async def test_of_several_hosts_the_one_that_takes_writes_is_used(url: str) -> None:
    parts = urlsplit(url)
    who = parts.netloc.rpartition("@")[0]
    several = f"postgresql://{who}@127.0.0.1:1,127.0.0.1:{parts.port}{parts.path}"
    ledger = PostgresLedger(several + "?target_session_attrs=read-write", Rules())
    await ledger.open()
    await ledger.ping()
    await ledger.close()
    assert shown(several) == f"127.0.0.1:1,127.0.0.1:{parts.port}{parts.path}"

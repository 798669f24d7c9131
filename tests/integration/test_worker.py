"""The worker against a real ledger: every way a job can go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from engines.errors import AccessDenied, ArtefactDamaged, SourceUnavailable, TargetUnavailable
from engines.run import Progress, Run, StopReason
from handlers.base import Handler, Outcome, Request, Result
from service.endings import Backoff
from service.hub import Hub
from service.jobs import Job, Status, new_id
from service.ledger.base import Ledger
from service.ledger.records import Rules
from service.ledger.sqlite import SQLiteLedger
from service.worker import Worker, WorkerRules
from tests.spine import Trouble, accept, ended, holds, job_now, open_ledger, until

QUICK = WorkerRules(heartbeat_seconds=0.1, lease_seconds=2.0, backoff=Backoff(base=0.02), poll_seconds=0.2)

LAZY = WorkerRules(heartbeat_seconds=60, lease_seconds=200, poll_seconds=60)


class Wish(Request):
    word: str = ""


class Said(Result):
    word: str


class Scripted(Handler[Wish]):
    """Runs a function given by the test; counts what it sees."""

    operation = "scripted"
    request_model = Wish
    result_model = Said

    def __init__(self, act: Callable[[Wish, Run], None] = lambda _request, _run: None) -> None:
        self.act = act
        self.runs: list[Run] = []
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def run(self, request: Wish, run: Run) -> Outcome:
        with self._lock:
            self.runs.append(run)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.act(request, run)
        finally:
            with self._lock:
                self.at_once -= 1
        return Outcome(Said(word=request.word))


def work_until_stopped(_: Wish, run: Run) -> None:
    while True:
        run.progress("working", 1, 10, "steps")
        time.sleep(0.005)


def waiting_for(event: threading.Event) -> Callable[[Wish, Run], None]:
    """Deaf to its stop token until the event comes."""

    def act(_: Wish, _run: Run) -> None:
        assert event.wait(10)

    return act


def raising(*errors: Exception) -> Callable[[Wish, Run], None]:
    """Raises the errors one after the other, then works."""
    left = list(errors)

    def act(_: Wish, _run: Run) -> None:
        if left:
            raise left.pop(0)

    return act


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SQLiteLedger]:
    async with open_ledger(tmp_path / "ledger.sqlite3", lease_seconds=QUICK.lease_seconds) as opened:
        yield opened


@pytest.fixture
async def patient_ledger(tmp_path: Path) -> AsyncIterator[SQLiteLedger]:
    """No lease runs out and no heartbeat comes while a test runs: what happens, happens by hints alone."""
    async with open_ledger(tmp_path / "ledger.sqlite3", lease_seconds=LAZY.lease_seconds) as opened:
        yield opened


@asynccontextmanager
async def working(
    ledger: Ledger,
    handler: Handler[Any],
    folder: Path,
    rules: WorkerRules = QUICK,
    hub: Hub | None = None,
) -> AsyncIterator[Worker]:
    worker = Worker(ledger, {handler.operation: handler}, hub or Hub(), rules, folder / "work")
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop(0)


async def terminal_types(ledger: SQLiteLedger, job_id: str) -> list[str]:
    history = await ledger.history(job_id)
    return [entry.event_type for entry in history if (entry.event_id or "").endswith("/terminal") and entry.event_type]


async def is_running(ledger: SQLiteLedger, job_id: str) -> None:
    async def look() -> bool:
        return (await job_now(ledger, job_id)).status is Status.RUNNING

    await until(look)


# ---------------------------------------------------------------- success, failure, retries


async def test_a_job_runs_in_a_private_folder_and_its_result_is_kept(ledger: SQLiteLedger, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def act(_: Wish, run: Run) -> None:
        (run.workspace / "scratch").write_text("x")
        seen.update(mode=run.workspace.stat().st_mode & 0o777, thread=threading.current_thread().name)
        seen.update(structlog.contextvars.get_contextvars())

    handler = Scripted(act)
    async with working(ledger, handler, tmp_path):
        job_id = await accept(ledger, "scripted", {"word": "done"})
        job = await ended(ledger, job_id)
    assert (job.status, job.result, job.attempts) == (Status.SUCCEEDED, {"word": "done"}, 1)
    assert seen.pop("mode") == 0o700 and seen.pop("thread").startswith("job")
    assert seen == {"job_id": job_id, "event_id": job_id, "operation": "scripted", "attempt": 1}
    assert structlog.contextvars.get_contextvars() == {}
    assert list((tmp_path / "work").iterdir()) == []
    assert await terminal_types(ledger, job_id) == ["scripted.completed"]
    assert handler.runs[0].application_name == f"flexdb/{job_id}/{job.fencing_token}"


async def test_a_job_that_asks_for_no_folder_gets_none(ledger: SQLiteLedger, tmp_path: Path) -> None:
    seen: list[list[Path]] = []
    handler = Scripted(lambda _request, _run: seen.append(list((tmp_path / "work").iterdir())))
    async with working(ledger, handler, tmp_path):
        await ended(ledger, await accept(ledger, "scripted"))
    assert seen == [[]]


async def test_the_time_a_job_sees_is_the_ledgers(tmp_path: Path) -> None:
    """What it dates, such as a backup, is compared with what other machines dated."""
    seen: list[float] = []
    handler = Scripted(lambda _request, run: seen.append(run.now().timestamp()))
    hours_off = 5 * 3600.0
    ledger = SQLiteLedger(tmp_path / "ledger.sqlite", Rules(), lambda: time.time() - hours_off)
    await ledger.open()
    async with working(ledger, handler, tmp_path):
        await ended(ledger, await accept(ledger, "scripted"))
    await ledger.close()
    assert abs(seen[0] - (time.time() - hours_off)) < 60


async def test_an_error_that_may_pass_is_tried_again_until_it_has_passed(ledger: SQLiteLedger, tmp_path: Path) -> None:
    handler = Scripted(raising(TargetUnavailable("away"), TargetUnavailable("away")))
    async with working(ledger, handler, tmp_path):
        job = await ended(ledger, await accept(ledger, "scripted", {"word": "x"}))
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 3)
    assert [run.attempt for run in handler.runs] == [1, 2, 3]
    assert len({run.token for run in handler.runs}) == 3


async def test_after_max_attempts_the_last_error_is_the_answer(ledger: SQLiteLedger, tmp_path: Path) -> None:
    handler = Scripted(raising(*[TargetUnavailable("The server is away.", hint="Start it.") for _ in range(9)]))
    async with working(ledger, handler, tmp_path):
        job_id = await accept(ledger, "scripted", max_attempts=2)
        job = await ended(ledger, job_id)
    assert (job.status, job.attempts) == (Status.FAILED, 2)
    assert job.error == {
        "code": "target_unavailable",
        "message": "The server is away.",
        "retryable": True,
        "hint": "Start it.",
    }
    assert await terminal_types(ledger, job_id) == ["scripted.failed"]


async def test_an_error_that_will_not_pass_ends_the_job_at_once(ledger: SQLiteLedger, tmp_path: Path) -> None:
    handler = Scripted(raising(AccessDenied("wrong password")))
    async with working(ledger, handler, tmp_path):
        job = await ended(ledger, await accept(ledger, "scripted"))
    assert (job.status, job.attempts) == (Status.FAILED, 1)
    assert job.error is not None and job.error["code"] == "access_denied"


async def test_details_that_are_no_json_do_not_keep_a_job_from_ending(ledger: SQLiteLedger, tmp_path: Path) -> None:
    details = {"path": tmp_path, "share": float("nan"), "evidence": [{1, 2}], "backup_id": "gone"}
    handler = Scripted(raising(ArtefactDamaged("one byte differs", details=details)))
    async with working(ledger, handler, tmp_path):
        job_id = await accept(ledger, "scripted")
        job = await ended(ledger, job_id)
    assert job.error is not None and job.error["code"] == "artefact_damaged"


async def test_a_surprise_ends_as_internal_error_without_its_text(ledger: SQLiteLedger, tmp_path: Path) -> None:
    secret = "postgresql://shop:hush/h@db/shop"
    handler = Scripted(raising(ValueError(f"cannot parse {secret}")))
    with structlog.testing.capture_logs() as lines:
        async with working(ledger, handler, tmp_path):
            job = await ended(ledger, await accept(ledger, "scripted"))
    assert job.error is not None and job.error["code"] == "internal_error"
    assert "hush" not in str(job.error) and "hush" not in str(lines)
    logged = next(line for line in lines if line["event"] == "job_failed_unexpectedly")
    assert "in run" in logged["traceback"] and "ValueError" in logged["traceback"]


async def test_a_request_or_operation_this_version_does_not_know_fails_the_job(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    async with working(ledger, Scripted(), tmp_path):
        odd = await ended(ledger, await accept(ledger, "scripted", {"hush": "s3cret"}))
        strange = await ended(ledger, await accept(ledger, "juggling"))
    assert odd.error is not None and odd.error["code"] == "invalid_request"
    assert "hush" in odd.error["message"] and "s3cret" not in odd.error["message"]
    assert strange.error is not None and strange.error["code"] == "unknown_operation"


# ---------------------------------------------------------------- deadline and cancel


async def test_a_deadline_stops_the_work_and_says_so(ledger: SQLiteLedger, tmp_path: Path) -> None:
    handler = Scripted(work_until_stopped)
    async with working(ledger, handler, tmp_path):
        job = await ended(ledger, await accept(ledger, "scripted", deadline_seconds=0.3))
    assert job.status is Status.FAILED
    assert job.error is not None and job.error["code"] == "deadline_exceeded"
    assert handler.runs[0].stop.reason is StopReason.DEADLINE


async def test_a_retry_that_would_begin_after_the_deadline_is_not_waited_for(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    slow = WorkerRules(heartbeat_seconds=0.1, lease_seconds=2, backoff=Backoff(base=60), poll_seconds=0.2)
    async with working(ledger, Scripted(raising(TargetUnavailable("away"))), tmp_path, slow):
        job = await ended(ledger, await accept(ledger, "scripted", deadline_seconds=20), 5)
    assert job.error is not None and job.error["code"] == "target_unavailable"


async def test_a_retry_waits_for_as_long_as_the_source_asked_for(ledger: SQLiteLedger, tmp_path: Path) -> None:
    busy = SourceUnavailable("busy", details={"retry_after": 3600})
    async with working(ledger, Scripted(raising(busy)), tmp_path):
        job = await ended(ledger, await accept(ledger, "scripted", deadline_seconds=1800), 5)
    assert (job.status, job.attempts) == (Status.FAILED, 1)  # without the wish it would be tried again at once


async def test_a_running_job_is_canceled_by_the_ledgers_hint(patient_ledger: SQLiteLedger, tmp_path: Path) -> None:
    handler = Scripted(work_until_stopped)
    async with working(patient_ledger, handler, tmp_path, LAZY):
        job_id = await accept(patient_ledger, "scripted")
        await holds(lambda: handler.runs)
        await patient_ledger.request_cancel(job_id)
        job = await ended(patient_ledger, job_id, 5)
    assert job.status is Status.CANCELED
    assert job.error is not None and job.error["code"] == "canceled"
    assert await terminal_types(patient_ledger, job_id) == ["scripted.canceled"]


async def test_a_heartbeat_alone_also_brings_the_wish_to_cancel(ledger: SQLiteLedger, tmp_path: Path) -> None:
    handler = Scripted(work_until_stopped)
    worker = Worker(Trouble(ledger, deaf=True).ledger, {"scripted": handler}, Hub(), QUICK, tmp_path / "work")
    await worker.start()
    job_id = await accept(ledger, "scripted")
    await holds(lambda: handler.runs)
    await ledger.request_cancel(job_id)
    assert (await ended(ledger, job_id)).status is Status.CANCELED
    await worker.stop(0)


async def test_a_job_canceled_in_the_queue_never_runs(ledger: SQLiteLedger, tmp_path: Path) -> None:
    ids = [await accept(ledger, "scripted", claim="target:one") for _ in range(2)]
    handler = Scripted(work_until_stopped)
    async with working(ledger, handler, tmp_path):
        await holds(lambda: handler.runs)
        await ledger.request_cancel(ids[1])
        second = await ended(ledger, ids[1])
        await ledger.request_cancel(ids[0])
        await ended(ledger, ids[0])
    assert second.status is Status.CANCELED and len(handler.runs) == 1


async def test_a_cancel_after_the_point_of_no_return_is_too_late(ledger: SQLiteLedger, tmp_path: Path) -> None:
    published, go_on = threading.Event(), threading.Event()

    def act(_: Wish, run: Run) -> None:
        run.point_of_no_return()
        published.set()
        assert go_on.wait(10)
        run.progress("tidying", 1)

    async with working(ledger, Scripted(act), tmp_path) as worker:
        job_id = await accept(ledger, "scripted")
        await holds(published.is_set)
        await ledger.request_cancel(job_id)
        assert worker.cancel_now(job_id) is False
        go_on.set()
        job = await ended(ledger, job_id)
    assert job.status is Status.SUCCEEDED


async def test_a_result_that_comes_in_spite_of_a_cancel_is_a_success(ledger: SQLiteLedger, tmp_path: Path) -> None:
    handler = Scripted(lambda _, run: holding(run))
    async with working(ledger, handler, tmp_path) as worker:
        job_id = await accept(ledger, "scripted")
        await holds(lambda: handler.runs and worker.cancel_now(job_id))
        job = await ended(ledger, job_id)
    assert job.status is Status.SUCCEEDED


async def test_a_tool_that_fails_because_it_was_killed_counts_as_stopped(ledger: SQLiteLedger, tmp_path: Path) -> None:
    def act(_: Wish, run: Run) -> None:
        holding(run)
        raise AccessDenied("the killed tool's own words")

    handler = Scripted(act)
    async with working(ledger, handler, tmp_path) as worker:
        job_id = await accept(ledger, "scripted")
        await holds(lambda: handler.runs and worker.cancel_now(job_id))
        job = await ended(ledger, job_id)
    assert job.status is Status.CANCELED


def holding(run: Run) -> None:
    """Work on, ignoring the wish, until somebody wished to stop."""
    end = time.monotonic() + 10
    while run.stop.reason is None:
        assert time.monotonic() < end
        time.sleep(0.002)


# ---------------------------------------------------------------- one at a time, leases


async def test_jobs_of_one_target_run_one_after_the_other_and_others_beside_them(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    class Other(Scripted):
        operation = "other"

    same, other = Scripted(lambda *_: time.sleep(0.03)), Other(lambda *_: time.sleep(0.03))
    worker = Worker(ledger, {"scripted": same, "other": other}, Hub(), QUICK, tmp_path / "work")
    ids = [await accept(ledger, "scripted", claim="target:one") for _ in range(5)]
    ids += [await accept(ledger, "other") for _ in range(6)]
    await worker.start()
    for job_id in ids:
        assert (await ended(ledger, job_id)).status is Status.SUCCEEDED
    await worker.stop(0)
    assert same.most_at_once == 1 and len(same.runs) == 5
    assert 2 <= other.most_at_once <= QUICK.concurrency


async def test_a_finished_job_wakes_the_next_without_waiting_for_the_poll(
    patient_ledger: SQLiteLedger, tmp_path: Path
) -> None:
    lazy = WorkerRules(concurrency=1, heartbeat_seconds=60, lease_seconds=200, poll_seconds=60)
    async with working(patient_ledger, Scripted(), tmp_path, lazy):
        ids = [await accept(patient_ledger, "scripted", claim="target:one") for _ in range(20)]
        for job_id in ids:
            await ended(patient_ledger, job_id, 5)


async def test_the_heartbeat_keeps_the_lease_of_a_job_longer_than_it(tmp_path: Path) -> None:
    rules = WorkerRules(heartbeat_seconds=0.1, lease_seconds=0.5, poll_seconds=0.1)
    handler = Scripted(lambda *_: time.sleep(1.5))  # deaf to its stop token, and to the event loop
    async with (
        open_ledger(tmp_path / "ledger.sqlite3", lease_seconds=0.5) as ledger,
        working(ledger, handler, tmp_path, rules),
    ):
        job = await ended(ledger, await accept(ledger, "scripted"))
    assert (job.status, job.attempts, job.crashes) == (Status.SUCCEEDED, 1, 0)


async def test_a_lease_given_to_another_stops_the_engine_and_writes_nothing(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    handler = Scripted(work_until_stopped)
    slow_beat = WorkerRules(heartbeat_seconds=0.2, lease_seconds=2.0, poll_seconds=60)
    async with working(ledger, handler, tmp_path, slow_beat) as worker:
        job_id = await accept(ledger, "scripted")
        await holds(lambda: handler.runs)
        handler.act = lambda *_: None
        assert await ledger.give_back(job_id, handler.runs[0].token)  # as a reaper elsewhere would
        thief = await ledger.claim("another worker", 1)
        assert [job.job_id for job in thief] == [job_id]
        await holds(lambda: not worker.running)
        job = await job_now(ledger, job_id)
        assert handler.runs[0].stop.reason is StopReason.LEASE_LOST
        assert (job.status, job.fencing_token) == (Status.RUNNING, thief[0].fencing_token)


async def test_publishing_without_the_lease_is_refused(patient_ledger: SQLiteLedger, tmp_path: Path) -> None:
    started, go_on, published = threading.Event(), threading.Event(), threading.Event()

    def act(_: Wish, run: Run) -> None:
        started.set()
        assert go_on.wait(10)
        run.confirm()
        published.set()

    handler = Scripted(act)
    async with working(patient_ledger, handler, tmp_path, LAZY) as worker:
        job_id = await accept(patient_ledger, "scripted")
        await holds(started.is_set)
        await patient_ledger.give_back(job_id, handler.runs[0].token)
        await patient_ledger.claim("another worker", 1)
        go_on.set()
        await holds(lambda: not worker.running)
    assert not published.is_set()
    assert (await job_now(patient_ledger, job_id)).status is Status.RUNNING


# ---------------------------------------------------------------- the ledger away


async def test_an_end_that_cannot_be_written_is_written_when_the_ledger_is_back(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    shaky = Trouble(ledger)
    go_on = threading.Event()
    handler = Scripted(waiting_for(go_on))
    async with working(shaky.ledger, handler, tmp_path):
        job_id = await accept(ledger, "scripted", {"word": "kept"})
        await holds(lambda: handler.runs)
        shaky.away = True
        go_on.set()
        await holds(lambda: shaky.refused >= 3)
        shaky.away = False
        job = await ended(ledger, job_id)
    assert (job.status, job.result, job.attempts) == (Status.SUCCEEDED, {"word": "kept"}, 1)
    assert await terminal_types(ledger, job_id) == ["scripted.completed"]


async def test_engines_stop_when_the_ledger_is_away_for_longer_than_the_lease(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    shaky = Trouble(ledger)
    handler = Scripted(work_until_stopped)
    async with working(shaky.ledger, handler, tmp_path) as worker:
        job_id = await accept(ledger, "scripted", {"word": "again"})
        await holds(lambda: handler.runs)
        began = time.monotonic()
        shaky.away = True
        await holds(lambda: not worker.running)
        assert 1.0 < time.monotonic() - began < QUICK.lease_seconds + 2
        assert handler.runs[0].stop.reason is StopReason.LEASE_LOST
        handler.act = lambda *_: None
        shaky.away = False
        job = await ended(ledger, job_id)
    assert (job.status, job.attempts, job.crashes) == (Status.SUCCEEDED, 2, 1)


async def test_one_missed_heartbeat_costs_no_lease(tmp_path: Path) -> None:
    rules = WorkerRules(heartbeat_seconds=0.2, lease_seconds=0.8, poll_seconds=60)
    go_on = threading.Event()
    handler = Scripted(waiting_for(go_on))
    async with open_ledger(tmp_path / "ledger.sqlite3", lease_seconds=0.8) as ledger:
        shaky = Trouble(ledger)
        async with working(shaky.ledger, handler, tmp_path, rules):
            job_id = await accept(ledger, "scripted")
            await holds(lambda: handler.runs)
            began = time.monotonic()
            await holds(lambda: time.monotonic() - began > rules.lease_seconds)
            shaky.refusals["renew"] = 1
            await holds(lambda: shaky.refused == 1 and shaky.refusals["renew"] == 0)
            await holds(lambda: time.monotonic() - began > 2 * rules.lease_seconds)
            assert handler.runs[0].stop.reason is None
            go_on.set()
            job = await ended(ledger, job_id)
    assert (job.status, job.attempts, job.crashes) == (Status.SUCCEEDED, 1, 0)


async def test_nothing_begins_beside_a_thread_that_has_lost_its_lease(ledger: SQLiteLedger, tmp_path: Path) -> None:
    shaky = Trouble(ledger)
    go_on = threading.Event()
    handler = Scripted(waiting_for(go_on))
    async with working(shaky.ledger, handler, tmp_path):
        job_id = await accept(ledger, "scripted", claim="target:one")
        other = await accept(ledger, "scripted", claim="target:one")
        await holds(lambda: handler.runs)
        shaky.away = True
        await holds(lambda: handler.runs[0].stop.reason is StopReason.LEASE_LOST)
        await ledger.request_cancel(job_id)
        await until(ledger.reap)  # as a reaper elsewhere would: the target is free, by the ledger
        assert (await ended(ledger, job_id)).status is Status.CANCELED
        shaky.away = False
        back = time.monotonic()
        await holds(lambda: time.monotonic() - back > 1.0 + 3 * QUICK.poll_seconds)
        assert len(handler.runs) == 1
        go_on.set()
        assert (await ended(ledger, other)).status is Status.SUCCEEDED
    assert handler.most_at_once == 1


def test_a_heartbeat_as_long_as_the_lease_is_refused() -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        WorkerRules(heartbeat_seconds=30, lease_seconds=30)


# ---------------------------------------------------------------- drain, start, progress


async def test_draining_lets_a_job_end_that_ends_in_time(ledger: SQLiteLedger, tmp_path: Path) -> None:
    go_on = threading.Event()
    handler = Scripted(waiting_for(go_on))
    worker = Worker(ledger, {"scripted": handler}, Hub(), QUICK, tmp_path / "work")
    await worker.start()
    first = await accept(ledger, "scripted")
    await holds(lambda: handler.runs)
    stopping = asyncio.create_task(worker.stop(10))
    second = await accept(ledger, "scripted")
    go_on.set()
    await stopping
    assert (await job_now(ledger, first)).status is Status.SUCCEEDED
    assert (await job_now(ledger, second)).status is Status.QUEUED


async def test_a_drain_that_takes_too_long_gives_the_job_back_as_if_untouched(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    handler = Scripted(work_until_stopped)
    worker = Worker(ledger, {"scripted": handler}, Hub(), QUICK, tmp_path / "work")
    await worker.start()
    job_id = await accept(ledger, "scripted", claim="target:one")
    await holds(lambda: handler.runs)
    await worker.stop(0.1)
    job = await job_now(ledger, job_id)
    assert (job.status, job.attempts, job.crashes) == (Status.QUEUED, 0, 0)
    assert handler.runs[0].stop.reason is StopReason.SHUTDOWN
    handler.act = lambda *_: None
    async with working(ledger, handler, tmp_path):
        assert (await ended(ledger, job_id)).status is Status.SUCCEEDED


async def test_a_thread_that_ignores_its_stop_is_waited_for_loudly(ledger: SQLiteLedger, tmp_path: Path) -> None:
    loud = WorkerRules(heartbeat_seconds=0.1, lease_seconds=2, poll_seconds=0.2, complain_seconds=0.05)
    go_on = threading.Event()
    handler = Scripted(waiting_for(go_on))
    with structlog.testing.capture_logs() as lines:
        worker = Worker(ledger, {"scripted": handler}, Hub(), loud, tmp_path / "work")
        await worker.start()
        await accept(ledger, "scripted")
        await holds(lambda: handler.runs)
        stopping = asyncio.create_task(worker.stop(0))
        await holds(lambda: [line for line in lines if line["event"] == "job_does_not_stop"])
        assert not stopping.done()
        go_on.set()
        await stopping


async def test_start_removes_folders_of_dead_attempts_and_nothing_else(ledger: SQLiteLedger, tmp_path: Path) -> None:
    await accept(ledger, "scripted")
    alive = (await ledger.claim("another worker", 1))[0]
    work = tmp_path / "work"
    names = [f"{new_id()}-7", f"{alive.job_id}-{alive.fencing_token + 1}"]
    kept = [f"{alive.job_id}-{alive.fencing_token}", "notes"]
    for name in names + kept:
        (work / name).mkdir(parents=True)
        (work / name / "file").write_text("x")
    async with working(ledger, Scripted(), tmp_path):
        assert sorted(folder.name for folder in work.iterdir()) == sorted(kept)


class CountingHub(Hub):
    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def progressed(self, job: Job, progress: Progress) -> None:
        self.threads.add(threading.current_thread().name)
        super().progressed(job, progress)


async def test_followers_hear_of_progress_once_a_second_in_the_loops_thread(
    ledger: SQLiteLedger, tmp_path: Path
) -> None:
    def act(_: Wish, run: Run) -> None:
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            run.progress("working", int((time.monotonic() - began) * 100), 150, "steps")
            time.sleep(0.002)

    hub = CountingHub()
    async with working(ledger, Scripted(act), tmp_path, hub=hub):
        job_id = await accept(ledger, "scripted")
        heard = []
        with hub.following(job_id) as follower:
            while (await job_now(ledger, job_id)).status not in (Status.SUCCEEDED, Status.FAILED):
                await follower.wait(0.1)
                event = follower.take_progress()
                if event is not None:
                    heard.append((time.monotonic(), event.type))
    assert [kind for _, kind in heard] == ["scripted.progressed"] * 2
    assert heard[1][0] - heard[0][0] > 0.8
    assert hub.threads == {threading.main_thread().name}
    assert hub.latest(job_id) is None

"""Claims jobs under leases, has each run in a thread, and writes what became of it into the ledger."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from engines.run import StopReason, StopToken
from handlers.base import Handler
from service.attempt import Attempt
from service.endings import (
    Backoff,
    Ending,
    Finish,
    GiveBack,
    LetGo,
    RetryLater,
    internal,
    traceback_without_secrets,
)
from service.hub import Hub
from service.jobs import Job, Status
from service.leases import Leases
from service.ledger.base import Ledger
from service.ledger.records import Change, LedgerUnavailable

log = structlog.get_logger(__name__)

WORK_FOLDER = re.compile(r"^(?P<job>[0-9a-z]{26})-(?P<token>[0-9]+)$")
"""Folders this module makes, and the only ones it removes."""


@dataclass(frozen=True, slots=True)
class WorkerRules:
    """Settings of a worker; times in seconds."""

    concurrency: int = 4
    lease_seconds: float = 30.0
    heartbeat_seconds: float = 10.0
    backoff: Backoff = field(default_factory=Backoff)
    poll_seconds: float = 5.0
    """The ledger's hints may be lost, so it is also asked this often."""
    complain_seconds: float = 10.0
    """How often the log complains of threads that were told to stop and have not."""
    reap_seconds: float = 0.5
    """How often it is looked for what time has ended."""
    gather_seconds: float = 0.002
    """How long a few free places wait for more, so that many jobs are claimed in one transaction."""

    def __post_init__(self) -> None:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("the heartbeat must come at least twice in a lease, or leases end by themselves")


class Worker:
    """Runs up to `concurrency` jobs at once. `start` and `stop` once each, in the event loop."""

    def __init__(
        self,
        ledger: Ledger,
        handlers: Mapping[str, Handler[Any]],
        hub: Hub,
        rules: WorkerRules,
        work_folder: Path,
    ) -> None:
        self.worker_id = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._ledger = ledger
        self._handlers = handlers
        self._hub = hub
        self._rules = rules
        self._work_folder = work_folder
        self._leases = Leases(
            ledger,
            self.worker_id,
            lease_seconds=rules.lease_seconds,
            heartbeat_seconds=rules.heartbeat_seconds,
        )
        self._threads = ThreadPoolExecutor(rules.concurrency, thread_name_prefix="job")
        self._running: dict[str, tuple[Attempt, asyncio.Task[None]]] = {}
        self._early_cancels: set[str] = set()
        self._claiming = False
        self._woken = asyncio.Event()
        self._draining = False
        self._settle_until: float | None = None
        self._idle_pause = 0.05
        self._loop_task: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._complaining: asyncio.Task[None] | None = None
        self._reaped_at = 0.0

    # -- life

    async def start(self) -> None:
        """Remove what dead attempts left in the work folder, then begin to claim."""
        self._work_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._remove_stale_folders()
        self._ledger.watch(self._hint)
        self._heartbeat = asyncio.create_task(self._leases.beat(), name="heartbeat")
        self._complaining = asyncio.create_task(self._complain(), name="complaints")
        self._loop_task = asyncio.create_task(self._work(), name="worker")

    async def stop(self, drain_seconds: float) -> None:
        """Claim no more, let running jobs go on for a while, then stop them and give them back.

        Returns when every thread has returned: a tool that is still at work must not outlive its lease.
        """
        self._draining = True
        self._woken.set()
        if self._loop_task is not None:
            await self._loop_task
        await self._all_ended(drain_seconds)
        self._settle_until = time.monotonic() + self._rules.lease_seconds
        for attempt, _ in self._running.values():
            attempt.lease.stop.request(StopReason.SHUTDOWN)
        await self._all_ended(None)
        for task in (self._heartbeat, self._complaining):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._threads.shutdown()

    async def _all_ended(self, seconds: float | None) -> None:
        if self._running:
            await asyncio.wait([task for _, task in self._running.values()], timeout=seconds)

    @property
    def running(self) -> frozenset[str]:
        """Ids of the jobs that run here now."""
        return frozenset(self._running)

    def cancel_now(self, job_id: str) -> bool:
        """Ask a job that runs here to stop, without waiting for the next heartbeat.

        False when it does not run here, or when it is past the point of no return.
        """
        if self._claiming and job_id not in self._running:
            self._early_cancels.add(job_id)  # it may be among those being claimed at this moment
        found = self._running.get(job_id)
        return found is not None and found[0].lease.stop.request(StopReason.CANCEL)

    def _hint(self, change: Change) -> None:
        if change.kind == "queue":
            self._woken.set()
        elif change.kind == "cancel" and change.job_id is not None:
            self.cancel_now(change.job_id)

    # -- claiming

    async def _work(self) -> None:
        while not self._draining:
            self._woken.clear()
            try:
                pause = await self._look()
            except LedgerUnavailable as error:
                log.warning("worker_waits_for_ledger", error=str(error))
                pause = 1.0
            except Exception:  # a fault here must show in the log and never end the worker
                log.exception("worker_failed")
                pause = 1.0
            await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        if self._draining:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _look(self) -> float:
        """Reap, claim what there is room for; seconds until the next look is worth it."""
        await self._leases.renew_if_late()
        if any(attempt.lease.lost for attempt, _ in self._running.values()):
            # Its claims are free in the ledger, its thread may still be at work on the target: claiming now
            # could put two jobs of this process on one target.
            return min(1.0, self._rules.poll_seconds)
        moved = await self._reap()
        if 0 < self._free < self._rules.concurrency // 4:
            await asyncio.sleep(self._rules.gather_seconds)
        free = 0 if self._draining else self._free  # draining may have begun while the ledger was asked
        taken = await self._claim(free) if free > 0 else []
        if free > 0 and len(taken) == free:
            return self._rules.poll_seconds
        return self._pause(await self._ledger.next_due(), idle=not (moved or taken), full=free <= 0)

    @property
    def _free(self) -> int:
        return self._rules.concurrency - len(self._running)

    async def _reap(self) -> int:
        now = time.monotonic()
        if now - self._reaped_at < self._rules.reap_seconds:
            return 0
        self._reaped_at = now
        try:
            return await self._ledger.reap()
        except LedgerUnavailable:
            raise
        except Exception:  # what cannot be reaped must not keep the worker from all other jobs
            log.exception("reap_failed")
            return 0

    async def _complain(self) -> None:
        """A thread that does not stop keeps its lease and its claims: that must show."""
        while True:
            await asyncio.sleep(self._rules.complain_seconds)
            for job_id, (attempt, _) in self._running.items():
                reason = attempt.lease.stop.reason
                if reason is not None and not attempt.lease.ending:
                    log.warning("job_does_not_stop", job_id=job_id, reason=reason.value)

    async def _claim(self, limit: int) -> list[Job]:
        claimed_at = time.monotonic()
        self._claiming = True
        try:
            taken = await self._ledger.claim(self.worker_id, limit)
            for job in taken:
                self._begin(job, claimed_at)
        finally:
            self._claiming = False
            self._early_cancels.clear()
        return taken

    def _pause(self, due: float | None, *, idle: bool, full: bool) -> float:
        """Looks that find nothing although something is due grow rarer: it waits for a claim, not time."""
        self._idle_pause = min(self._idle_pause * 2, 1.0) if idle else 0.05
        if due is None or full:
            return self._rules.poll_seconds
        return min(max(due, self._idle_pause if due <= 0 else 0.01), self._rules.poll_seconds)

    # -- one job

    def _begin(self, job: Job, claimed_at: float) -> None:
        if job.job_id in self._running:
            log.error("job_claimed_twice", job_id=job.job_id, token=job.fencing_token)
            return  # its older attempt still has a thread; the new lease runs out and the job comes again
        lease = self._leases.add(job.job_id, job.fencing_token, claimed_at, StopToken())
        if job.job_id in self._early_cancels:
            lease.stop.request(StopReason.CANCEL)
        attempt = Attempt(
            job,
            self._handlers.get(job.operation),
            lease,
            leases=self._leases,
            hub=self._hub,
            folder=self._work_folder / f"{job.job_id}-{job.fencing_token}",
        )
        task = asyncio.create_task(self._run(attempt), name=f"job-{job.job_id}")
        self._running[job.job_id] = (attempt, task)

    async def _run(self, attempt: Attempt) -> None:
        job = attempt.job
        with structlog.contextvars.bound_contextvars(
            job_id=job.job_id, event_id=job.event_id, operation=job.operation, attempt=job.attempts
        ):
            try:
                await self._run_bound(attempt)
            except Exception:  # the lease runs out and the reaper decides; the other jobs go on
                log.exception("job_lost_from_sight")
            finally:
                self._leases.drop(attempt.lease)
                self._hub.forget(job.job_id)
                del self._running[job.job_id]
                self._woken.set()

    async def _run_bound(self, attempt: Attempt) -> None:
        job, began = attempt.job, time.monotonic()
        log.info("job_started", connection=job.connection, crashes=job.crashes, token=job.fencing_token)
        ending = await attempt.run(self._threads, self._rules.backoff)
        seconds = time.monotonic() - began
        attempt.lease.ending = True
        written = await self._settle(job, ending)
        log.info(
            "job_finished",
            connection=job.connection,
            seconds=round(seconds, 3),
            written=written,
            **facts(ending),
        )

    # -- writing the end

    async def _settle(self, job: Job, ending: Ending) -> bool:
        """Write the end, however long the ledger is away; the heartbeat goes on meanwhile.

        False when the token no longer holds, or when the service stops and the ledger stays away.
        """
        pause = 0.1
        while True:
            try:
                return await self._write_safely(job, ending)
            except LedgerUnavailable as error:
                log.warning("job_end_not_written", error=str(error))
            if self._settle_until is not None and time.monotonic() >= self._settle_until:
                log.error("job_left_to_its_lease")  # it runs again after the lease: better twice than lost
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _write_safely(self, job: Job, ending: Ending) -> bool:
        try:
            return await self._write(job, ending)
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  an end the ledger cannot take would keep the job for ever
            text = traceback_without_secrets(error)
            log.error("job_end_refused", traceback=text)  # noqa: TRY400  no credentials in it
            return await self._write(job, internal(error))

    async def _write(self, job: Job, ending: Ending) -> bool:
        match ending:
            case Finish(status, result, problem, changes, later):
                ended = await self._ledger.finish_job(
                    job.job_id, job.fencing_token, status, result, problem, changes, later
                )
                return ended is not None
            case RetryLater(delay, problem):
                return await self._ledger.retry_later(job.job_id, job.fencing_token, delay, problem)
            case GiveBack():
                return await self._ledger.give_back(job.job_id, job.fencing_token)
            case LetGo():
                return False

    # -- the work folder

    async def _remove_stale_folders(self) -> None:
        for folder in sorted(self._work_folder.iterdir()):
            name = WORK_FOLDER.match(folder.name)
            if name is None or await self._is_alive(name["job"], int(name["token"])):
                continue
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            log.info("stale_work_folder_removed", folder=folder.name)

    async def _is_alive(self, job_id: str, token: int) -> bool:
        """Another process of this machine may be at work in it."""
        job = await self._ledger.job(job_id)
        return job is not None and job.status is Status.RUNNING and job.fencing_token == token


def facts(ending: Ending) -> dict[str, Any]:
    """What the log says of an end."""
    match ending:
        case Finish(status, _, problem):
            return {"status": status.value} | ({"code": problem.code, "error": problem.message} if problem else {})
        case RetryLater(delay, problem):
            return {
                "status": "retry",
                "delay": round(delay, 2),
                "code": problem.code,
                "error": problem.message,
            }
        case GiveBack():
            return {"status": "given_back"}
        case LetGo():
            return {"status": "lease_lost"}

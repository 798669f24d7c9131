"""One attempt at one job: a thread, a private folder, a deadline, and how it ended."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from engines.errors import FlexError
from engines.run import Progress, Run, StopReason, Workspace
from handlers.base import Handler
from service.endings import (
    Backoff,
    Ending,
    completed,
    ending_of,
    traceback_without_secrets,
    unknown,
    unreadable,
)
from service.hub import Hub
from service.jobs import Job
from service.leases import Lease, Leases

log = structlog.get_logger(__name__)


class Attempt:
    """`run` is a coroutine; everything named `_in_thread` happens in the worker's thread."""

    def __init__(
        self, job: Job, handler: Handler[Any] | None, lease: Lease, *, leases: Leases, hub: Hub, folder: Path
    ) -> None:
        self.job = job
        self.lease = lease
        self._handler = handler
        self._leases = leases
        self._hub = hub
        self._folder = folder
        self._taken = time.monotonic()
        self._loop = asyncio.get_running_loop()

    async def run(self, threads: Executor, backoff: Backoff) -> Ending:
        """Returns only after the thread has returned, whatever was asked of it."""
        if self.job.cancel_requested:
            self.lease.stop.request(StopReason.CANCEL)
        deadline = self._deadline()
        context = contextvars.copy_context()  # so that log lines of the thread carry the job's ids
        try:
            return await self._loop.run_in_executor(threads, context.run, self._in_thread, backoff)
        finally:
            if deadline is not None:
                deadline.cancel()

    def _deadline(self) -> asyncio.TimerHandle | None:
        if self.job.deadline_at is None:
            return None
        left = max(self.job.deadline_at - self._now(), 0.0)
        return self._loop.call_later(left, self.lease.stop.request, StopReason.DEADLINE)

    def _now(self) -> float:
        """By the ledger's clock, as it went on since the claim: this machine's own may be wrong."""
        return self.job.taken_at + time.monotonic() - self._taken

    def _in_thread(self, backoff: Backoff) -> Ending:
        if self._handler is None:
            return unknown(self.job.operation)
        try:
            request = self._handler.request_model.model_validate(self.job.data)
        except ValidationError as error:
            return unreadable(error)
        try:
            self.lease.stop.check()
            with in_workspace(self._folder) as workspace:
                return completed(self._handler.run(request, self._run_for(workspace)))
        except BaseException as error:  # noqa: BLE001  whatever a handler raises becomes the job's end, and is logged
            stopped = self.lease.stop.reason
            if stopped is None and not isinstance(error, FlexError):
                text = traceback_without_secrets(error)
                log.error("job_failed_unexpectedly", traceback=text)  # noqa: TRY400  no credentials in it
            return ending_of(error, stopped, self.job, backoff, self._now())

    def _run_for(self, workspace: Workspace) -> Run:
        return Run(
            job_id=self.job.job_id,
            token=self.job.fencing_token,
            place=workspace,
            event_id=self.job.event_id,
            stop=self.lease.stop,
            listener=self._tell_in_thread,
            confirm=self._confirm_in_thread,
            attempt=self.job.attempts,
            clock=self._now,
        )

    def _tell_in_thread(self, progress: Progress) -> None:
        self._loop.call_soon_threadsafe(self._hub.progressed, self.job, progress)

    def _confirm_in_thread(self) -> None:
        asyncio.run_coroutine_threadsafe(self._leases.confirm(self.lease), self._loop).result()


@contextmanager
def in_workspace(folder: Path) -> Iterator[Workspace]:
    """A folder of the attempt's own, made when it is needed, removed afterwards in every case."""
    workspace = Workspace(folder)
    try:
        yield workspace
    finally:
        if not workspace.remove():
            log.error("work_folder_not_removed", folder=folder.name)

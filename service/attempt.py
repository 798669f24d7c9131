"""One attempt at one job: a thread, a private folder, a deadline, and how it ended."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from engines.errors import FlexError, StorageFailed, StorageFull
from engines.run import Progress, Run, StopReason
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
        self._loop = asyncio.get_running_loop()

    async def run(self, threads: Executor, backoff: Backoff, complain_seconds: float) -> Ending:
        """Returns only after the thread has returned, whatever was asked of it.

        A thread that was told to stop and has not is complained of every `complain_seconds`.
        """
        if self.job.cancel_requested:
            self.lease.stop.request(StopReason.CANCEL)
        deadline = self._deadline()
        context = contextvars.copy_context()  # so that log lines of the thread carry the job's ids
        work = self._loop.run_in_executor(threads, context.run, self._in_thread, backoff)
        try:
            while not (await asyncio.wait({work}, timeout=complain_seconds))[0]:
                if self.lease.stop.reason is not None:
                    log.warning("job_does_not_stop", reason=self.lease.stop.reason.value)
        finally:
            if deadline is not None:
                deadline.cancel()
        return work.result()

    def _deadline(self) -> asyncio.TimerHandle | None:
        if self.job.deadline_at is None:
            return None
        left = max(self.job.deadline_at - time.time(), 0.0)
        return self._loop.call_later(left, self.lease.stop.request, StopReason.DEADLINE)

    def _in_thread(self, backoff: Backoff) -> Ending:
        if self._handler is None:
            return unknown(self.job.operation)
        try:
            request = self._handler.request_model.model_validate(self.job.data)
        except ValidationError as error:
            return unreadable(error)
        try:
            self.lease.stop.check()
            with private_folder(self._folder) as workspace:
                return completed(self._handler.run(request, self._run_for(workspace)))
        except BaseException as error:  # noqa: BLE001  whatever a handler raises becomes the job's end, and is logged
            stopped = self.lease.stop.reason
            if stopped is None and not isinstance(error, FlexError):
                text = traceback_without_secrets(error)
                log.error("job_failed_unexpectedly", traceback=text)  # noqa: TRY400  no credentials in it
            return ending_of(error, stopped, self.job, backoff, time.time())

    def _run_for(self, workspace: Path) -> Run:
        return Run(
            job_id=self.job.job_id,
            token=self.job.fencing_token,
            workspace=workspace,
            event_id=self.job.event_id,
            stop=self.lease.stop,
            listener=self._tell_in_thread,
            confirm=self._confirm_in_thread,
            attempt=self.job.attempts,
        )

    def _tell_in_thread(self, progress: Progress) -> None:
        self._loop.call_soon_threadsafe(self._hub.progressed, self.job, progress)

    def _confirm_in_thread(self) -> None:
        asyncio.run_coroutine_threadsafe(self._leases.confirm(self.lease), self._loop).result()


@contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """A new folder that only we can read, removed afterwards in every case.

    Raises `StorageFull` or `StorageFailed` when it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        raise kind(f"The work folder cannot be made: {error.strerror}.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            log.error("work_folder_not_removed", folder=folder.name)

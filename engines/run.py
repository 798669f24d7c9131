"""What a piece of work is given beside its request: identity, stop token, progress, a private folder."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from engines.errors import Stopped, StorageFailed, StorageFull


class StopReason(StrEnum):
    """Why work is asked to stop; the worker turns each into a transition."""

    CANCEL = "cancel"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    LEASE_LOST = "lease_lost"


class StopToken:
    """A wish to stop, seen by threads at their next step.

    `request` may be called from any thread; the first reason wins. After `close` (the point of no
    return) later wishes are refused, so that published work is never reported as canceled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: StopReason | None = None
        self._closed = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def reason(self) -> StopReason | None:
        return self._reason

    @property
    def closed(self) -> bool:
        """Whether the point of no return was passed."""
        return self._closed

    def request(self, reason: StopReason) -> bool:
        """Ask to stop; False when it is too late (`close` came first). Callbacks run once."""
        with self._lock:
            if self._closed:
                return False
            if self._reason is not None:
                return True
            self._reason = reason
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()
        return True

    def check(self) -> None:
        """Raise `Stopped` when a stop was asked for."""
        if self._reason is not None:
            raise Stopped(self._reason)

    def close(self) -> None:
        """Pass the point of no return; raises `Stopped` when a stop was asked for before."""
        with self._lock:
            if self._reason is not None:
                raise Stopped(self._reason)
            self._closed = True

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` (kill a process, cancel a query) called when a stop is asked for meanwhile.

        It is called in the asking thread, at once when the stop came before. It must not block.
        """
        with self._lock:
            early = self._reason is not None
            if not early:
                self._callbacks.append(callback)
        if early:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. `done` and `total` are in `unit` (bytes, rows, pages); total may be unknown."""

    stage: str
    done: int
    total: int | None
    unit: str
    rate: float
    """Units per second since the stage began."""

    def as_json(self) -> dict[str, Any]:
        known = self.total is not None and self.total > 0
        left = max((self.total or 0) - self.done, 0)
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "percent": round(min(100.0, 100.0 * self.done / (self.total or 1)), 1) if known else None,
            "rate": round(self.rate, 1),
            "eta_seconds": round(left / self.rate, 1) if known and self.rate > 0 else None,
        }


def _nobody_listens(_: Progress) -> None:
    return


def _always_ours() -> None:
    return


def _machine_clock() -> float:
    return time.time()


class Workspace:
    """A private folder, made when it is first asked for: most small jobs need none, and making one is dear."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._made = False

    def folder(self) -> Path:
        """The folder, mode 0700. Raises `StorageFull` or `StorageFailed` when it cannot be made."""
        with self._lock:
            if not self._made:
                self._make()
                self._made = True
        return self._path

    def _make(self) -> None:
        try:
            self._path.mkdir(mode=0o700)
        except OSError as error:
            kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
            raise kind(f"The work folder cannot be made: {error.strerror}.") from error

    def remove(self) -> bool:
        """Remove it with all that is in it; False when something of it stays."""
        if self._made:
            shutil.rmtree(self._path, ignore_errors=True)
        return not (self._made and self._path.exists())


@dataclass(slots=True)
class Run:
    """One attempt at one job, as handlers and engines see it.

    `workspace` is a folder of mode 0700 that belongs to this attempt and is removed after it.
    `confirm` asks the ledger whether the lease is still held and raises `Stopped(lease_lost)` when not.
    """

    job_id: str
    token: int
    place: Path | Workspace
    """Where the workspace is: a folder that is there, or one to be made on demand."""
    event_id: str = ""
    stop: StopToken = field(default_factory=StopToken)
    listener: Callable[[Progress], None] = _nobody_listens
    confirm: Callable[[], None] = _always_ours
    attempt: int = 1
    clock: Callable[[], float] = _machine_clock
    """Seconds since the epoch, by a clock that all who work on the same jobs share."""
    _stage: str = ""
    _stage_began: float = 0.0
    _reported: float = 0.0

    @property
    def workspace(self) -> Path:
        """Raises `StorageFull` or `StorageFailed` when the folder cannot be made."""
        return self.place if isinstance(self.place, Path) else self.place.folder()

    @property
    def application_name(self) -> str:
        """The name database sessions of this attempt carry, `flexdb/JOB/TOKEN`."""
        return f"flexdb/{self.job_id}/{self.token}"

    def now(self) -> datetime:
        """The time to be kept and compared with that of other jobs, in UTC."""
        return datetime.fromtimestamp(self.clock(), UTC)

    def progress(self, stage: str, done: int, total: int | None = None, unit: str = "bytes") -> None:
        """Tell how far the work is; cheap enough to call per chunk. Raises `Stopped` when asked to stop."""
        self.stop.check()
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._stage_began, self._reported = stage, now, 0.0
        if now - self._reported < 0.2:  # listeners throttle further; this only keeps the calls cheap
            return
        self._reported = now
        took = now - self._stage_began
        self.listener(Progress(stage, done, total, unit, done / took if took > 0 else 0.0))

    def point_of_no_return(self) -> None:
        """Call right before publishing: checks the lease, then refuses later wishes to stop."""
        self.confirm()
        self.stop.close()

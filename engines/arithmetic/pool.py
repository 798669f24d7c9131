"""A few processes that work out dear calculations, each started when it is needed, killed when it takes too much."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gmpy2

from engines.calculating import Limits
from engines.errors import CalculationRefused, TargetBusy
from engines.run import StopToken

WORKER = Path(__file__).with_name("worker.py")
HEAD = 8
PIECE = 1 << 18


class _DiedError(Exception):
    """The process ended; `code` as `subprocess` tells it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _LateError(Exception):
    """The time was up."""


class _Process:
    """One child. Used by one thread at a time; `kill` may come from any."""

    def __init__(self, megabytes: int) -> None:
        paths = os.pathsep.join([str(Path(gmpy2.__file__).parents[1]), str(WORKER.parent)])
        self._popen = subprocess.Popen(
            # -S: what site-packages run at start is slow and of no use there
            [sys.executable, "-I", "-S", str(WORKER), paths, str(megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # GMP's last words; the signal says the same
            env={"PATH": os.defpath},
            start_new_session=True,  # Ctrl-C is not for it
            bufsize=0,
        )
        assert self._popen.stdin is not None  # noqa: S101  it was asked for above
        assert self._popen.stdout is not None  # noqa: S101  it was asked for above
        self._input, self._output = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._lock = threading.Lock()
        self._reaped = False

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask(self, message: bytes, until: float) -> bytes:
        """Its answer. Raises `_DiedError`, `_LateError` when `until` (monotonic) has come."""
        try:
            view = memoryview(len(message).to_bytes(HEAD, "big") + message)
            while view:
                self._wait(self._input, select.POLLOUT, until)
                view = view[os.write(self._input, view[:PIECE]) :]
            return self._read(int.from_bytes(self._read(HEAD, until), "big"), until)
        except (BrokenPipeError, EOFError):
            raise _DiedError(self.end()) from None

    def _read(self, size: int, until: float) -> bytes:
        parts = []
        while size:
            self._wait(self._output, select.POLLIN, until)
            part = os.read(self._output, min(size, PIECE))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, events: int, until: float) -> None:
        poll = select.poll()
        poll.register(descriptor, events)
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise _LateError

    def kill(self) -> None:
        """By its own number, and only while that is still its own."""
        with self._lock:
            if not self._reaped:
                self._popen.kill()

    def end(self) -> int:
        """Killed if it lives, waited for, its pipes closed; the exit code."""
        with self._lock:
            if self._popen.poll() is None and not self._gone():
                self._popen.kill()
            code = self._popen.wait()
            self._reaped = True
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _gone(self) -> bool:
        """Whether it is ending by itself: its pipe closes a moment before it can be waited for."""
        try:
            self._popen.wait(1.0)
        except subprocess.TimeoutExpired:
            return False
        return True


class Pool:
    """Hands calculations to processes. Safe in any thread; blocks the one that asks."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._room = threading.BoundedSemaphore(limits.processes)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self.waiting = 0
        """How many wait for a process."""
        self._closed = False

    def pids(self) -> list[int]:
        """Numbers of the processes there are now."""
        with self._lock:
            return sorted(process.pid for process in (*self._idle, *self._busy))

    def calculate(
        self, operation: str, arguments: list[str], stop: StopToken, *, patient: bool = True
    ) -> tuple[str, bool]:
        """As `exact.compute`, elsewhere. Without patience `TargetBusy` when many wait already.

        Raises `CalculationRefused` (result_too_large, time_limit, memory_limit), `Stopped`, `TargetBusy` when closed.
        """
        limits = self.limits
        message = "\n".join([str(limits.seconds), str(limits.digits), operation, *arguments]).encode()
        with self._turn(stop, patient=patient):
            try:
                answer = self._ask(message, stop)
            except _DiedError as error:
                stop.check()
                self._explain(error.code)
                answer = self._once_more(message, stop)
        return _understood(answer, limits)

    def _once_more(self, message: bytes, stop: StopToken) -> bytes:
        """For a process that somebody killed; twice is no accident: most likely the system does it, wanting memory."""
        try:
            return self._ask(message, stop)
        except _DiedError as error:
            stop.check()
            self._explain(error.code)
            raise CalculationRefused(
                "memory_limit", "The process that calculated was killed twice", hint=_HINT
            ) from None

    def _ask(self, message: bytes, stop: StopToken) -> bytes:
        process = self._take()
        healthy = False
        try:
            with stop.calling(process.kill):
                answer = process.ask(message, time.monotonic() + self.limits.seconds)
            healthy = True
        except _LateError:
            stop.check()
            raise _took_too_long(self.limits) from None
        else:
            return answer
        finally:
            self._give_back(process, healthy=healthy and stop.reason is None)

    def _explain(self, code: int) -> None:
        """Raise what an end of that kind means; returns for one that has nothing to do with the calculation."""
        if self._closed:
            raise TargetBusy("The service stops; calculate again when it is back.")
        if code == -signal.SIGXCPU:
            raise _took_too_long(self.limits)
        if code in (-signal.SIGABRT, -signal.SIGSEGV):
            raise _no_memory(self.limits)

    @contextmanager
    def _turn(self, stop: StopToken, *, patient: bool) -> Iterator[None]:
        with self._lock:
            if not patient and self.waiting >= self.limits.waiting:
                raise TargetBusy("Too many calculations wait already.", hint="Try again in a while.")
            self.waiting += 1
        try:
            while not self._room.acquire(timeout=0.2):
                stop.check()
        finally:
            with self._lock:
                self.waiting -= 1
        try:
            stop.check()
            yield
        finally:
            self._room.release()

    def _take(self) -> _Process:
        with self._lock:
            if self._closed:
                raise TargetBusy("The service stops; calculate again when it is back.")
            if self._idle:
                process = self._idle.pop()
                self._busy.add(process)
                return process
        process = _Process(self.limits.megabytes)
        with self._lock:
            self._busy.add(process)
        if self._is_closed():
            process.kill()  # its answer will be that it died
        return process

    def _is_closed(self) -> bool:
        with self._lock:
            return self._closed

    def _give_back(self, process: _Process, *, healthy: bool) -> None:
        with self._lock:
            self._busy.discard(process)
            healthy = healthy and not self._closed
            if healthy:
                self._idle.append(process)
        if not healthy:
            process.kill()
            process.end()

    def close(self) -> None:
        """End all processes; what is being calculated ends in `TargetBusy`."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for process in (*idle, *busy):
            process.kill()
        for process in idle:
            process.end()


_HINT = "Ask for a smaller result, or raise FLEXDB_CALCULATION_MEGABYTES."


def _understood(answer: bytes, limits: Limits) -> tuple[str, bool]:
    kind, _, rest = answer.decode("ascii").partition("\n")
    if kind == "ok":
        exact, _, result = rest.partition("\n")
        return result, exact == "exact"
    if kind == "memory":
        raise _no_memory(limits)
    raise too_large(limits)


def too_large(limits: Limits) -> CalculationRefused:
    return CalculationRefused(
        "result_too_large",
        f"The result would have more than {limits.digits} digits",
        hint="Ask for a smaller one, or raise FLEXDB_CALCULATION_DIGITS.",
    )


def _took_too_long(limits: Limits) -> CalculationRefused:
    return CalculationRefused(
        "time_limit",
        f"The calculation took longer than {limits.seconds:g} seconds",
        hint="Ask for a smaller one, or raise FLEXDB_CALCULATION_SECONDS.",
    )


def _no_memory(limits: Limits) -> CalculationRefused:
    return CalculationRefused(
        "memory_limit", f"The calculation would take more than {limits.megabytes} MB of memory", hint=_HINT
    )

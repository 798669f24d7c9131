"""The one way to run a client program: argument lists, a minimal environment, tied to the service's life.

A tool runs under `engines/tether.py` in a session and process group of its own. Every way out of the
context managers here has waited for it and left nothing of its group running. Leaving one normally means
that the exit code was seen and was 0: only then is the tool's output complete.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote, quote_plus

from engines.errors import FlexError, StorageFull, ToolFailed
from engines.run import Run, StopToken

TETHER = Path(__file__).with_name("tether.py")
CHUNK_BYTES = 1 << 20
PIPE_BYTES = 1 << 20
READ_BYTES = 1 << 18
STDERR_BYTES = 64 * 1024
"""How much of a tool's last words is kept; the rest is read and dropped."""
SHOWN_BYTES = 2000
ANSWER_BYTES = 1 << 20
GRACE_SECONDS = 3.0
"""Between SIGTERM, which lets a tool cancel its queries, and SIGKILL."""
PASSED_ON = ("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*:[^\s@]*(?=@)")
_PASSWORD = re.compile(r"(?i)\b(password|passwd|pwd|sslpassword)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)")


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` with every secret, percent-encoded or not, and whatever looks like credentials, as `***`."""
    forms = {form for secret in secrets if secret for form in (secret, quote(secret, safe=""), quote_plus(secret))}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return _PASSWORD.sub(r"\1\2***", _CREDENTIALS.sub("***", text))


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `program` is a full path; `environment` comes on top of the few variables passed on."""

    program: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Never shown: replaced in everything that is told of the tool."""
    writes_into: Path | None = None
    """Folder of files the tool itself writes; "no space left" then means there."""

    @property
    def name(self) -> str:
        return self.program.name

    def full_environment(self) -> dict[str, str]:
        """All the tool sees. Messages in English (`LC_ALL=C`), because some are understood by their words."""
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {"PATH": os.defpath} | passed_on | {"LC_ALL": "C"} | dict(self.environment)


class _Process:
    """A tool under its guard, from start to the last of its group."""

    def __init__(self, command: Command, stdin: int, stdout: int) -> None:
        self.command = command
        self._lock = threading.Lock()
        self._reaped = False
        self._grace: threading.Timer | None = None
        self._tail = bytearray()
        held_by_guard, self._held_by_us = os.pipe()
        try:
            self.popen = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-E", "-I", str(TETHER), str(held_by_guard)),
                    *(str(command.program), *command.arguments),
                ],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=command.full_environment(),
                pass_fds=(held_by_guard,),
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in an argument
            os.close(self._held_by_us)
            raise ToolFailed(f"{command.name} cannot be started: {type(error).__name__}.") from error
        finally:
            os.close(held_by_guard)
        self._drain = threading.Thread(target=self._read_stderr, name=f"stderr of {command.name}", daemon=True)
        self._drain.start()

    def _read_stderr(self) -> None:
        assert self.popen.stderr is not None  # noqa: S101  it was asked for above
        while data := self.popen.stderr.read(8192):
            self._tail += data
            del self._tail[:-STDERR_BYTES]

    def terminate(self) -> None:
        """Ask the group to end, and see to it after a grace; returns at once."""
        with self._lock:
            if self._reaped or self._grace is not None:
                return
            self._signal(signal.SIGTERM)
            self._grace = threading.Timer(GRACE_SECONDS, self.kill)
            self._grace.daemon = True
            self._grace.start()

    def kill(self) -> None:
        with self._lock:
            if not self._reaped:
                self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.popen.pid, number)
        except ProcessLookupError:
            return  # nobody left to tell

    def ended_within(self, seconds: float) -> bool:
        """Whether the tool and all that share its stderr have ended; waits at most that long."""
        self._drain.join(seconds)
        return not self._drain.is_alive()

    def reap(self) -> int:
        """Wait for the end, end what is left of the group; exit code, negative for a signal."""
        if self.popen.returncode is None:
            # Seen but not yet reaped, so that the group's number cannot have gone to somebody else.
            os.waitid(os.P_PID, self.popen.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self._lock:
            code = self.popen.wait()
            already, self._reaped = self._reaped, True
        if not already:
            os.close(self._held_by_us)
            if self._grace is not None:
                self._grace.cancel()
            self._drain.join()
        return code

    def close_pipes(self) -> None:
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()

    def last_words(self) -> str:
        return redact(self._tail.decode(errors="replace").strip(), self.command.secrets)

    def failure(self, code: int) -> FlexError:
        """The error for an exit code, with the tool's last words."""
        name, words = self.command.name, self.last_words()
        if self.command.writes_into is not None and _own_disk_full(words):
            return StorageFull(f"{name} found no space left in the work folder.")
        how = f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"
        return ToolFailed(
            f"{name} ended with {how}: {words[-SHOWN_BYTES:] or 'it said nothing'}",
            details={"tool": name, "exit_code": code, "stderr": words[-SHOWN_BYTES:]},
        )


def _own_disk_full(words: str) -> bool:
    """Whether the tool's own writing met a full disk; a server's is told as `ERROR:`."""
    return any("No space left on device" in line and "ERROR:" not in line for line in words.splitlines())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


@contextmanager
def _running(command: Command, stop: StopToken, stdin: int, stdout: int) -> Iterator[_Process]:
    """Start; on normal exit wait and raise unless it ended well; on an exception kill first, then close.

    Closing the input of a tool that is to die would look to it like the end of its work.
    """
    stop.check()
    process = _Process(command, stdin, stdout)
    try:
        with stop.calling(process.terminate):
            yield process
            if process.popen.stdin is not None:
                process.popen.stdin.close()
            if process.popen.stdout is not None:
                process.popen.stdout.close()
            code = process.reap()
        if code != 0:
            stop.check()
            raise process.failure(code)
    except BaseException:
        process.terminate()
        process.reap()
        raise
    finally:
        process.close_pipes()


def _widen(pipe: IO[bytes] | None) -> None:
    """A larger buffer where the system allows it: the tool waits less, reads are fewer and bigger."""
    if pipe is not None and hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with suppress(OSError):  # the user's limit on pipe buffers is used up: slower, nothing else
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class ToolOutput:
    """What a running tool writes to its standard output."""

    def __init__(self, process: _Process, stop: StopToken) -> None:
        self._process, self._stop = process, stop

    def read(self, size: int = READ_BYTES) -> bytes:
        """The next bytes, at most `size`; empty at the end. Raises `Stopped`."""
        assert self._process.popen.stdout is not None  # noqa: S101  made with a pipe
        data = os.read(self._process.popen.stdout.fileno(), size)
        self._stop.check()
        return data

    def readinto(self, room: memoryview) -> int:
        """As `read`, into a buffer of the caller's; how many bytes."""
        assert self._process.popen.stdout is not None  # noqa: S101  made with a pipe
        count = os.readv(self._process.popen.stdout.fileno(), [room])
        self._stop.check()
        return count

    def chunks(self) -> Iterator[bytes]:
        while data := self.read():
            yield data


class ToolInput:
    """What a running tool reads from its standard input."""

    def __init__(self, process: _Process, stop: StopToken) -> None:
        self._process, self._stop = process, stop

    def write(self, data: bytes) -> None:
        """All of `data`; raises `ToolFailed` when the tool has ended meanwhile, `Stopped`."""
        self._stop.check()
        if not self._write(data):
            code = self._process.reap()
            self._stop.check()
            raise self._process.failure(code)

    def close(self) -> None:
        """The end of the input, for a tool whose answers to all of it are still to be read."""
        assert self._process.popen.stdin is not None  # noqa: S101  made with a pipe
        self._process.popen.stdin.close()

    def take(self, read: Callable[[int], bytes]) -> None:
        """Everything `read(size)` gives, to its end.

        When the tool ends early the source is still read out, because a source that checks its digests
        does so at its end, and a damaged source explains a failing tool. The exit code decides later.
        """
        listening = True
        while data := read(CHUNK_BYTES):
            self._stop.check()
            listening = listening and self._write(data)

    def _write(self, data: bytes) -> bool:
        assert self._process.popen.stdin is not None  # noqa: S101  made with a pipe
        view, descriptor = memoryview(data), self._process.popen.stdin.fileno()
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except BrokenPipeError:
            return False
        return True


@contextmanager
def reading(command: Command, run: Run) -> Iterator[ToolOutput]:
    """Run a tool and read what it writes; leaving normally waits for it and raises unless it exited with 0.

    Raises `ToolFailed`, `StorageFull`, `Stopped`. Treat output as complete only after the `with` block.
    """
    with _running(command, run.stop, subprocess.DEVNULL, subprocess.PIPE) as process:
        _widen(process.popen.stdout)
        yield ToolOutput(process, run.stop)


@contextmanager
def feeding(command: Command, run: Run) -> Iterator[ToolInput]:
    """Run a tool and write to it; its output is dropped. Ends and raises like `reading`.

    Left by an exception, the tool is killed before its input closes: it never sees an early end of file.
    """
    with _running(command, run.stop, subprocess.PIPE, subprocess.DEVNULL) as process:
        yield ToolInput(process, run.stop)


@contextmanager
def conversing(command: Command, run: Run) -> Iterator[tuple[ToolInput, ToolOutput]]:
    """Like `feeding`, for a tool that answers: what it writes must be read as it comes."""
    with _running(command, run.stop, subprocess.PIPE, subprocess.PIPE) as process:
        yield ToolInput(process, run.stop), ToolOutput(process, run.stop)


def carry_out(command: Command, run: Run, tick: Callable[[], None] | None = None) -> None:
    """Run a tool that reads and writes files itself; `tick` is called now and then, to report progress."""
    with _running(command, run.stop, subprocess.DEVNULL, subprocess.DEVNULL) as process:
        while tick is not None and not process.ended_within(0.25):
            tick()


def answer(command: Command, seconds: float = 15.0) -> str:
    """What a small call (`--version`) prints; raises `ToolFailed`, also after `seconds` without an end."""
    stop = StopToken()
    taken = bytearray()
    with _running(command, stop, subprocess.DEVNULL, subprocess.PIPE) as process:
        late = threading.Event()

        def end_late() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end_late)
        timer.start()
        try:
            output = ToolOutput(process, stop)
            while data := output.read():
                taken += data[: max(ANSWER_BYTES - len(taken), 0)]
            process.reap()
        finally:
            timer.cancel()
        if late.is_set():
            raise ToolFailed(f"{command.name} did not answer within {seconds:g} seconds.")
    return redact(taken.decode(errors="replace"), command.secrets)


__all__ = [
    "Command",
    "ToolInput",
    "ToolOutput",
    "answer",
    "carry_out",
    "conversing",
    "feeding",
    "reading",
    "redact",
]

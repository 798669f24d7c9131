"""The real service as a process of its own, that tests start, ask, kill and start again on the same home."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
FLEXDB = (str(Path(sys.executable).with_name("flexdb")), "serve")
REPLICA = (sys.executable, "-m", "tests.replica")
"""The same service with the handlers of `tests.replica` beside its own."""
ROOT = Path(__file__).resolve().parents[2]
TOKEN = "acceptance-token-9f1c7a52"
WEBHOOK_SECRET = "whsec_YWNjZXB0YW5jZS10ZXN0cy1zaWduaW5nLWtleS0zMmI="
READY_SECONDS = 30.0
LOOK_SECONDS = (0.01, 0.1)
STOP_SECONDS = 40.0
QUICK: Mapping[str, str] = {
    "FLEXDB_LEASE_SECONDS": "6",
    "FLEXDB_HEARTBEAT_SECONDS": "1",
    "FLEXDB_RETRY_BASE_SECONDS": "0.1",
    "FLEXDB_WEBHOOK_SCHEDULE": "0.2,0.2,0.5,0.5,1,1,1,1,1,1",
    "FLEXDB_WEBHOOK_TIMEOUT": "60",
}
"""Short waits, so that tests need not wait long; nothing that changes what is promised."""


def until(look: Callable[[], T | None], seconds: float = 30.0, pause: float | None = None) -> T:
    """What `look` answers as soon as that is true; fails after `seconds`.

    Looks every `pause`; unless told so, less and less often, for looking takes the processor from what is awaited.
    """
    end = time.monotonic() + seconds
    wait = LOOK_SECONDS[0] if pause is None else pause
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {getattr(look, '__qualname__', look)}"
        time.sleep(wait)
        if pause is None:
            wait = min(wait * 1.5, LOOK_SECONDS[1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The stable code of a problem, or of the error in a terminal event."""
        found = self.json
        code = found.get("code") or found.get("data", {}).get("error", {}).get("code")
        return code if isinstance(code, str) else None


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    event: str
    id: str
    data: Any


class RunningService:
    """`flexdb serve` with a home, a port and settings of its own; nothing of the caller's FLEXDB_ settings reaches it.

    `command` may be `REPLICA` instead. `wrapper` is a command line that ends in running the service in its own
    place (`exec`), so that the process id stays the service's.
    """

    def __init__(
        self,
        folder: Path,
        connections: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        wrapper: tuple[str, ...] = (),
        command: tuple[str, ...] = FLEXDB,
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.log = folder / "service.log"
        self.settings: dict[str, str] = dict(QUICK) | {
            "FLEXDB_HOME": str(self.home),
            "FLEXDB_TOKEN": TOKEN,
            "FLEXDB_WEBHOOK_SECRET": WEBHOOK_SECRET,
        }
        for name, url in (connections or {}).items():
            self.settings[f"FLEXDB_CONNECTIONS__{name.upper()}"] = url
        self.settings |= settings or {}
        self.answers: list[bytes] = []
        """Every byte the service ever answered, headers included, for the search for secrets."""
        self.port = free_port()
        self._command = (*wrapper, *command)
        self._process: subprocess.Popen[bytes] | None = None
        self._strays: list[psutil.Process] = []

    # -- life

    @property
    def storage(self) -> Path:
        return Path(self.settings.get("FLEXDB_STORAGE_URL") or self.home / "storage")

    @property
    def ledger_file(self) -> Path:
        return self.home / "ledger.sqlite"

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the service was never started"
        return self._process

    def start(self) -> RunningService:
        """Returns when it takes events."""
        self.launch()
        until(self.is_ready, READY_SECONDS)
        return self

    def launch(self) -> None:
        """Begin to start; see `is_ready`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
        environment["PYTHONPATH"] = str(ROOT)  # the tests' own programs are not installed
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)],
                cwd=self.folder,
                env=environment | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Whether it takes events; fails when it has ended instead."""
        code = self.process.poll()
        assert code is None, f"the service ended with {code} instead of becoming ready:\n{self.last_words()}"
        try:
            return self.request("GET", "/readyz", timeout=5).status == 200
        except OSError:
            return False

    def kill(self) -> list[psutil.Process]:
        """SIGKILL to the service and to nothing else; the tools it had running, as processes to look at."""
        tools = self.tools()
        self._strays += tools
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return tools

    def suspend(self) -> None:
        """SIGSTOP: it does nothing, and its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)

    def resume(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> RunningService:
        """Start again on the same home, port and settings."""
        assert self.process.poll() is not None, "kill or stop it first"
        return self.start()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        return self.process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM and wait for the end; its exit code."""
        self.terminate()
        return self.wait()

    def close(self) -> None:
        """End whatever this harness started, for good."""
        if self._process is not None and self._process.poll() is None:
            self._strays += self.tools()
            self._process.kill()
            self._process.wait()
        for stray in self._strays:
            if stray.is_running():
                stray.kill()

    def tools(self) -> list[psutil.Process]:
        """Every process below the service that runs now."""
        found: list[psutil.Process] = []
        try:
            found += psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    def stop_dump(self) -> psutil.Process:
        """SIGSTOP to the next pg_dump at work: it hangs, and listens to nothing but SIGKILL."""

        def look() -> psutil.Process | None:
            for tool in self.tools():
                try:
                    if tool.name() == "pg_dump" and any(word.startswith("--format") for word in tool.cmdline()):
                        tool.suspend()
                        return tool
                except psutil.NoSuchProcess:
                    continue
            return None

        return until(look, pause=0)

    def last_words(self, lines: int = 60) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # -- asking

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = TOKEN,
        timeout: float = 90.0,
    ) -> Answer:
        """One request on a connection of its own. Anything but bytes goes as JSON."""
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=sent | dict(headers or {}))
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, received, response.read())
        finally:
            connection.close()
        self.answers.append(repr(answer.headers).encode() + answer.body)
        return answer

    def get(self, path: str) -> Any:
        answer = self.request("GET", path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body!r}"
        return answer.json

    def hook(
        self, operation: str, data: Mapping[str, Any], *, key: str | None = None, wait: float | None = None
    ) -> Answer:
        headers = {"Idempotency-Key": key} if key else {}
        if wait is not None:
            headers["Prefer"] = f"wait={wait:g}"
        return self.request("POST", f"/hooks/{operation}", dict(data), headers)

    def send(self, operation: str, data: Mapping[str, Any], *, key: str | None = None) -> str:
        """Have an event accepted; its job's id."""
        answer = self.hook(operation, data, key=key)
        assert answer.status == 202, f"{operation}: {answer.status} {answer.body!r}"
        return str(answer.json["job_id"])

    def carry_out(self, operation: str, data: Mapping[str, Any], seconds: float = 60) -> dict[str, Any]:
        """Have a job done; its terminal event, whatever its outcome."""
        answer = self.hook(operation, data, wait=seconds)
        assert answer.status == 200, f"{operation}: {answer.status} {answer.body!r}"
        event: dict[str, Any] = answer.json
        return event

    def complete(self, operation: str, data: Mapping[str, Any], seconds: float = 60) -> dict[str, Any]:
        """Have a job done that is expected to succeed; the data of its terminal event."""
        event = self.carry_out(operation, data, seconds)
        assert event["type"] == f"{operation}.completed", event["data"].get("error", event)
        result: dict[str, Any] = event["data"]
        return result

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/jobs/{job_id}")
        return found

    def ended(self, job_id: str, seconds: float = 60.0) -> dict[str, Any]:
        """The job once it has ended."""

        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["ended_at"] is not None else None

        return until(look, seconds)

    def running(self, job_id: str, seconds: float = 20.0) -> None:
        """Returns when the job runs."""
        until(lambda: self.job(job_id)["status"] == "running", seconds)

    def follow(self, job_id: str, last_event_id: str | None = None) -> list[Message]:
        """A job's event stream to its end."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/jobs/{job_id}/events", headers=headers)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.getheader("content-type", "").startswith("text/event-stream")
            body = response.read()
        finally:
            connection.close()
        self.answers.append(body)
        return list(_messages(body.decode()))

    # -- looking behind it

    @contextmanager
    def ledger(self) -> Iterator[sqlite3.Connection]:
        """The ledger's file, read-only: what is on disk, whatever the service says."""
        opened = sqlite3.connect(f"{self.ledger_file.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        opened.row_factory = sqlite3.Row
        try:
            yield opened
        finally:
            opened.close()

    def rows(self, query: str, *parameters: Any) -> list[sqlite3.Row]:
        found: list[sqlite3.Row] = []
        with self.ledger() as opened:
            found += opened.execute(query, parameters)
        return found

    def inside(self, path: Path) -> Path:
        """A path as the running service sees it, which may have file systems of its own."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def stored(self) -> list[str]:
        """Every file in storage, unfinished ones included, as paths relative to it."""
        found = [
            Path(folder) / name  # walked by os.walk, which minds nothing that goes meanwhile: a sweep may be at work
            for folder, _, names in os.walk(self.storage)
            for name in names
        ]
        return sorted(path.relative_to(self.storage).as_posix() for path in found)


def _messages(text: str) -> Iterator[Message]:
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
        if "data" in fields:
            yield Message(fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"]))

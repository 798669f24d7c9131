"""Starting what is measured, each as a process of its own in a temporary folder, and ending it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = "benchmark-token-of-no-worth"
ROOT = Path(__file__).parent.parent
FLEXDB = (str(Path(sys.executable).with_name("flexdb")), "serve")
REPLICA = (sys.executable, "-m", "tests.replica")
"""The same service, with the operations `noop` and `sleep` beside its own."""


class BenchmarkError(Exception):
    """What was to be measured did not do its work; the figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running HTTP server. `stderr` holds what it said."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    ready_after: float
    """Seconds from exec to the first 200 of its readiness path."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def post(self, path: str, data: Any, wait: int = 0, content_type: str = "application/json") -> Any:
        """The answer's JSON; with `wait` the terminal event. Raises `BenchmarkError` unless it is 2xx."""
        headers = {"Content-Type": content_type} | ({"Prefer": f"wait={wait}"} if wait else {})
        return self._ask("POST", path, json.dumps(data), headers, wait + 30)

    def get(self, path: str) -> Any:
        """As `post`."""
        return self._ask("GET", path, None, {}, 30)

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str], timeout: float) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with closing(connection):
            connection.request(method, path, body, headers | {"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        if answer.status // 100 != 2:
            raise BenchmarkError(f"{path} was answered {answer.status}: {text[:2000]}")
        return json.loads(text)

    def carry_out(self, operation: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Send an event, wait for its end; the data of the completed event. Raises `BenchmarkError`."""
        event: dict[str, Any] = self.post(f"/hooks/{operation}", data, wait=300)
        if "type" not in event:
            event = self._end_of(event["job_id"])
        if event.get("type") != f"{operation}.completed":
            raise BenchmarkError(f"{operation} {data} did not complete: {json.dumps(event)[:2000]}")
        found: dict[str, Any] = event["data"]
        return found

    def _end_of(self, job_id: str) -> dict[str, Any]:
        """What the terminal event of a job will be, which takes longer than a request can wait."""
        while (job := self.get(f"/jobs/{job_id}"))["ended_at"] is None:
            time.sleep(0.5)
        if job["status"] != "succeeded":
            return {"type": f"{job['operation']}.{job['status']}", "data": job}
        return {"type": f"{job['operation']}.completed", "data": job["result"]}


@contextmanager
def flexdb(folder: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """`flexdb serve` with its own FLEXDB_HOME in `folder`; `settings` are variables without their prefix."""
    with _service((*FLEXDB, *arguments), folder, settings) as server:
        yield server


@contextmanager
def replica(folder: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """`REPLICA`, as `flexdb`."""
    with _service((*REPLICA, *arguments), folder, settings) as server:
        yield server


@contextmanager
def _service(program: tuple[str, ...], folder: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with running([*program, "--port", str(port)], port, "/readyz", folder, settings_of(folder, **settings)) as server:
        yield server


def settings_of(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a service whose FLEXDB_HOME is in `folder`; nothing of our own settings reaches it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
    environment |= {"FLEXDB_HOME": str(folder / "home"), "FLEXDB_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    return environment | {f"FLEXDB_{name}": value for name, value in settings.items()}


@contextmanager
def running(
    command: list[str], port: int, ready: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start, wait until `ready` is answered at all (200 for `/readyz`), and kill at the end.

    Killed with SIGKILL: what was promised by then must be on disk already.
    """
    began = time.perf_counter()
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
        )
    try:
        _await_ready(process, port, ready, folder)
        yield Server(process, port, folder, time.perf_counter() - began)
    finally:
        process.kill()
        process.wait()


def _await_ready(process: subprocess.Popen[bytes], port: int, path: str, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not _answers(port, path):
        if process.poll() is not None or time.monotonic() > deadline:
            said = (folder / "stderr").read_text(errors="replace")[-3000:]
            raise BenchmarkError(f"{process.args!r} did not become ready: {said}")
        time.sleep(0.005)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        with closing(connection):
            connection.request("GET", path)
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException):  # not listening yet
        return False
    return status == 200 if path == "/readyz" else True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def run_pipeline(
    *commands: list[str],
    output: Path | None = None,
    environment: Mapping[str, str] | None = None,
    synced: bool = False,
) -> None:
    """A shell's `a | b > output`, where every program has to succeed. Without `output` it is dropped.

    `synced`: what was put out is on disk when this returns, as an artefact is.
    """
    env = {**os.environ, **(environment or {})}
    processes: list[subprocess.Popen[bytes]] = []
    with (output or Path(os.devnull)).open("wb") as file:
        for number, command in enumerate(commands, start=1):
            source = processes[-1].stdout if processes else subprocess.DEVNULL
            sink = file if number == len(commands) else subprocess.PIPE
            processes.append(subprocess.Popen(command, stdin=source, stdout=sink, env=env))
            if processes[-2:-1] and processes[-2].stdout is not None:
                processes[-2].stdout.close()  # so that the first ends when the second does
        codes = [process.wait() for process in processes]
        if synced:
            os.fsync(file.fileno())
    if any(codes):
        raise BenchmarkError(f"{[command[0] for command in commands]} ended with {codes}")

"""What tests of callbacks need: jobs that end when told, a look at deliveries, and a relay between FlexDB and n8n."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.acceptance.service_process import REPLICA, RunningService, until
from tests.acceptance.webhook_receiver import receiving
from tests.n8n.pair import Pair
from tests.n8n.probes import IN_QUERY
from tests.n8n.process import ENDED, Execution, RunningN8n


def held(key: str = "held") -> str:
    """Data of a `noop` that runs only after the `Gate` of this key was opened."""
    return f"number: 1, key: '{key}'"


HELD = held()


@contextmanager
def holding_pair(n8n: RunningN8n, folder: Path, **settings: str) -> Iterator[Pair]:
    """n8n beside a FlexDB with the handlers of `tests.replica`, whose jobs can be held by a `Gate`."""
    flexdb = RunningService(folder, {}, settings, command=REPLICA)
    with receiving() as inbox:
        pair = Pair(n8n, flexdb, inbox)
        try:
            flexdb.start()
            yield pair
        finally:
            pair.forget()
            flexdb.close()


class Gate:
    """Keeps every job of its key from running, in the FlexDB of a `holding_pair`."""

    def __init__(self, flexdb: RunningService, key: str = "held") -> None:
        self._flexdb = flexdb
        self._job_id = flexdb.send("sleep", {"seconds": 600, "key": key})
        flexdb.running(self._job_id)

    def open(self) -> None:
        """From now on they run, and end at once."""
        answer = self._flexdb.request("POST", f"/jobs/{self._job_id}/cancel")
        assert answer.status == 202, answer.body


def delivery_of(flexdb: RunningService, job_id: str) -> dict[str, Any]:
    """The one delivery of a job, with its log."""
    (found,) = flexdb.get(f"/deliveries?job_id={job_id}")["data"]
    assert isinstance(found, dict)
    return found


def settled(flexdb: RunningService, job_id: str, seconds: float = 60.0) -> dict[str, Any]:
    """The delivery of a job, once it is delivered or abandoned."""

    def look() -> dict[str, Any] | None:
        found = flexdb.get(f"/deliveries?job_id={job_id}")["data"]
        return found[0] if found and found[0]["status"] != "pending" else None

    return until(look, seconds, pause=0.1)


def answers(delivery: dict[str, Any]) -> list[int | None]:
    """The HTTP status of every attempt; None where no answer came."""
    return [attempt["http_status"] for attempt in delivery["log"]]


def job_of(execution: Execution, ask: str = "Ask") -> str:
    return str(execution.output(ask)[0]["job_id"])


def reached(pair: Pair, execution_id: str, node: str, seconds: float = 60.0) -> Execution:
    """The execution once it waits after `node` has run."""

    def look() -> Execution | None:
        found = pair.n8n.execution(execution_id)
        assert found.status not in ENDED, f"it ended: {found.status} {found.error}"
        return found if found.status == "waiting" and node in found.nodes else None

    return until(look, seconds, pause=0.1)


def all_ended(pair: Pair, workflow_id: str, number: int, seconds: float = 120.0) -> list[Execution]:
    """All executions of a workflow, once there are so many and each has ended."""

    def look() -> bool:
        listed = pair.n8n.call("GET", f"/executions?workflowId={workflow_id}&limit=250")["data"]
        return len([one for one in listed if one["status"] in ENDED]) >= number

    until(look, seconds, pause=0.3)
    return pair.n8n.executions(workflow_id)


@dataclass
class Relay:
    """Stands between FlexDB and n8n: passes callbacks on, and holds back the next one where told."""

    to_port: int
    port: int = 0
    passed: list[int] = field(default_factory=list)
    """What n8n answered to each, in order."""
    paths: list[str] = field(default_factory=list)
    """Path and query of each that came, byte for byte."""
    hold: str = ""
    """`request`: the next one is not passed on; `answer`: it is passed on and the answer kept back."""
    holding: threading.Event = field(default_factory=threading.Event)
    """Set once one is held; it is held for ever, and the ones after it pass."""

    def through(self, url: str = IN_QUERY) -> str:
        """An expression for the same URL, through here."""
        return f"({url}).replace(/:[0-9]+/, ':{self.port}')"

    def take(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> tuple[int, bytes] | None:
        """n8n's answer; None when it is to be kept back."""
        self.paths.append(path)
        held, self.hold = self.hold, ""
        if held == "request":
            self.holding.set()
            return None
        connection = http.client.HTTPConnection("127.0.0.1", self.to_port, timeout=30)
        connection.request("POST", path, body, dict(headers) | {"Host": f"127.0.0.1:{self.to_port}"})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        self.passed.append(answer.status)
        if held == "answer":
            self.holding.set()
            return None
        return found


@contextmanager
def relaying(pair: Pair) -> Iterator[Relay]:
    relay = Relay(pair.n8n.port)
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = relay.take(self.path, self.headers.items(), body)
            if answer is None:
                ended.wait()
                return
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    relay.port = int(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield relay
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()

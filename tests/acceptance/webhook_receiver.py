"""A receiver of webhooks that keeps every request as it came, and answers as it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.acceptance.service_process import until

HANG_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Received:
    """One request. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    def check_signatures(self, secret: str) -> None:
        """Both signatures, computed by hand from the raw bytes (https://www.standardwebhooks.com)."""
        timestamp = self.headers["webhook-timestamp"]
        assert abs(time.time() - int(timestamp)) < 300
        signed = f"{self.webhook_id}.{timestamp}.".encode() + self.body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        standard = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        assert f"v1,{standard}" in self.headers["webhook-signature"].split(" ")
        plain = hmac.digest(secret.encode(), self.body, hashlib.sha256).hex()
        assert self.headers["x-flexdb-signature"] == f"sha256={plain}"


class Receiver:
    """Answers `status` to all; while `hanging` is set it takes requests in and does not answer them."""

    def __init__(self) -> None:
        self.status = 204
        self.hanging = threading.Event()
        self._let_go = threading.Event()
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/done?resume=a%2Fb&token=x"

    @property
    def all(self) -> list[Received]:
        with self._lock:
            return list(self._received)

    def of(self, job_id: str) -> list[Received]:
        """What came for one job."""
        return [received for received in self.all if received.event.get("jobid") == job_id]

    def first_of(self, job_id: str, seconds: float = 30.0) -> Received:
        return until(lambda: self.of(job_id), seconds)[0]

    def release(self) -> None:
        """Answer those that hang, and all that come."""
        self.hanging.clear()
        self._let_go.set()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, received: Received) -> int:
        with self._lock:
            self._received.append(received)
        if self.hanging.is_set():
            self._let_go.wait(HANG_SECONDS)
        return self.status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver._take(Received(self.path, headers, body))
                try:
                    self.send_response(status)
                    self.send_header("content-length", "0")
                    self.end_headers()
                except OSError:
                    return  # the service was killed while it waited for us

            def log_message(self, format: str, *args: Any) -> None:
                return

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    return  # the other side is gone

        return Handler


def bodies_by_id(received: list[Received]) -> dict[str, set[bytes]]:
    """Webhook ids and the different bodies that came under each."""
    found: dict[str, set[bytes]] = defaultdict(set)
    for each in received:
        found[each.webhook_id].add(each.body)
    return dict(found)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()

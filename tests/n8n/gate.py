"""A door to FlexDB that tests send a workflow through: it keeps what was asked, and may answer in FlexDB's place."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_for(self, method: str, start: str) -> bool:
        return self.method == method and self.path.startswith(start)


Intervention = Callable[[Asked], tuple[int, Any] | None]
"""Status and JSON to answer instead of FlexDB, or None to let the request through; it may act meanwhile."""


class Gate:
    """Hands every request on to FlexDB's port, byte for byte, unless an intervention answers it."""

    def __init__(self, port: int, intervene: Intervention) -> None:
        self.asked: list[Asked] = []
        self.intervene = intervene
        self._port = port
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of(self, method: str, start: str) -> list[Asked]:
        """What was asked so, in order."""
        return [asked for asked in list(self.asked) if asked.is_for(method, start)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(asked)
        instead = self.intervene(asked)
        if instead is not None:
            return instead[0], {"content-type": "application/json"}, json.dumps(instead[1]).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=90)
        try:
            connection.request(asked.method, asked.path, body=asked.body or None, headers=asked.headers)
            response = connection.getresponse()
            kept = {name.lower(): value for name, value in response.getheaders()}
            return response.status, kept, response.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                headers.pop("connection", None)
                try:
                    status, told, answer = gate.answer(Asked(self.command, self.path, headers, body))
                except OSError:
                    return  # FlexDB is gone: the caller sees its connection closed without an answer
                self.send_response(status)
                for name in ("content-type", "link", "location", "etag"):
                    if name in told:
                        self.send_header(name, told[name])
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                self.pass_on()

            def do_POST(self) -> None:
                self.pass_on()

            def do_PUT(self) -> None:
                self.pass_on()

            def log_message(self, format: str, *args: Any) -> None:
                return

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    return  # the other side is gone

        return Handler


@contextmanager
def gate(port: int, intervene: Intervention = lambda asked: None) -> Iterator[Gate]:
    """A gate to FlexDB's `port` that is open until the block ends."""
    opened = Gate(port, intervene)
    try:
        yield opened
    finally:
        opened.close()

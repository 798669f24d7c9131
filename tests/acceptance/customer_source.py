"""The mock source of customers as a process of its own."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.acceptance.service_process import ROOT, free_port, until


@contextmanager
def customers(count: int | None = None, latency_ms: float = 0) -> Iterator[str]:
    """The URL of its list: the 21 of the example, or as many as asked for; every answer takes so long."""
    port = free_port()
    command = [sys.executable, "-m", "examples.customer_api", "--port", str(port), "--latency", f"{latency_ms:g}"]
    if count is not None:
        command += ["--count", str(count)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        until(lambda: _answers(port))
        yield f"http://127.0.0.1:{port}/api/customers"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

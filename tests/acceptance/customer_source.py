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
    for _ in range(5):  # another test may take the free port first, and answer in its place
        port = free_port()
        process = subprocess.Popen(_command(port, count, latency_ms), cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            until(lambda: process.poll() is not None or _answers(port))  # noqa: B023 because it is asked at once
            if process.poll() is None:
                yield f"http://127.0.0.1:{port}/api/customers"
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError("the source found no port")


def _command(port: int, count: int | None, latency_ms: float) -> list[str]:
    command = [sys.executable, "-m", "examples.customer_api", "--port", str(port), "--latency", f"{latency_ms:g}"]
    return command if count is None else [*command, "--count", str(count)]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

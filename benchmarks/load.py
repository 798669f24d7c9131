"""A load generator: keep-alive connections that each send the next request when the last was answered, or at its time.

A program of its own (`python load.py`): a `Load` as JSON on standard input, a `Report` on its output.
Requests differ in their event id only, so that they cost next to nothing to make.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

ANSWER_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. Either `token`, or `secret` (`whsec_…`) to sign with as Standard Webhooks says."""

    port: int
    path: str
    body: str
    ids: str
    """What event ids begin with."""
    connections: int
    warm_up: float
    seconds: float
    token: str | None = None
    secret: str | None = None
    rate: float | None = None
    """Requests a second over all connections, sent at their times as long as a connection is free; else at once."""
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Report:
    """`per_second` and latencies (seconds) are those of the measured time; `statuses` count every answer."""

    per_second: float
    p50: float
    p99: float
    worst: float
    statuses: dict[str, int]
    cpu_share: float
    """CPU time of the generator by wall time; near 1 it is itself what limits."""


def with_token(load: Load) -> Callable[[int], bytes]:
    before = _head(load) + f"Authorization: Bearer {load.token}\r\nIdempotency-Key: {load.ids}"
    after = f"\r\n\r\n{load.body}"
    first, last = before.encode(), after.encode()
    return lambda number: b"%b%d%b" % (first, number, last)


def signed(load: Load) -> Callable[[int], bytes]:
    """Signed at one moment, which is well inside any replay window."""
    assert load.secret is not None
    key = base64.b64decode(load.secret.removeprefix("whsec_"))
    now, body, head = int(time.time()), load.body.encode(), _head(load).encode()

    def make(number: int) -> bytes:
        event_id = f"{load.ids}{number}".encode()
        digest = hmac.digest(key, b"%b.%d.%b" % (event_id, now, body), hashlib.sha256)
        return (b"%bwebhook-id: %b\r\nwebhook-timestamp: %d\r\nwebhook-signature: v1,%b\r\n\r\n%b") % (
            head,
            event_id,
            now,
            base64.b64encode(digest),
            body,
        )

    return make


def _head(load: Load) -> str:
    return (
        f"{load.method} {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(load.body.encode())}\r\n"
    )


class Meter:
    """Gives out requests and takes notes, for all connections."""

    def __init__(self, make: Callable[[int], bytes], rate: float | None) -> None:
        self._make = make
        self._rate = rate
        self._began = time.perf_counter()
        self._planned = 0
        self.sent = 0
        self.statuses: Counter[bytes] = Counter()
        self.latencies = array("d")
        self.measuring = False
        self.ending = False

    def pause(self) -> float:
        """Seconds until the next request's time; asked once for each."""
        if self._rate is None:
            return 0.0
        self._planned += 1
        return self._began + self._planned / self._rate - time.perf_counter()

    def next_request(self) -> bytes:
        self.sent += 1
        return self._make(self.sent)

    def answered(self, status: bytes, took: float) -> None:
        self.statuses[status] += 1
        if self.measuring:
            self.latencies.append(took)


class Connection(asyncio.Protocol):
    """One client: sends, waits for the whole answer, sends again. `ended` gets the reason when it stops."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._taken = b""
        self._began = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._plan()

    def _plan(self) -> None:
        pause = self._meter.pause()
        if pause > 0:
            asyncio.get_running_loop().call_later(pause, self._send)
        else:
            self._send()

    def _send(self) -> None:
        if self._meter.ending:
            self._transport.close()
            return
        request = self._meter.next_request()
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._taken:
            data = self._taken + data
        if not is_whole(data):
            self._taken = data
            return
        self._taken = b""
        self._meter.answered(data[9:12], time.perf_counter() - self._began)
        if self._meter.ending:
            self._transport.close()
        else:
            self._plan()

    def connection_lost(self, error: Exception | None) -> None:
        if self._meter.ending:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(ConnectionResetError("the server closed a connection under load"))


def is_whole(answer: bytes) -> bool:
    """Whether head and body have arrived; the servers measured all send a Content-Length."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = answer.find(b"Content-Length: ", 0, end) + 16
    return len(answer) >= end + 4 + int(answer[at : answer.find(b"\r\n", at)])


async def run(load: Load) -> Report:
    meter = Meter(signed(load) if load.secret else with_token(load), load.rate)
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Connection(meter), "127.0.0.1", load.port))[1]
        for _ in range(load.connections)
    ]
    everyone = asyncio.gather(*(client.ended for client in clients))
    await _pass(everyone, load.warm_up)
    meter.measuring, began, cpu = True, time.perf_counter(), time.process_time()
    await _pass(everyone, load.seconds)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    meter.measuring, meter.ending = False, True
    await _all_answered(clients, meter)
    latencies = sorted(meter.latencies)
    return Report(
        per_second=len(latencies) / took,
        p50=latencies[len(latencies) // 2],
        p99=latencies[len(latencies) * 99 // 100],
        worst=latencies[-1],
        statuses={status.decode(): count for status, count in meter.statuses.items()},
        cpu_share=cpu / took,
    )


async def _all_answered(clients: Sequence[Connection], meter: Meter) -> None:
    """Wait for what is still out; an answer that never comes is an error of the server, and told as one."""
    _, pending = await asyncio.wait([client.ended for client in clients], timeout=ANSWER_SECONDS)
    if pending:
        raise SystemExit(f"{len(pending)} of {meter.sent} requests were not answered within {ANSWER_SECONDS} s")


async def _pass(everyone: asyncio.Future[list[None]], seconds: float) -> None:
    """Let time pass; raises as soon as a connection was lost."""
    done, _ = await asyncio.wait([everyone], timeout=seconds)
    if done:
        everyone.result()


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(run(Load(**json.load(sys.stdin)))))))

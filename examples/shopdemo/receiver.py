"""A receiver of completion webhooks: signatures checked by hand, on the raw bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

TOLERANCE = 300
"""Seconds a delivery's timestamp may be off before it counts as a replay."""


class BadSignature(Exception):
    """Somebody else sent this, or it was changed on its way."""


def check_standard_webhook(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    """Standard Webhooks 1.0 (https://www.standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`."""
    identity, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE:
        raise BadSignature(f"the timestamp {timestamp!r} is not of now")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{identity}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    if not any(hmac.compare_digest(expected, given) for given in headers["webhook-signature"].split(" ")):
        raise BadSignature("no webhook-signature fits the body")


def check_flexdb_signature(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    """For n8n's Crypto node: hex HMAC-SHA256 of the body, keyed with the secret as it is written."""
    expected = "sha256=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    if not hmac.compare_digest(expected, headers["x-flexdb-signature"]):
        raise BadSignature("x-flexdb-signature does not fit the body")


class Receiver:
    """Listens on loopback; every event that came with good signatures can be awaited by its job."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._arrived: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/done", self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/done"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def event_of(self, job_id: str) -> dict[str, Any]:
        """The completion event of a job, as soon as it has arrived. Raises `BadSignature`."""
        return await self._waiting(job_id)

    def _waiting(self, job_id: str) -> asyncio.Future[dict[str, Any]]:
        return self._arrived.setdefault(job_id, asyncio.get_running_loop().create_future())

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()  # the raw bytes: parsing and writing JSON again would change them
        event = json.loads(body)
        waiting = self._waiting(event["jobid"])
        if waiting.done():
            return web.Response(status=204)  # delivered at least once: the id says that we know it
        try:
            check_standard_webhook(self._secret, request.headers, body)
            check_flexdb_signature(self._secret, request.headers, body)
        except (BadSignature, KeyError) as error:
            waiting.set_exception(BadSignature(f"completion webhook refused: {error}"))
            return web.Response(status=401)
        waiting.set_result(event)
        return web.Response(status=204)

"""The service as `flexdb serve` builds it, inside the test's process, with a home of its own and a real socket."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from engines.sample import make_sample_shop
from service.app import Service
from service.jobs import Job
from service.settings import Settings
from service.signatures import sign
from tests.spine import ended

TOKEN = "real-service-token-7d1e"
SIGNING = "whsec_" + base64.b64encode(b"signs what comes in, 32 bytes ok").decode()
OUTGOING = "whsec_" + base64.b64encode(b"signs what goes out, 32 bytes ok").decode()
DATABASE_PASSWORD = "p4ssw0rd-of-the-away-database"
SECRETS = (TOKEN, SIGNING, SIGNING.removeprefix("whsec_"), OUTGOING, OUTGOING.removeprefix("whsec_"), DATABASE_PASSWORD)
STRUCTURED = {"Content-Type": "application/cloudevents+json"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of a problem, after a look at all that a problem must have."""
        if self.headers.get("Content-Type") != "application/problem+json":
            return None
        problem = self.json
        assert {"type", "title", "status", "code", "detail"} <= problem.keys(), problem
        assert problem["status"] == self.status and problem["type"] == f"/docs#{problem['code']}", problem
        assert problem["detail"] and problem["title"], problem
        return str(problem["code"])


@dataclass
class Running:
    service: Service
    base: URL
    session: aiohttp.ClientSession
    bodies: list[bytes] = field(default_factory=list)
    """Everything that was ever answered, headers included."""

    @property
    def port(self) -> int:
        assert self.base.port is not None
        return self.base.port

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = TOKEN,
    ) -> Answer:
        """One request, its path sent as written; a body that is neither bytes nor None is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | dict(headers or {})
        shown = ({"Authorization": f"Bearer {token}"} if token else {}) | dict(headers or {})
        url = URL(f"{self.base}".rstrip("/") + path, encoded=True)
        async with self.session.request(
            method,
            url,
            data=io.BytesIO(body) if body else body,
            headers=shown,
            allow_redirects=False,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            found = Answer(answer.status, answer.headers.copy(), await answer.read())
        self.bodies += [found.body, repr(found.headers).encode()]
        return found

    async def hook(self, operation: str, data: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", f"/hooks/{operation}", {} if data is None else data, named)

    async def accepted(self, operation: str = "check", data: Any = None, **headers: str) -> str:
        answer = await self.hook(operation, {"connection": "shop"} if data is None else data, **headers)
        assert answer.status == 202, answer.body
        return str(answer.json["job_id"])

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer.body
        return answer.json

    async def ended(self, job_id: str) -> Job:
        return await ended(self.service.ledger, job_id, 30)

    async def claimed(self) -> Job:
        """The oldest waiting job, taken as a worker would; for a service whose role is `intake`."""
        (job,) = await self.service.ledger.claim("tests", 1)
        return job

    def followers(self, job_id: str) -> int:
        return len(self.service.hub._followers.get(job_id, ()))


def signed(body: bytes, message_id: str = "msg-1", *, off: float = 0, secret: str = SIGNING) -> dict[str, str]:
    at = int(time.time() + off)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign([secret], message_id, at, body),
    }


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    """Role `intake` unless told otherwise: then jobs stay queued, and the test is the worker."""
    make_sample_shop(folder / "shop.sqlite")
    defaults: dict[str, Any] = {
        "home": folder / "home",
        "role": "intake",
        "token": TOKEN,
        "webhook_secret": OUTGOING,
        "sources": {"n8n": f"standard:{SIGNING}"},
        "connections": {
            "shop": f"sqlite:///{folder / 'shop.sqlite'}",
            "away": f"postgresql://somebody:{DATABASE_PASSWORD}@127.0.0.1:1/nowhere?connect_timeout=2",
        },
    }
    service = Service(Settings(_env_file=None, **(defaults | settings)))
    await service.start()
    runner = web.AppRunner(service.application(), access_log=None, handler_cancellation=False)  # as `service.app.run`
    try:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        base = URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
        async with aiohttp.ClientSession() as session:
            yield Running(service, base, session)
    finally:
        await service.stop()
        await runner.cleanup()

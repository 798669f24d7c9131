"""The HTTP side over a real ledger and the real handlers, without a worker: tests end jobs themselves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from engines.registry import EngineRegistry
from engines.sample import make_sample_shop
from engines.storage.local import LocalStore
from handlers.base import Handler
from handlers.ports import CatalogueEntry
from handlers.registry import build_calculator, build_handlers
from service.access import Access
from service.catalogue import LedgerCatalogue
from service.connections import NamedConnections, NamedStores
from service.http.keys import Parts
from service.http.routes import make_app
from service.hub import Hub
from service.intake import Intake
from service.jobs import Job, Problem, Status
from service.ledger.base import Ledger
from service.outgoing import OutgoingPolicy
from service.signatures import sign
from tests.contracts.ledger_world import entry
from tests.integration.supplied import supplies_of

TOKEN = "the-token-of-these-tests"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of 32 bytes......").decode()
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str | None:
        return self.json.get("code") if self.text.startswith("{") else None

    @property
    def pointers(self) -> list[str]:
        return [error["pointer"] for error in self.json.get("errors", [])]


def event(**changes: Any) -> dict[str, Any]:
    """A good CloudEvent with changes; None takes an attribute out."""
    made = {
        "specversion": "1.0",
        "id": "event-1",
        "source": "/tests",
        "type": "check.requested",
        "data": {"connection": "shop"},
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def signed(body: bytes, webhook_id: str = "msg-1", *, off: float = 0, secret: str = SECRET) -> dict[str, str]:
    """Headers of a Standard Webhooks request made `off` seconds from now."""
    stamp = int(time.time() + off)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": sign([secret], webhook_id, stamp, body),
    }


@dataclass
class Doors:
    """A client of the service's own application; `ledger` and `hub` stand for the worker's side."""

    client: TestClient[Any, Any]
    ledger: Ledger
    parts: Parts
    storage: LocalStore
    canceled: list[str] = field(default_factory=list)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = TOKEN,
    ) -> Answer:
        """One request; a body that is not bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        shown = {"Authorization": f"Bearer {token}"} if token is not None else {}
        skipped = () if headers and "Content-Type" in headers else ("Content-Type",)
        response = await self.client.request(
            method,
            path,
            data=body,
            headers=shown | dict(headers or {}),
            skip_auto_headers=skipped,
            allow_redirects=False,
        )
        return await read(response)

    async def hook(self, operation: str, data: Any = None, **headers: str) -> Answer:
        """POST /hooks/{operation}; header names with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", f"/hooks/{operation}", data or {}, {"Content-Type": "application/json"} | named)

    async def accepted(self, operation: str = "check", data: Any = None, **headers: str) -> str:
        """The id of a job that was just made."""
        answer = await self.hook(operation, data if data is not None else {"connection": "shop"}, **headers)
        assert answer.status == 202, answer.text
        return str(answer.json["job_id"])

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer.text
        return answer.json

    async def claimed(self) -> Job:
        """The oldest job that waits, taken as a worker would."""
        jobs = await self.ledger.claim("tests", 1)
        assert len(jobs) == 1
        return jobs[0]

    async def finished(self, job: Job, status: Status = Status.SUCCEEDED, **more: Any) -> None:
        if status is not Status.SUCCEEDED:
            more.setdefault("problem", Problem("tool_failed", "It went wrong.", hint="Mend it."))
        else:
            more.setdefault("result", {"reachable": True})
        assert await self.ledger.finish_job(job.job_id, job.fencing_token, status, **more) is not None

    async def published(self, backup_id: str, content: bytes = b"stored bytes", **fields: Any) -> CatalogueEntry:
        """A backup in the catalogue, its file in the store."""
        made = entry(backup_id, **fields)
        digest = hashlib.sha256(content).hexdigest()
        file = made.manifest.files[0].model_copy(update={"bytes": len(content), "sha256": digest})
        manifest = made.manifest.model_copy(update={"files": (file,)})
        made = replace(made, manifest=manifest, store="default", folder=f"shop/{backup_id}")
        self.storage.put(f"{made.folder}/{file.name}", content)
        assert await self.ledger.adopt_backup(made)
        return made


async def read(response: ClientResponse) -> Answer:
    async with response:
        return Answer(response.status, response.headers.copy(), await response.text())


def connections_of(folder: Path, engines: EngineRegistry) -> NamedConnections:
    """`shop` is a real database, `gone` a missing file, the URL of `odd` makes no sense."""
    make_sample_shop(folder / "shop.sqlite")
    urls = {
        "shop": f"sqlite:///{folder / 'shop.sqlite'}",
        "gone": f"sqlite:///{folder / 'gone.sqlite'}",
        "odd": "oracle://somewhere",
    }
    return NamedConnections(urls, engines)


async def open_doors(
    folder: Path,
    ledger: Ledger,
    make_client: Callable[..., Any],
    *,
    extra: Mapping[str, Handler[Any]] | None = None,
    reasons: list[str] | None = None,
    max_body_bytes: int = 1 << 20,
    amqp: Callable[[], dict[str, bool]] = dict,
) -> Doors:
    """Everything but worker and outbox over an open ledger. `extra` handlers come on top of the real ones."""
    engines = EngineRegistry.default()
    connections = connections_of(folder, engines)
    storage = LocalStore("default", folder / "storage")
    stores = NamedStores({"default": storage})
    hub = Hub()
    ledger.watch(lambda change: hub.job_changed(change.job_id) if change.job_id and change.kind == "job" else None)
    catalogue = LedgerCatalogue(ledger, stores, asyncio.get_running_loop())
    supplies = supplies_of(connections, stores, catalogue, engines)
    handlers = {**build_handlers(supplies, build_calculator(supplies)), **(extra or {})}
    policy = OutgoingPolicy.of(())
    canceled: list[str] = []

    def cancel_now(job_id: str) -> bool:
        canceled.append(job_id)
        return True

    parts = Parts(
        ledger=ledger,
        intake=Intake(ledger, handlers, lambda url: policy.refuse_literal(url, "callback")),
        access=Access(TOKEN, {"n8n": f"standard:{SECRET}", "cron": f"standard:{OTHER_SECRET}"}),
        hub=hub,
        connections=connections,
        stores=stores,
        engines=engines,
        policy=policy,
        max_body_bytes=max_body_bytes,
        cancel_now=cancel_now,
        not_ready=lambda: list(reasons or []),
        amqp=amqp,
    )
    return Doors(await make_client(make_app(parts)), ledger, parts, storage, canceled)

"""A service of canned answers on loopback, for tests of the command line: records what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "a-token-nobody-prints"
JOB = "01jd0000000000000000000000"
STORED = b"what pg_dump wrote" * 5000
BACKUP_ID = "20251121T120000Z-01jd0000000000000000000000-7"
MANIFEST = {
    "backup_id": BACKUP_ID,
    "connection": "shop",
    "files": [
        {"name": "shop.dump.zst", "bytes": len(STORED), "sha256": hashlib.sha256(STORED).hexdigest()},
    ],
    "restore_by_hand": ["zstd -d shop.dump.zst", "pg_restore -d DATABASE shop.dump"],
}


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{JOB}/{kind}",
        "source": "/flexdb",
        "type": kind,
        "subject": "shop",
        "jobid": JOB,
        "data": {"job_id": JOB, "operation": kind.partition(".")[0], "connection": "shop", **data},
    }


LETTER: dict[str, Any] = {
    "id": "4f1c0a5be2d96c37",
    "message_id": "order-7",
    "type": "backup.requested",
    "operation": "backup",
    "exchange": "flexdb.requests",
    "routing_key": "backup.requested",
    "reason": "unknown_connection",
    "detail": "There is no connection 'shop'.",
    "status": 422,
    "dead_at": "2025-11-21T12:00:00.000Z",
    "bytes": 22,
    "content_type": "application/json",
    "headers": {"authorization": "***"},
}
STARTED = event("backup.started", status="running", attempts=1)
PROGRESSED = event(
    "backup.progressed",
    progress={
        "stage": "dumping",
        "done": 5,
        "total": 10,
        "unit": "bytes",
        "percent": 50.0,
        "rate": 1.0,
        "eta_seconds": 5.0,
    },
)
COMPLETED = event(
    "backup.completed",
    status="succeeded",
    backup_id=BACKUP_ID,
    bytes=90000,
    level=2,
    objects=[{"name": "x" * 200_000}],
)
FAILED = event(
    "backup.failed",
    status="failed",
    error={"code": "tool_failed", "message": "pg_dump said no", "retryable": False, "hint": "Ask it why."},
)
CANCELED = event("backup.canceled", status="canceled", error={"code": "canceled", "message": "canceled on request"})


def job(status: str, **fields: Any) -> dict[str, Any]:
    empty = {"progress": None, "result": None, "error": None, "ended_at": None}
    return (
        {
            "job_id": JOB,
            "event_id": "e1",
            "operation": "backup",
            "connection": "shop",
            "status": status,
            "attempts": 1,
        }
        | empty
        | fields
    )


@dataclass
class FakeService:
    """What to answer; change the fields before the command runs."""

    events: list[dict[str, Any]] = field(default_factory=lambda: [STARTED, PROGRESSED, COMPLETED])
    cut_after: int | None = None
    """The first stream ends, without a terminal event, after so many messages."""
    has_stream: bool = True
    open_end: bool = False
    """The stream stays open and silent after its messages."""
    jobs: list[dict[str, Any]] = field(default_factory=lambda: [job("succeeded", result={"backup_id": BACKUP_ID})])
    """Answers to GET /jobs/{id}, the last one for ever."""
    listed: list[dict[str, Any]] = field(default_factory=lambda: [job("succeeded")])
    page: int = 100
    problem: tuple[int, dict[str, Any]] | None = None
    """What every POST to /hooks is refused with."""
    stored: bytes = STORED
    redrive: dict[str, Any] = field(default_factory=dict)
    """What the answer to a redrive has beside, or instead of, one letter."""
    requests: list[tuple[str, str, dict[str, str], str]] = field(default_factory=list)
    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as a stream was opened."""

    def headers(self, path: str) -> list[dict[str, str]]:
        return [headers for _, asked, headers, _ in self.requests if asked == path]

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(body) for _, asked, _, body in self.requests if asked == path and body]

    @web.middleware
    async def _record(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers), await request.text()))
        if request.path not in {"/livez", "/readyz"} and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return problem(401, {"title": "Unauthorized", "code": "invalid_token", "detail": "Send a token."})
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _alive(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _hook(self, request: web.Request) -> web.Response:
        if self.problem is not None:
            return problem(*self.problem)
        body = {
            "job_id": JOB,
            "event_id": "e1",
            "operation": request.match_info["operation"],
            "status": "queued",
        }
        return web.json_response(body | {"duplicate": False, "links": {}}, status=202)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if not self.has_stream:
            return problem(404, {"title": "Not found", "code": "not_found", "detail": "There is no stream."})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.asked.set()
        last = int(request.headers.get("Last-Event-ID", "0"))
        upto = self.cut_after if self.cut_after is not None and not last else len(self.events)
        for number, sent in enumerate(self.events[last:upto], start=last + 1):
            text = f"id: {number}\nevent: {sent['type']}\ndata: {json.dumps(sent)}\n\n"
            await response.write(text.encode())
        if self.open_end:
            await asyncio.sleep(3600)
        return response

    async def _job(self, request: web.Request) -> web.Response:
        return web.json_response(self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0])

    async def _list(self, request: web.Request) -> web.Response:
        start, limit = int(request.query.get("cursor", "0")), min(int(request.query["limit"]), self.page)
        more = start + limit < len(self.listed)
        cursor = str(start + limit) if more else None
        return web.json_response({"data": self.listed[start : start + limit], "next_cursor": cursor})

    async def _act(self, request: web.Request) -> web.Response:
        return web.json_response({"job_id": JOB, "status": "canceled"}, status=202)

    async def _backup(self, request: web.Request) -> web.Response:
        return web.json_response({"backup_id": BACKUP_ID, "level": 2, "manifest": MANIFEST, "links": {}})

    async def _download(self, request: web.Request) -> web.Response:
        return web.Response(body=self.stored, content_type="application/octet-stream")

    async def _dead_letters(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            applied = (await request.json())["apply"]
            answer = {"applied": applied, "left": [], "not_found": [], "more": False}
            return web.json_response(answer | {"redriven" if applied else "would_redrive": [LETTER]} | self.redrive)
        if "id" in request.match_info:
            return web.json_response(LETTER | {"body": '{"connection": "shop"}\n', "body_encoding": "utf-8"})
        return web.json_response({"data": [LETTER], "more": True})

    async def _subscriptions(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            return web.Response(status=204)
        item = {
            "name": "n8n",
            "url": "http://127.0.0.1:5678/x",
            "types": ["*"],
            "created_at": "2025-11-21T12:00:00Z",
        }
        return web.json_response({"data": [item]} if request.method == "GET" else item)

    async def _schedules(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            return web.Response(status=204)
        item = {
            "name": "nightly",
            "cron": "0 3 * * *",
            "timezone": "Europe/Berlin",
            "operation": "backup",
            "data": {"connection": "shop"},
            "enabled": True,
            "next_at": "2025-11-22T02:00:00.000Z",
            "last_at": "2025-11-21T02:00:00.000Z",
            "last_job_id": JOB,
            "last_refusal": {"at": "2025-11-20T02:00:00.000Z", "code": "invalid_request", "detail": "Why."},
        }
        listing = request.method == "GET" and request.path == "/schedules"
        return web.json_response({"data": [item]} if listing else item)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._record])
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/readyz", self._alive)
        app.router.add_post("/hooks/{operation}", self._hook)
        for listing in ("/jobs", "/backups", "/deliveries"):
            app.router.add_get(listing, self._list)
        app.router.add_get("/jobs/{id}", self._job)
        app.router.add_get("/jobs/{id}/events", self._stream)
        app.router.add_post("/jobs/{id}/{act}", self._act)
        app.router.add_post("/deliveries/{id}/redeliver", self._act)
        app.router.add_get("/backups/{id}", self._backup)
        app.router.add_get("/backups/{id}/download", self._download)
        app.router.add_get("/dead-letters", self._dead_letters)
        app.router.add_get("/dead-letters/{id}", self._dead_letters)
        app.router.add_post("/dead-letters/redrive", self._dead_letters)
        app.router.add_route("*", "/subscriptions", self._subscriptions)
        app.router.add_route("*", "/subscriptions/{name}", self._subscriptions)
        app.router.add_route("*", "/schedules", self._schedules)
        app.router.add_route("*", "/schedules/{name}", self._schedules)
        return app


def problem(status: int, body: dict[str, Any]) -> web.Response:
    return web.json_response(
        {"type": "about:blank", "status": status} | body,
        status=status,
        content_type="application/problem+json",
    )


@asynccontextmanager
async def serving(fake: FakeService) -> AsyncIterator[FakeService]:
    """The fake on a free port of loopback."""
    runner = web.AppRunner(fake.application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()

"""What intake is measured against: the same kind of application, which parses, answers and keeps nothing.

`python bare.py PORT [LEDGER]`: with a file it keeps each event the plain way: a thread per request, each
with a connection of its own, and a commit per request.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import threading

import uvloop
from aiohttp import web
from pydantic import BaseModel, ConfigDict

TABLE = "CREATE TABLE events (id TEXT PRIMARY KEY, operation TEXT NOT NULL, data TEXT NOT NULL) WITHOUT ROWID"


class Request(BaseModel):
    """The fields of a `check`."""

    model_config = ConfigDict(extra="forbid")

    connection: str | None = None
    callback_url: str | None = None
    deadline_seconds: float | None = None
    max_attempts: int | None = None
    on_conflict: str = "queue"


def answer(request: web.Request, job_id: str) -> web.Response:
    body = {
        "job_id": job_id,
        "event_id": request.headers["Idempotency-Key"],
        "operation": request.match_info["operation"],
        "status": "queued",
        "duplicate": False,
        "links": {
            "self": f"/jobs/{job_id}",
            "events": f"/jobs/{job_id}/events",
            "cancel": f"/jobs/{job_id}/cancel",
            "retry": f"/jobs/{job_id}/retry",
        },
    }
    return web.Response(
        body=json.dumps(body).encode(),
        status=202,
        headers={"Location": f"/jobs/{job_id}"},
        content_type="application/json",
    )


async def keep_nothing(request: web.Request) -> web.Response:
    Request.model_validate_json(await request.read())
    return answer(request, os.urandom(13).hex())


class CommitPerRequest:
    def __init__(self, path: str) -> None:
        self._path = path
        self._kept = threading.local()
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(TABLE)

    def _connection(self) -> sqlite3.Connection:
        """This thread's own, kept open: opening one each time would be slower still."""
        if not hasattr(self._kept, "connection"):
            self._kept.connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._kept.connection.execute("PRAGMA synchronous = FULL")
        connection: sqlite3.Connection = self._kept.connection
        return connection

    def _insert(self, *values: str) -> None:
        self._connection().execute("INSERT INTO events VALUES (?, ?, ?)", values)

    async def keep(self, request: web.Request) -> web.Response:
        body = await request.read()
        Request.model_validate_json(body)
        values = request.headers["Idempotency-Key"], request.match_info["operation"], body.decode()
        await asyncio.to_thread(self._insert, *values)
        return answer(request, os.urandom(13).hex())


async def serve(port: int, path: str | None) -> None:
    app = web.Application()
    app.router.add_post("/hooks/{operation}", CommitPerRequest(path).keep if path else keep_nothing)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))

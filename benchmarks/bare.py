"""What intake is measured against: the same kind of application, which parses, answers and keeps nothing.

`python bare.py PORT`: with BENCH_LEDGER in the environment, a file or the URL of a PostgreSQL database, it keeps
each event the plain way: a thread per request, each with a connection of its own, and a commit per request.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import threading
from abc import ABC, abstractmethod
from typing import Any

import psycopg2
import uvloop
from aiohttp import web
from pydantic import BaseModel, ConfigDict

TABLE = "CREATE TABLE events (id TEXT PRIMARY KEY, operation TEXT NOT NULL, data TEXT NOT NULL)"


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


class CommitPerRequest(ABC):
    def __init__(self) -> None:
        self._kept = threading.local()

    def _connection(self) -> Any:
        """This thread's own, kept open: opening one each time would be slower still."""
        if not hasattr(self._kept, "connection"):
            self._kept.connection = self._connect()
        return self._kept.connection

    @abstractmethod
    def _connect(self) -> Any: ...

    @abstractmethod
    def _insert(self, *values: str) -> None: ...

    async def keep(self, request: web.Request) -> web.Response:
        body = await request.read()
        Request.model_validate_json(body)
        values = request.headers["Idempotency-Key"], request.match_info["operation"], body.decode()
        await asyncio.to_thread(self._insert, *values)
        return answer(request, os.urandom(13).hex())


class InSQLite(CommitPerRequest):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"{TABLE} WITHOUT ROWID")

    def _connect(self) -> Any:
        connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _insert(self, *values: str) -> None:
        self._connection().execute("INSERT INTO events VALUES (?, ?, ?)", values)


class InPostgres(CommitPerRequest):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        with self._connection().cursor() as cursor:
            cursor.execute(TABLE)

    def _connect(self) -> Any:
        connection = psycopg2.connect(self._url)
        connection.autocommit = True
        return connection

    def _insert(self, *values: str) -> None:
        with self._connection().cursor() as cursor:
            cursor.execute("INSERT INTO events VALUES (%s, %s, %s)", values)


async def serve(port: int, ledger: str | None) -> None:
    handler = keep_nothing
    if ledger is not None:
        handler = (InPostgres(ledger) if "://" in ledger else InSQLite(ledger)).keep
    app = web.Application()
    app.router.add_post("/hooks/{operation}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), os.environ.get("BENCH_LEDGER")))

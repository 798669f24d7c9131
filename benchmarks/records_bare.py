"""What pages of records are measured against: aiohttp and psycopg2, written plainly.

`python records_bare.py PORT`: GET /api/customers?page=&limit= from the database BENCH_URL: a thread per request, kept
connections, the number of records (unless BENCH_COUNT is 0) and the page in two queries, `json.dumps`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import psycopg2.extras
import uvloop
from aiohttp import web

THREADS = 8
COUNT = "SELECT count(*) FROM customers"
PAGE = """
SELECT customer_id, first_name, last_name, email, phone, address, date_of_birth, account_balance, created_at
FROM customers ORDER BY customer_id LIMIT %s OFFSET %s
"""


class Customers:
    def __init__(self, url: str, *, counts: bool) -> None:
        self._url = url
        self._counts = counts
        self._kept = threading.local()
        self._threads = ThreadPoolExecutor(THREADS)

    def _connection(self) -> Any:
        if not hasattr(self._kept, "connection"):
            self._kept.connection = psycopg2.connect(self._url)
            self._kept.connection.autocommit = True
        return self._kept.connection

    def _page(self, page: int, limit: int) -> bytes:
        with self._connection().cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            total = 0
            if self._counts:
                cursor.execute(COUNT)
                total = cursor.fetchone()["count"]
            cursor.execute(PAGE, (limit, (page - 1) * limit))
            found = {"data": cursor.fetchall(), "total": total, "page": page, "limit": limit}
        return json.dumps(found, default=str).encode()

    async def get(self, request: web.Request) -> web.Response:
        page, limit = int(request.query.get("page", "1")), int(request.query.get("limit", "50"))
        body = await asyncio.get_running_loop().run_in_executor(self._threads, self._page, page, limit)
        return web.Response(body=body, content_type="application/json")


async def serve(port: int, url: str, *, counts: bool) -> None:
    app = web.Application()
    app.router.add_get("/api/customers", Customers(url, counts=counts).get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), os.environ["BENCH_URL"], counts=os.environ.get("BENCH_COUNT") != "0"))

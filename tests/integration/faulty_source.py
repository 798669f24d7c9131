"""A source of records over HTTP that does what it is told: page, lie, repeat itself, go away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Query = Mapping[str, str]
Reply = web.StreamResponse | bytes | Any
"""Bytes and what can be JSON are answered with status 200."""
Behaviour = Callable[[Query], Reply]


class FaultySource:
    """Answers each path as its behaviour says, in a loop and thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.behaviours: dict[str, Behaviour] = {}
        self.asked: list[str] = []
        """Path and query of every request."""
        self.headers: list[Mapping[str, str]] = []
        self.base = ""

    def serves(self, behaviour: Behaviour, path: str = "/rows") -> str:
        """Its URL."""
        self.behaviours[path] = behaviour
        return self.base + path

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(str(request.rel_url))
        self.headers.append(dict(request.headers))
        behaviour = self.behaviours.get(request.path)
        reply: Reply = web.Response(status=404) if behaviour is None else behaviour(request.query)
        if isinstance(reply, web.StreamResponse):
            return reply
        if isinstance(reply, bytes):
            return web.Response(body=reply, content_type="application/json")
        return web.json_response(reply)


def paged(rows: Sequence[Any], size: int = 100, *, clamps: bool = False, total: int | None = None) -> Behaviour:
    """`{"data", "total", "page", "limit"}`; beyond the end an empty page, or the last one again."""

    def behaviour(query: Query) -> Reply:
        page = int(query.get("page", "1"))
        limit = min(int(query.get("limit", str(size))), size)
        last = max(1, -(-len(rows) // limit))
        page = min(page, last) if clamps else page
        said = len(rows) if total is None else total
        return {"data": rows[(page - 1) * limit : page * limit], "total": said, "page": page, "limit": limit}

    return behaviour


@contextmanager
def faulty_source(loop: asyncio.AbstractEventLoop | None = None) -> Iterator[FaultySource]:
    """A source that runs until the block ends."""
    loop = loop or asyncio.new_event_loop()
    source = FaultySource(loop)
    thread = threading.Thread(target=loop.run_forever, name="faulty-source", daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", source.answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        source.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield source
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

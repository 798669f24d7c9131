"""The customer API's routes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from aiohttp import web

from .customers import Customers  # relative: see __main__

LARGEST_PAGE = 1000
USUAL_PAGE = 10
PAGES_KEPT = 32
"""Pages that are kept encoded: clients often ask for the same ones again."""


class CustomerAPI:
    """Handlers over some customers; each answer comes `latency` seconds later than it could."""

    def __init__(self, customers: Customers, latency: float = 0.0) -> None:
        self._customers = customers
        self._latency = latency
        self._pages: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    async def customers(self, request: web.Request) -> web.Response:
        """GET /api/customers. A larger `limit` than is allowed is cut, as the answer's own `limit` tells."""
        await self._wait()
        try:
            page, limit = (int(request.query.get(name, usual)) for name, usual in (("page", 1), ("limit", USUAL_PAGE)))
        except ValueError:
            page = limit = 0
        if page < 1 or limit < 1:
            return web.json_response({"error": "page and limit are whole numbers from 1 on"}, status=400)
        return web.Response(body=self._page(page, min(limit, LARGEST_PAGE)), content_type="application/json")

    def _page(self, page: int, limit: int) -> bytes:
        body = self._pages.pop((page, limit), None)
        if body is None:
            told = (self._customers.page((page - 1) * limit + 1, limit), len(self._customers), page, limit)
            body = b'{"data": %b, "total": %d, "page": %d, "limit": %d}' % told
        self._pages[page, limit] = body
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return body

    async def customer(self, request: web.Request) -> web.Response:
        """GET /api/customers/{id}"""
        await self._wait()
        found = self._customers.one(request.match_info["id"])
        if found is None:
            return web.json_response({"error": "there is no such customer"}, status=404)
        return web.Response(body=found, content_type="application/json")

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "customers": len(self._customers)})

    async def _wait(self) -> None:
        if self._latency:
            await asyncio.sleep(self._latency)


def application(customers: Customers, *, latency: float = 0.0) -> web.Application:
    api = CustomerAPI(customers, latency)
    app = web.Application()
    app.router.add_get("/api/customers", api.customers)
    app.router.add_get("/api/customers/{id}", api.customer)
    app.router.add_get("/api/health", api.health)
    return app

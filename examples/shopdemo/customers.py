"""The second part: customers of an API become a collection, are compared, and taken in once more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
from aiohttp import web

from examples.customer_api.customers import Customers
from examples.customer_api.server import application

COLLECTION = "customers"
PAGE = 10


class NotTakenIn(Exception):
    """The collection is not what the source has; the message says where."""


@asynccontextmanager
async def customer_api() -> AsyncIterator[str]:
    """The mock source on a free port of loopback; its URL of customers."""
    runner = web.AppRunner(application(Customers()), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/customers"
    finally:
        await runner.cleanup()


async def post_ingest(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What `POST /api/ingest` answers, and the id of its job."""
    async with session.post(f"{url}/api/ingest", json=body) as response:
        text = await response.text()
        if response.status != 200:
            raise NotTakenIn(f"POST /api/ingest was answered {response.status}: {text}")
        return json.loads(text), response.headers["Location"].rpartition("/")[2]


async def page_of(session: aiohttp.ClientSession, url: str, page: int = 1, limit: int = PAGE) -> dict[str, Any]:
    """A page of records, of the source or of the collection: both answer alike."""
    async with session.get(url, params={"page": page, "limit": limit}) as response:
        text = await response.text()
        if response.status != 200:
            raise NotTakenIn(f"{response.url} was answered {response.status}: {text}")
    found: dict[str, Any] = json.loads(text, parse_float=Decimal)  # 1234.50 is not 1234.5
    return found


async def compare_customers(session: aiohttp.ClientSession, source: str, collection: str) -> int:
    """How many there are, each the same on both sides, field by field. Raises `NotTakenIn`."""
    async with aiohttp.ClientSession() as without_token:  # the source is a stranger
        expected = await _by_key(without_token, source)
    found = await _by_key(session, collection)
    if found.keys() != expected.keys():
        raise NotTakenIn(f"{len(expected)} customers at the source, {len(found)} in the collection")
    for key, record in expected.items():
        if str(found[key]) != str(record):
            raise NotTakenIn(f"customer {key} is {record} at the source and {found[key]} in the collection")
    return len(found)


async def _by_key(session: aiohttp.ClientSession, url: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    page, total = 1, 1
    while (page - 1) * PAGE < total:
        answer = await page_of(session, url, page)
        found |= {each["customer_id"]: dict(sorted(each.items())) for each in answer["data"]}
        page, total = page + 1, answer["total"]
    return found

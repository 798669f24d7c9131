"""A service with a worker, a database of each kind to keep records in, and a source of customers; one per module."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from aiohttp import web

from examples.customer_api.customers import Customers
from examples.customer_api.server import application
from service.jobs import new_id
from tests.integration.real_service import Answer, Running, running
from tests.servers import with_database

BOOK: dict[str, Any] = {
    "type": "object",
    "properties": {
        "isbn": {"type": "string", "maxLength": 40},
        "title": {"type": "string", "maxLength": 200},
        "pages": {"type": ["integer", "null"]},
        "price": {"type": ["number", "null"], "precision": 15, "scale": 2},
        "weight": {"type": ["number", "null"], "precision": 30, "scale": 10},
        "published": {"type": ["string", "null"], "format": "date"},
        "extra": {"type": ["object", "null"]},
    },
    "required": ["title"],
}
"""The schema of a book."""


@asynccontextmanager
async def records_service(folder: Path, server: str | None, **settings: Any) -> AsyncIterator[Running]:
    """Connections `lite` (SQLite), `away` and, on a PostgreSQL server, `pg`: a database that is dropped after it."""
    urls = {
        "lite": f"sqlite:///{folder / 'lite.sqlite'}",
        "away": "postgresql://somebody@127.0.0.1:1/nowhere?connect_timeout=2",
    }
    (folder / "lite.sqlite").touch()
    database = f"flexdbtest_{secrets.token_hex(6)}"
    if server is not None:
        urls["pg"] = with_database(server, database)
        administer(server, f"CREATE DATABASE {database} TEMPLATE template0")
    options = {"role": "all", "connections": urls, "records_connection": "lite", "outgoing_allow": ("127.0.0.1",)}
    try:
        async with running(folder, **(options | settings)) as found:
            yield found
    finally:
        if server is not None:
            administer(server, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


def administer(server: str, statement: str) -> None:
    connection = psycopg2.connect(server)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@asynccontextmanager
async def customer_source(count: int | None = None) -> AsyncIterator[str]:
    """The example's API inside this process; the URL of its list."""
    runner = web.AppRunner(application(Customers(count)))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/customers"
    finally:
        await runner.cleanup()


def declaration(connection: str, **changes: Any) -> dict[str, Any]:
    """Of a collection of books."""
    return {"connection": connection, "key": "isbn", "schema": BOOK} | changes


def exactly(answer: Answer) -> Any:
    """The answer's JSON, numbers with a point as they are written."""
    return json.loads(answer.body, parse_float=Decimal)


class Books:
    """A collection that nobody else has, and calls to it."""

    def __init__(self, service: Running, connection: str) -> None:
        self.service = service
        self.connection = connection
        self.name = f"books-{new_id()}"
        self.path = f"/api/{self.name}"
        self.table = self.name.replace("-", "_")

    async def declared(self, **changes: Any) -> Books:
        answer = await self.service.ask("PUT", f"/collections/{self.name}", declaration(self.connection, **changes))
        assert answer.status == 201, answer.body
        return self

    def at(self, key: str) -> str:
        return f"{self.path}/{quote(key, safe='')}"

    async def ask(self, method: str, where: str = "", body: Any = None, **headers: str) -> Answer:
        """`where`: what follows the collection's path; header names with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.service.ask(method, self.path + where, body, named)

    async def put(self, *keys: str, **fields: Any) -> None:
        for key in keys:
            answer = await self.service.ask("PUT", self.at(key), {"title": f"Book {key}"} | fields)
            assert answer.status == 201, answer.body

    async def page(self, where: str = "") -> Any:
        answer = await self.ask("GET", where)
        assert answer.status == 200, answer.body
        return exactly(answer)

    async def keys(self, where: str = "") -> list[str]:
        return [record["isbn"] for record in (await self.page(where))["data"]]

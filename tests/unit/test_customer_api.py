"""The mock source: pages that fit together, the same customers every time, memory that does not grow."""

from __future__ import annotations

import json
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest

from handlers.collections.ready import READY

# the package lies beside the demo, which is a program: no import that type checkers follow finds it in both places
Customers: Any = import_module("examples.customer_api.customers").Customers
application: Any = import_module("examples.customer_api.server").application
FIELDS = set(READY["customers"]["schema"]["properties"])


@pytest.mark.parametrize(("count", "limit"), [(None, 10), (5, 2), (50, 7), (50, 1000), (0, 10)])
async def test_pages_fit_together_to_all_customers(aiohttp_client: Any, count: int | None, limit: int) -> None:
    client = await aiohttp_client(application(Customers(count)))
    seen: list[dict[str, Any]] = []
    page, total = 1, 1
    while (page - 1) * limit < total:
        answer = await (await client.get(f"/api/customers?page={page}&limit={limit}")).json()
        assert (answer["page"], answer["limit"]) == (page, limit)
        seen, page, total = seen + answer["data"], page + 1, answer["total"]
    assert len(seen) == total == (21 if count is None else count)
    assert [each["customer_id"] for each in seen] == [f"CUST{n:07}" for n in range(1, total + 1)]
    assert len({each["email"] for each in seen}) == total
    assert all(set(each) == FIELDS for each in seen)
    beyond = await (await client.get(f"/api/customers?page={page + 5}&limit={limit}")).json()
    assert beyond["data"] == []
    for each in seen[::9]:
        assert await (await client.get(f"/api/customers/{each['customer_id']}")).json() == each


async def test_odd_questions_have_plain_answers(aiohttp_client: Any) -> None:
    client = await aiohttp_client(application(Customers()))
    assert (await client.get("/api/health")).status == 200
    for path, status in (("/api/customers?page=0", 400), ("/api/customers?limit=x", 400), ("/api/customers/x", 404)):
        answer = await client.get(path)
        assert (answer.status, list(await answer.json())) == (status, ["error"])
    usual = await (await client.get("/api/customers")).json()
    assert (usual["page"], usual["limit"], usual["total"]) == (1, 10, 21)
    assert (await (await client.get("/api/customers?limit=5000")).json())["limit"] == 1000


def test_a_million_customers_are_the_same_every_time_and_decimals_keep_their_zeros() -> None:
    page = Customers(1_000_000).page(999_501, 1000)
    assert page == Customers(1_000_000).page(999_501, 1000)
    found = json.loads(page, parse_float=Decimal)
    assert len(found) == 500
    assert found[-1]["customer_id"] == "CUST1000000"
    assert all(each["account_balance"].as_tuple().exponent == -2 for each in found)

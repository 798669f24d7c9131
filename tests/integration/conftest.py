"""The service's doors over a ledger of their own, closed after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from service.ledger.base import Ledger
from tests.integration.doors import Doors, open_doors
from tests.spine import open_ledger

OpenDoors = Callable[..., Awaitable[Doors]]


@pytest.fixture
async def opened(tmp_path: Path, aiohttp_client: Any) -> AsyncIterator[OpenDoors]:
    """`await opened(wrap=…, rules={…}, …)`: doors, with `wrap` put before the ledger; see `open_doors`."""
    async with AsyncExitStack() as stack:

        async def make(
            wrap: Callable[[Ledger], Ledger] = lambda ledger: ledger,
            rules: dict[str, Any] | None = None,
            **options: Any,
        ) -> Doors:
            ledger = await stack.enter_async_context(open_ledger(tmp_path / "ledger.sqlite", **(rules or {})))
            return await open_doors(tmp_path, wrap(ledger), aiohttp_client, **options)

        yield make


@pytest.fixture
async def doors(opened: OpenDoors) -> Doors:
    return await opened()

"""What jobs and calculators remember between calls, in the ledger: bookmarks, rejected records, stacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from engines.errors import Stopped
from engines.run import StopReason
from handlers.supplies import Rejected, Taken
from service.asking import Asking
from service.jobs import new_id
from service.ledger.base import Ledger


class LedgerBookmarks:
    """`handlers.supplies.Bookmarks` over the ledger. Its methods block; they are for threads."""

    def __init__(self, ledger: Ledger, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._ask = Asking(loop).ask

    def bookmark(self, key: str) -> dict[str, Any] | None:
        return self._ask(self._ledger.bookmark(key))

    def keep(self, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected] = ()) -> None:
        if not self._ask(self._ledger.keep_bookmark(job_id, token, key, value, rejected)):
            raise Stopped(StopReason.LEASE_LOST)


class LedgerStacks:
    """`handlers.supplies.Stacks` over the ledger. Its methods block; they are for threads."""

    def __init__(self, ledger: Ledger, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._ask = Asking(loop).ask

    def size(self, name: str) -> int:
        return self._ask(self._ledger.stack_size(name))

    def top(self, name: str, count: int) -> Taken:
        return self._ask(self._ledger.stack_top(name, count))

    def push(self, name: str, values: Sequence[str], *, step: str | None = None) -> int:
        # The ledger may try again a transaction of which nobody knows whether it was made: so each has a name.
        return self._ask(self._ledger.stack_push(name, values, step or new_id()))

    def pop(self, name: str, count: int, revision: int, *, step: str | None = None, outcome: str = "") -> bool:
        return self._ask(self._ledger.stack_pop(name, count, revision, step or new_id(), outcome))

    def step(self, step: str) -> str | None:
        return self._ask(self._ledger.stack_step(step))

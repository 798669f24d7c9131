"""Asking the ledger from a handler's thread: its coroutines run in the loop, the thread waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from engines.errors import TargetUnavailable
from service.ledger.records import LedgerUnavailable

T = TypeVar("T")


class Asking:
    """For threads, never for the loop itself."""

    TIMEOUT = 30.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer. Raises `TargetUnavailable` (retryable) when the ledger is away."""
        try:
            return asyncio.run_coroutine_threadsafe(question, self._loop).result(self.TIMEOUT)
        except (LedgerUnavailable, TimeoutError) as error:
            raise TargetUnavailable("The ledger does not answer.", hint="It is tried again.") from error

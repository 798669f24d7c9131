"""A few threads that read, on sessions of their own: reading never waits for the writer, nor it for them."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.ledger.transaction import Session
from service.ledger.writer import Faults

T = TypeVar("T")


class Readers:
    """Sessions are opened when they are needed, and replaced when they have died."""

    THREADS = 2

    def __init__(self, connect: Callable[[], Session], faults: Faults) -> None:
        self._connect = connect
        self._faults = faults
        self._pool = ThreadPoolExecutor(self.THREADS, thread_name_prefix="ledger-reader")
        self._idle: queue.LifoQueue[Session] = queue.LifoQueue()

    async def ask(self, question: Callable[[Session], T]) -> T:
        """Raises `LedgerUnavailable`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, question)
        except Exception as error:
            if self._faults.is_unavailable(error):
                raise self._faults.describe(error) from error
            raise

    def _answer(self, question: Callable[[Session], T]) -> T:
        try:
            session, kept = self._idle.get_nowait(), True
        except queue.Empty:
            session, kept = self._connect(), False
        try:
            return self._ask(session, question)
        except Exception as error:
            if not (kept and self._faults.is_unavailable(error)):
                raise
        return self._ask(self._connect(), question)  # one that was left idle may have died: asked once more

    def _ask(self, session: Session, question: Callable[[Session], T]) -> T:
        try:
            answer = question(session)
        except Exception as error:
            if self._faults.is_unavailable(error):
                session.close()
            else:
                self._idle.put(session)
            raise
        self._idle.put(session)
        return answer

    def close(self) -> None:
        """Wait for what is being read, then close."""
        self._pool.shutdown()
        while not self._idle.empty():
            self._idle.get_nowait().close()

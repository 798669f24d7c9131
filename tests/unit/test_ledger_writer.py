"""The group-commit writer answers everybody, however its thread and the event loop meet."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType

from service.ledger.sqlite import SQLiteLedger
from service.ledger.writer import Writer
from tests.spine import accept, open_ledger


class ContestedLock:
    """A lock the writer's thread always wins: it takes its batch in the moment the event loop asks for the lock."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._lock = writer._lock

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            with self._lock:
                self._writer._items = {bulk: list(many) for bulk, many in self._writer._items.items()}
                self._writer._operations = list(self._writer._operations)
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def writer_of(ledger: SQLiteLedger) -> Writer:
    assert ledger._open is not None
    return ledger._open[0]


async def test_work_that_comes_while_the_thread_takes_its_batch_is_not_lost(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        writer = writer_of(ledger)
        writer._lock = ContestedLock(writer)  # type: ignore[assignment]  # it is used as a context manager only
        async with asyncio.timeout(10):
            jobs = await asyncio.gather(*(accept(ledger, "check") for _ in range(20)))
            await ledger.ping()
        assert len(set(map(str, jobs))) == 20


async def test_many_callers_at_once_are_all_answered(tmp_path: Path) -> None:
    async def caller(ledger: SQLiteLedger) -> int:
        for _ in range(40):
            await accept(ledger, "check")
            await ledger.ping()
        return 40

    async with open_ledger(tmp_path / "ledger.sqlite") as ledger, asyncio.timeout(60):
        assert sum(await asyncio.gather(*(caller(ledger) for _ in range(64)))) == 64 * 40

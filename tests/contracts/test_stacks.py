"""Every kind of stacks against the one suite: those of the ledger, and the dictionary that tests use in their place."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import pytest

from handlers.supplies import Stacks, Taken
from service.ledger.base import Ledger
from service.ledger.postgres import PostgresLedger
from service.ledger.records import Rules
from service.ledger.sqlite import SQLiteLedger
from service.remembering import LedgerStacks
from tests.contracts.stacks_suite import StacksSuite
from tests.servers import new_database
from tests.stacks import DictStacks


@contextmanager
def loop_beside() -> Iterator[asyncio.AbstractEventLoop]:
    """A running event loop in another thread, as handlers' threads have it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def done(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    asyncio.run_coroutine_threadsafe(work, loop).result(30)


@contextmanager
def over(*ledgers: Ledger) -> Iterator[list[Stacks]]:
    """The stacks of each ledger, while they are open."""
    with loop_beside() as loop:
        for ledger in ledgers:
            done(loop, ledger.open())
        try:
            yield [LedgerStacks(ledger, loop) for ledger in ledgers]
        finally:
            for ledger in ledgers:
                done(loop, ledger.close())


class InTurn:
    """Each call goes to the next one, as to replicas; names are this one's own, so that tests may share a ledger."""

    def __init__(self, stacks: Sequence[Stacks]) -> None:
        self._turns = cycle(stacks)
        self._lock = threading.Lock()
        self._mark = secrets.token_hex(4)

    def _next(self) -> Stacks:
        with self._lock:
            return next(self._turns)

    def size(self, name: str) -> int:
        return self._next().size(self._mark + name)

    def top(self, name: str, count: int) -> Taken:
        return self._next().top(self._mark + name, count)

    def push(self, name: str, values: Sequence[str], *, step: str | None = None) -> int:
        return self._next().push(self._mark + name, values, step=step and self._mark + step)

    def pop(self, name: str, count: int, revision: int, *, step: str | None = None, outcome: str = "") -> bool:
        return self._next().pop(self._mark + name, count, revision, step=step and self._mark + step, outcome=outcome)

    def step(self, step: str) -> str | None:
        return self._next().step(self._mark + step)


class TestDictStacks(StacksSuite):
    @pytest.fixture
    def stacks(self) -> Stacks:
        return DictStacks()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stacks]]:
    with over(SQLiteLedger(tmp_path_factory.mktemp("stacks") / "ledger.sqlite", Rules())) as found:
        yield found


@pytest.fixture(scope="module")
def replicas(postgres15_url: str) -> Iterator[list[Stacks]]:
    with new_database(postgres15_url) as url, over(*(PostgresLedger(url, Rules()) for _ in range(2))) as found:
        yield found


class TestSQLiteStacks(StacksSuite):
    @pytest.fixture
    def stacks(self, embedded: list[Stacks]) -> Stacks:
        return InTurn(embedded)


class TestPostgresStacksOfTwoReplicas(StacksSuite):
    @pytest.fixture
    def stacks(self, replicas: list[Stacks]) -> Stacks:
        return InTurn(replicas)

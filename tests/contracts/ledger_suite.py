"""The behaviour every ledger must show. A test class inherits it and says how to open its ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from service.ledger.base import Ledger
from service.ledger.records import Rules
from tests.contracts.ledger_delivery_suite import DeliverySuite
from tests.contracts.ledger_intake_suite import IntakeSuite
from tests.contracts.ledger_job_suite import JobSuite
from tests.contracts.ledger_keeping_suite import KeepingSuite
from tests.contracts.ledger_record_suite import RecordSuite
from tests.contracts.ledger_schedule_suite import ScheduleSuite
from tests.contracts.ledger_world import FakeClock, OpenLedger, World


class LedgerSuite(IntakeSuite, JobSuite, DeliverySuite, KeepingSuite, ScheduleSuite, RecordSuite):
    @pytest.fixture
    def open_ledger(self) -> OpenLedger:
        raise NotImplementedError

    @pytest.fixture
    def commits(self) -> Callable[[Ledger], int]:
        """How to learn how many transactions a ledger has committed."""
        raise NotImplementedError

    @pytest.fixture
    def shared(self) -> bool:
        """Whether other processes may be on the ledger: then only time tells that one is dead."""
        return False

    @pytest.fixture
    async def world(self, open_ledger: OpenLedger, shared: bool) -> AsyncIterator[World]:
        worlds: list[World] = []
        clock = FakeClock()

        async def reopen(rules: Rules | None = None) -> World:
            """The process is replaced by another: a new ledger, a new worker, on the same store."""
            if worlds:
                await worlds[-1].ledger.close()
            chosen = rules or (worlds[-1].rules if worlds else Rules())
            worlds.append(World(await open_ledger(clock, chosen), clock, chosen, reopen))
            if shared and len(worlds) > 1:
                clock.advance(60)
                await worlds[-1].ledger.reap()
            return worlds[-1]

        yield await reopen()
        await worlds[-1].ledger.close()

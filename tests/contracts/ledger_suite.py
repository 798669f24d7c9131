"""The behaviour every ledger must show. A test class inherits it and says how to open its ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from service.ledger.base import Ledger, Rules
from tests.contracts.ledger_delivery_suite import DeliverySuite
from tests.contracts.ledger_intake_suite import IntakeSuite
from tests.contracts.ledger_job_suite import JobSuite
from tests.contracts.ledger_keeping_suite import KeepingSuite
from tests.contracts.ledger_world import FakeClock, OpenLedger, World


class LedgerSuite(IntakeSuite, JobSuite, DeliverySuite, KeepingSuite):
    @pytest.fixture
    def open_ledger(self) -> OpenLedger:
        raise NotImplementedError

    @pytest.fixture
    def commits(self) -> Callable[[Ledger], int]:
        """How to learn how many transactions a ledger has committed."""
        raise NotImplementedError

    @pytest.fixture
    async def world(self, open_ledger: OpenLedger) -> AsyncIterator[World]:
        worlds: list[World] = []
        clock = FakeClock()

        async def reopen(rules: Rules | None = None) -> World:
            """The process is replaced by another: a new ledger, a new worker, on the same store."""
            if worlds:
                await worlds[-1].ledger.close()
            chosen = rules or (worlds[-1].rules if worlds else Rules())
            worlds.append(World(await open_ledger(clock, chosen), clock, chosen, reopen))
            return worlds[-1]

        yield await reopen()
        await worlds[-1].ledger.close()

"""Every ledger against the one suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.ledger.base import Ledger, Rules
from service.ledger.sqlite import SQLiteLedger
from tests.contracts.ledger_suite import LedgerSuite
from tests.contracts.ledger_world import FakeClock, OpenLedger


class TestSQLiteLedger(LedgerSuite):
    @pytest.fixture
    def open_ledger(self, tmp_path: Path) -> OpenLedger:
        async def opened(clock: FakeClock, rules: Rules) -> Ledger:
            ledger = SQLiteLedger(tmp_path / "ledger.sqlite", rules, clock)
            await ledger.open()
            return ledger

        return opened

    @pytest.fixture
    def commits(self) -> Callable[[Ledger], int]:
        def count(ledger: Ledger) -> int:
            assert isinstance(ledger, SQLiteLedger)
            return ledger.commits

        return count

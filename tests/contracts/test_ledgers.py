"""Every ledger against the one suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.ledger.base import Ledger
from service.ledger.postgres import PostgresLedger
from service.ledger.records import Rules
from service.ledger.sqlite import SQLiteLedger
from tests.conftest import LentLedger
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


class PostgresLedgers(LedgerSuite):
    """A class per version of the server says where it is."""

    @pytest.fixture
    def server(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def shared(self) -> bool:
        return True

    @pytest.fixture
    def open_ledger(self, server: str, lent_ledger: LentLedger) -> OpenLedger:
        url = lent_ledger(server)

        async def opened(clock: FakeClock, rules: Rules) -> Ledger:
            ledger = PostgresLedger(url, rules, clock)
            await ledger.open()
            return ledger

        return opened

    @pytest.fixture
    def commits(self) -> Callable[[Ledger], int]:
        def count(ledger: Ledger) -> int:
            assert isinstance(ledger, PostgresLedger)
            return ledger.commits

        return count


class TestPostgres15Ledger(PostgresLedgers):
    @pytest.fixture
    def server(self, postgres15_url: str) -> str:
        return postgres15_url


class TestPostgres18Ledger(PostgresLedgers):
    @pytest.fixture
    def server(self, postgres18_url: str) -> str:
        return postgres18_url

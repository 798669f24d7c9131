"""Servers of both versions and databases on them, for the PostgreSQL tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import FreshDatabase
from tests.integration.postgres.workbench import SAMPLE, Workbench, sql


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture(params=["15", "18"])
def server(request: pytest.FixtureRequest) -> str:
    """Each server in turn."""
    url: str = request.getfixturevalue(f"postgres{request.param}_url")
    return url


@pytest.fixture
def shop(server: str, fresh_database: FreshDatabase) -> str:
    """A database with one of everything, on each server in turn."""
    url = fresh_database(server)
    sql(url, SAMPLE)
    return url


@pytest.fixture
def shop15(postgres15_url: str, fresh_database: FreshDatabase) -> str:
    """The same on the installed server only, where the version does not matter."""
    url = fresh_database(postgres15_url)
    sql(url, SAMPLE)
    return url

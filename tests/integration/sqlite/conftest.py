"""A store, a workspace and a folder of databases for the tests of SQLite's own ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.storage.local import LocalStore
from tests.contracts.engine_cases import Bench, SQLiteCase


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    workspace = tmp_path / "workspace"
    workspace.mkdir(mode=0o700)
    return Bench(LocalStore("main", tmp_path / "storage"), workspace)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "databases"
    found.mkdir()
    return found


@pytest.fixture
def case(folder: Path) -> SQLiteCase:
    return SQLiteCase(folder)

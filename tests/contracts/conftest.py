"""Every engine's case, and a bench to work on, for the suites that every engine passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.storage.local import LocalStore
from tests.contracts.engine_cases import (
    CASES,
    Bench,
    EngineCase,
    MongoCase,
    MySQLCase,
    PostgresCase,
    SQLiteCase,
)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineCase]:
    kind, _, variant = request.param.partition("-")
    if kind == "postgres":
        postgres = PostgresCase(request.getfixturevalue(f"postgres{variant}_url"))
        yield postgres
        postgres.close()
        return
    if kind == "mysql":
        mysql = MySQLCase(request.getfixturevalue("mysql_url"))
        yield mysql
        mysql.close()
        return
    if kind == "mongodb":
        real = variant == "mongod"
        server = request.getfixturevalue("mongod_url" if real else "mongodb_url")
        mongo = MongoCase(server, sees_one_moment=real)
        yield mongo
        mongo.close()
        return
    folder = tmp_path / "databases"
    folder.mkdir()
    yield SQLiteCase(folder, variant)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    workspace = tmp_path / "workspace"
    workspace.mkdir(mode=0o700)
    return Bench(LocalStore("main", tmp_path / "storage"), workspace)

"""Every engine's case, and a bench to work on, for the suites that every engine passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from engines.records.base import RecordTable
from engines.records.fields import Table
from engines.run import Run
from engines.storage.local import LocalStore
from tests.contracts import record_cases
from tests.contracts.engine_cases import (
    CASES,
    JOB,
    Bench,
    EngineCase,
    MongoCase,
    MySQLCase,
    PostgresCase,
    SQLiteCase,
)
from tests.contracts.record_cases import OpenTable, RecordCase


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


@pytest.fixture(scope="module", params=record_cases.CASES)
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordCase]:
    """A database of each kind for a module's tests, each of which makes tables of its own."""
    kind, _, variant = request.param.partition("-")
    made: RecordCase
    if kind == "postgres":
        made = record_cases.PostgresRecords(request.getfixturevalue(f"postgres{variant}_url"))
    elif kind == "mysql":
        made = record_cases.MySQLRecords(request.getfixturevalue("mysql_url"))
    elif kind == "mongodb":
        real = variant == "mongod"
        server = request.getfixturevalue("mongod_url" if real else "mongodb_url")
        made = record_cases.MongoRecords(server, sees_one_moment=real)
    else:
        made = record_cases.SQLiteRecords(tmp_path_factory.mktemp("records"), variant)
    with closing(made):
        yield made


@pytest.fixture
def opened(records: RecordCase) -> Iterator[OpenTable]:
    """`opened(table, prepare=True)`: the table as the engine serves it, made unless told otherwise."""
    with ExitStack() as stack:

        def make(table: Table, *, prepare: bool = True) -> RecordTable:
            found: RecordTable = records.engine.open_table(records.target, table)
            stack.enter_context(closing(found))
            if prepare:
                found.prepare()
            return found

        yield make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(JOB, 1, tmp_path)

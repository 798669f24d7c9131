"""Fixtures for the whole suite: servers, and databases on them that are gone after the test."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg2
import pytest
from psycopg2 import sql

from tests.servers import (
    ServerMissingError,
    embedded_postgres,
    installed_postgres,
    missing,
    some_postgres,
    with_database,
)

FreshDatabase = Callable[..., str]
SERVERS = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """One PostgreSQL for all processes of the test runner, started before they are."""
    if not hasattr(config, "workerinput"):
        SERVERS.enter_context(some_postgres())


def pytest_unconfigure() -> None:
    SERVERS.close()


@pytest.fixture(scope="session")
def postgres15_url() -> str:
    """The installed server's `postgres` database: version 15 unless FLEXDB_TEST_POSTGRES_URL names another."""
    try:
        return installed_postgres()
    except ServerMissingError as error:
        missing(str(error))
        raise


@pytest.fixture(scope="session")
def postgres18_url() -> Iterator[str]:
    """A PostgreSQL 18 with password login, started for this session."""
    try:
        with embedded_postgres() as url:
            yield url
    except ServerMissingError as error:
        missing(str(error))


@pytest.fixture
def fresh_database() -> Iterator[FreshDatabase]:
    """`fresh_database(server_url, name=…, create=True)`: URL of an empty database, dropped after the test."""
    made: list[tuple[str, str]] = []

    def make(server: str, name: str | None = None, *, create: bool = True) -> str:
        database = name or f"flexdbtest_{secrets.token_hex(6)}"
        made.append((server, database))
        if create:
            _on(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", database)
            _on(server, "CREATE DATABASE {} TEMPLATE template0", database)
        return with_database(server, database)

    yield make
    for server, database in made:
        _on(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", database)


def _on(server: str, statement: str, database: str) -> None:
    connection = psycopg2.connect(server)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(database)))
    finally:
        connection.close()

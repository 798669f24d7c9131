"""Fixtures for the whole suite: servers, and databases on them that are gone after the test."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress

import aio_pika
import psycopg2
import pytest
from psycopg2 import sql

from service.amqp.names import Names
from tests import mariadb, mongodb, rabbitmq
from tests.ledger_databases import LedgerDatabase
from tests.rabbitmq import OwnRabbitMQ
from tests.servers import (
    ServerMissingError,
    embedded_postgres,
    installed_postgres,
    missing,
    some_postgres,
    with_database,
)

# The services that tests start, some 400 of them, and the processes of the test runner would each compile all
# modules anew where the environment says so: a third of the processor time of a start, half of that of a collection.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

FreshDatabase = Callable[..., str]
LentLedger = Callable[[str], str]
SERVERS = ExitStack()
SERVERS_OF_A_MODULE = {"rabbitmq_node", "own_server"}


def pytest_configure(config: pytest.Config) -> None:
    """One PostgreSQL, RabbitMQ and MariaDB for all processes of the test runner, started before they are."""
    if not hasattr(config, "workerinput"):
        SERVERS.enter_context(some_postgres())
        SERVERS.enter_context(rabbitmq.some_rabbitmq())
        SERVERS.enter_context(mariadb.some_mysql())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end: the collector of garbage need not look at it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a module starts a server for itself, its tests share a process, so that it starts one and not three."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("xdist_group"):
            continue
        if SERVERS_OF_A_MODULE.intersection(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail where tests that share a dear fixture would each run anywhere: pytest-xdist says nothing of it."""
    grouping = hasattr(item.config, "workerinput") and item.config.getoption("loadgroup")
    if grouping and item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
        pytest.fail("this pytest-xdist does not group tests with this pytest: see pyproject.toml")


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


@pytest.fixture(scope="session")
def ledger_databases() -> Iterator[dict[str, LedgerDatabase]]:
    """Server by server the database that `lent_ledger` lends."""
    made: dict[str, LedgerDatabase] = {}
    yield made
    for database in made.values():
        with suppress(psycopg2.OperationalError):  # a server of this session's own may be gone already
            database.drop()


@pytest.fixture
def lent_ledger(ledger_databases: dict[str, LedgerDatabase]) -> Iterator[LentLedger]:
    """`lent_ledger(server_url)`: URL of a migrated ledger database without a row, the same one in a test."""
    lent: list[LedgerDatabase] = []

    def lend(server: str) -> str:
        database = ledger_databases.setdefault(server, LedgerDatabase(server))
        lent.append(database)
        return database.lend()

    yield lend
    for database in lent:
        database.take_back()


def _on(server: str, statement: str, database: str) -> None:
    connection = psycopg2.connect(server)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(database)))
    finally:
        connection.close()


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """The installed RabbitMQ, or the one that FLEXDB_TEST_AMQP_URL names."""
    try:
        return rabbitmq.installed_rabbitmq()
    except ServerMissingError as error:
        missing(str(error))
        raise


@pytest.fixture
def amqp_name(rabbitmq_url: str) -> Iterator[str]:
    """A FLEXDB_AMQP_NAME nobody else has; what the service makes under it is gone after the test."""
    name = f"flexdbtest{secrets.token_hex(6)}"
    yield name
    asyncio.run(_delete(rabbitmq_url, Names.of(name)))


async def _delete(url: str, names: Names) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for name in (names.requests, names.dead, names.events):
            await channel.queue_delete(name)  # deleting what is not there is no error
            await channel.exchange_delete(name)


@pytest.fixture(scope="module")
def rabbitmq_node() -> Iterator[OwnRabbitMQ]:
    try:
        with rabbitmq.own_rabbitmq() as node:
            yield node
    except ServerMissingError as error:
        missing(str(error))


@pytest.fixture
def own_rabbitmq(rabbitmq_node: OwnRabbitMQ) -> OwnRabbitMQ:
    """A RabbitMQ of the module's own, running, that a test may stop and start."""
    rabbitmq_node.start()
    return rabbitmq_node


@pytest.fixture(scope="session")
def mongodb_url() -> Iterator[str]:
    """The server that FLEXDB_TEST_MONGODB_URL names, or a SecantusDB of this session's own."""
    try:
        with mongodb.some_mongodb() as url:
            yield url
    except ServerMissingError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def mongod_url() -> Iterator[str]:
    """A real mongod of this session's own."""
    try:
        with mongodb.own_mongod() as url:
            yield url
    except ServerMissingError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def mysql_url() -> str:
    """The installed MySQL or MariaDB, or the one that FLEXDB_TEST_MYSQL_URL names; its `mysql` database."""
    try:
        return mariadb.installed_mysql()
    except ServerMissingError as error:
        missing(str(error))
        raise

"""A server and databases on it, gone after the test, for the MySQL and MariaDB tests."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.mysql.workbench import EVERYTHING, Workbench
from tests.mariadb import own_mariadb, sql, with_database
from tests.servers import ServerMissingError, missing

Fresh = Callable[..., str]


@pytest.fixture
def bench(tmp_path: Path, mysql_url: str) -> Iterator[Workbench]:
    made = Workbench(tmp_path, mysql_url)
    yield made
    for (name,) in sql(mysql_url, f"SHOW DATABASES LIKE 'flexdb%{made.job_id}%'", on=""):
        sql(mysql_url, f"DROP DATABASE `{name}`", on="")


@pytest.fixture
def fresh(mysql_url: str) -> Iterator[Fresh]:
    """`fresh(name=…, create=True)`: URL of an empty database, dropped after the test."""
    made: list[str] = []

    def make(name: str | None = None, *, create: bool = True) -> str:
        database = name or f"flexdbtest_{secrets.token_hex(6)}"
        made.append(database)
        if create:
            sql(mysql_url, f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4", on="")
        return with_database(mysql_url, database)

    yield make
    for database in made:
        sql(mysql_url, "SET foreign_key_checks = 0", f"DROP DATABASE IF EXISTS `{database}`", on="")


@pytest.fixture
def shop(fresh: Fresh) -> str:
    """A database with one of everything."""
    url = fresh()
    sql(url, *EVERYTHING)
    return url


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    """A MariaDB of the module's own, with what the usual one does not have."""
    try:
        with own_mariadb("--max-allowed-packet=64M", "--performance-schema=ON", "--log-bin") as url:
            yield url
    except ServerMissingError as error:
        missing(str(error))

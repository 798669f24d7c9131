"""The demo as its user runs it: to the end, and interrupted."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812  a class, written small by its authors

from tests.servers import ServerMissingError, installed_postgres, missing

ROOT = Path(__file__).parents[2]


async def start(folder: Path, database_url: str = "") -> asyncio.subprocess.Process:
    """The demo with `folder` as its temporary folder."""
    environment = os.environ | {"DATABASE_URL": database_url}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.demo",
        cwd=ROOT,
        env=environment | {"TMPDIR": str(folder), "FLEXDB_TOKEN": "not-for-the-demo", "FLEXDB_PORT": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_the_demo_runs_to_its_end_and_leaves_nothing(tmp_path: Path) -> None:
    process = await start(tmp_path)
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "200,000 compared one by one, all identical" in text
    assert "artefact_damaged" in text
    assert_customers_were_taken_in(text)
    assert list(tmp_path.iterdir()) == []


def assert_customers_were_taken_in(text: str) -> None:
    assert '200 {"status": "success", "records_processed": 21}' in text
    assert "21 customers compared with the source, field by field, all identical" in text
    assert "0 inserted, 0 updated, 21 unchanged" in text


def admin() -> Connection:
    """A connection to the test server, for making and dropping databases."""
    try:
        connection = psycopg2.connect(installed_postgres(), connect_timeout=5)
    except ServerMissingError as error:
        missing(str(error))
        raise
    connection.autocommit = True
    return connection


def databases(server: Connection) -> set[str]:
    with server.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        return {name for (name,) in cursor.fetchall()}


@pytest.fixture(params=["", 'CREATE TABLE "odd ""name" AS SELECT g, g::text AS t FROM generate_series(1, 2000) g'])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the user's own: once empty, once not."""
    name = f"demo_test_{secrets.token_hex(4)}"
    url = urlsplit(installed_postgres())._replace(path=f"/{name}").geturl()
    with closing(admin()) as server:
        server.cursor().execute(f"CREATE DATABASE {name}")
        if request.param:
            with closing(psycopg2.connect(url)) as made, made:
                made.cursor().execute(request.param)
        yield url
        server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_the_demo_backs_up_a_server_of_ones_own_and_drops_what_it_made(tmp_path: Path, database_url: str) -> None:
    process = await start(tmp_path, database_url)
    async with asyncio.timeout(180):
        out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "200,000 compared one by one" in text or '"odd ""name"' in text
    assert_customers_were_taken_in(text)
    made = set(re.findall(r"flexdb_demo_\w+", text))
    assert made
    with closing(admin()) as server:
        assert not made & databases(server)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_ends_everything_it_started(tmp_path: Path, number: signal.Signals) -> None:
    process = await start(tmp_path)
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(60):
        while "accepted, on disk" not in seen:
            line = await process.stdout.readline()
            assert line, seen
            seen += line.decode()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest, _ = await process.communicate()
    assert process.returncode == 130, seen + rest.decode()
    assert children
    assert not [child for child in children if child.is_running()]
    assert list(tmp_path.iterdir()) == []

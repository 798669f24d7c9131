"""What a start imports: drivers and documents that a configuration does not need wait until something does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

START = """
import asyncio, sys
from service.app import Service
from service.settings import Settings

async def start():
    service = Service(Settings())
    await service.start()
    service.application()
    return service

async def start_and_stop():
    service = await start()
    print("imported", *sys.modules)
    await service.stop()

asyncio.run(start_and_stop())
"""
NOT_FOR_SQLITE_ALONE = {
    *("aio_pika", "aiormq", "pamqp"),
    *("psycopg2", "pymongo", "pymysql", "redis", "obstore", "pyarrow"),
    *("jwt", "cryptography"),
    *("service.ledger.postgres", "service.http.openapi"),
}
AMQP_URL = "amqp://guest:guest@127.0.0.1:1/"  # nobody listens there
JWT_SECRET = "a-secret-of-thirty-two-bytes-or-more"


def imported(folder: Path, **settings: str) -> set[str]:
    """Modules there are in a process that has started the service with these settings and no others."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
    env |= {"FLEXDB_HOME": str(folder)} | settings
    done = subprocess.run([sys.executable, "-c", START], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name for line in done.stdout.splitlines() if line.startswith("imported ") for name in line.split()}


def test_a_service_of_the_defaults_imports_no_driver_it_does_not_use(tmp_path: Path) -> None:
    assert not NOT_FOR_SQLITE_ALONE & imported(tmp_path)


def test_what_is_configured_is_imported_at_the_start_and_not_at_its_first_use(tmp_path: Path) -> None:
    found = imported(tmp_path, FLEXDB_AMQP_URL=AMQP_URL, FLEXDB_WEBHOOK_JWT_SECRET=JWT_SECRET)
    assert {"aio_pika", "jwt"} <= found
    assert not {"psycopg2", "pymongo", "pymysql"} & found


def test_a_ledger_url_that_cannot_be_read_prevents_the_start(tmp_path: Path) -> None:
    env = {**os.environ, "FLEXDB_HOME": str(tmp_path), "FLEXDB_LEDGER_URL": "postgresql://me:pass/word@host/ledger"}
    done = subprocess.run([sys.executable, "-c", START], env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "InvalidLedgerURL: FLEXDB_LEDGER_URL must be postgresql://" in done.stderr

"""n8n as larger sites run it: its own data in PostgreSQL, executions from a queue in Redis, run by a worker."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.acceptance.service_process import RunningService, until
from tests.acceptance.webhook_receiver import receiving
from tests.n8n.pair import INCOMING_KEY, Pair, make_credentials, sqlite_shop
from tests.n8n.process import RunningN8n
from tests.redis_server import own_redis
from tests.servers import new_database
from tools.n8n_install import Installed


@pytest.fixture
def large(large_servers: Pair) -> Iterator[Pair]:
    yield large_servers
    large_servers.forget()


@pytest.fixture(scope="module")
def large_servers(
    installed_n8n: Installed, postgres15_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("large")
    with new_database(postgres15_url) as database, own_redis(folder) as redis, receiving() as inbox:
        n8n = RunningN8n(folder / "n8n", installed_n8n, queue_settings(database, redis.port))
        flexdb = RunningService(folder / "flexdb", {"shop": sqlite_shop(folder / "databases")})
        try:
            make_credentials(n8n.start().own())
            n8n.start_worker()
            yield Pair(n8n, flexdb.start(), inbox)
        finally:
            flexdb.close()
            n8n.close()


def queue_settings(database: str, redis_port: int) -> dict[str, str]:
    parts = urlsplit(database)
    return {
        "DB_TYPE": "postgresdb",
        "DB_POSTGRESDB_HOST": parts.hostname or "127.0.0.1",
        "DB_POSTGRESDB_PORT": str(parts.port or 5432),
        "DB_POSTGRESDB_DATABASE": parts.path.removeprefix("/"),
        "DB_POSTGRESDB_USER": parts.username or "postgres",
        "DB_POSTGRESDB_PASSWORD": parts.password or "unused",
        "EXECUTIONS_MODE": "queue",
        "OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS": "true",
        "QUEUE_BULL_REDIS_HOST": "127.0.0.1",
        "QUEUE_BULL_REDIS_PORT": str(redis_port),
    }


def test_a_nightly_backup_is_resumed_and_told(large: Pair) -> None:
    done = large.run(large.load("nightly-backup", {"connections": "shop"}))
    assert done.status == "success", done.error
    assert "✓ shop" in large.told_of("Nightly backup: 1 of 1 proven")


def test_a_pipeline_is_never_told_proven_too_early(large: Pair) -> None:
    """In queue mode n8n answers 200 with an empty body as soon as a worker's execution waits: that is no proof, and
    the workflow's notes say to look for `"proven": true`."""
    workflow = large.load("backup-before-deployment", publish=True)
    asked = {"connection": "shop", "deployment": "release-8"}
    answer = large.n8n.webhook("/webhook/flexdb-before-deployment", asked, {"X-API-Key": INCOMING_KEY})
    assert answer.body == b"", "n8n holds the answer in queue mode now: take the warning out of the notes"
    assert until(lambda: [run for run in large.n8n.executions(workflow) if run.status == "success"])
    assert large.flexdb.get("/backups")["data"][0]["labels"]["deployment"] == "release-8"


def test_a_pipeline_is_told_at_once_what_would_fail(large: Pair) -> None:
    large.load("backup-before-deployment", publish=True)
    asked = {"connection": "nobody", "deployment": "release-9"}
    answer = large.n8n.webhook("/webhook/flexdb-before-deployment", asked, {"X-API-Key": INCOMING_KEY})
    assert answer.status == 422
    assert answer.json["proven"] is False

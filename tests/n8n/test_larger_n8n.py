"""n8n as larger sites run it: its own data in PostgreSQL, executions from a queue in Redis, run by a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.service_process import RunningService, until
from tests.acceptance.webhook_receiver import receiving
from tests.n8n.gate import gate
from tests.n8n.hard_databases import damage, locked
from tests.n8n.pair import INCOMING_KEY, Pair, make_credentials, sqlite_shop
from tests.n8n.process import Reply, RunningN8n
from tests.n8n.test_cli_n8n import WELL, World
from tests.redis_server import own_redis
from tests.servers import new_database
from tools.n8n_install import Installed

DEPLOYMENT = "backup-before-deployment"
KEY = {"X-API-Key": INCOMING_KEY}
PATIENCE = 150.0


class Large(Pair):
    """`shop`, `slow` and `damaged` are FlexDB's connections."""

    slow_url = ""


@pytest.fixture
def large(large_servers: Large) -> Iterator[Large]:
    yield large_servers
    large_servers.forget()


@pytest.fixture(scope="module")
def large_servers(
    installed_n8n: Installed, postgres15_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Large]:
    folder = tmp_path_factory.mktemp("large")
    with (
        new_database(postgres15_url) as database,
        new_database(postgres15_url) as slow,
        own_redis(folder) as redis,
        receiving() as inbox,
    ):
        n8n = RunningN8n(folder / "n8n", installed_n8n, queue_settings(database, redis.port))
        flexdb = RunningService(folder / "flexdb", connections(folder / "databases", slow))
        try:
            make_credentials(n8n.start().own())
            n8n.start_worker()
            pair = Large(n8n, flexdb.start(), inbox)
            pair.slow_url = slow
            yield pair
        finally:
            flexdb.close()
            n8n.close()


def connections(folder: Path, slow: str) -> dict[str, str]:
    damaged = sqlite_shop(folder, "damaged", orders=20_000)
    damage(Path(damaged.removeprefix("sqlite:///")))
    return {"shop": sqlite_shop(folder), "slow": slow, "damaged": damaged}


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
        "QUEUE_WORKER_LOCK_DURATION": "20000",  # so that a worker that is gone is soon missed; a minute by default
        "QUEUE_WORKER_LOCK_RENEW_TIME": "4000",
        "QUEUE_WORKER_STALLED_INTERVAL": "4000",
    }


def test_a_nightly_backup_is_resumed_and_told(large: Large) -> None:
    done = large.run(large.load("nightly-backup", {"connections": "shop"}))
    assert done.status == "success", done.error
    assert "✓ shop" in large.told_of("Nightly backup: 1 of 1 proven")


def deploy(large: Large, connection: str) -> Reply:
    """What a pipeline does: ask, and wait for the answer."""
    asked = {"connection": connection, "deployment": "release-8"}

    def look() -> Reply | None:
        reply = large.n8n.request("POST", "/webhook/flexdb-before-deployment", asked, KEY, PATIENCE)
        return None if reply.status == 404 else reply  # it is not registered yet

    return until(look, PATIENCE, pause=0.1)


@contextmanager
def deploying(large: Large, connection: str) -> Iterator[list[Reply]]:
    """The pipeline waits meanwhile; its answer is in the list at the end."""
    answers: list[Reply] = []
    pipeline = threading.Thread(target=lambda: answers.append(deploy(large, connection)))
    pipeline.start()
    yield answers
    pipeline.join(PATIENCE)


def test_a_pipeline_is_answered_when_its_backup_is_proven(large: Large) -> None:
    """The worker asks round after round, and n8n's main process holds the answer as long."""
    with gate(large.flexdb.port) as door:
        workflow = large.load(DEPLOYMENT, {"roundSeconds": 1, "flexdbUrl": door.url}, publish=True)
        with locked(large.slow_url) as lock, deploying(large, "slow") as answers:
            until(lambda: len(door.of("POST", "/hooks/backup")) >= 4, 60, pause=0.05)
            assert not answers
            lock.release()
    (reply,) = answers
    assert (reply.status, reply.json["proven"]) == (200, True), reply.body
    backup = large.flexdb.get("/backups?connection=slow")["data"][0]
    assert (reply.json["backup_id"], backup["labels"]["deployment"]) == (backup["backup_id"], "release-8")
    assert [run.status for run in large.n8n.executions(workflow)] == ["success"]


def test_flexdb_killed_and_restarted_in_the_middle_of_a_round_is_asked_on(large: Large) -> None:
    with gate(large.flexdb.port) as door:
        large.load(DEPLOYMENT, {"flexdbUrl": door.url}, publish=True)
        with locked(large.slow_url) as lock, deploying(large, "slow") as answers:
            until(lambda: len(door.of("POST", "/hooks/backup")) >= 2, 60, pause=0.05)
            large.flexdb.kill()
            until(lambda: len(door.of("POST", "/hooks/backup")) > 2 + 5, 60, pause=0.05)
            large.flexdb.restart()
            lock.release()
    (reply,) = answers
    assert (reply.status, reply.json["proven"]) == (200, True), reply.body
    assert large.flexdb.job(reply.json["job_id"])["status"] == "succeeded"


def test_a_pipeline_is_told_of_a_backup_that_fails(large: Large) -> None:
    large.load(DEPLOYMENT, publish=True)
    reply = deploy(large, "damaged")
    assert (reply.status, reply.json["proven"]) == (502, False), reply.body
    assert large.flexdb.job(reply.json["job_id"])["error"]["code"] == reply.json["code"]


def test_a_pipeline_is_told_when_the_time_is_up(large: Large) -> None:
    large.load(DEPLOYMENT, {"waitHours": 3 / 3600, "roundSeconds": 1}, publish=True)
    with locked(large.slow_url):
        reply = deploy(large, "slow")
    assert (reply.status, reply.json["code"]) == (504, "not_in_time"), reply.body
    assert large.flexdb.ended(reply.json["job_id"])["status"] == "succeeded"


def test_a_pipeline_is_told_at_once_what_would_fail(large: Large) -> None:
    large.load(DEPLOYMENT, publish=True)
    reply = deploy(large, "nobody")
    assert (reply.status, reply.json["proven"]) == (422, False)


def test_a_pipeline_is_not_told_proven_when_the_worker_dies(large: Large) -> None:
    with gate(large.flexdb.port) as door:
        workflow = large.load(DEPLOYMENT, {"flexdbUrl": door.url}, publish=True)
        with locked(large.slow_url), deploying(large, "slow") as answers:
            until(lambda: len(door.of("POST", "/hooks/backup")) >= 2, 60, pause=0.05)
            large.n8n.kill_worker()
            large.n8n.start_worker()
            until(lambda: answers, PATIENCE, pause=0.2)
    assert answers[0].status == 500, answers[0].body
    assert [run.status for run in large.n8n.executions(workflow)] == ["error"]


def test_the_command_line_reads_what_the_webhook_did_not_answer(large: Large, tmp_path: Path) -> None:
    found = World(large.n8n, large.flexdb, tmp_path, large.inbox).check().found("round trip")
    assert [found[name].partition(":")[0] for name in WELL] == ["ok"] * len(WELL), found


def test_who_waits_for_a_call_back_is_answered_too_early(large: Large) -> None:
    """What remains in queue mode where n8n waits: notes of such workflows say to look for their word, not for 200."""
    workflow = large.load("check-the-pair", publish=True)
    reply = large.n8n.webhook("/webhook/flexdb-check-the-pair", {}, KEY)
    assert reply.body == b"", "n8n holds the answer in queue mode now: take the warnings out of the notes"
    assert until(lambda: [run for run in large.n8n.executions(workflow) if run.status == "success"])

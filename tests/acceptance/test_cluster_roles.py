"""Replicas that each do one part of the work, and replicas that share nothing but servers, complete jobs together."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.broker import Request
from tests.acceptance.cluster import Cluster, open_cluster
from tests.acceptance.scenes import postgres15
from tests.acceptance.service_process import until
from tests.acceptance.webhook_receiver import receiving
from tests.acceptance.worlds import PostgresWorld

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture
def parts(tmp_path: Path, postgres15_url: str, rabbitmq_url: str) -> Iterator[Cluster]:
    """One replica for each role, none of them started."""
    with open_cluster(tmp_path, postgres15_url, amqp=rabbitmq_url) as cluster:
        for role in ("intake", "worker", "relay"):
            cluster.add(role, role=role)
        yield cluster


def test_intake_worker_and_relay_complete_jobs_together(parts: Cluster) -> None:
    parts.start()
    reply = parts.broker.make_inbox(of_all_events=False)
    with receiving() as receiver:
        by_http = [parts["intake"].send("sleep", {"callback_url": receiver.url}) for _ in range(5)]
        asked = [Request(f"roles-{number}", "sleep", {}, reply_to=reply) for number in range(5)]
        parts.broker.publish(asked)
        until(lambda: len(parts.job_ids()) == 10)
        parts.settled()
        for job_id in by_http:
            receiver.first_of(job_id)
    assert parts.told_of("completed") == set(parts.job_ids())
    assert {each.event["causationid"] for each in parts.broker.read(reply)} == {each.event_id for each in asked}
    assert {each.pid for each in parts.journal.stretches()} == {parts["worker"].process.pid}
    parts.audit([each.event_id for each in asked])


def test_each_role_leaves_the_others_work_alone(parts: Cluster) -> None:
    """First only intake, then a worker beside it, then a relay: every step waits for its own role."""
    parts.start("intake")
    with receiving() as receiver:
        job_id = parts["intake"].send("sleep", {"callback_url": receiver.url})
        parts.start("worker")
        assert parts["intake"].ended(job_id)["status"] == "succeeded"
        (worked,) = parts.journal.stretches()
        assert worked.pid == parts["worker"].process.pid
        waiting = parts.rows("SELECT status, attempts FROM deliveries WHERE job_id = %s", job_id)
        assert {(row["status"], row["attempts"]) for row in waiting} == {("pending", 0)}
        assert not receiver.all
        parts.broker.publish([Request("late", "sleep", {})])
        parts.start("relay")
        receiver.first_of(job_id)
        until(lambda: len(parts.job_ids()) == 2)
        parts.settled()
    parts.audit(["late"])


def test_a_worker_and_a_relay_take_no_requests_from_rabbitmq(parts: Cluster) -> None:
    parts.start()
    parts["intake"].stop()
    parts.broker.publish([Request("patient", "noop", {})])
    probe = parts["worker"].request("GET", "/readyz").status
    assert probe == 200
    assert parts.broker.waiting() == 1
    parts["intake"].restart()
    until(lambda: parts.broker.waiting() == 0)
    parts.settled(["patient"])
    parts.audit(["patient"])


# ---------------------------------------------------------------- object storage


@pytest.fixture
def bucket() -> Iterator[str]:
    """Storage URL of a fresh bucket on an S3 server that answers by HTTP."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    made = urllib.request.Request(f"http://{host}:{port}/{name}", method="PUT")
    urllib.request.urlopen(made, timeout=10).close()
    yield f"s3://key:secret@{name}/artefacts?region=us-east-1&endpoint=http://{host}:{port}&part_mib=5"
    server.stop()


@pytest.fixture
def shop() -> Iterator[PostgresWorld]:
    world = postgres15()
    try:
        world.fill(2000)
        yield world
    finally:
        world.close()


def test_a_backup_made_by_one_replica_is_proven_and_restored_by_another_from_s3(
    tmp_path: Path, postgres15_url: str, shop: PostgresWorld, bucket: str
) -> None:
    connections = {"shop": shop.url}
    with open_cluster(tmp_path, postgres15_url, connections=connections, storage_url=bucket) as cluster:
        cluster.add("maker")
        cluster.add("reader")
        cluster.start("maker")
        backup_id = cluster["maker"].complete("backup", {"connection": "shop", "verify": 1})["backup_id"]
        assert cluster["maker"].stop() == 0
        backed_up = shop.contents()
        shop.change()
        cluster.start("reader")
        proof = cluster["reader"].complete("verification", {"backup_id": backup_id, "level": 3})
        assert proof["level"] == 3
        cluster["reader"].complete(
            "restore", {"backup_id": backup_id, "connection": "shop", "into": shop.copy, "mode": "create"}
        )
        assert shop.contents(shop.copy) == backed_up
        cluster.settled()
        cluster.audit()

"""Servers that go away and replicas that come and go under load: whatever was promised is there afterwards, once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.acceptance.broker import Publisher, Request
from tests.acceptance.cluster import LEASE_SECONDS, open_cluster
from tests.acceptance.load import Callers, under_load
from tests.acceptance.service_process import until
from tests.rabbitmq import OwnRabbitMQ
from tests.servers import OwnPostgres, debian_postgres, restartable_postgres

pytestmark = pytest.mark.xdist_group("cluster")
KEYS = 6
TRANSACTION_SECONDS = 10.0
"""How long a transaction of a process that does nothing is let be (service/ledger/postgres_session.py)."""


def short_work(number: int) -> dict[str, Any]:
    """A little work; every third waits its turn on one of a few keys."""
    return {"seconds": 0.02, "number": number} | ({"key": f"k{number % KEYS}"} if number % 3 == 0 else {})


def work_on_paper(number: int) -> dict[str, Any]:
    return {"number": number}


# ---------------------------------------------------------------- the ledger's server goes away


@pytest.fixture
def own_server() -> Iterator[OwnPostgres]:
    with restartable_postgres(debian_postgres()) as server:
        yield server


def test_every_202_and_every_message_outlives_a_crash_of_the_ledgers_server_under_load(
    tmp_path: Path, own_server: OwnPostgres, rabbitmq_url: str
) -> None:
    with open_cluster(tmp_path, own_server.url, amqp=rabbitmq_url) as cluster:
        cluster.add("one")
        cluster.add("two")
        cluster.start()
        requests = [Request(f"message-{number}", "sleep", short_work(number)) for number in range(200)]
        publisher = Publisher(cluster.broker, requests, window=5, pause=0.1)
        publisher.start()
        with under_load(Callers(cluster, short_work, callers=4)) as callers:
            for _ in range(2):
                callers.further(40)
                refused = callers.statuses[503]
                own_server.stop()
                until(partial(callers.were_refused, refused))
                time.sleep(0.5)  # an outage lasts a while
                own_server.start()
                callers.further(40)
        assert set(callers.statuses) == {202, 503}, callers.statuses
        publisher.join(60)
        until(lambda: cluster.broker.waiting() == 0)
        cluster.settled(publisher.confirmed)
        report = cluster.audit([*callers.promised, *publisher.confirmed])
        assert report.counts["jobs"] == len(callers.promised) + len(requests)
        assert report.counts["failed"] == 0
        assert cluster.told_of("completed") == set(cluster.job_ids())


def test_a_long_job_outlives_a_short_outage_of_the_ledgers_server(tmp_path: Path, own_server: OwnPostgres) -> None:
    with open_cluster(tmp_path, own_server.url) as cluster:
        cluster.add("one")
        cluster.start()
        job_id = cluster["one"].send("sleep", {"seconds": LEASE_SECONDS})
        cluster.runner(job_id)
        own_server.stop()
        until(lambda: cluster["one"].request("GET", f"/jobs/{job_id}").status == 503)
        own_server.start()
        until(lambda: cluster["one"].request("GET", f"/jobs/{job_id}").status == 200)
        job = cluster["one"].ended(job_id)
        assert (job["status"], job["attempts"]) == ("succeeded", 1)
        cluster.settled()
        cluster.audit()


# ---------------------------------------------------------------- RabbitMQ goes away


def test_every_confirmed_message_outlives_a_crash_of_rabbitmq_under_load(
    tmp_path: Path, postgres15_url: str, own_rabbitmq: OwnRabbitMQ
) -> None:
    with open_cluster(tmp_path, postgres15_url, amqp=own_rabbitmq.url) as cluster:
        cluster.add("one")
        cluster.add("two")
        cluster.start()
        # RabbitMQ writes new queues and bindings down a second or more late; killed before that, it has lost them.
        own_rabbitmq.stop(kill=False)
        own_rabbitmq.start()
        requests = [Request(f"message-{number}", "sleep", short_work(number)) for number in range(400)]
        publisher = Publisher(cluster.broker, requests, window=5, pause=0.05)
        publisher.start()
        until(lambda: len(publisher.confirmed) >= 100)
        own_rabbitmq.stop()
        until(lambda: publisher.outages > 0)
        by_http = [cluster["one"].send("sleep", short_work(number), key=f"http-{number}") for number in range(20)]
        for job_id in by_http:
            assert cluster["two"].ended(job_id)["status"] == "succeeded"
        own_rabbitmq.start()
        publisher.join(60)
        until(lambda: cluster.broker.waiting() == 0)
        cluster.settled(publisher.confirmed)
        assert len(publisher.confirmed) == len(requests)
        report = cluster.audit(publisher.confirmed)
        assert report.counts["jobs"] == len(requests) + len(by_http)
        assert cluster.told_of("completed") == set(cluster.job_ids())


# ---------------------------------------------------------------- replicas come


@pytest.mark.parametrize("number", [2, 10])
def test_replicas_started_at_the_same_instant_on_an_empty_database_all_come_up(
    tmp_path: Path, postgres15_url: str, number: int
) -> None:
    with open_cluster(tmp_path, postgres15_url) as cluster:
        for each in range(number):
            cluster.add(f"replica-{each}")
        cluster.start()
        applied = cluster.rows("SELECT count(*) AS times FROM schema_migrations GROUP BY number")
        assert applied
        assert {row["times"] for row in applied} == {1}
        jobs = [service.send("noop", {}) for service in cluster.replicas.values()]
        for job_id in jobs:
            assert cluster["replica-0"].ended(job_id)["status"] == "succeeded"
        cluster.settled()
        cluster.audit()


# ---------------------------------------------------------------- replicas go


def test_a_rolling_restart_under_load_loses_nothing_and_counts_no_attempt(
    tmp_path: Path, postgres15_url: str, rabbitmq_url: str
) -> None:
    with open_cluster(tmp_path, postgres15_url, amqp=rabbitmq_url) as cluster:
        for name in ("one", "two", "three"):
            cluster.add(name, settings={"FLEXDB_DRAIN_SECONDS": "0.5"})
        cluster.start()
        published = [Request(f"rolled-{number}", "sleep", short_work(number)) for number in range(300)]
        publisher = Publisher(cluster.broker, published, window=10, pause=0.2)
        publisher.start()
        with under_load(Callers(cluster, short_work, pause=0.02)) as callers:
            callers.further(20)
            long = [cluster["one"].send("sleep", {"seconds": 5}, key=f"long-{number}") for number in range(3)]
            first = cluster.runner(long[0])
            for name in (first, *cluster.others(first)):
                assert cluster[name].stop() == 0, cluster[name].last_words()
                callers.further(15)
                cluster[name].restart()
                callers.further(15)
        publisher.join(60)
        until(lambda: cluster.broker.waiting() == 0)
        cluster.settled(publisher.confirmed)
        report = cluster.audit([*publisher.confirmed, *callers.promised])
        assert set(callers.statuses) <= {0, 202, 503}
        assert len(publisher.confirmed) == len(published)
        assert report.counts["attempts lost in a crash"] == 0
        given_back = [job_id for job_id in long if [step for step, _ in cluster.history(job_id)].count("queued") > 1]
        assert given_back, "no job was given back: nothing was tested"
        assert {cluster.job(job_id)["attempts"] for job_id in long} == {1}


def test_a_replica_frozen_in_the_midst_of_anything_does_not_hold_up_the_other(
    tmp_path: Path, postgres15_url: str
) -> None:
    chance = Random(11)
    with open_cluster(tmp_path, postgres15_url) as cluster:
        cluster.add("frozen")
        cluster.add("well")
        cluster.start()
        busy = Callers(cluster, work_on_paper, operation="noop", callers=4, replicas=["frozen"], name="busy")
        with under_load(busy):
            for _ in range(12):
                busy.further(chance.randint(5, 20))
                cluster["frozen"].suspend()
                asked_at = time.monotonic()
                job_id = cluster["well"].send("noop", {})
                assert cluster["well"].ended(job_id)["status"] == "succeeded"
                assert time.monotonic() - asked_at < TRANSACTION_SECONDS + LEASE_SECONDS
                cluster["frozen"].resume()
        cluster.settled()
        cluster.audit(busy.promised)

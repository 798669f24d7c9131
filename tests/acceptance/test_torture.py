"""Thousands of events by both doors while replicas are killed again and again; afterwards everything is counted.

FLEXDB_TORTURE_EVENTS and FLEXDB_TORTURE_KILL_SECONDS make it as long as one likes (`make torture`: 10,000 events).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest

from tests.acceptance.broker import Publisher, Request
from tests.acceptance.cluster import Cluster, open_cluster
from tests.acceptance.load import Callers
from tests.acceptance.service_process import until
from tests.acceptance.webhook_receiver import Receiver, bodies_by_id, receiving

pytestmark = pytest.mark.xdist_group("cluster")
EVENTS = int(os.environ.get("FLEXDB_TORTURE_EVENTS") or 1000)
KILL_SECONDS = float(os.environ.get("FLEXDB_TORTURE_KILL_SECONDS") or 2)
REPLICAS = ("one", "two", "three")
KEYS = 24
LONGEST = 60 + EVENTS / 20
"""Seconds after which something must have got stuck."""


class Plan:
    """What is asked for: by number, so that whoever counts afterwards knows what should have come of it."""

    def __init__(self, receiver: Receiver) -> None:
        self._callback = receiver.url

    @staticmethod
    def broken(number: int) -> bool:
        return number % 40 == 7

    @staticmethod
    def told_by_webhook(number: int) -> bool:
        return number % 25 == 3

    def data(self, number: int) -> dict[str, Any]:
        asked: dict[str, Any] = {"number": number, "seconds": (number % 5) * 0.004}
        if number % 2:
            asked["key"] = f"k{number % KEYS}"
        if self.broken(number):
            asked["broken"] = True
        if number % 20 == 11:
            asked["busy"] = 1
        if self.told_by_webhook(number):
            asked["callback_url"] = self._callback
        return asked


class Killer(threading.Thread):
    """SIGKILL to a replica by chance, a start, and after a while the next."""

    def __init__(self, cluster: Cluster, chance: Random) -> None:
        super().__init__(name="killer")
        self.kills = 0
        self.fault: BaseException | None = None
        self._cluster = cluster
        self._chance = chance
        self._done = threading.Event()

    def run(self) -> None:
        try:
            while not self._done.wait(KILL_SECONDS * self._chance.uniform(0.5, 1.5)):
                name = self._chance.choice(REPLICAS)
                self._cluster.kill(name)
                self.kills += 1
                self._cluster[name].restart()
        except BaseException as error:  # noqa: BLE001  told to the test, which fails with it
            self.fault = error

    def stop(self) -> None:
        self._done.set()
        self.join()
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def cluster(tmp_path: Path, postgres15_url: str, rabbitmq_url: str) -> Iterator[Cluster]:
    with open_cluster(tmp_path, postgres15_url, amqp=rabbitmq_url) as cluster:
        for name in REPLICAS:
            cluster.add(name)
        yield cluster.start()


def by_rabbitmq(plan: Plan, numbers: range, chance: Random) -> list[Request]:
    """Each once, one in ten twice, in no order."""
    requests = [Request(f"amqp-{number}", "sleep", plan.data(number)) for number in numbers]
    requests += [each for each in requests if chance.random() < 0.1]
    chance.shuffle(requests)
    return requests


def test_thousands_of_events_while_replicas_are_killed_lose_and_double_nothing(cluster: Cluster) -> None:
    seed = SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    chance = Random(seed)
    http_events = EVENTS // 5
    began = time.monotonic()
    with receiving() as receiver:
        plan = Plan(receiver)
        requests = by_rabbitmq(plan, range(http_events, EVENTS), chance)
        publisher = Publisher(cluster.broker, requests, window=20, pause=20 / (EVENTS / 10))
        callers = Callers(cluster, plan.data, callers=3, limit=http_events, name="http")
        killer = Killer(cluster, chance)
        for each in (killer, publisher, callers):
            each.start()
        try:
            callers.join()
            publisher.join(LONGEST)
            until(lambda: mostly_done(cluster), LONGEST, pause=0.5)
        finally:
            killer.stop()
            publisher.stop()
            callers.stop()
        cluster.settled(seconds=LONGEST)
        took = time.monotonic() - began
        told_once(receiver, plan)
    print(f"{EVENTS} events, {killer.kills} kills, {took:.0f} s, {EVENTS / took:.0f} events/s")
    assert killer.kills >= 2, "hardly anything was killed: nothing was tested"
    count_everything(cluster, [*publisher.confirmed, *callers.promised])
    assert not callers.unasked, callers.unasked[:5]


def mostly_done(cluster: Cluster) -> bool:
    """Every event is in the ledger and most have ended. What is left goes on in peace while the deliveries that
    killed relays had taken wait for their leases to end, the better part of a minute."""
    row = cluster.rows("SELECT count(*) AS jobs, count(ended_at) AS ended FROM jobs")[0]
    return bool(row["jobs"] >= EVENTS and row["ended"] >= EVENTS * 0.8)


def told_once(receiver: Receiver, plan: Plan) -> None:
    """Each callback got its job's terminal event, however often, always the same."""
    bodies = bodies_by_id(receiver.all)
    assert len(bodies) == sum(plan.told_by_webhook(number) for number in range(EVENTS))
    assert all(webhook_id.endswith("/terminal") and len(found) == 1 for webhook_id, found in bodies.items())


def count_everything(cluster: Cluster, promised: list[str]) -> None:
    report = cluster.audit(promised)
    assert len(set(promised)) == EVENTS
    assert report.counts["events"] == report.counts["jobs"] == EVENTS
    assert report.counts["failed"] == sum(Plan.broken(number) for number in range(EVENTS))
    assert report.counts["canceled"] == 0
    told: dict[str, str] = {}
    for each in cluster.broker.read(cluster.inbox):
        if each.event["id"].endswith("/terminal"):
            kind = told.setdefault(each.event["jobid"], each.routing_key)
            assert kind == each.routing_key
    assert set(told) == set(cluster.job_ids()), "the exchange was not told of every end"

"""Replicas that die, freeze or have a wrong clock: leases and fencing tokens keep every job whole and single."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance.audit import loose_files
from tests.acceptance.cluster import LEASE_SECONDS, Cluster, open_cluster
from tests.acceptance.scenes import postgres15
from tests.acceptance.service_process import RunningService, until
from tests.acceptance.webhook_receiver import receiving
from tests.acceptance.worlds import PostgresWorld
from tests.journal import Stretch

pytestmark = pytest.mark.xdist_group("cluster")
HOUR = 3600
SLACK_SECONDS = 4.0
"""For a machine that is busy: how much later than the lease's end the next attempt may begin."""


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory: pytest.TempPathFactory, postgres15_url: str) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("pair"), postgres15_url) as cluster:
        cluster.add("one")
        cluster.add("two")
        yield cluster


@pytest.fixture
def pair(two_replicas: Cluster) -> Cluster:
    """Both up, whatever the test before did to them."""
    return two_replicas.start()


def attempts_of(cluster: Cluster, job_id: str) -> list[Stretch]:
    return [each for each in cluster.journal.stretches() if each.job_id == job_id]


def begun(cluster: Cluster, job_id: str, number: int, seconds: float = 20.0) -> list[Stretch]:
    """The attempts at a job once there are that many."""

    def look() -> list[Stretch] | None:
        found = attempts_of(cluster, job_id)
        return found if len(found) >= number else None

    return until(look, seconds)


def said(service: RunningService, event: str, job_id: str) -> list[dict[str, object]]:
    """Lines of a replica's log."""
    lines = (json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event and line.get("job_id") == job_id]


# ---------------------------------------------------------------- killed


def test_a_job_whose_replica_is_killed_runs_again_elsewhere_within_the_lease_and_ends_once(pair: Cluster) -> None:
    with receiving() as receiver:
        job_id = pair["one"].send("sleep", {"seconds": 1.0, "key": "k", "callback_url": receiver.url})
        dead = pair.runner(job_id)
        (first,) = begun(pair, job_id, 1)
        (other,) = pair.others(dead)
        killed_at = time.monotonic()
        pair.kill(dead)
        first, second = begun(pair, job_id, 2)
        assert pair[other].ended(job_id)["status"] == "succeeded"
        receiver.first_of(job_id)
        assert {each.webhook_id for each in receiver.of(job_id)} == {f"{job_id}/terminal"}
    assert second.begin - killed_at < LEASE_SECONDS + SLACK_SECONDS
    assert second.pid == pair[other].process.pid
    assert second.token > first.token
    assert [status for status, _ in pair.history(job_id)] == ["queued", "running", "queued", "running", "succeeded"]
    assert pair.job(job_id)["crashes"] == 1
    pair.settled()
    pair.audit()


def test_the_key_of_a_killed_replica_is_free_for_another_job_after_the_lease(pair: Cluster) -> None:
    job_id = pair["one"].send("sleep", {"seconds": 0.5, "key": "k"})
    dead = pair.runner(job_id)
    (other,) = pair.others(dead)
    pair.kill(dead)
    waiting = pair[other].send("sleep", {"seconds": 0.1, "key": "k"})
    assert pair[other].ended(waiting, LEASE_SECONDS + SLACK_SECONDS + 2)["status"] == "succeeded"
    pair.settled()
    pair.audit()


# ---------------------------------------------------------------- frozen


@pytest.mark.parametrize("stubborn", [True, False], ids=["asks-nobody", "asks-the-ledger"])
def test_what_a_replica_frozen_past_its_lease_writes_late_is_refused(pair: Cluster, stubborn: bool) -> None:
    job_id = pair["one"].send("sleep", {"seconds": 2, "key": "k", "stubborn": stubborn})
    begun(pair, job_id, 1)
    frozen = pair.freeze(job_id)
    begun(pair, job_id, 2)
    frozen.resume()  # the work's time is over by now, so it is done at once, while the other is at it
    job = frozen.ended(job_id)
    until(lambda: all(each.how != "open" for each in attempts_of(pair, job_id)))
    first, second = attempts_of(pair, job_id)
    assert first.pid == frozen.process.pid
    assert first.end < second.end, "the late end came after the other's: nothing was tested"
    assert first.how == ("done" if stubborn else "stopped:lease_lost")
    assert (job["status"], job["result"]["token"]) == ("succeeded", second.token)
    steps = pair.history(job_id)
    assert [status for status, _ in steps] == ["queued", "running", "queued", "running", "succeeded"]
    assert steps[-1] == ("succeeded", second.token)
    refused = until(lambda: said(frozen, "job_finished", job_id))
    assert [line["written"] for line in refused] == [False]
    pair.settled()
    pair.audit()


def test_a_replica_that_was_frozen_works_again_afterwards(pair: Cluster) -> None:
    job_id = pair["one"].send("sleep", {"seconds": 0.5, "key": "k"})
    frozen = pair.freeze(job_id)
    begun(pair, job_id, 2)
    frozen.resume()
    for other in pair.replicas.values():
        if other is not frozen:
            other.stop()
    again = frozen.send("sleep", {"seconds": 0.1, "key": "k"})
    assert frozen.ended(again)["status"] == "succeeded"
    assert frozen.ended(job_id)["status"] == "succeeded"
    pair.settled()
    pair.audit()


# ---------------------------------------------------------------- frozen in a real backup


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PostgresWorld]:
    world = postgres15()
    try:
        world.fill(30_000)
        yield world
    finally:
        world.close()


@pytest.fixture
def shops(tmp_path: Path, postgres15_url: str, shop: PostgresWorld) -> Iterator[Cluster]:
    with open_cluster(tmp_path, postgres15_url, connections={"shop": shop.url}) as cluster:
        cluster.add("one")
        cluster.add("two")
        yield cluster.start()
        for job_id in cluster.job_ids():
            assert not shop.half_built([job_id])


def tokens_at_work(shop: PostgresWorld, job_id: str) -> set[int]:
    return {session.token for session in shop.sessions(job_id) if session.database == shop.name}


def test_a_backup_frozen_past_its_lease_leaves_neither_sessions_nor_half_an_artefact(
    shops: Cluster, shop: PostgresWorld
) -> None:
    job_id = shops["one"].send("backup", {"connection": "shop", "verify": 2})
    until(lambda: any(".part-" in path for path in shops["one"].stored()), pause=0.0005)
    frozen = shops.freeze(job_id)
    left = tokens_at_work(shop, job_id)
    assert len(left) == 1, "the dump was over too soon: nothing was tested"
    until(lambda: newer_attempt(shop, job_id, min(left)), pause=0.002)
    (other,) = (service for service in shops.replicas.values() if service is not frozen)
    job = other.ended(job_id)
    frozen.resume()
    assert job["status"] == "succeeded"
    refused = until(lambda: said(frozen, "job_finished", job_id))
    assert [line["written"] for line in refused] == [False]
    listed = frozen.get("/backups")["data"]
    assert [backup["backup_id"] for backup in listed] == [job["result"]["backup_id"]]
    frozen.stop()
    frozen.restart()  # a start sweeps
    until(lambda: not loose_files(other), 15)
    proof = other.complete("verification", {"backup_id": job["result"]["backup_id"], "level": 3})
    assert proof["level"] == 3
    shops.settled()
    shops.audit()


def newer_attempt(shop: PostgresWorld, job_id: str, old: int) -> bool:
    """True once a later attempt has a session on the target; by then the older one may have none."""
    tokens = tokens_at_work(shop, job_id)
    assert not (old in tokens and tokens - {old}), "two attempts at work on one database"
    return bool(tokens - {old})


def test_a_backup_that_waits_for_a_lock_is_fenced_off_when_its_replica_freezes(
    shops: Cluster, shop: PostgresWorld
) -> None:
    with shop.locked():
        job_id = shops["one"].send("backup", {"connection": "shop"})
        until(lambda: any(session.waits for session in shop.sessions(job_id)))
        (left,) = tokens_at_work(shop, job_id)
        frozen = shops.freeze(job_id)
        until(lambda: newer_attempt(shop, job_id, left), pause=0.002)
        frozen.resume()
        until(lambda: said(frozen, "job_finished", job_id))
        assert left not in tokens_at_work(shop, job_id)
    assert frozen.ended(job_id)["status"] == "succeeded"
    assert len(frozen.get("/backups")["data"]) == 1
    shops.settled()
    shops.audit()


# ---------------------------------------------------------------- wrong clocks


@pytest.fixture(scope="module")
def three_clocks(tmp_path_factory: pytest.TempPathFactory, postgres15_url: str) -> Iterator[Cluster]:
    """One replica with the right time and one an hour off in each direction, one job at a time each."""
    with open_cluster(tmp_path_factory.mktemp("clocks"), postgres15_url) as cluster:
        for name, offset in (("right", 0), ("fast", HOUR), ("slow", -HOUR)):
            settings = {"FLEXDB_CONCURRENCY": "1", "FLEXDB_TEST_CLOCK_OFFSET": str(offset)}
            cluster.add(name, settings=settings)
        yield cluster


@pytest.fixture
def clocks(three_clocks: Cluster) -> Cluster:
    return three_clocks.start()


def test_leases_hold_whatever_the_clocks_of_the_replicas_say(clocks: Cluster) -> None:
    long = [service.send("sleep", {"seconds": LEASE_SECONDS * 1.7}) for service in clocks.replicas.values()]
    ran_by = {clocks.runner(job_id) for job_id in long}
    assert ran_by == set(clocks.replicas), "not each ran one: nothing was tested"
    for job_id in long:
        job = clocks["right"].ended(job_id)
        assert (job["status"], job["attempts"]) == ("succeeded", 1)
        assert abs(datetime.fromisoformat(job["created_at"]).timestamp() - time.time()) < 120
    clocks.settled()
    clocks.audit()


@pytest.mark.parametrize("dead", ["fast", "slow"])
def test_the_lease_of_a_dead_replica_with_a_wrong_clock_ends_in_time(clocks: Cluster, dead: str) -> None:
    jobs = [service.send("sleep", {"seconds": 60}) for service in clocks.replicas.values()]
    (lost,) = [job_id for job_id in jobs if clocks.runner(job_id) == dead]
    (other, *_) = [job_id for job_id in jobs if job_id != lost]
    clocks.kill(dead)
    killed_at = time.monotonic()
    clocks["right"].request("POST", f"/jobs/{other}/cancel")  # makes room for it
    _, second = begun(clocks, lost, 2)
    assert second.begin - killed_at < LEASE_SECONDS + SLACK_SECONDS
    for job_id in jobs:
        clocks["right"].request("POST", f"/jobs/{job_id}/cancel")
        assert clocks["right"].ended(job_id)["status"] == "canceled"
    clocks.settled()
    clocks.audit()


def test_deadlines_are_right_whatever_the_clocks_of_the_replicas_say(clocks: Cluster) -> None:
    asked_at = time.monotonic()
    jobs = [
        service.send("sleep", {"seconds": 60, "deadline_seconds": 3, "number": number})
        for number, service in enumerate(clocks.replicas.values())
    ]
    assert {clocks.runner(job_id) for job_id in jobs} == set(clocks.replicas)
    waiting = clocks["fast"].send("sleep", {"seconds": 0.1, "deadline_seconds": 60})
    for job_id in jobs:
        job = clocks["right"].ended(job_id, 20)
        assert (job["status"], job["error"]["code"]) == ("failed", "deadline_exceeded")
    assert time.monotonic() - asked_at < 3 + SLACK_SECONDS
    for job_id in jobs:
        (worked,) = attempts_of(clocks, job_id)
        assert worked.how == "stopped:deadline"
        assert worked.end - asked_at > 2.9, "ended before its time"
    assert clocks["slow"].ended(waiting)["status"] == "succeeded"


def test_an_error_that_may_pass_is_tried_again_in_time_whatever_the_clocks_say(clocks: Cluster) -> None:
    data = {"seconds": 0.05, "busy": 1, "deadline_seconds": 600}
    jobs = [service.send("sleep", data | {"number": 1}) for service in clocks.replicas.values() for _ in range(4)]
    for job_id in jobs:
        job = clocks["right"].ended(job_id, 15)
        assert (job["status"], job["attempts"]) == ("succeeded", 2)
    assert len({each.pid for each in clocks.journal.stretches() if each.job_id in jobs}) == 3, (
        "not all three worked: nothing was tested"
    )


def test_a_replica_with_a_fast_clock_does_not_sweep_what_is_to_be_kept(clocks: Cluster) -> None:
    recent, old = (clocks["right"].send("sleep", {"seconds": 0.0}) for _ in range(2))
    clocks.settled()
    clocks.change("UPDATE jobs SET ended_at = ended_at - 86400 WHERE job_id = %s", old)
    clocks["fast"].stop()
    clocks["fast"].settings["FLEXDB_KEEP_JOBS"] = f"{HOUR / 2 / 86400:.4f}"
    clocks["fast"].restart()
    until(lambda: clocks["right"].request("GET", f"/jobs/{old}").status == 404)
    assert clocks["right"].job(recent)["status"] == "succeeded"

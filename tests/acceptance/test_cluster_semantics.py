"""Two replicas, asked at the same instant or through the one that does not do the work, answer as one service."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest

from tests.acceptance.broker import Request
from tests.acceptance.cluster import Cluster, open_cluster
from tests.acceptance.service_process import TOKEN, Answer, RunningService, until
from tests.acceptance.webhook_receiver import Receiver, receiving
from tests.journal import overlaps

pytestmark = pytest.mark.xdist_group("cluster")
T = TypeVar("T")
ROUNDS = 5


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgres15_url: str, rabbitmq_url: str) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("pair")
    with open_cluster(folder, postgres15_url, amqp=rabbitmq_url) as cluster:
        for name in ("one", "two"):
            cluster.add(name)
        yield cluster.start()


def at_once(*calls: Callable[[], T]) -> list[T]:
    """The answers of calls that begin at the same instant, in the order of the calls."""
    barrier, answers = threading.Barrier(len(calls)), dict[int, T]()

    def call(number: int) -> None:
        barrier.wait()
        answers[number] = calls[number]()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(calls))]


def on_both(
    pair: Cluster, operation: str, one: dict[str, Any], two: dict[str, Any], *, key: str | None = None
) -> list[Answer]:
    """What each replica answers to its own of the two requests, sent at the same instant."""
    return at_once(
        partial(pair["one"].hook, operation, one, key=key),
        partial(pair["two"].hook, operation, two, key=key),
    )


# ---------------------------------------------------------------- once per event


def test_one_event_sent_to_two_replicas_at_the_same_instant_is_one_job(pair: Cluster) -> None:
    for number in range(ROUNDS):
        key = f"same-{number}"
        answers = on_both(pair, "noop", {"number": 1}, {"number": 1}, key=key)
        assert [answer.status for answer in answers] == [202, 202], [answer.body for answer in answers]
        assert len({answer.json["job_id"] for answer in answers}) == 1
        assert sorted(answer.json["duplicate"] for answer in answers) == [False, True]
        assert len(pair.rows("SELECT 1 FROM jobs WHERE event_id = %s", key)) == 1


def test_one_id_with_different_data_is_refused_by_whichever_replica_comes_second(pair: Cluster) -> None:
    for number in range(ROUNDS):
        key = f"other-{number}"
        answers = on_both(pair, "noop", {"number": 1}, {"number": 2}, key=key)
        assert sorted(answer.status for answer in answers) == [202, 409]
        refused = next(answer for answer in answers if answer.status == 409)
        assert refused.code == "id_reused"


def test_events_that_come_twice_and_out_of_order_by_rabbitmq_and_http_are_one_job_each(pair: Cluster) -> None:
    requests = [Request(f"both-{number}", "noop", {"number": number}) for number in range(60)]
    chance = random.Random(7)
    by_amqp, by_http = requests + requests, list(requests)
    chance.shuffle(by_amqp)
    chance.shuffle(by_http)
    publishing = threading.Thread(target=pair.broker.publish, args=(by_amqp,))
    publishing.start()
    for request in by_http:
        service = pair[chance.choice(["one", "two"])]
        body = request.event()
        answer = service.request("POST", "/events", body, {"Content-Type": "application/cloudevents+json"})
        assert answer.status == 202, answer.body
    publishing.join()
    until(lambda: pair.broker.waiting() == 0)
    pair.settled(request.event_id for request in requests)
    made = pair.rows("SELECT event_id, status FROM jobs WHERE source = '/tests' AND event_id LIKE 'both-%%'")
    assert sorted(row["event_id"] for row in made) == sorted(request.event_id for request in requests)
    assert {row["status"] for row in made} == {"succeeded"}
    pair.audit([request.event_id for request in requests])


# ---------------------------------------------------------------- conflicts


def test_two_that_want_to_join_at_the_same_instant_become_one_job_and_both_are_told(pair: Cluster) -> None:
    with receiving() as receiver:
        for number in range(ROUNDS):
            data = {"seconds": 0.2, "key": f"join-{number}", "on_conflict": "join"}
            one, two = (data | {"callback_url": f"{receiver.url}&caller={caller}"} for caller in (1, 2))
            answers = on_both(pair, "sleep", one, two)
            assert [answer.status for answer in answers] == [202, 202]
            job_ids = {answer.json["job_id"] for answer in answers}
            assert len(job_ids) == 1
            job_id = job_ids.pop()
            assert pair["one"].ended(job_id)["status"] == "succeeded"
            until(partial(both_were_told, receiver, job_id))


def both_were_told(receiver: Receiver, job_id: str) -> bool:
    return len({each.path for each in receiver.of(job_id)}) == 2


def test_of_two_that_would_rather_be_refused_one_is_accepted(pair: Cluster) -> None:
    accepted = []
    for number in range(ROUNDS):
        data = {"seconds": 0.2, "key": f"reject-{number}", "on_conflict": "reject"}
        answers = on_both(pair, "sleep", data, data)
        assert sorted(answer.status for answer in answers) == [202, 409], [answer.body for answer in answers]
        refused = next(answer for answer in answers if answer.status == 409)
        accepted.append(next(answer.json["job_id"] for answer in answers if answer.status == 202))
        assert refused.code == "target_busy"
        assert refused.json["job_id"] == accepted[-1]
    for job_id in accepted:
        assert pair["two"].ended(job_id)["status"] == "succeeded"


def test_jobs_on_one_key_run_one_after_the_other_on_whichever_replica(pair: Cluster) -> None:
    jobs = [
        pair[name].send("sleep", {"seconds": 0.15, "key": f"exclusive-{key}"})
        for _ in range(4)
        for key in range(6)
        for name in (random.choice(["one", "two"]),)
    ]
    for job_id in jobs:
        assert pair["one"].ended(job_id)["status"] == "succeeded"
    worked = [each for each in pair.journal.stretches() if each.job_id in jobs]
    assert len(worked) == len(jobs)
    assert not overlaps(worked)
    assert {each.pid for each in worked} == set(pair.pids().values()), "one replica did it all: nothing was tested"


# ---------------------------------------------------------------- once per tick, once per destination


def test_a_tick_of_a_schedule_makes_one_job_although_both_replicas_see_it(pair: Cluster) -> None:
    yearly = {"cron": "0 0 1 1 *", "operation": "noop"}
    names = [f"tick-{number}" for number in range(15)]
    for number, name in enumerate(names):
        assert pair["one"].request("PUT", f"/schedules/{name}", yearly | {"data": {"number": number}}).status == 201
    pair.change("UPDATE schedules SET next_at = extract(epoch FROM now()) - 1")
    assert pair["two"].request("PUT", "/schedules/waker", yearly | {"enabled": False}).status == 201
    until(lambda: not pair.rows("SELECT 1 FROM schedules WHERE next_at < extract(epoch FROM now())"))
    fired = pair.rows("SELECT job_id FROM jobs WHERE source = '/flexdb/schedules'")
    last = pair.rows("SELECT last_job_id FROM schedules WHERE enabled = 1")
    assert {row["job_id"] for row in fired} == {row["last_job_id"] for row in last}
    assert len(fired) == len(names)


def test_without_a_fault_each_destination_hears_of_each_event_once(pair: Cluster) -> None:
    pair.settled()
    pair.broker.read(pair.inbox)
    with receiving() as receiver:
        data = {"callback_url": receiver.url}
        jobs = [pair[random.choice(["one", "two"])].send("noop", data) for _ in range(100)]
        pair.settled()
        called = [each.webhook_id for each in receiver.all]
    assert sorted(called) == sorted(f"{job_id}/terminal" for job_id in jobs)
    published = [each.event["id"] for each in pair.broker.read(pair.inbox)]
    assert len(published) == len(set(published)) == 2 * len(jobs)


# ---------------------------------------------------------------- through the other replica


def running_elsewhere(pair: Cluster, seconds: float, key: str) -> tuple[str, RunningService]:
    """A job that runs, and the replica that does not run it."""
    job_id = pair["one"].send("sleep", {"seconds": seconds}, key=key)
    (other,) = pair.others(pair.runner(job_id))
    return job_id, pair[other]


def test_a_cancel_reaches_the_replica_that_runs_the_job(pair: Cluster) -> None:
    job_id, other = running_elsewhere(pair, 60, "cancel")
    assert other.request("POST", f"/jobs/{job_id}/cancel").status == 202
    assert other.ended(job_id, seconds=10)["status"] == "canceled"
    (worked,) = [each for each in pair.journal.stretches() if each.job_id == job_id]
    assert worked.how == "stopped:cancel"


def test_who_waits_at_the_other_replica_gets_the_terminal_event(pair: Cluster) -> None:
    job_id, other = running_elsewhere(pair, 1.5, "wait")
    answer = other.hook("sleep", {"seconds": 1.5}, key="wait", wait=20)
    assert answer.status == 200, answer.body
    assert (answer.json["type"], answer.json["jobid"]) == ("sleep.completed", job_id)


def test_the_event_stream_of_the_other_replica_shows_progress_and_the_end(pair: Cluster) -> None:
    job_id, other = running_elsewhere(pair, 3.5, "stream")
    messages = other.follow(job_id)
    kinds = [message.event for message in messages]
    assert (kinds[0], kinds[-1]) == ("sleep.started", "sleep.completed")
    progress = [message.data["data"]["progress"]["done"] for message in messages if message.event == "sleep.progressed"]
    assert progress, "no progress came through the other replica"
    assert progress == sorted(progress)


def test_a_job_looked_at_through_the_other_replica_shows_its_progress(pair: Cluster) -> None:
    job_id, other = running_elsewhere(pair, 30, "progress")
    shown = until(lambda: other.job(job_id)["progress"], 10)
    assert (shown["stage"], shown["total"]) == ("sleeping", 30_000)
    other.request("POST", f"/jobs/{job_id}/cancel")
    assert other.ended(job_id)["status"] == "canceled"
    assert other.job(job_id)["progress"] is None


def test_a_stream_broken_off_at_one_replica_goes_on_at_the_other(pair: Cluster) -> None:
    job_id, other = running_elsewhere(pair, 1.0, "resume")
    first = read_one_message(other, job_id)
    runner = pair[pair.others(next(name for name in pair.replicas if pair[name] is other))[0]]
    rest = [message for message in runner.follow(job_id, last_event_id=first) if message.id]
    assert [message.event for message in rest] == ["sleep.completed"]


def read_one_message(service: RunningService, job_id: str) -> str:
    """The id of the first event on a job's stream, which is then left."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    try:
        connection.request("GET", f"/jobs/{job_id}/events", headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        while line := response.readline().decode():
            if line.startswith("id: "):
                return line.removeprefix("id: ").strip()
    finally:
        connection.close()
    raise AssertionError("the stream ended before its first event")


def test_nothing_of_all_this_was_lost_or_doubled(pair: Cluster) -> None:
    pair.settled()
    pair.audit()

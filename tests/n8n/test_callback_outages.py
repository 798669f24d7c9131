"""FlexDB away, slow and killed, while n8n asks and while it waits: one job, and one callback that counts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.service_process import until
from tests.n8n import probes
from tests.n8n.callbacks import HELD, Gate, answers, holding_pair, job_of, reached, relaying, settled
from tests.n8n.pair import Pair
from tests.n8n.process import Execution, RunningN8n


@pytest.fixture
def holding(n8n: RunningN8n, tmp_path: Path) -> Iterator[Pair]:
    with holding_pair(n8n, tmp_path / "flexdb", FLEXDB_WEBHOOK_TIMEOUT="120") as pair:
        yield pair


def jobs(pair: Pair) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pair.flexdb.get("/jobs?operation=noop")["data"]
    return found


def check_resumed_once_by(pair: Pair, done: Execution, job_id: str) -> dict[str, Any]:
    """Its delivery."""
    assert (done.status, done.times("Done")) == ("success", 1), done.error
    assert done.output("Done")[0] == {"asked": job_id, "came": job_id, "type": "noop.completed", "number": "1"}
    return settled(pair.flexdb, job_id)


def test_a_flexdb_that_is_away_when_n8n_asks_is_asked_again(holding: Pair) -> None:
    holding.flexdb.stop()
    workflow = holding.add(probes.asking("noop", "number: 1", pause=5000), patient=True)
    with socket.create_server(("127.0.0.1", holding.flexdb.port)) as door:
        execution = holding.n8n.run(workflow)
        door.accept()[0].close()  # the first try; all others are refused until FlexDB is there
    holding.flexdb.restart()
    done = holding.n8n.ended(execution)
    (job,) = jobs(holding)
    check_resumed_once_by(holding, done, job["job_id"])


def test_a_run_that_failed_because_flexdb_was_away_can_be_retried_in_n8n(holding: Pair) -> None:
    """A retry is an execution of its own, with an id and a URL to resume by of its own: so another event."""
    holding.flexdb.stop()
    failed = holding.run(holding.add(probes.asking("noop", "number: 1")))
    assert failed.status == "error" and failed.times("Ask") == 1, "after all five tries"
    holding.flexdb.restart()
    retried = str(holding.n8n.call("POST", f"/executions/{failed.id}/retry")["id"])
    done = holding.n8n.ended(retried)
    (job,) = jobs(holding)
    check_resumed_once_by(holding, done, job["job_id"])
    assert retried != failed.id and f"-{retried}-" in job["event_id"]


def requests_given_up(port: int) -> int:
    """Connections to a port whose other side has closed, and ours not."""
    return sum(
        one.status == psutil.CONN_CLOSE_WAIT and bool(one.laddr) and one.laddr.port == port
        for one in psutil.net_connections("tcp4")
    )


def test_a_flexdb_that_answers_too_late_makes_one_job_of_all_tries(holding: Pair) -> None:
    """The tries of one node have the same key and the same URL to resume by, so each is the same event."""
    workflow = holding.add(probes.asking("noop", "number: 1", timeout=1000, pause=500), patient=True)
    holding.flexdb.suspend()
    execution = holding.n8n.run(workflow)
    until(lambda: requests_given_up(holding.flexdb.port), pause=0.05)
    holding.flexdb.resume()
    done = holding.n8n.ended(execution)
    assert done.output("Ask")[0]["duplicate"] is True, "the try that n8n gave up was taken, and the next answered"
    (job,) = jobs(holding)
    check_resumed_once_by(holding, done, job["job_id"])


def test_the_same_key_with_another_url_to_resume_by_is_another_event_and_refused(holding: Pair) -> None:
    """So the key must be made of the execution's id, as the URL is."""
    workflow = holding.add(probes.asking("noop", "number: 1", key="'always-the-same'"))
    first = holding.run(workflow)
    assert first.status == "success"
    second = holding.run(workflow)
    assert second.status == "error" and "409" in str(second.record["data"]["resultData"]["error"])
    assert [job["job_id"] for job in jobs(holding)] == [job_of(first)]


def test_a_flexdb_killed_while_n8n_waits_ends_the_job_and_calls_back(holding: Pair) -> None:
    gate = Gate(holding.flexdb)
    execution = reached(holding, holding.n8n.run(holding.add(probes.asking("noop", HELD))), "Ask")
    holding.flexdb.kill()
    holding.flexdb.restart()
    gate.open()
    found = check_resumed_once_by(holding, holding.n8n.ended(execution.id), job_of(execution))
    assert found["status"] == "delivered" and answers(found).count(200) == 1


@pytest.mark.parametrize(
    ("lost", "passed", "ends"), [("request", [200], "delivered"), ("answer", [200, 409], "abandoned")]
)
def test_a_flexdb_killed_in_the_middle_of_a_callback_makes_it_again(
    holding: Pair, lost: str, passed: list[int], ends: str
) -> None:
    """Whether n8n has had it nobody knows after the restart, so it is sent; n8n takes one of them."""
    gate = Gate(holding.flexdb)
    with relaying(holding) as relay:
        workflow = holding.add(probes.asking("noop", HELD, callback=relay.through()))
        execution = reached(holding, holding.n8n.run(workflow), "Ask")
        relay.hold = lost
        gate.open()
        until(relay.holding.is_set)
        holding.flexdb.kill()
        holding.flexdb.restart()
        found = check_resumed_once_by(holding, holding.n8n.ended(execution.id), job_of(execution))
    assert (relay.passed, found["status"]) == (passed, ends)
    assert len(found["log"]) == 1, "the attempt that died with the service was not settled"

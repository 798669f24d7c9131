"""n8n stopped and killed while executions wait: what comes while it is away, while it starts, and after."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.ledger.records import Delivery, DeliveryStatus
from service.verdicts import Answer, Pace, judge
from tests.acceptance.service_process import until
from tests.n8n import probes
from tests.n8n.callbacks import Gate, answers, delivery_of, held, holding_pair, job_of, reached, settled
from tests.n8n.pair import Pair, make_credentials
from tests.n8n.process import Execution, Reply, RunningN8n
from tools.n8n_install import Installed

NOWHERE = "/webhook-waiting/999999999?signature=x"


@pytest.fixture(scope="module")
def own_n8n(installed_n8n: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningN8n]:
    """One that may be stopped: no other module's."""
    n8n = RunningN8n(tmp_path_factory.mktemp("own-n8n"), installed_n8n)
    try:
        make_credentials(n8n.start().own())
        yield n8n
    finally:
        n8n.close()


@pytest.fixture
def holding(own_n8n: RunningN8n, tmp_path: Path) -> Iterator[Pair]:
    with holding_pair(own_n8n, tmp_path / "flexdb") as pair:
        yield pair


@contextmanager
def starting(n8n: RunningN8n) -> Iterator[None]:
    """Started beside the block, ready after it."""
    failed: list[BaseException] = []

    def start() -> None:
        try:
            n8n.start()
        except BaseException as error:  # noqa: BLE001  raised again below, in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]


def knock(n8n: RunningN8n) -> Reply | None:
    """A callback for an execution that never was; None while nobody listens."""
    try:
        return n8n.request("POST", NOWHERE, {"data": {}}, seconds=5)
    except OSError:
        return None


def is_starting(reply: Reply | None) -> bool:
    return reply is not None and reply.status == 404 and b"Cannot POST" in reply.body


def waiting(pair: Pair, key: str, seconds: float = 3600) -> Execution:
    """An execution that waits for a held job, so long at most."""
    workflow = pair.add(probes.asking("noop", held(key), seconds=seconds))
    return reached(pair, pair.n8n.run(workflow), "Ask")


def check_resumed_by_its_own(pair: Pair, execution: Execution, *, while_recovering: bool = False) -> list[int | None]:
    """What its callback was answered, try by try.

    `while_recovering`: n8n 2.41 takes callbacks before it has gone through what a kill left, and calls those that run
    in that moment crashed, whatever they have done.
    """
    done = pair.n8n.ended(execution.id)
    if not (while_recovering and done.status == "crashed"):
        assert (done.status, done.times("Done")) == ("success", 1), done.error
        assert done.output("Done")[0]["came"] == job_of(execution)
    found = settled(pair.flexdb, job_of(execution))
    assert found["status"] == "delivered"
    return answers(found)


def test_nothing_that_n8n_answers_while_it_starts_passes_for_delivered(own_n8n: RunningN8n) -> None:
    """It answers 200 for a moment, when its port is open and its database not ready yet."""
    own_n8n.stop()
    seen: set[tuple[int, str]] = set()

    def look() -> bool:
        reply = knock(own_n8n)
        if reply is not None:
            seen.add((reply.status, reply.body.decode()))
        return reply is not None and b"does not exist" in reply.body

    with starting(own_n8n):
        until(look, 120)
    assert any("Cannot POST" in body for _, body in seen)
    callback = Delivery(
        "d", "j", "e", "check.completed", "callback", "n8n", own_n8n.url, "n8n", b"{}",
        DeliveryStatus.PENDING, 0, 0.0, 0.0, None, None,
    )  # fmt: skip
    follows = {answer: judge(callback, Answer(*answer), Pace(), 1.0)[0] for answer in seen}
    assert set(follows.values()) == {DeliveryStatus.PENDING}, follows


def tried(pair: Pair, execution: Execution) -> bool:
    """Whether the callback of an execution's job was sent at all."""
    found = pair.flexdb.get(f"/deliveries?job_id={job_of(execution)}")["data"]
    return bool(found and found[0]["log"])


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_callbacks_resume_their_executions_whenever_they_come_around_a_restart(holding: Pair, how: str) -> None:
    n8n, flexdb = holding.n8n, holding.flexdb
    gates = {key: Gate(flexdb, key) for key in ("away", "starting", "after")}
    away, early, after = (waiting(holding, key) for key in gates)
    n8n.stop() if how == "stopped" else n8n.kill()
    gates["away"].open()
    until(lambda: tried(holding, away))
    with starting(n8n):
        until(lambda: is_starting(knock(n8n)), 120)
        gates["starting"].open()
        until(lambda: tried(holding, early))
    gates["after"].open()
    while_away = check_resumed_by_its_own(holding, away)
    while_starting = check_resumed_by_its_own(holding, early, while_recovering=how == "killed")
    at_last = check_resumed_by_its_own(holding, after)
    assert while_away[0] is None and while_away[-1] == 200
    assert while_starting[0] == 404 and while_starting[-1] == 200
    assert at_last[-1] == 200
    assert flexdb.get("/deliveries?status=pending")["data"] == []


def test_a_callback_that_comes_after_the_limit_is_given_up(holding: Pair) -> None:
    """n8n looks every minute for waits whose limit is over, and when it starts."""
    gate = Gate(holding.flexdb)
    execution = waiting(holding, "held", seconds=1)
    holding.n8n.stop()
    holding.n8n.start()
    done = holding.n8n.ended(execution.id)
    assert (done.status, done.output("Done")[0]["came"]) == ("success", "nothing")
    gate.open()
    ended = settled(holding.flexdb, job_of(execution))
    assert (ended["status"], answers(ended)) == ("abandoned", [409])
    assert ended["last_error"] == "409 Conflict: the execution has finished"


def test_an_execution_that_died_while_it_asked_is_told_apart(holding: Pair) -> None:
    """It never came to its Wait node and never will: n8n marks it crashed."""
    gate = Gate(holding.flexdb)
    execution = holding.n8n.run(holding.add(probes.asking("noop", held(), headers={"Prefer": "wait=120"})))
    ((job_id,),) = until(lambda: holding.flexdb.rows("SELECT job_id FROM jobs WHERE operation = 'noop'"))
    holding.n8n.kill()
    holding.n8n.start()
    assert holding.n8n.ended(execution).status == "crashed"
    gate.open()
    ended = settled(holding.flexdb, job_id)
    assert (ended["status"], ended["last_error"]) == ("abandoned", "409 Conflict: the execution failed or was stopped")
    assert holding.flexdb.job(job_id)["status"] == "succeeded"
    assert delivery_of(holding.flexdb, job_id)["attempts"] <= 5

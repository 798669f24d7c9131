"""Callbacks and n8n's Wait node: early, many at once, repeated, forged, and to executions that are gone."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.webhooks_out import flexdb_signature
from tests.acceptance.service_process import WEBHOOK_SECRET, until
from tests.n8n import probes
from tests.n8n.callbacks import (
    HELD,
    Gate,
    all_ended,
    answers,
    delivery_of,
    holding_pair,
    job_of,
    reached,
    relaying,
    settled,
)
from tests.n8n.conftest import MakePair
from tests.n8n.pair import Pair, sqlite_shop
from tests.n8n.process import Execution, RunningN8n

SUM = "mode: 'independent', operation: 'plus', arguments: [$json.body.number, 0]"
"""A calculation whose result is the number that the execution was called with."""
OTHER_SECRET = "whsec_YW5vdGhlci1zZWNyZXQtb2YtMzItYnl0ZXMtZm9yLXRlc3Q="
MakeHolding = Callable[..., Pair]


@pytest.fixture
def make_holding(n8n: RunningN8n, tmp_path: Path) -> Iterator[MakeHolding]:
    """`make_holding(**settings of FlexDB)`: n8n beside a FlexDB whose jobs end when the test says so."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(holding_pair(n8n, tmp_path / "flexdb", **settings))


@pytest.fixture
def holding(make_holding: MakeHolding) -> Pair:
    return make_holding()


@pytest.fixture
def path() -> str:
    """Of a webhook in n8n that no other test has."""
    return f"probe-{uuid.uuid4().hex[:12]}"


def call(pair: Pair, path: str, number: int) -> None:
    """Start an execution by its webhook, which does not wait for its end."""
    reply = pair.n8n.webhook(f"/webhook/{path}", {"number": number})
    assert reply.status == 200, reply.body


def check_each_came_to_its_own(pair: Pair, executions: list[Execution], number: int) -> list[int]:
    """Every execution was resumed once, by its own job; how many tries each took."""
    assert Counter(one.status for one in executions) == {"success": number}
    came = [one.output("Done") for one in executions]
    assert all(one.times("Done") == one.times("Wait for it") == 1 for one in executions)
    assert all(len(items) == 1 and items[0]["asked"] == items[0]["came"] for items in came)
    assert sorted(int(items[0]["number"]) for items in came) == list(range(number))
    assert len({items[0]["came"] for items in came}) == number
    found = [settled(pair.flexdb, items[0]["came"]) for items in came]
    assert {one["status"] for one in found} == {"delivered"}
    assert all(answers(one).count(200) == 1 for one in found)
    return [len(one["log"]) for one in found]


# ---------------------------------------------------------------- early, and many


def test_jobs_that_end_at_once_resume_their_executions_sixty_times_of_sixty(pair: Pair, path: str) -> None:
    workflow = pair.add(probes.asking("calculation", SUM, path=path), publish=True)
    with ThreadPoolExecutor(10) as callers:
        for group in range(0, 60, 10):
            list(callers.map(lambda number: call(pair, path, number), range(group, group + 10)))
            all_ended(pair, workflow, group + 10)
    check_each_came_to_its_own(pair, pair.n8n.executions(workflow), 60)


def test_a_burst_of_fifty_is_resumed_to_the_last(pair: Pair, path: str) -> None:
    workflow = pair.add(probes.asking("calculation", SUM, path=path), publish=True)
    with ThreadPoolExecutor(50) as callers:
        list(callers.map(lambda number: call(pair, path, number), range(50)))
    tries = check_each_came_to_its_own(pair, all_ended(pair, workflow, 50), 50)
    assert max(tries) <= 8, f"the waits between tries do not fit n8n: {Counter(tries)}"


@pytest.mark.parametrize("url", [probes.IN_QUERY, probes.ENCODED, probes.IN_PATH])
def test_the_url_is_called_byte_for_byte_wherever_its_suffix_stands(pair: Pair, url: str) -> None:
    with relaying(pair) as relay:
        done = pair.run(pair.add(probes.asking("check", callback=relay.through(url))))
    assert done.status == "success", done.error
    (came,) = done.output("Done")
    assert came["came"] == came["asked"] and came["type"] == "check.completed"
    ((given,),) = pair.flexdb.rows("SELECT url FROM callbacks")
    assert {f"http://127.0.0.1:{relay.port}{path}" for path in relay.paths} == {given}
    assert ("%2F" in given) == (url == probes.ENCODED)


def test_a_node_that_waits_for_the_answer_gets_the_callback_as_well(pair: Pair) -> None:
    """The job has ended before the answer is written, so the callback is due while n8n still reads that."""
    workflow = pair.add(probes.asking("check", headers={"Prefer": "wait=30"}))
    done = pair.run(workflow)
    assert done.output("Ask")[0]["type"] == "check.completed", "it was answered with the end"
    (came,) = done.output("Done")
    assert (done.status, came["came"], came["type"]) == ("success", came["asked"], "check.completed")


def test_executions_that_join_one_job_are_all_resumed_by_it(holding: Pair) -> None:
    gate = Gate(holding.flexdb)
    workflow = holding.add(probes.asking("noop", HELD + ", on_conflict: 'join'"))
    waiting = [reached(holding, holding.n8n.run(workflow), "Ask") for _ in range(4)]
    (job_id,) = {job_of(one) for one in waiting}
    gate.open()
    done = [holding.n8n.ended(one.id) for one in waiting]
    assert [one.output("Done")[0]["came"] for one in done] == [job_id] * 4
    found = holding.flexdb.get(f"/deliveries?job_id={job_id}")["data"]
    assert len(found) == 4 and {one["status"] for one in found} <= {"delivered", "pending"}


# ---------------------------------------------------------------- executions that are gone


def test_deliveries_to_executions_that_are_gone_end_and_hold_up_no_other(holding: Pair) -> None:
    gate, flexdb, n8n = Gate(holding.flexdb), holding.flexdb, holding.n8n
    workflow = holding.add(probes.asking("noop", HELD))
    deleted, stopped, well = (reached(holding, n8n.run(workflow), "Ask") for _ in range(3))
    n8n.call("DELETE", f"/executions/{deleted.id}")
    n8n.call("POST", f"/executions/{stopped.id}/stop")
    n8n.ended(stopped.id)
    gate.open()
    assert n8n.ended(well.id).output("Done")[0]["came"] == job_of(well)
    of_well, of_stopped, of_deleted = (settled(flexdb, job_of(one)) for one in (well, stopped, deleted))
    assert of_well["status"] == "delivered"
    assert of_well["log"][0]["at"] < of_deleted["log"][-1]["at"], "what is in vain held up nothing"
    assert (of_stopped["status"], answers(of_stopped)) == ("abandoned", [409])
    assert of_stopped["last_error"] == "409 Conflict: the execution failed or was stopped"
    assert (of_deleted["status"], answers(of_deleted)) == ("abandoned", [404] * 5)
    assert of_deleted["last_error"] == "404 Not Found: the execution does not exist"
    assert flexdb.get("/deliveries?status=pending")["data"] == []


def test_a_wait_node_that_wants_a_password_ends_the_delivery_and_says_why(holding: Pair) -> None:
    credentials = {"httpHeaderAuth": {"id": "REPLACE_ME", "name": "n8n incoming webhooks"}}
    wait = probes.wait("Wait for it", parameters={"incomingAuthentication": "headerAuth"}, credentials=credentials)
    workflow = probes.workflow("Guarded", probes.ask("Ask", "noop"), wait, probes.told("Done", "Ask"))
    execution = reached(holding, holding.n8n.run(holding.add(workflow)), "Ask")
    ended = settled(holding.flexdb, job_of(execution))
    assert ended["status"] == "abandoned" and answers(ended)[-1] == 403
    assert ended["last_error"] == "403 Forbidden: the receiver does not admit us"
    assert holding.n8n.execution(execution.id).status == "waiting", "and goes on when its limit is over"


def test_a_url_with_another_token_ends_the_delivery_and_says_why(holding: Pair) -> None:
    url = probes.IN_QUERY.replace("resumeUrl", "resumeUrl.replace('signature=', 'signature=0')")
    execution = reached(holding, holding.n8n.run(holding.add(probes.asking("noop", callback=url))), "Ask")
    ended = settled(holding.flexdb, job_of(execution))
    assert ended["status"] == "abandoned" and answers(ended)[-1] == 401
    assert ended["last_error"] == "401 Unauthorized: the receiver does not admit us"


@pytest.mark.parametrize(
    ("suffix", "method"), [("another", "POST"), ("done", "GET")], ids=["another suffix", "another method"]
)
def test_a_wait_node_that_waits_for_something_else_is_named_as_the_reason(
    holding: Pair, suffix: str, method: str
) -> None:
    """The usual mistake of who builds a workflow: a Wait node takes a GET unless told otherwise."""
    wait = probes.wait("Wait for it", suffix, parameters={"httpMethod": method})
    workflow = probes.workflow("Waits for another", probes.ask("Ask", "noop"), wait, probes.told("Done", "Ask"))
    execution = reached(holding, holding.n8n.run(holding.add(workflow)), "Ask")
    why = "404 Not Found: nothing waits for a POST there now"
    until(lambda: delivery_of(holding.flexdb, job_of(execution))["last_error"] == why)
    found = delivery_of(holding.flexdb, job_of(execution))
    assert found["status"] == "pending", "an earlier Wait node may still be over"
    assert "signature" not in json.dumps(found), "and no token is shown"


def test_a_wait_node_can_ask_for_the_jwt_that_flexdb_carries(make_holding: MakeHolding) -> None:
    pair = make_holding(FLEXDB_WEBHOOK_JWT_SECRET=OTHER_SECRET)
    secret = {"keyType": "passphrase", "secret": OTHER_SECRET, "algorithm": "HS256"}
    credential = pair.n8n.create_credentials("jwtAuth", f"probe {uuid.uuid4().hex}", secret)
    try:
        guarded = {"incomingAuthentication": "jwtAuth"}
        wait = probes.wait("Wait for it", parameters=guarded, credentials={"jwtAuth": {"id": credential, "name": "x"}})
        line = probes.ask("Ask", "noop"), wait, probes.told("Done", "Ask")
        done = pair.run(pair.add(probes.workflow("Guarded by JWT", *line)))
        assert (done.status, done.output("Done")[0]["came"]) == ("success", job_of(done))
    finally:
        pair.n8n.call("DELETE", f"/credentials/{credential}")


# ---------------------------------------------------------------- repeated


def two_waits(first: str, second: str, pair: Pair) -> str:
    """A workflow that asks and waits twice; the second job is held."""
    line = [
        probes.ask("Ask first", "noop", "number: 1", callback=f"{probes.RESUME_URL} + '{first and '/' + first}'"),
        probes.wait("Wait for the first", first),
        probes.told("First", "Ask first"),
        probes.ask("Ask second", "noop", HELD, callback=f"{probes.RESUME_URL} + '{second and '/' + second}'"),
        probes.wait("Wait for the second", second),
        probes.told("Second", "Ask second"),
    ]
    return pair.add(probes.workflow("Two waits", *line))


def resume_url(pair: Pair) -> str:
    """Path and query of the only callback that FlexDB was asked for."""
    ((url,),) = pair.flexdb.rows("SELECT url FROM callbacks")
    return str(url).removeprefix(pair.n8n.url)


def repeat(pair: Pair, job_id: str) -> None:
    """Have the callback of a job sent once more, and see it answered."""
    before = delivery_of(pair.flexdb, job_id)
    answer = pair.flexdb.request("POST", f"/deliveries/{before['delivery_id']}/redeliver")
    assert answer.status == 202
    until(lambda: len(delivery_of(pair.flexdb, job_id)["log"]) > len(before["log"]))


def test_a_late_repeat_of_the_first_callback_does_not_resume_the_second_wait(holding: Pair) -> None:
    gate, n8n = Gate(holding.flexdb), holding.n8n
    execution = n8n.run(two_waits("first", "second", holding))
    second = reached(holding, execution, "Ask second")
    first_job = job_of(second, "Ask first")
    repeat(holding, first_job)
    repeated = delivery_of(holding.flexdb, first_job)
    assert answers(repeated)[-1] == 404
    assert repeated["last_error"] == "404 Not Found: nothing waits for a POST there now"
    still = n8n.execution(execution)
    assert still.status == "waiting" and "Second" not in still.nodes
    gate.open()
    done = n8n.ended(execution)
    assert done.output("First")[0]["came"] == first_job
    assert done.output("Second")[0]["came"] == job_of(done, "Ask second")
    ended = settled(holding.flexdb, first_job)
    assert (ended["status"], ended["last_error"]) == ("abandoned", "409 Conflict: the execution has finished")


def test_without_suffixes_a_repeat_of_the_first_callback_passes_for_the_second(holding: Pair) -> None:
    """How n8n is, and why every Wait node here has a suffix of its own."""
    gate, n8n = Gate(holding.flexdb), holding.n8n
    execution = n8n.run(two_waits("", "", holding))
    first_job = job_of(reached(holding, execution, "Ask second"), "Ask first")
    repeat(holding, first_job)
    done = n8n.ended(execution)
    assert done.output("Second")[0] == {
        "asked": job_of(done, "Ask second"),
        "came": first_job,
        "type": "noop.completed",
        "number": "1",
    }
    gate.open()
    assert settled(holding.flexdb, job_of(done, "Ask second"))["status"] == "abandoned", "nothing waits for it any more"


def test_in_a_loop_a_repeat_is_told_by_its_job_and_waited_on(holding: Pair) -> None:
    """A suffix cannot be made of an expression, so all rounds of a loop share one: the job's id tells them apart."""
    gate, n8n = Gate(holding.flexdb), holding.n8n
    mine = probes.condition(
        "Is it about this job?", "={{ $json.body.data.job_id }}", "={{ $('Ask second').last().json.job_id }}"
    )
    line = [
        probes.ask("Ask first", "noop", "number: 1"),
        probes.wait("Wait for the first"),
        probes.ask("Ask second", "noop", HELD),
        probes.wait("Wait for the second"),
        mine,
        probes.told("Second", "Ask second"),
    ]
    round_again = {"Is it about this job?": "Wait for the second"}
    execution = n8n.run(holding.add(probes.workflow("Same suffix twice", *line, otherwise=round_again)))
    second = reached(holding, execution, "Ask second")
    repeat(holding, job_of(second, "Ask first"))
    reached(holding, execution, "Is it about this job?")
    gate.open()
    done = n8n.ended(execution)
    assert (done.status, done.times("Wait for the second")) == ("success", 2), done.error
    assert done.output("Second")[0]["came"] == job_of(done, "Ask second")


def test_an_answer_that_got_lost_makes_a_repeat_that_changes_nothing(make_holding: MakeHolding) -> None:
    pair = make_holding(FLEXDB_WEBHOOK_TIMEOUT="2")
    with relaying(pair) as relay:
        relay.hold = "answer"
        gate = Gate(pair.flexdb)
        execution = pair.n8n.run(pair.add(probes.asking("noop", HELD, callback=relay.through())))
        job_id = job_of(reached(pair, execution, "Ask"))
        gate.open()
        done = pair.n8n.ended(execution)
        ended = settled(pair.flexdb, job_id)
    assert (done.status, done.times("Done"), done.output("Done")[0]["came"]) == ("success", 1, job_id)
    assert relay.passed == [200, 409]
    assert [one["error"] for one in ended["log"]] == [
        "no answer within 2 s",
        "409 Conflict: the execution has finished",
    ]


def test_repeats_at_the_same_instant_resume_once(holding: Pair) -> None:
    gate = Gate(holding.flexdb)
    execution = reached(holding, holding.n8n.run(holding.add(probes.asking("noop", HELD))), "Ask")
    url = resume_url(holding)
    with ThreadPoolExecutor(4) as callers:
        replies = list(callers.map(lambda _: holding.n8n.request("POST", url, {"data": {}}), range(4)))
    assert sorted(reply.status for reply in replies)[0] == 200
    assert {reply.status for reply in replies} <= {200, 409, 500}
    done = holding.n8n.ended(execution.id)
    assert (done.status, done.times("Wait for it"), done.times("Done")) == ("success", 1, 1)
    gate.open()
    assert settled(holding.flexdb, job_of(execution))["last_error"] == "409 Conflict: the execution has finished"


# ---------------------------------------------------------------- forged


def checking(pair: Pair) -> str:
    """A workflow that looks at the signature of what came."""
    checks = probes.genuine("Is it genuine?")
    line = [probes.ask("Ask", "noop", HELD), probes.wait("Wait for it"), *checks, probes.told("Done", "Ask")]
    otherwise = {"Is it genuine?": probes.stop("Not genuine")}
    return pair.add(probes.workflow("Checks the signature", *line, otherwise=otherwise))


BODY = b'{"type": "noop.completed", "data": {"job_id": "x", "number": 1.0}}'


@pytest.mark.parametrize(
    ("body", "signature", "genuine"),
    [
        (BODY, flexdb_signature(WEBHOOK_SECRET, BODY), True),
        (BODY.replace(b"1.0", b"1"), flexdb_signature(WEBHOOK_SECRET, BODY), False),
        (BODY, None, False),
        (BODY, flexdb_signature(OTHER_SECRET, BODY), False),
    ],
    ids=["genuine", "altered body", "no signature", "other secret"],
)
def test_only_what_flexdb_signed_is_taken_for_its_callback(
    holding: Pair, body: bytes, signature: str | None, genuine: bool
) -> None:
    Gate(holding.flexdb)
    execution = holding.n8n.run(checking(holding))
    reached(holding, execution, "Ask")
    headers = {"Content-Type": "application/json"} | ({"x-flexdb-signature": signature} if signature else {})
    reply = holding.n8n.request("POST", resume_url(holding), body, headers)
    assert reply.status == 200, reply.body
    done = holding.n8n.ended(execution)
    assert done.status == ("success" if genuine else "error")
    assert ("Done" in done.nodes, "Not genuine" in done.error) == (genuine, not genuine)


def test_a_flexdb_with_another_secret_is_not_taken_for_ours(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_WEBHOOK_SECRET=OTHER_SECRET)
    done = pair.run(pair.load("nightly-backup", {"connections": "shop"}))
    assert done.status == "error" and "Not genuine" in done.nodes and "Proven" not in done.nodes
    assert "signature" in pair.told_of("✗ shop", "0 of 1 proven")
    assert pair.flexdb.get("/backups")["data"][0]["connection"] == "shop", "it was made, and is not counted on"


# ---------------------------------------------------------------- work that fails


def test_backups_that_fail_end_in_the_failed_branch_and_are_told(make_pair: MakePair, tmp_path: Path) -> None:
    gone = f"sqlite:///{tmp_path / 'gone.sqlite'}"
    away = "postgresql://flexdb:hush-hush@127.0.0.1:1/shop"
    pair = make_pair({"shop": sqlite_shop(tmp_path / "databases"), "gone": gone, "away": away})
    done = pair.run(pair.load("nightly-backup", {"connections": "gone, shop, away"}), 90)
    assert done.status == "error" and done.times("Failed") == 2 and done.times("Proven") == 1
    told = pair.told_of("Nightly backup: 1 of 3 proven")
    assert "✗ gone: target_missing" in told and "✗ away: target_unavailable" in told and "✓ shop" in told
    assert "hush-hush" not in told and "hush-hush" not in json.dumps(done.record)
    assert {one["status"] for one in pair.flexdb.get("/deliveries")["data"]} == {"delivered"}

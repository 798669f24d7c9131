"""check-the-pair: token, callback and secret tried by one harmless job, and each fault told by its name."""

from __future__ import annotations

from typing import Any

from tests.n8n.conftest import MakePair
from tests.n8n.pair import INCOMING_KEY, Pair
from tests.n8n.process import Execution, Reply

PATH = "/webhook/flexdb-check-the-pair"
QUICK = {"waitHours": 0.001}


def asked(pair: Pair) -> Reply:
    """What a monitoring that calls the webhook gets."""
    return pair.n8n.webhook(PATH, {}, {"X-API-Key": INCOMING_KEY})


def answer(execution: Execution) -> dict[str, Any]:
    found: dict[str, Any] = execution.output("Answer what was found")[0]
    return found


def test_a_good_pair_by_hand_is_told_as_good(pair: Pair) -> None:
    done = pair.run(pair.load("check-the-pair"))
    assert done.status == "success", done.error
    assert "All is well" in done.nodes
    found = answer(done)
    assert found["ok"] and found["callback_arrived"] and found["signature_valid"] and found["problem"] == ""
    job = pair.flexdb.job(found["job_id"])
    assert (job["operation"], job["status"]) == ("check", "succeeded")


def test_a_good_pair_asked_by_its_webhook_is_answered_200(pair: Pair) -> None:
    pair.load("check-the-pair", publish=True)
    reply = asked(pair)
    assert reply.status == 200 and reply.json["ok"] is True
    assert reply.json["flexdb_url"] == pair.flexdb_url


def test_the_webhook_is_closed_to_those_without_the_key(pair: Pair) -> None:
    pair.load("check-the-pair", publish=True)
    assert pair.n8n.webhook(PATH, {}).status == 403
    assert pair.flexdb.get("/jobs")["data"] == []


def test_a_wrong_token_is_told(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_TOKEN="another-token-8f2a61c0d7")
    pair.load("check-the-pair", publish=True)
    reply = asked(pair)
    assert reply.status == 502
    assert reply.json["flexdb_reached"] is True and reply.json["token_taken"] is False
    assert "does not take the token" in reply.json["problem"]


def test_a_wrong_secret_is_told(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_WEBHOOK_SECRET="whsec_b3RoZXItc2VjcmV0LW9mLXRoZS1vdGhlci1mbGV4ZGI=")
    workflow = pair.load("check-the-pair")
    done = pair.run(workflow)
    assert done.status == "error" and "its signature is not the one" in done.error
    found = answer(done)
    assert found["callback_arrived"] is True and found["signature_valid"] is False
    assert pair.flexdb.job(found["job_id"])["status"] == "succeeded"


def test_a_callback_that_flexdb_may_not_send_is_told_in_flexdbs_words(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_OUTGOING_ALLOW="192.0.2.7")
    done = pair.run(pair.load("check-the-pair"))
    assert done.status == "error"
    found = answer(done)
    assert found["token_taken"] is True and found["request_taken"] is False
    assert found["problem"].endswith("FLEXDB_OUTGOING_ALLOW names those that may be reached.")


def test_a_flexdb_that_is_away_is_told(pair: Pair) -> None:
    pair.flexdb.kill()
    done = pair.run(pair.load("check-the-pair"))
    assert done.status == "error" and "Stop: the pair does not work" in done.nodes
    found = answer(done)
    assert found["flexdb_reached"] is False
    assert f"n8n does not reach FlexDB at {pair.flexdb_url}" in found["problem"]


def test_a_callback_that_does_not_come_is_told_with_the_state_of_the_job(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_ROLE="intake")  # takes jobs and does none
    done = pair.run(pair.load("check-the-pair", QUICK))
    assert done.status == "error"
    found = answer(done)
    assert found["request_taken"] is True and found["callback_arrived"] is False
    assert f"{found['job_id']}, now queued" in found["problem"]
    assert pair.flexdb.job(found["job_id"])["status"] == "queued"


def test_a_callback_that_does_not_come_is_told_when_flexdb_is_gone_by_then(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_ROLE="intake")
    execution = pair.n8n.run(pair.load("check-the-pair", {"waitHours": 0.004}))
    assert pair.n8n.waiting(execution).status == "waiting"
    pair.flexdb.kill()
    done = pair.n8n.ended(execution)
    assert "now unknown" in answer(done)["problem"]

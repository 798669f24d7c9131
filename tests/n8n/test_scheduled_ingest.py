"""scheduled-ingest: a source taken in by the clock, and one message of what came and what did not."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.acceptance.customer_source import customers
from tests.acceptance.service_process import WEBHOOK_SECRET, until
from tests.integration.faulty_source import Behaviour, FaultySource, Query, Reply, faulty_source, paged
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, Gate, gate
from tests.n8n.pair import Pair, sqlite_shop

NAME = "scheduled-ingest"
NOBODY = "http://127.0.0.1:9/api/customers"
"""Where nothing listens."""


@pytest.fixture
def source() -> Iterator[FaultySource]:
    with faulty_source() as started:
        yield started


@pytest.fixture
def pair(make_pair: MakePair, tmp_path: Path) -> Pair:
    """A FlexDB that may read sources of this machine, with a small database."""
    return make_pair({"shop": sqlite_shop(tmp_path)}, FLEXDB_OUTGOING_ALLOW="127.0.0.1")


def person(number: int, **fields: Any) -> dict[str, Any]:
    named = {"customer_id": f"C{number}", "first_name": "Ada", "last_name": "Raman", "email": f"c{number}@example.com"}
    return named | fields


def nameless(number: int) -> dict[str, Any]:
    return {"customer_id": f"C{number}", "email": f"c{number}@example.com", "last_name": "Raman"}


def held(go_on: threading.Event, behaviour: Behaviour) -> Behaviour:
    """Answers nothing usable until told to go on."""

    def answer(query: Query) -> Reply:
        return behaviour(query) if go_on.is_set() else web.Response(status=503, headers={"Retry-After": "2"})

    return answer


# ---------------------------------------------------------------- it goes well


def test_everything_is_taken_in_and_the_team_is_told_how_much(pair: Pair) -> None:
    with customers() as url:
        workflow = pair.load(NAME, {"source": url})
        done = pair.run(workflow)
    assert done.status == "success", done.error
    assert "Told" in done.nodes
    (job,) = pair.flexdb.get("/jobs?operation=ingest")["data"]
    (told,) = pair.told()
    assert "customers: 3 pages, 21 processed: 21 inserted, 0 updated, 0 unchanged, 0 rejected" in told
    assert job["job_id"] in told
    assert pair.flexdb.get("/api/customers")["total"] == 21


def test_a_second_run_finds_nothing_new_and_is_quiet_unless_it_shall_tell(pair: Pair) -> None:
    with customers() as url:
        workflow = pair.load(NAME, {"source": url})
        pair.run(workflow)
        again = pair.run(workflow)
        assert again.status == "success", again.error
        assert "Nothing new" in again.nodes
        assert len(pair.told()) == 1
        pair.run(pair.load(NAME, {"source": url, "tellUnchanged": True}))
    assert "0 inserted, 0 updated, 21 unchanged" in pair.told()[1]
    assert len(pair.flexdb.get("/jobs?operation=ingest")["data"]) == 3


def test_a_source_that_has_become_empty_is_not_passed_over_in_silence(pair: Pair, source: FaultySource) -> None:
    done = pair.run(pair.load(NAME, {"source": source.serves(paged([]))}))
    assert done.status == "success", done.error
    assert pair.told_of("0 processed: 0 inserted, 0 updated, 0 unchanged, 0 rejected")


def test_without_a_source_it_is_the_feed_of_the_collection(make_pair: MakePair, tmp_path: Path) -> None:
    with customers() as url:
        pair = make_pair(
            {"shop": sqlite_shop(tmp_path)},
            FLEXDB_OUTGOING_ALLOW="127.0.0.1",
            FLEXDB_FEEDS__CUSTOMERS=url,
        )
        done = pair.run(pair.load(NAME))
        assert done.status == "success", done.error
        assert "21 inserted" in pair.told_of("Ingest into customers")
        pair.run(pair.load(NAME, {"source": " customers ", "tellUnchanged": True}))
    assert "21 unchanged" in pair.told()[1]


def test_a_source_may_be_an_object_with_rules_of_its_own(pair: Pair, source: FaultySource) -> None:
    rows = [{**nameless(1), "given": "Ada"}]
    url = source.serves(paged(rows))
    rules = {"url": url, "fields": {"first_name": "given"}, "paginator": "none"}
    done = pair.run(pair.load(NAME, {"source": json.dumps(rules)}))
    assert done.status == "success", done.error
    assert pair.flexdb.get("/api/customers/C1")["first_name"] == "Ada"


# ---------------------------------------------------------------- records that do not fit


def test_rejected_records_are_listed_with_reasons_and_the_others_are_taken_in(pair: Pair, source: FaultySource) -> None:
    url = source.serves(paged([person(1), nameless(2), person(3, email=5)]))
    done = pair.run(pair.load(NAME, {"source": url}))
    assert done.status == "success", done.error
    told = pair.told_of("1 inserted, 0 updated, 0 unchanged, 2 rejected")
    assert "• page 1, record 2: /first_name This field is required." in told
    assert "• page 1, record 3: /email" in told
    assert "Ada" not in told, "values stay in FlexDB"
    assert pair.flexdb.get("/api/customers")["total"] == 1


def test_a_long_list_of_rejected_records_is_fetched_page_by_page_up_to_the_limit(
    pair: Pair, source: FaultySource
) -> None:
    url = source.serves(paged([person(0), *(nameless(number) for number in range(1, 231))], size=500))
    done = pair.run(pair.load(NAME, {"source": url, "maxRejected": 1000, "rejectedShown": 150}))
    assert done.status == "success", done.error
    told = pair.told_of("230 rejected")
    assert told.count("• ") == 150
    assert "record 151:" in told
    assert "record 152:" not in told
    assert [len(page["data"]) for page in done.output("Get the rejected records")] == [100, 100]
    pair.run(pair.load(NAME, {"source": url, "maxRejected": 1000, "rejectedShown": 3}))
    assert pair.told()[1].count("• ") == 3


def test_too_many_rejected_end_the_run_red_and_are_listed_too(pair: Pair, source: FaultySource) -> None:
    url = source.serves(paged([nameless(number) for number in range(1, 6)]))
    done = pair.run(pair.load(NAME, {"source": url, "maxRejected": 2}))
    assert done.status == "error"
    told = pair.told_of("Ingest into customers was given up")
    assert "• page 1, record 1: /first_name This field is required." in told
    (job,) = pair.flexdb.get("/jobs?operation=ingest")["data"]
    assert job["error"]["code"] == "too_many_rejected"
    assert job["job_id"] in told
    assert done.error.startswith("Ingest into customers was given up")


def test_a_list_that_cannot_be_fetched_keeps_nobody_from_being_told(pair: Pair, source: FaultySource) -> None:
    url = source.serves(paged([person(1), nameless(2)]))

    def refuse(asked: Asked) -> tuple[int, Any] | None:
        return (500, {"detail": "Out of order."}) if "/rejected" in asked.path else None

    with gate(pair.flexdb.port, refuse) as door:
        done = pair.run(pair.load(NAME, {"source": url, "flexdbUrl": door.url}))
        assert len(door.of("GET", "/jobs")) == 5, "tried again"
    assert done.status == "success", done.error
    told = pair.told_of("1 inserted", "1 rejected")
    assert "the list could not be fetched: Out of order." in told


# ---------------------------------------------------------------- it goes wrong


def test_a_source_that_is_away_is_told_and_ends_red(pair: Pair) -> None:
    done = pair.run(pair.load(NAME, {"source": NOBODY}))
    assert done.status == "error"
    assert "Source away" in done.nodes
    told = pair.told_of("Ingest into customers: the source is away")
    (job,) = pair.flexdb.get("/jobs?operation=ingest")["data"]
    assert job["error"]["code"] == "source_unavailable"
    assert job["job_id"] in told


def test_a_source_that_answers_nonsense_is_told_with_the_reason(pair: Pair, source: FaultySource) -> None:
    url = source.serves(lambda query: {"greeting": "hello"})
    done = pair.run(pair.load(NAME, {"source": url}))
    assert done.status == "error"
    assert "Failed" in done.nodes
    told = pair.told_of("Ingest into customers ended with ingest.failed: source_failed")
    assert pair.flexdb.get("/jobs?operation=ingest")["data"][0]["error"]["message"] in told


def test_a_collection_that_does_not_exist_is_told_in_the_words_of_flexdb(pair: Pair) -> None:
    done = pair.run(pair.load(NAME, {"collection": "nobody", "source": NOBODY}))
    assert done.status == "error"
    told = pair.told_of("Ingest into nobody was not begun: ")
    assert "There is no collection" in told
    assert "{" not in told
    assert pair.flexdb.get("/jobs")["data"] == []


def test_a_flexdb_that_is_away_is_told_and_ends_red(pair: Pair) -> None:
    workflow = pair.load(NAME, {"source": NOBODY})
    pair.flexdb.kill()
    done = pair.run(workflow)
    assert done.status == "error"
    assert "Not taken" in done.nodes
    assert "ECONNREFUSED" in pair.told_of("Ingest into customers was not begun")


def test_a_run_is_left_out_while_the_one_before_is_at_work(pair: Pair, source: FaultySource) -> None:
    go_on = threading.Event()
    url = source.serves(held(go_on, paged([person(1)])))
    workflow = pair.load(NAME, {"source": url})
    first = pair.n8n.run(workflow)
    assert pair.n8n.waiting(first).status == "waiting"
    second = pair.run(workflow)
    assert second.status == "success", second.error
    assert "Left out this time" in second.nodes
    pair.told_of("Ingest into customers was left out this time")
    go_on.set()
    assert pair.n8n.ended(first).status == "success"
    pair.told_of("1 inserted")
    assert len(pair.flexdb.get("/jobs?operation=ingest")["data"]) == 1


def test_no_callback_within_the_limit_is_told_with_the_state_of_the_job_if_flexdb_answers(pair: Pair) -> None:
    def refuse(asked: Asked) -> tuple[int, Any] | None:
        return (503, {}) if asked.is_for("GET", "/jobs") else None

    with customers(50_000, latency_ms=2000) as url, gate(pair.flexdb.port, refuse) as door:
        courses = {
            "collection": "courses",
            "source": url,
            "waitHours": 0.001,
            "flexdbUrl": door.url,
            "maxRejected": 10**6,
        }
        runs = [
            pair.n8n.run(pair.load(NAME, {"source": url, "waitHours": 0.001})),
            pair.n8n.run(pair.load(NAME, courses)),
        ]  # together: n8n looks once a minute whose time is up
        assert [pair.n8n.ended(run, 100).status for run in runs] == ["error", "error"]
        silent, job = pair.flexdb.get("/jobs?operation=ingest")["data"]
    assert f"the job {job['job_id']} is running" in pair.told_of("into customers: no callback within 0.001 h")
    assert f"the job {silent['job_id']} is unknown" in pair.told_of("into courses: no callback within 0.001 h")


Forge = Callable[[bytes], tuple[bytes, str]]
"""The true body to the one sent, and the signature shown with it."""


def unsigned(body: bytes) -> tuple[bytes, str]:
    return body, "sha256=" + "0" * 64


def of_another_job(body: bytes) -> tuple[bytes, str]:
    event = json.loads(body)
    event["data"]["job_id"] = "another"
    other = json.dumps(event).encode()
    return other, "sha256=" + hmac.digest(WEBHOOK_SECRET.encode(), other, hashlib.sha256).hex()


@pytest.mark.parametrize("forge", [unsigned, of_another_job])
def test_a_callback_that_is_not_of_this_job_by_flexdb_is_not_believed(
    pair: Pair, source: FaultySource, forge: Forge
) -> None:
    url = source.serves(held(threading.Event(), paged([])))
    with gate(pair.flexdb.port) as door:
        execution = pair.n8n.run(pair.load(NAME, {"source": url, "flexdbUrl": door.url}))
        assert pair.n8n.waiting(execution).status == "waiting"
        callback = _callback(door)
    (job,) = pair.flexdb.get("/jobs?operation=ingest")["data"]
    event = {"type": "ingest.completed", "data": {"job_id": job["job_id"], "rejected": 0, "inserted": 5}}
    body, signature = forge(json.dumps(event).encode())
    headers = {"Content-Type": "application/json", "x-flexdb-signature": signature}
    until(lambda: pair.n8n.request("POST", callback, body, headers).status == 200, pause=0.1)
    done = pair.n8n.ended(execution)
    assert done.status == "error"
    assert "Not genuine" in done.nodes
    assert job["job_id"] in pair.told_of("a callback came that is not FlexDB's")


def _callback(door: Gate) -> str:
    """Path and query of the URL that FlexDB was told to call."""
    (asked,) = door.of("POST", "/hooks/ingest")
    path: str = "/" + asked.json["callback_url"].split("/", 3)[3]
    return path

"""POST /events and POST /hooks: what is accepted, as what, and what is refused how."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import Any

import pytest

from service.jobs import Status
from service.ledger.base import Ledger
from tests.integration.conftest import OpenDoors
from tests.integration.doors import BATCH, OTHER_SECRET, STRUCTURED, Doors, event, signed
from tests.spine import Trouble, until

JSON = {"Content-Type": "application/json"}
LINKS = ("self", "events", "cancel", "retry")


# ---------------------------------------------------------------- accepted


async def test_a_hook_is_answered_202_with_the_job_and_where_to_find_it(doors: Doors) -> None:
    answer = await doors.hook("check", {"connection": "shop"}, Idempotency_Key="mine")
    assert answer.status == 202
    job_id = answer.json["job_id"]
    assert answer.json == {
        "job_id": job_id,
        "event_id": "mine",
        "operation": "check",
        "status": "queued",
        "duplicate": False,
        "links": {name: f"/jobs/{job_id}" + ("" if name == "self" else f"/{name}") for name in LINKS},
    }
    assert answer.headers["Location"] == f"/jobs/{job_id}"
    assert answer.headers["Content-Type"] == "application/json"
    job = await doors.get(f"/jobs/{job_id}")
    assert (job["source"], job["event_id"], job["connection"]) == ("/flexdb/admin", "mine", "shop")


async def test_without_a_key_every_request_is_a_job_of_its_own(doors: Doors) -> None:
    first, second = await doors.hook("check"), await doors.hook("check")
    assert first.json["job_id"] != second.json["job_id"]
    assert first.json["event_id"] != second.json["event_id"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"connection": "shop"}'),
        ("application/json; charset=utf-8", b'{"connection": "shop"}'),
        ("Application/VND.x+JSON", b'{"connection": "shop"}'),
        (None, b'{"connection": "shop"}'),
        ("application/x-www-form-urlencoded", b' {"connection": "shop"}'),
        ("application/json", b""),
        (None, b""),
        ("application/x-www-form-urlencoded", b""),
    ],
)
async def test_a_hook_takes_json_however_it_is_called(doors: Doors, kind: str | None, body: bytes) -> None:
    answer = await doors.ask("POST", "/hooks/check", body, {"Content-Type": kind} if kind else {})
    assert answer.status == 202, answer.text
    connection = (await doors.get(answer.headers["Location"]))["connection"]
    assert connection == ("shop" if body else None)


async def test_the_same_event_by_every_door_is_one_job(doors: Doors) -> None:
    data = {"connection": "shop"}
    same = event(id="one", source="/flexdb/admin", data=data)
    binary = {
        "ce-specversion": "1.0",
        "ce-id": "one",
        "ce-source": "/flexdb/admin",
        "ce-type": "check.requested",
    }
    coded = event(
        id="one",
        source="/flexdb/admin",
        data=None,
        data_base64=base64.b64encode(json.dumps(data).encode()).decode(),
    )
    answers = [
        await doors.hook("check", data, Idempotency_Key="one"),
        await doors.ask("POST", "/events", same, STRUCTURED),
        await doors.ask("POST", "/events", data, JSON | binary),
        await doors.ask("POST", "/events", coded, {"Content-Type": "APPLICATION/CloudEvents+JSON; charset=UTF-8"}),
    ]
    assert [answer.status for answer in answers] == [202] * 4
    assert len({answer.json["job_id"] for answer in answers}) == 1
    assert [answer.json["duplicate"] for answer in answers] == [False, True, True, True]
    batch = await doors.ask("POST", "/events", [same], BATCH)
    assert batch.json[0]["duplicate"] is True


async def test_a_duplicate_is_told_the_jobs_present_status(doors: Doors) -> None:
    await doors.accepted(Idempotency_Key="one")
    await doors.finished(await doors.claimed())
    again = await doors.hook("check", {"connection": "shop"}, Idempotency_Key="one")
    assert (again.status, again.json["status"], again.json["duplicate"]) == (202, "succeeded", True)


async def test_many_callers_with_one_key_at_the_same_time_make_one_job(doors: Doors) -> None:
    answers = await asyncio.gather(*(doors.hook("check", {}, Idempotency_Key="one") for _ in range(30)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["job_id"] for answer in answers}) == 1
    assert sum(not answer.json["duplicate"] for answer in answers) == 1


async def test_an_event_may_be_due_only_until_its_expirytime(doors: Doors) -> None:
    past = event(expirytime="2001-01-01T00:00:00Z")
    answer = await doors.ask("POST", "/events", past, STRUCTURED)
    assert answer.status == 202
    await doors.ledger.reap()
    job = await doors.get(answer.headers["Location"])
    assert (job["status"], job["error"]["code"]) == ("canceled", "expired")


# ---------------------------------------------------------------- signatures


async def test_a_signed_hook_has_the_webhook_id_and_its_source(doors: Doors) -> None:
    body = b'{"connection": "shop"}'
    headers = JSON | signed(body, "msg-7") | {"Idempotency-Key": "not-this"}
    first = await doors.ask("POST", "/hooks/check", body, headers, token=None)
    assert (first.status, first.json["event_id"]) == (202, "msg-7")
    assert (await doors.get(first.headers["Location"]))["source"] == "/flexdb/n8n"
    again = await doors.ask("POST", "/hooks/check", body, JSON | signed(body, "msg-7"), token=None)
    assert (again.status, again.json["duplicate"]) == (202, True), "a repeat inside the window is no offence"


async def test_ids_of_two_sources_do_not_meet(doors: Doors) -> None:
    one = await doors.ask("POST", "/hooks/check", b"{}", JSON | signed(b"{}", "same"), token=None)
    other = await doors.ask(
        "POST", "/hooks/check", b"{}", JSON | signed(b"{}", "same", secret=OTHER_SECRET), token=None
    )
    mine = await doors.hook("check", {}, Idempotency_Key="same")
    assert len({answer.json["job_id"] for answer in (one, other, mine)}) == 3


async def test_a_signature_does_not_admit_sql_of_the_signers_own(doors: Doors) -> None:
    plain = {"filter": {"connection": "shop"}, "level": 3}
    asking = plain | {"assertions": [{"sql": "SELECT 1", "equals": 1}]}
    for data, status in ((plain, 202), (asking, 403)):
        body = json.dumps(data).encode()
        headers = JSON | signed(body, f"msg-{status}")
        answer = await doors.ask("POST", "/hooks/verification", body, headers, token=None)
        assert answer.status == status, answer.text
    assert answer.code == "operation_not_allowed"
    with_token = await doors.ask("POST", "/hooks/verification", json.dumps(asking).encode(), JSON)
    assert with_token.status == 202


async def test_a_signed_cloudevent_keeps_its_own_id_and_source(doors: Doors) -> None:
    body = json.dumps(event(id="own", source="/elsewhere")).encode()
    answer = await doors.ask("POST", "/events", body, STRUCTURED | signed(body, "msg"), token=None)
    assert (answer.status, answer.json["event_id"]) == (202, "own")
    assert (await doors.get(answer.headers["Location"]))["source"] == "/elsewhere"


async def test_a_signer_cannot_take_the_ids_of_another_caller(doors: Doors) -> None:
    for source, status in (
        ("/flexdb/admin", 400),
        ("/flexdb/cron", 400),
        ("/flexdb", 400),
        ("/flexdb/n8n", 202),
    ):
        body = json.dumps(event(source=source)).encode()
        answer = await doors.ask("POST", "/events", body, STRUCTURED | signed(body), token=None)
        assert answer.status == status, source
        if status == 400:
            assert (answer.code, answer.pointers) == ("invalid_event", ["#/source"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"webhook-signature": "nocomma"}, "malformed_signature"),
        ({"webhook-signature": "v1,AAAA"}, "bad_signature"),
        ({"webhook-signature": None}, "missing_signature"),
        ({"webhook-id": None}, "missing_signature"),
        ({"webhook-id": "msg-2"}, "bad_signature"),
        ({"webhook-timestamp": "soon"}, "malformed_signature"),
        ({"X-API-Key": "wrong"}, "invalid_token"),
        ({"Authorization": "Bearer wrong"}, "invalid_token"),
    ],
)
async def test_a_bad_signature_is_401_and_makes_no_job(doors: Doors, change: dict[str, str | None], code: str) -> None:
    headers = {name: value for name, value in (signed(b"{}") | change).items() if value is not None}
    answer = await doors.ask("POST", "/hooks/check", b"{}", JSON | headers, token=None)
    assert (answer.status, answer.code) == (401, code)
    assert "WWW-Authenticate" in answer.headers
    assert (await doors.get("/jobs"))["data"] == []


@pytest.mark.parametrize("off", [3600, -3600])
async def test_a_signature_an_hour_off_is_stale(doors: Doors, off: float) -> None:
    answer = await doors.ask("POST", "/hooks/check", b"{}", JSON | signed(b"{}", off=off), token=None)
    assert (answer.status, answer.code) == (401, "stale_signature")


async def test_the_signature_covers_the_raw_bytes(doors: Doors) -> None:
    for body in (b'{ "connection":"shop"}', b'{"connection":"shop"}\n'):
        headers = JSON | signed(b'{"connection":"shop"}')
        answer = await doors.ask("POST", "/hooks/check", body, headers, token=None)
        assert (answer.status, answer.code) == (401, "bad_signature")
    raw = b'{"connection": "\xff"}'
    answer = await doors.ask("POST", "/hooks/check", raw, JSON | signed(raw), token=None)
    assert (answer.status, answer.code) == (400, "malformed_json"), "signed nonsense is told as nonsense"


async def test_a_signature_alone_does_not_admit_what_writes(doors: Doors) -> None:
    body = b'{"backup_id": "x", "connection": "shop"}'
    answer = await doors.ask("POST", "/hooks/restore", body, JSON | signed(body), token=None)
    assert (answer.status, answer.code) == (403, "operation_not_allowed")
    body = json.dumps(event(type="restore.requested")).encode()
    answer = await doors.ask("POST", "/events", body, STRUCTURED | signed(body), token=None)
    assert (answer.status, answer.code) == (403, "operation_not_allowed")
    with_token = await doors.ask("POST", "/hooks/restore", body, JSON | signed(body))
    assert with_token.code == "invalid_request", "with a token it is looked at"


async def test_a_signature_opens_only_the_doors_of_events(doors: Doors) -> None:
    for method, path in (
        ("GET", "/jobs"),
        ("POST", "/jobs/x/cancel"),
        ("GET", "/backups"),
        ("GET", "/health"),
    ):
        answer = await doors.ask(method, path, b"", signed(b""), token=None)
        assert (answer.status, answer.code) == (401, "not_authenticated"), path


async def test_nobody_is_let_in_without_credentials(doors: Doors) -> None:
    for path in ("/events", "/hooks/check", "/hooks/nonsense"):
        answer = await doors.ask("POST", path, b"{}", JSON, token=None)
        assert (answer.status, answer.code) == (401, "not_authenticated")


# ---------------------------------------------------------------- refused

BINARY = {"ce-specversion": "1.0", "ce-id": "e", "ce-source": "/tests", "ce-type": "check.requested"}
REFUSED: list[tuple[str, Any, dict[str, str], int, str, list[str]]] = [
    ("/hooks/check", b"{", JSON, 400, "malformed_json", []),
    ("/hooks/check", b"\xff\xfe", JSON, 400, "malformed_json", []),
    ("/hooks/check", b'{"connection": NaN}', JSON, 400, "malformed_json", []),
    ("/hooks/check", b'{"connection": "\\ud800"}', JSON, 400, "malformed_json", []),
    ("/hooks/check", b"[" * 100_000, JSON, 400, "malformed_json", []),
    ("/hooks/check", [], JSON, 422, "invalid_request", ["#"]),
    ("/hooks/check", "text", JSON, 422, "invalid_request", ["#"]),
    ("/hooks/check", b"null", JSON, 422, "invalid_request", ["#"]),
    ("/hooks/check", b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type", []),
    (
        "/hooks/check",
        b"a=b",
        {"Content-Type": "application/x-www-form-urlencoded"},
        415,
        "unsupported_media_type",
        [],
    ),
    ("/hooks/explode", b"{}", JSON, 404, "unknown_operation", []),
    ("/hooks/explode", b"{", {"Content-Type": "text/plain"}, 404, "unknown_operation", []),
    ("/hooks/..%2f..%2fetc", b"{}", JSON, 404, "unknown_operation", []),
    ("/hooks/check", {"connection": "nope"}, JSON, 422, "invalid_request", ["#/connection"]),
    ("/hooks/check", {"connection": "../x"}, JSON, 422, "invalid_request", ["#/connection"]),
    ("/hooks/check", {"connection": "-Fc"}, JSON, 422, "invalid_request", ["#/connection"]),
    ("/hooks/check", {"connection": "shop\n"}, JSON, 422, "invalid_request", ["#/connection"]),
    ("/hooks/check", {"connection": ["shop"]}, JSON, 422, "invalid_request", ["#/connection"]),
    ("/hooks/inspection", {"connection": "odd"}, JSON, 422, "invalid_request", ["#/connection"]),
    ("/hooks/backup", {}, JSON, 422, "invalid_request", ["#/connection"]),
    ("/hooks/backup", {"connection": "shop", "a/b~": 1}, JSON, 422, "invalid_request", ["#/a~1b~0"]),
    ("/hooks/backup", {"connection": "shop", "jobs": 4}, JSON, 422, "invalid_request", ["#/jobs"]),
    ("/hooks/backup", {"connection": "shop", "globals": True}, JSON, 422, "invalid_request", ["#/globals"]),
    (
        "/hooks/backup",
        {"connection": "shop", "storage": "file:///etc"},
        JSON,
        422,
        "invalid_request",
        ["#/storage"],
    ),
    (
        "/hooks/backup",
        {"connection": "shop", "compression": "lzma"},
        JSON,
        422,
        "invalid_request",
        ["#/compression"],
    ),
    ("/hooks/backup", {"connection": "shop", "encrypt": True}, JSON, 422, "invalid_request", ["#/encrypt"]),
    ("/hooks/backup", {"connection": "shop", "verify": 4}, JSON, 422, "invalid_request", ["#/verify"]),
    (
        "/hooks/check",
        {"callback_url": "http://127.0.0.1/x"},
        JSON,
        422,
        "invalid_request",
        ["#/callback_url"],
    ),
    ("/hooks/check", {"callback_url": "http://[::1]/"}, JSON, 422, "invalid_request", ["#/callback_url"]),
    (
        "/hooks/check",
        {"callback_url": "http://169.254.169.254/"},
        JSON,
        422,
        "invalid_request",
        ["#/callback_url"],
    ),
    (
        "/hooks/check",
        {"callback_url": "file:///etc/passwd"},
        JSON,
        422,
        "invalid_request",
        ["#/callback_url"],
    ),
    ("/hooks/check", {"deadline_seconds": -1}, JSON, 422, "invalid_request", ["#/deadline_seconds"]),
    ("/hooks/check", b'{"deadline_seconds": 1e999}', JSON, 422, "invalid_request", ["#/deadline_seconds"]),
    (
        "/hooks/check",
        b'{"max_attempts": 1' + b"0" * 4000 + b"}",
        JSON,
        422,
        "invalid_request",
        ["#/max_attempts"],
    ),
    ("/hooks/check", {"on_conflict": "fight"}, JSON, 422, "invalid_request", ["#/on_conflict"]),
    (
        "/hooks/restore",
        {"backup_id": "x", "connection": "shop", "into": "../x"},
        JSON,
        422,
        "invalid_request",
        ["#/into"],
    ),
    ("/events", b"{", STRUCTURED, 400, "malformed_json", []),
    ("/events", b"\xff", STRUCTURED, 400, "malformed_json", []),
    ("/events", [], STRUCTURED, 400, "invalid_event", ["#"]),
    ("/events", {}, STRUCTURED, 400, "invalid_event", ["#/specversion", "#/id", "#/source", "#/type"]),
    ("/events", event(specversion="0.3"), STRUCTURED, 400, "invalid_event", ["#/specversion"]),
    ("/events", event(specversion=1.0), STRUCTURED, 400, "invalid_event", ["#/specversion"]),
    ("/events", event(id=""), STRUCTURED, 400, "invalid_event", ["#/id"]),
    ("/events", event(id="x" * 257), STRUCTURED, 400, "invalid_event", ["#/id"]),
    ("/events", event(id="a\nb"), STRUCTURED, 400, "invalid_event", ["#/id"]),
    ("/events", event(source="/" + "x" * 1024), STRUCTURED, 400, "invalid_event", ["#/source"]),
    ("/events", event(source="not a uri"), STRUCTURED, 400, "invalid_event", ["#/source"]),
    ("/events", event(time="yesterday"), STRUCTURED, 400, "invalid_event", ["#/time"]),
    ("/events", event(datacontenttype="text/xml"), STRUCTURED, 400, "invalid_event", ["#/datacontenttype"]),
    ("/events", event(Upper="x"), STRUCTURED, 400, "invalid_event", ["#/Upper"]),
    ("/events", event(type="explode.requested"), STRUCTURED, 404, "unknown_operation", []),
    ("/events", event(type="check.completed"), STRUCTURED, 404, "unknown_operation", []),
    ("/events", event(data="text"), STRUCTURED, 422, "invalid_request", ["#/data"]),
    (
        "/events",
        event(data={"connection": "nope"}),
        STRUCTURED,
        422,
        "invalid_request",
        ["#/data/connection"],
    ),
    ("/events", event(data={"conection": "shop"}), STRUCTURED, 422, "invalid_request", ["#/data/conection"]),
    ("/events", {}, JSON, 415, "unsupported_media_type", []),
    ("/events", b"", {}, 415, "unsupported_media_type", []),
    ("/events", b"<x/>", {"Content-Type": "application/cloudevents+xml"}, 415, "unsupported_media_type", []),
    ("/events", b"<x/>", BINARY | {"Content-Type": "text/xml"}, 415, "unsupported_media_type", []),
    ("/events", {"connection": "nope"}, BINARY | JSON, 422, "invalid_request", ["#/connection"]),
    ("/events", b"{}", BINARY | JSON | {"ce-id": "%FF"}, 400, "invalid_event", ["#/id"]),
    ("/events", b"{}", {"ce-id": "x"} | JSON, 400, "invalid_event", ["#/specversion", "#/source", "#/type"]),
]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code", "pointers"),
    REFUSED,
    ids=[f"{number}-{case[4]}" for number, case in enumerate(REFUSED)],
)
async def test_what_makes_no_sense_is_a_problem_and_makes_no_job(
    doors: Doors, path: str, body: Any, headers: dict[str, str], status: int, code: str, pointers: list[str]
) -> None:
    answer = await doors.ask("POST", path, body, headers)
    assert (answer.status, answer.code, answer.pointers) == (status, code, pointers)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["type"] == f"/docs#{code}"
    assert answer.json["status"] == status
    assert answer.json["title"]
    assert answer.json["detail"]
    assert (await doors.get("/jobs"))["data"] == []


async def test_an_unknown_operation_is_told_which_there_are(doors: Doors) -> None:
    detail = (await doors.hook("explode")).json["detail"]
    assert all(name in detail for name in ("backup", "check", "inspection", "restore", "verification"))


async def test_a_request_wrong_in_many_places_is_refused_briefly(doors: Doors) -> None:
    answer = await doors.hook("check", {f"field{number}": 1 for number in range(5000)})
    assert (answer.status, len(answer.json["errors"])) == (422, 100)
    assert len(answer.text) < 20_000


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({str(number): 1 for number in range(20_000)}, "#"),
        ({"connection": "shop", "include": [1] * 200_000}, "#/include"),
        ({"connection": "shop", "labels": {str(number): 1 for number in range(20_000)}}, "#/labels"),
        ({"include": [[[]] * 5000] * 3}, "#/include/1"),
    ],
)
async def test_masses_of_items_are_refused_before_they_are_looked_at(doors: Doors, data: Any, pointer: str) -> None:
    answer = await doors.hook("backup", data)
    assert (answer.status, answer.pointers) == (422, [pointer])


async def test_a_repeated_id_with_other_data_is_409_with_both_digests(doors: Doors) -> None:
    job_id = await doors.accepted("check", {"connection": "shop"}, Idempotency_Key="one")
    answer = await doors.hook("check", {}, Idempotency_Key="one")
    assert (answer.status, answer.code, answer.json["job_id"]) == (409, "id_reused", job_id)
    assert answer.json["accepted_digest"] == hashlib.sha256(b'["check",{"connection":"shop"}]').hexdigest()
    assert answer.json["digest"] == hashlib.sha256(b'["check",{}]').hexdigest()


async def test_a_repeated_id_for_another_operation_is_409(doors: Doors) -> None:
    await doors.accepted("check", {"connection": "shop"}, Idempotency_Key="one")
    answer = await doors.hook("inspection", {"connection": "shop"}, Idempotency_Key="one")
    assert (answer.status, answer.code) == (409, "id_reused")


async def test_a_busy_target_refuses_who_asked_to_be_refused_and_names_the_job(doors: Doors) -> None:
    running = await doors.accepted("backup", {"connection": "shop"})
    await doors.claimed()
    answer = await doors.hook("backup", {"connection": "shop", "on_conflict": "reject"})
    assert (answer.status, answer.code, answer.json["job_id"]) == (409, "target_busy", running)
    assert answer.json["links"]["self"] == f"/jobs/{running}"
    joined = await doors.hook("backup", {"connection": "shop", "on_conflict": "join"})
    assert (joined.status, joined.json["job_id"], joined.json["duplicate"]) == (202, running, False)
    queued = await doors.hook("backup", {"connection": "shop"})
    assert (queued.status, queued.json["status"]) == (202, "queued")


async def test_a_full_queue_is_429_and_says_when_to_come_again(opened: OpenDoors) -> None:
    doors = await opened(rules={"queue_limit": 2})
    await doors.accepted(Idempotency_Key="one")
    await doors.accepted()
    answer = await doors.hook("check")
    assert (answer.status, answer.code) == (429, "queue_full")
    assert int(answer.headers["Retry-After"]) > 0
    again = await doors.hook("check", {"connection": "shop"}, Idempotency_Key="one")
    assert (again.status, again.json["duplicate"]) == (202, True), "what was accepted stays accepted"


async def test_a_ledger_that_is_away_is_503(opened: OpenDoors) -> None:
    trouble: list[Trouble] = []

    def wrap(ledger: Ledger) -> Ledger:
        trouble.append(Trouble(ledger))
        return trouble[0].ledger

    doors = await opened(wrap)
    trouble[0].away = True
    answer = await doors.hook("check")
    assert (answer.status, answer.code) == (503, "ledger_unavailable")
    assert "Retry-After" in answer.headers
    batch = await doors.ask("POST", "/events", [event(), event(id="2")], BATCH)
    assert [item["code"] for item in batch.json] == ["ledger_unavailable"] * 2
    trouble[0].away = False
    assert (await doors.hook("check")).status == 202


# ---------------------------------------------------------------- batches


async def test_a_batch_is_answered_in_order_whatever_is_in_it(doors: Doors) -> None:
    items = [
        event(id="1"),
        event(id="2", data={"connection": "nope"}),
        event(id="1"),
        7,
        event(id="1", data={}),
        event(id="3", type="explode.requested"),
        event(id="4"),
    ]
    answer = await doors.ask("POST", "/events", items, BATCH)
    assert answer.status == 200
    told = [item.get("code") or item["event_id"] for item in answer.json]
    assert told == ["1", "invalid_request", "1", "invalid_event", "id_reused", "unknown_operation", "4"]
    assert [item.get("duplicate") for item in answer.json] == [False, None, True, None, None, None, False]
    assert answer.json[1]["errors"][0]["pointer"] == "#/data/connection"
    assert {item["event_id"] for item in (await doors.get("/jobs"))["data"]} == {"1", "4"}


async def test_jobs_of_a_batch_are_taken_in_its_order(doors: Doors) -> None:
    items = [event(id=str(number)) for number in range(50)]
    answer = await doors.ask("POST", "/events", items, BATCH)
    claimed = [(await doors.claimed()).event_id for _ in range(50)]
    assert claimed == [item["event_id"] for item in answer.json] == [str(number) for number in range(50)]


async def test_an_empty_batch_is_an_empty_answer_and_other_shapes_are_refused(doors: Doors) -> None:
    assert (await doors.ask("POST", "/events", [], BATCH)).json == []
    answer = await doors.ask("POST", "/events", {}, BATCH)
    assert (answer.status, answer.code) == (400, "invalid_event")
    answer = await doors.ask("POST", "/events", [1] * 1001, BATCH)
    assert (answer.status, answer.code) == (413, "too_large")


async def test_each_event_of_a_signed_batch_is_judged_alone(doors: Doors) -> None:
    items = [event(id="1"), event(id="2", type="restore.requested"), event(id="3", source="/flexdb/admin")]
    body = json.dumps(items).encode()
    answer = await doors.ask("POST", "/events", body, BATCH | signed(body), token=None)
    assert [item.get("status") for item in answer.json] == ["queued", 403, 400]


# ---------------------------------------------------------------- waiting


async def test_waiting_answers_with_the_terminal_event_as_it_is_delivered(doors: Doors) -> None:
    waiting = asyncio.create_task(doors.hook("check", {"connection": "shop"}, Prefer="wait=30"))
    job = await _soon_claimed(doors)
    await doors.finished(job)
    answer = await waiting
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert answer.headers["Preference-Applied"] == "wait=30"
    history = await doors.ledger.history(job.job_id)
    assert answer.text == history[-1].event
    assert (answer.json["type"], answer.json["jobid"]) == ("check.completed", job.job_id)


async def test_waiting_for_a_failure_is_200_with_the_failed_event(doors: Doors) -> None:
    waiting = asyncio.create_task(doors.hook("check", {"connection": "shop"}, Prefer="wait=30"))
    await doors.finished(await _soon_claimed(doors), Status.FAILED)
    answer = await waiting
    assert (answer.status, answer.json["type"]) == (200, "check.failed")
    assert answer.json["data"]["error"]["code"] == "tool_failed"


async def test_when_the_time_is_up_the_answer_is_202(doors: Doors) -> None:
    answer = await doors.hook("check", {}, Prefer="wait=0")
    assert (answer.status, answer.json["status"]) == (202, "queued")
    assert answer.headers["Preference-Applied"] == "wait=0"
    assert answer.headers["Location"]
    plain = await doors.hook("check", {}, Prefer="wait=soon")
    assert plain.status == 202
    assert "Preference-Applied" not in plain.headers


async def test_a_longer_wait_is_cut_and_says_so(doors: Doors) -> None:
    await doors.accepted(Idempotency_Key="one")
    await doors.finished(await doors.claimed())
    answer = await doors.hook("check", {"connection": "shop"}, Idempotency_Key="one", Prefer="wait=9999")
    assert (answer.status, answer.headers["Preference-Applied"]) == (200, "wait=300"), "a repeat may ask for the end"


async def test_a_ledger_that_goes_away_during_a_wait_does_not_unsay_the_acceptance(opened: OpenDoors) -> None:
    trouble: list[Trouble] = []

    def wrap(ledger: Ledger) -> Ledger:
        trouble.append(Trouble(ledger))
        return trouble[0].ledger

    doors = await opened(wrap)
    waiting = asyncio.create_task(doors.hook("check", {"connection": "shop"}, Prefer="wait=30"))
    job = await _soon_claimed(doors)
    trouble[0].away = True
    doors.parts.hub.job_changed(job.job_id)
    answer = await waiting
    assert (answer.status, answer.json["job_id"]) == (202, job.job_id)


async def _soon_claimed(doors: Doors) -> Any:
    async def look() -> Any:
        return await doors.ledger.claim("tests", 1)

    return (await until(look))[0]


@pytest.mark.parametrize("data", [{"connection": "a\0b"}, {"\0": 1}, {"labels": {"a": ["\0"]}}, {"backup_id": "a\0b"}])
async def test_the_character_that_not_every_ledger_holds_is_refused(doors: Doors, data: dict[str, Any]) -> None:
    answer = await doors.hook("verification", data)
    assert (answer.status, answer.code) == (422, "invalid_request")

"""Deliveries and subscriptions by HTTP: what was sent where, sending it again, and who hears of what."""

from __future__ import annotations

import json

import pytest

from service.http.deliveries import shown_url
from service.ledger.records import DeliveryStatus, Verdict
from tests.integration.doors import Doors

CALLBACK = "https://user:secret@n8n.example:5678/webhook-waiting/7%2F8?signature=THE-TOKEN/backup"


async def delivered(doors: Doors) -> str:
    """A callback that was refused once; the job's id."""
    job_id = await doors.accepted("check", {"connection": "shop", "callback_url": CALLBACK})
    await doors.finished(await doors.claimed())
    (delivery,) = await doors.ledger.take_deliveries(10, 10, {}, 30)
    assert delivery.url == CALLBACK
    await doors.ledger.settle_delivery(
        delivery.delivery_id, Verdict(delivery.created_at, 401, "answered 401", 12.34, DeliveryStatus.ABANDONED)
    )
    return job_id


async def test_a_delivery_shows_every_attempt_and_not_the_token_in_its_url(doors: Doors) -> None:
    job_id = await delivered(doors)
    answer = await doors.ask("GET", f"/deliveries?job_id={job_id}")
    (delivery,) = answer.json["data"]
    assert delivery["url"] == "https://n8n.example:5678/webhook-waiting/7%2F8"
    assert "THE-TOKEN" not in answer.text
    assert "secret" not in answer.text
    assert (delivery["kind"], delivery["event_type"], delivery["status"]) == (
        "callback",
        "check.completed",
        "abandoned",
    )
    assert (delivery["event_id"], delivery["due_at"]) == (f"{job_id}/terminal", None)
    (attempt,) = delivery["log"]
    assert (attempt["http_status"], attempt["error"], attempt["milliseconds"]) == (401, "answered 401", 12.3)


async def test_a_redelivery_is_due_now_and_keeps_its_log(doors: Doors) -> None:
    await delivered(doors)
    (delivery,) = (await doors.get("/deliveries?status=abandoned"))["data"]
    answer = await doors.ask("POST", delivery["links"]["redeliver"])
    assert (answer.status, answer.json["status"]) == (202, "pending")
    assert len(answer.json["log"]) == 1
    (again,) = await doors.ledger.take_deliveries(10, 10, {}, 30)
    assert again.delivery_id == delivery["delivery_id"]


async def test_deliveries_are_filtered_and_paged(doors: Doors) -> None:
    first, second = await delivered(doors), await delivered(doors)
    page = await doors.ask("GET", "/deliveries?limit=1")
    assert [item["job_id"] for item in page.json["data"]] == [second]
    rest = await doors.ask("GET", page.headers["Link"][1:].partition(">")[0])
    assert [item["job_id"] for item in rest.json["data"]] == [first]
    assert (await doors.get("/deliveries?status=pending"))["data"] == []
    assert (await doors.get("/deliveries?job_id=nobody"))["data"] == []
    for query, pointer in (
        ("status=lost", "#/status"),
        ("started=no", "#/started"),
        ("cursor=x", "#/cursor"),
        ("limit=-1", "#/limit"),
    ):
        wrong = await doors.ask("GET", f"/deliveries?{query}")
        assert (wrong.status, wrong.pointers) == (422, [pointer])


async def test_an_unknown_delivery_is_404(doors: Doors) -> None:
    answer = await doors.ask("POST", "/deliveries/nope/redeliver")
    assert (answer.status, answer.code) == (404, "delivery_not_found")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/p?q#f", "http://h/p"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("http://u:p@h:80", "http://h:80/"),
        ("flexdb.events", "flexdb.events"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert shown_url(url).rstrip("/") == shown.rstrip("/")


# ---------------------------------------------------------------- subscriptions


async def test_a_subscription_is_made_replaced_shown_and_removed(doors: Doors) -> None:
    body = {"url": "https://example.org/hook?key=SECRET", "types": ["*.failed", "backup.*"]}
    made = await doors.ask("PUT", "/subscriptions/alerts", body)
    assert (made.status, made.json["name"], made.json["types"]) == (201, "alerts", body["types"])
    assert made.json["url"] == "https://example.org/hook"
    replaced = await doors.ask("PUT", "/subscriptions/alerts", {"url": "https://example.org/other"})
    assert (replaced.status, replaced.json["types"]) == (200, ["*"])
    assert (await doors.get("/subscriptions/alerts")) == replaced.json
    assert (await doors.get("/subscriptions"))["data"] == [replaced.json]
    removed = await doors.ask("DELETE", "/subscriptions/alerts")
    assert (removed.status, removed.text) == (204, "")
    for method in ("GET", "DELETE"):
        gone = await doors.ask(method, "/subscriptions/alerts")
        assert (gone.status, gone.code) == (404, "subscription_not_found")


@pytest.mark.parametrize(
    ("name", "body", "pointer"),
    [
        ("Alerts", {"url": "https://example.org"}, "#/name"),
        ("a%0A", {"url": "https://example.org"}, "#/name"),
        ("a" * 64, {"url": "https://example.org"}, "#/name"),
        ("a", {}, "#/url"),
        ("a", {"url": "http://127.0.0.1:5678/"}, "#/url"),
        ("a", {"url": "http://2130706433/"}, "#/url"),
        ("a", {"url": "http://169.254.169.254/latest"}, "#/url"),
        ("a", {"url": "ftp://example.org"}, "#/url"),
        ("a", {"url": "https://example.org", "types": []}, "#/types"),
        ("a", {"url": "https://example.org", "types": ["backup"] * 51}, "#/types"),
        ("a", {"url": "https://example.org", "types": ["*", "a.b.c"]}, "#/types/1"),
        ("a", {"url": "https://example.org", "types": ["*", "%"]}, "#/types/1"),
        ("a", {"url": "https://example.org", "secret": "x"}, "#/secret"),
        ("a", [], "#"),
    ],
)
async def test_a_subscription_that_makes_no_sense_is_422(doors: Doors, name: str, body: object, pointer: str) -> None:
    answer = await doors.ask("PUT", f"/subscriptions/{name}", body)
    assert (answer.status, answer.code, answer.pointers) == (422, "invalid_request", [pointer])
    assert (await doors.get("/subscriptions"))["data"] == []


async def test_a_subscription_that_is_not_json_is_400(doors: Doors) -> None:
    for body in (b"{", b"", b"\xff"):
        answer = await doors.ask("PUT", "/subscriptions/a", body)
        assert (answer.status, answer.code) == (400, "malformed_json")


async def test_a_subscription_hears_started_and_the_terminal_event(doors: Doors) -> None:
    await doors.ask("PUT", "/subscriptions/all", {"url": "https://example.org/all"})
    await doors.ask("PUT", "/subscriptions/failures", {"url": "https://example.org/failures", "types": ["*.failed"]})
    job_id = await doors.accepted()
    await doors.finished(await doors.claimed())
    found = (await doors.get(f"/deliveries?job_id={job_id}"))["data"]
    told = sorted((item["destination"], item["event_type"]) for item in found)
    assert told == [("all", "check.completed"), ("all", "check.started")]
    bodies = {item.event_type: json.loads(item.body) for item in await doors.ledger.take_deliveries(9, 9, {}, 30)}
    assert bodies["check.completed"]["id"] == f"{job_id}/terminal"

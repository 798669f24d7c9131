"""Schedules over HTTP: kept as they were put, refused with a pointer per fault, never a secret shown."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.jobs import Status
from service.ledger.records import ScheduleStep
from tests.integration.doors import Doors
from tests.integration.real_service import running
from tests.spine import until

NIGHTLY = {
    "cron": "0 3 * * *",
    "timezone": "Europe/Berlin",
    "operation": "backup",
    "data": {"connection": "shop", "verify": 1},
}


async def put(doors: Doors, name: str = "nightly", **changes: Any) -> dict[str, Any]:
    answer = await doors.ask("PUT", f"/schedules/{name}", NIGHTLY | changes)
    assert answer.status in (200, 201), answer.text
    found: dict[str, Any] = answer.json
    return found


async def refusal(doors: Doors, body: Any, name: str = "nightly") -> tuple[int, str | None, list[str]]:
    answer = await doors.ask("PUT", f"/schedules/{name}", body)
    return answer.status, answer.code, answer.pointers


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_a_schedule_is_made_shown_replaced_and_removed(doors: Doors) -> None:
    made = await doors.ask("PUT", "/schedules/nightly", NIGHTLY)
    assert made.status == 201
    assert made.json | NIGHTLY == made.json
    assert (made.json["name"], made.json["enabled"]) == ("nightly", True)
    assert (made.json["last_at"], made.json["last_job_id"], made.json["last_refusal"]) == (None, None, None)
    assert await doors.get("/schedules/nightly") == made.json
    replaced = await doors.ask("PUT", "/schedules/nightly", NIGHTLY | {"data": {"connection": "gone"}})
    assert (replaced.status, replaced.json["data"]) == (200, {"connection": "gone"})
    assert await doors.get("/schedules") == {"data": [replaced.json], "next_cursor": None}
    gone = await doors.ask("DELETE", "/schedules/nightly")
    assert (gone.status, gone.text) == (204, "")
    for method in ("GET", "DELETE"):
        answer = await doors.ask(method, "/schedules/nightly")
        assert (answer.status, answer.code) == (404, "schedule_not_found")


async def test_the_next_tick_is_told_in_utc(doors: Doors) -> None:
    found = await put(doors, cron="*/5 * * * *")
    assert found["next_at"].endswith(":00.000Z")
    assert 0 < at(found["next_at"]) - time.time() <= 300
    berlin = at((await put(doors, "berlin"))["next_at"])
    assert datetime.fromtimestamp(berlin, ZoneInfo("Europe/Berlin")).strftime("%H:%M:%S") == "03:00:00"


async def test_a_schedule_is_utc_and_enabled_with_no_data_unless_told_otherwise(doors: Doors) -> None:
    answer = await doors.ask("PUT", "/schedules/hourly", {"cron": " 0  * * * * ", "operation": "check"})
    assert answer.status == 201, answer.text
    told = {name: answer.json[name] for name in ("cron", "timezone", "data", "enabled")}
    assert told == {"cron": "0 * * * *", "timezone": "UTC", "data": {}, "enabled": True}


async def test_a_disabled_schedule_has_no_next_tick_until_it_is_enabled(doors: Doors) -> None:
    assert (await put(doors, enabled=False))["next_at"] is None
    assert (await put(doors, enabled=True))["next_at"] is not None


async def test_what_became_of_the_last_ticks_is_told(doors: Doors) -> None:
    await put(doors)
    kept = await doors.ledger.schedule("nightly")
    assert kept is not None and kept.next_at is not None
    tick = kept.next_at
    step = ScheduleStep(kept.name, kept.revision, tick, tick, tick + 60)
    await doors.ledger.advance_schedule(step, {"at": "then", "code": "invalid_request", "detail": "Why."})
    found = await doors.get("/schedules/nightly")
    assert found["last_refusal"] == {"at": "then", "code": "invalid_request", "detail": "Why."}
    assert at(found["next_at"]) == tick + 60


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"cron": "0 3 * *"}, ["#/cron"]),
        ({"cron": "99 3 * * *"}, ["#/cron"]),
        ({"cron": "0 3 30 2 *"}, ["#/cron"]),
        ({"cron": "0 0 */20 * 1L"}, ["#/cron"]),
        ({"cron": 3}, ["#/cron"]),
        ({"cron": "0 3 * * *" + " " * 500}, ["#/cron"]),
        ({"timezone": "Berlin"}, ["#/timezone"]),
        ({"timezone": "../../etc/passwd"}, ["#/timezone"]),
        ({"timezone": None}, ["#/timezone"]),
        ({"operation": "bakup"}, ["#/operation"]),
        ({"operation": "backup.requested"}, ["#/operation"]),
        ({"enabled": "yes"}, ["#/enabled"]),
        ({"data": ["shop"]}, ["#/data"]),
        ({"data": {}}, ["#/data/connection"]),
        ({"data": {"connection": "nowhere"}}, ["#/data/connection"]),
        ({"data": {"connection": "shop", "verfy": 3, "jobs": "many"}}, ["#/data/jobs", "#/data/verfy"]),
        ({"data": {"connection": "shop", "callback_url": "http://169.254.169.254/x"}}, ["#/data/callback_url"]),
        ({"crom": "0 3 * * *"}, ["#/crom"]),
        ({"cron": "x", "timezone": "x"}, ["#/cron", "#/timezone"]),
    ],
)
async def test_a_typing_error_is_told_at_once_with_its_place(
    doors: Doors, changes: dict[str, Any], pointers: list[str]
) -> None:
    status, code, found = await refusal(doors, NIGHTLY | changes)
    assert (status, code, sorted(found)) == (422, "invalid_request", pointers)
    assert (await doors.get("/schedules"))["data"] == []


async def test_what_is_missing_is_told_and_what_is_no_object_refused(doors: Doors) -> None:
    assert await refusal(doors, {}) == (422, "invalid_request", ["#/cron", "#/operation"])
    assert await refusal(doors, []) == (422, "invalid_request", ["#"])
    assert (await refusal(doors, b"{"))[:2] == (400, "malformed_json")


async def test_a_refusal_says_what_to_write(doors: Doors) -> None:
    answer = await doors.ask("PUT", "/schedules/nightly", NIGHTLY | {"cron": "@daily"})
    assert answer.json["errors"][0]["detail"].startswith("A cron line has five fields"), answer.text
    answer = await doors.ask("PUT", "/schedules/nightly", NIGHTLY | {"operation": "bakup"})
    assert "known are: adoption, backup, calculation, check" in answer.json["detail"]


@pytest.mark.parametrize("name", ["Nightly", "-x", "a" * 64, "a.b", "a%20b"])
async def test_a_name_that_is_none_is_refused(doors: Doors, name: str) -> None:
    assert await refusal(doors, NIGHTLY, name) == (422, "invalid_request", ["#/name"])


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/schedules"), ("GET", "/schedules/x"), ("PUT", "/schedules/x"), ("DELETE", "/schedules/x")],
)
async def test_a_stranger_sees_and_changes_nothing(doors: Doors, method: str, path: str) -> None:
    answer = await doors.ask(method, path, NIGHTLY if method == "PUT" else None, token=None)
    assert (answer.status, answer.code) == (401, "not_authenticated")
    assert await doors.ledger.schedules() == []


async def test_the_token_in_a_callback_is_kept_and_not_shown(doors: Doors) -> None:
    url = "https://user:secret@n8n.example:5678/webhook/7%2F8?signature=THE-TOKEN"
    answer = await doors.ask(
        "PUT", "/schedules/nightly", NIGHTLY | {"data": {"connection": "shop", "callback_url": url}}
    )
    listed = await doors.ask("GET", "/schedules")
    for text in (answer.text, listed.text):
        assert "THE-TOKEN" not in text and "secret" not in text
        assert "https://n8n.example:5678/webhook/7%2F8" in text
    kept = await doors.ledger.schedule("nightly")
    assert kept is not None and kept.data["callback_url"] == url


async def test_the_running_service_fires_what_is_due(tmp_path: Path) -> None:
    async with running(tmp_path, role="all") as service:
        answer = await service.ask("PUT", "/schedules/nightly", NIGHTLY | {"operation": "check", "data": {}})
        assert answer.status == 201, answer.body
        kept = await service.service.ledger.schedule("nightly")
        assert kept is not None
        await service.service.ledger.put_schedule(replace(kept, next_at=60.0 * (time.time() // 60)))

        async def fired() -> Any:
            return (await service.get("/schedules/nightly"))["last_job_id"]

        job = await service.ended(await until(fired))
        assert (job.status, job.operation, job.source) == (Status.SUCCEEDED, "check", "/flexdb/schedules")
        found = await service.get("/schedules/nightly")
        assert job.event_id == f"nightly/{found['last_at'].replace('.000Z', 'Z')}"


async def test_putting_the_same_again_keeps_the_tick_that_is_due(doors: Doors) -> None:
    await put(doors)
    kept = await doors.ledger.schedule("nightly")
    assert kept is not None and kept.next_at is not None
    past = kept.next_at - 2 * 86_400
    await doors.ledger.advance_schedule(ScheduleStep("nightly", kept.revision, kept.next_at, kept.next_at, past), {})
    found = await put(doors, data={"connection": "shop"})
    assert at(found["next_at"]) == past

"""Jobs by HTTP: lists and filters, one job, cancel, retry, and the stream of a job's events."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientResponse

from engines.run import Progress
from service.http import jobs as jobs_module
from service.jobs import Status
from service.ledger.base import Ledger
from tests.integration.conftest import OpenDoors
from tests.integration.doors import TOKEN, Doors
from tests.spine import Trouble, holds

# ---------------------------------------------------------------- lists


async def test_jobs_are_listed_newest_first_in_pages_that_link_to_the_next(doors: Doors) -> None:
    made = [await doors.accepted() for _ in range(5)]
    first = await doors.ask("GET", "/jobs?limit=2&operation=check")
    assert [job["job_id"] for job in first.json["data"]] == made[:2:-1]
    cursor = first.json["next_cursor"]
    assert first.headers["Link"] == f'</jobs?limit=2&operation=check&cursor={cursor}>; rel="next"'
    second = await doors.ask("GET", first.headers["Link"][1:].partition(">")[0])
    last = await doors.get(f"/jobs?limit=2&cursor={second.json['next_cursor']}")
    assert [job["job_id"] for page in (second.json, last) for job in page["data"]] == made[2::-1]
    assert last["next_cursor"] is None


async def test_jobs_are_filtered_by_status_operation_and_connection(doors: Doors) -> None:
    check = await doors.accepted("check", {})
    await doors.finished(await doors.claimed())
    shop = await doors.accepted("check", {"connection": "shop"})
    backup = await doors.accepted("backup", {"connection": "shop"})

    async def found(query: str) -> set[str]:
        return {job["job_id"] for job in (await doors.get(f"/jobs?{query}"))["data"]}

    assert await found("status=succeeded") == {check}
    assert await found("status=queued") == {shop, backup}
    assert await found("operation=backup") == {backup}
    assert await found("connection=shop&operation=check") == {shop}
    assert await found("connection=nobody") == set()


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("status=done", "#/status"),
        ("status=", "#/status"),
        ("operation=explode", "#/operation"),
        ("limit=0", "#/limit"),
        ("limit=501", "#/limit"),
        ("limit=x", "#/limit"),
        ("limit=00000000000000000000501", "#/limit"),
        ("cursor=made-up", "#/cursor"),
        ("cursor=%00%FF", "#/cursor"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_422(doors: Doors, query: str, pointer: str) -> None:
    answer = await doors.ask("GET", f"/jobs?{query}")
    assert (answer.status, answer.code, answer.pointers) == (422, "invalid_request", [pointer])


@pytest.mark.parametrize("job_id", ["nope", "%00", "..%2f..", "%FF%FE", "a" * 5000])
async def test_an_unknown_job_is_404_whatever_it_is_called(doors: Doors, job_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")):
        answer = await doors.ask(method, f"/jobs/{job_id}{path}")
        assert (answer.status, answer.code) == (404, "job_not_found")


async def test_a_running_job_shows_its_progress(doors: Doors) -> None:
    job_id = await doors.accepted()
    job = await doors.claimed()
    doors.parts.hub.progressed(job, Progress("dumping", 5, 10, "rows", 2.0))
    shown = await doors.get(f"/jobs/{job_id}")
    assert (shown["status"], shown["attempts"]) == ("running", 1)
    assert (shown["progress"]["stage"], shown["progress"]["percent"]) == ("dumping", 50.0)
    await doors.finished(job)
    ended = await doors.get(f"/jobs/{job_id}")
    assert (ended["status"], ended["progress"], ended["result"]) == ("succeeded", None, {"reachable": True})


# ---------------------------------------------------------------- cancel, retry


async def test_a_queued_job_is_canceled_at_once_and_then_has_ended(doors: Doors) -> None:
    job_id = await doors.accepted()
    answer = await doors.ask("POST", f"/jobs/{job_id}/cancel")
    assert (answer.status, answer.json["job_id"], answer.json["status"]) == (202, job_id, "canceled")
    again = await doors.ask("POST", f"/jobs/{job_id}/cancel")
    assert (again.status, again.code, again.json["job_id"]) == (409, "job_ended", job_id)


async def test_a_running_job_is_asked_to_stop_here_and_in_the_ledger(doors: Doors) -> None:
    job_id = await doors.accepted()
    await doors.claimed()
    answer = await doors.ask("POST", f"/jobs/{job_id}/cancel")
    assert (answer.status, answer.json["status"]) == (202, "running")
    assert doors.canceled == [job_id]
    job = await doors.ledger.job(job_id)
    assert job is not None
    assert job.cancel_requested


async def test_a_failed_job_is_retried_as_a_new_one(doors: Doors) -> None:
    job_id = await doors.accepted(Idempotency_Key="one")
    await doors.finished(await doors.claimed(), Status.FAILED)
    answer = await doors.ask("POST", f"/jobs/{job_id}/retry")
    assert answer.status == 202
    new = answer.json["job_id"]
    assert new != job_id
    assert answer.headers["Location"] == f"/jobs/{new}"
    assert (answer.json["event_id"], answer.json["status"], answer.json["duplicate"]) == (
        "one/retry/1",
        "queued",
        False,
    )
    assert (await doors.get(f"/jobs/{new}"))["links"]["retry_of"] == f"/jobs/{job_id}"


async def test_only_failed_and_canceled_jobs_are_retried(doors: Doors) -> None:
    job_id = await doors.accepted()
    for status in ("queued", "running"):
        answer = await doors.ask("POST", f"/jobs/{job_id}/retry")
        assert (answer.status, answer.code) == (409, "job_not_retryable"), status
        if status == "queued":
            job = await doors.claimed()
    await doors.finished(job)
    assert (await doors.ask("POST", f"/jobs/{job_id}/retry")).code == "job_not_retryable"


# ---------------------------------------------------------------- the stream


class Stream:
    """Reads server-sent events from an open response."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def message(self) -> dict[str, str] | None:
        """The next message's fields, a comment as `{"": text}`; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            while line := (await self.response.content.readline()).decode():
                if line == "\n":
                    return fields
                name, _, value = line.rstrip("\n").partition(":")
                fields[name] = value.removeprefix(" ")
        return None

    async def rest(self) -> list[dict[str, str]]:
        found = []
        while (message := await self.message()) is not None:
            found.append(message)
        return found


async def followed(doors: Doors, job_id: str, last_id: str | None = None) -> Stream:
    headers = {"Authorization": f"Bearer {TOKEN}"} | ({"Last-Event-ID": last_id} if last_id else {})
    response = await doors.client.get(f"/jobs/{job_id}/events", headers=headers)
    assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    return Stream(response)


async def test_an_ended_job_replays_its_history_and_the_stream_ends(doors: Doors) -> None:
    job_id = await doors.accepted()
    await doors.finished(await doors.claimed())
    messages = await (await followed(doors, job_id)).rest()
    assert [message["event"] for message in messages] == ["check.started", "check.completed"]
    for message, entry in zip(messages, await _events(doors, job_id), strict=True):
        assert json.loads(message["data"]) == entry
        assert message["id"] == entry["id"]


async def _events(doors: Doors, job_id: str) -> list[dict[str, Any]]:
    return [json.loads(entry.event) for entry in await doors.ledger.history(job_id) if entry.event]


async def test_a_job_is_followed_live_with_progress_that_has_no_id(doors: Doors) -> None:
    job_id = await doors.accepted()
    stream = await followed(doors, job_id)
    job = await doors.claimed()
    started = await stream.message()
    assert started is not None
    assert started["event"] == "check.started"
    doors.parts.hub.progressed(job, Progress("checking", 1, 2, "connections", 1.0))
    progressed = await stream.message()
    assert progressed is not None
    assert (progressed["event"], "id" in progressed) == ("check.progressed", False)
    assert json.loads(progressed["data"])["data"]["progress"]["percent"] == 50.0
    await doors.finished(job)
    assert [message["event"] for message in await stream.rest()] == ["check.completed"]


async def test_a_stream_goes_on_after_the_last_event_id(doors: Doors) -> None:
    job_id = await doors.accepted()
    await doors.finished(await doors.claimed())
    first, last = await _events(doors, job_id)
    after = await (await followed(doors, job_id, first["id"])).rest()
    assert [message["event"] for message in after] == ["check.completed"]
    assert await (await followed(doors, job_id, last["id"])).rest() == []
    assert len(await (await followed(doors, job_id, "of/another/job")).rest()) == 2


async def test_a_silent_stream_is_kept_alive(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "KEEP_ALIVE_SECONDS", 0.0)
    stream = await followed(doors, await doors.accepted())
    message = await stream.message()
    assert message is not None
    assert list(message) == [""]
    stream.response.close()


async def test_a_reader_that_goes_away_leaves_nothing_behind(doors: Doors) -> None:
    job_id = await doors.accepted()
    stream = await followed(doors, job_id)
    job = await doors.claimed()
    await stream.message()
    stream.response.close()
    hub = doors.parts.hub
    await holds(lambda: _stirred(doors, job) and not hub._followers)
    await doors.finished(job)
    assert len(await (await followed(doors, job_id)).rest()) == 2


def _stirred(doors: Doors, job: Any) -> bool:
    """Something to write, so that the loss is noticed."""
    doors.parts.hub._told.clear()
    doors.parts.hub.progressed(job, Progress("checking", 1, 2, "connections", 1.0))
    return True


async def test_a_stream_ends_without_garbage_when_the_ledger_goes_away(opened: OpenDoors) -> None:
    trouble: list[Trouble] = []

    def wrap(ledger: Ledger) -> Ledger:
        trouble.append(Trouble(ledger))
        return trouble[0].ledger

    doors = await opened(wrap)
    job_id = await doors.accepted()
    stream = await followed(doors, job_id)
    await doors.claimed()
    assert await stream.message() is not None
    trouble[0].away = True
    doors.parts.hub.job_changed(job_id)
    assert await stream.rest() == []

"""Following jobs of a service that works: real jobs, waits and event streams, and readers that leave."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engines.run import Progress
from service.jobs import Problem, Status
from tests.integration.real_service import TOKEN, Running, running, signed
from tests.spine import holds

SHOWN = {"Authorization": f"Bearer {TOKEN}"}
TERMINAL_KEYS = {
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "jobid",
    "causationid",
    "data",
}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    """One that works its jobs off."""
    async with running(tmp_path, role="all", retry_base_seconds=0.05) as found:
        yield found


@pytest.fixture
async def waiting(tmp_path: Path) -> AsyncIterator[Running]:
    """One without a worker: the test decides when a job runs and ends."""
    async with running(tmp_path) as found:
        yield found


class Stream:
    """A reader of server-sent events."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> dict[str, Any] | None:
        """One message, its `data` as JSON; None at the end. Comments are passed over."""
        found: dict[str, Any] = {}
        async with asyncio.timeout(20):
            async for line in self.answer.content:
                text = line.decode().rstrip("\n")
                if text.startswith(":"):
                    continue
                if not text and found:
                    found["data"] = json.loads(found["data"])
                    return found
                name, _, value = text.partition(": ")
                if name:
                    found[name] = value
        return None

    async def rest(self) -> list[dict[str, Any]]:
        messages = []
        while message := await self.next():
            messages.append(message)
        return messages


def follow(service: Running, job_id: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.session.get(service.base / f"jobs/{job_id}/events", headers=SHOWN | named)


# ---------------------------------------------------------------- Prefer: wait


async def test_a_backup_waited_for_is_its_terminal_event_and_can_be_downloaded(service: Running) -> None:
    answer = await service.hook("backup", {"connection": "shop"}, Prefer="respond-async, wait=60", Idempotency_Key="n1")
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("application/cloudevents+json")
    assert answer.headers["Preference-Applied"] == "wait=60"
    event = answer.json
    assert set(event) == TERMINAL_KEYS
    assert (event["type"], event["subject"], event["causationid"]) == ("backup.completed", "shop", "n1")
    assert event["id"] == f"{event['jobid']}/terminal"
    data = event["data"]
    assert {"job_id", "event_id", "operation", "connection", "status", "attempts", "backup_id", "bytes"} <= set(data)

    (listed,) = (await service.get("/backups"))["data"]
    shown = await service.get(f"/backups/{data['backup_id']}")
    assert shown == listed | {"manifest": shown["manifest"]}
    file = await service.ask("GET", f"/backups/{data['backup_id']}/download")
    stored = next((service.service.home.storage / "shop" / data["backup_id"]).glob("*.zst"))
    assert file.body == stored.read_bytes()
    assert hashlib.sha256(file.body).hexdigest() == data["sha256"] == shown["sha256"]
    assert file.headers["ETag"] == f'"{data["sha256"]}"'
    head = await service.ask("HEAD", f"/backups/{data['backup_id']}/download")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(file.body)), b"")

    stored.write_bytes(stored.read_bytes()[:-1])
    cut = await service.ask("GET", f"/backups/{data['backup_id']}/download")
    assert (cut.status, cut.code) == (409, "artefact_damaged")
    stored.unlink()
    gone = await service.ask("GET", f"/backups/{data['backup_id']}/download")
    assert (gone.status, gone.code) == (404, "artefact_missing")


async def test_a_failure_waited_for_is_200_with_the_failed_event(service: Running) -> None:
    request = {"connection": "away", "max_attempts": 1}
    event = (await service.hook("inspection", request, Prefer="wait=60")).json
    assert event["type"] == "inspection.failed"
    assert set(event["data"]["error"]) == {"code", "message", "retryable", "hint"}
    job = await service.get(f"/jobs/{event['jobid']}")
    assert (job["status"], job["error"]) == ("failed", event["data"]["error"])
    assert (await service.ask("POST", f"/jobs/{event['jobid']}/cancel")).code == "job_ended"


async def test_a_signed_caller_may_wait_too_and_a_repeat_is_answered_at_once(service: Running) -> None:
    body = b'{"connection": "shop"}'
    headers = signed(body) | {"Content-Type": "application/json", "Prefer": "wait=60"}
    first = await service.ask("POST", "/hooks/check", body, headers, token=None)
    again = await service.ask("POST", "/hooks/check", body, headers, token=None)
    assert first.status == again.status == 200
    assert first.body == again.body, "the same bytes"


async def test_who_leaves_during_a_wait_leaves_nothing_behind(waiting: Running) -> None:
    async with aiohttp.ClientSession() as session:
        wish = {"Prefer": "wait=300", "Idempotency-Key": "k"}
        task = asyncio.ensure_future(session.post(waiting.base / "hooks/check", headers=SHOWN | wish, json={}))
        await holds(lambda: any(waiting.service.hub._followers.values()))
        task.cancel()
        await asyncio.wait([task])
    await holds(lambda: not waiting.service.hub._followers)
    assert (await waiting.hook("check", {}, Idempotency_Key="k")).json["duplicate"] is True


# ---------------------------------------------------------------- event streams


async def test_a_stream_follows_a_job_to_its_end_and_closes(waiting: Running) -> None:
    job_id = await waiting.accepted(Idempotency_Key="k")
    async with follow(waiting, job_id) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        stream = Stream(answer)
        job = await waiting.claimed()
        started = await stream.next()
        assert started is not None
        assert (started["event"], started["data"]["type"]) == ("check.started", "check.started")
        assert started["id"] == started["data"]["id"]

        waiting.service.hub.progressed(job, Progress("checking", 1, 2, "connections", 3.0))
        progressed = await stream.next()
        assert progressed is not None and "id" not in progressed
        assert progressed["event"] == "check.progressed"
        assert progressed["data"]["data"]["progress"]["percent"] == 50.0
        assert (await waiting.get(f"/jobs/{job_id}"))["progress"]["done"] == 1

        await waiting.service.ledger.finish_job(job_id, job.fencing_token, Status.FAILED, problem=Problem("x", "y"))
        (last,) = await stream.rest()
        assert (last["event"], last["id"]) == ("check.failed", f"{job_id}/terminal")
    await holds(lambda: not waiting.service.hub._followers)


async def test_a_stream_of_an_ended_job_is_its_history_and_goes_on_where_one_was(service: Running) -> None:
    job_id = await service.accepted()
    await service.ended(job_id)
    async with follow(service, job_id) as answer:
        messages = await Stream(answer).rest()
    assert [message["event"] for message in messages] == ["check.started", "check.completed"]
    async with follow(service, job_id, Last_Event_ID=messages[0]["id"]) as answer:
        assert await Stream(answer).rest() == messages[1:]
    async with follow(service, job_id, Last_Event_ID=messages[1]["id"]) as answer:
        assert await Stream(answer).rest() == []
    for rubbish in ("nothing/of/ours", "x" * 3000, "é"):
        async with follow(service, job_id, Last_Event_ID=rubbish) as answer:
            assert await Stream(answer).rest() == messages


async def test_a_reader_that_leaves_leaves_no_follower_and_no_task(waiting: Running) -> None:
    job_id = await waiting.accepted()
    tasks = len(asyncio.all_tasks())
    sessions = [aiohttp.ClientSession() for _ in range(5)]
    for session in sessions:
        await session.get(waiting.base / f"jobs/{job_id}/events", headers=SHOWN)
    await holds(lambda: waiting.followers(job_id) == 5)
    for session in sessions:
        await session.close()
    await holds(lambda: waiting.followers(job_id) == 0)
    await holds(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_many_readers_of_one_job_all_hear_its_end(waiting: Running) -> None:
    job_id = await waiting.accepted()

    async def read_on() -> list[str]:
        async with follow(waiting, job_id) as answer:
            return [message["event"] for message in await Stream(answer).rest()]

    readers = [asyncio.create_task(read_on()) for _ in range(20)]
    await holds(lambda: waiting.followers(job_id) == 20)
    job = await waiting.claimed()
    await waiting.service.ledger.finish_job(job_id, job.fencing_token, Status.SUCCEEDED, result={})
    assert await asyncio.gather(*readers) == [["check.started", "check.completed"]] * 20


async def test_a_stream_ends_when_the_service_stops(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        job_id = await service.accepted()
        answer = await service.session.get(service.base / f"jobs/{job_id}/events", headers=SHOWN)
        await holds(lambda: service.followers(job_id) == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    answer.close()


# ---------------------------------------------------------------- once


async def test_fifty_callers_with_one_event_make_one_job_that_runs_once(service: Running) -> None:
    answers = await asyncio.gather(
        *(service.hook("check", {"connection": "shop"}, Idempotency_Key="same") for _ in range(50))
    )
    assert {answer.status for answer in answers} == {202}
    (job_id,) = {answer.json["job_id"] for answer in answers}
    assert sorted(answer.json["duplicate"] for answer in answers) == [False] + [True] * 49
    await service.ended(job_id)
    assert len((await service.get("/jobs"))["data"]) == 1
    async with follow(service, job_id) as answer:
        assert [message["event"] for message in await Stream(answer).rest()] == ["check.started", "check.completed"]

"""The whole service over HTTP, as its users see it, on every engine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.audit import (
    deliveries_say_one_thing,
    every_job_has_one_terminal_event,
    loose_files,
    tools_are_gone,
)
from tests.acceptance.scenes import Scene, open_scene, world_of
from tests.acceptance.service_process import WEBHOOK_SECRET, RunningService, until
from tests.acceptance.worlds import PostgresWorld

NEWEST = pytest.param("postgres18", marks=pytest.mark.xdist_group("postgres18"))
"""One process runs all tests of a server that is started for them."""


@pytest.fixture(params=["sqlite", "postgres", NEWEST])
def everywhere(request: pytest.FixtureRequest) -> Scene:
    """A scene on SQLite, on the PostgreSQL that is there, and on the newest."""
    scene: Scene = request.getfixturevalue(f"{request.param}_scene")
    return scene


# ---------------------------------------------------------------- backup and restore


def test_an_event_becomes_a_proven_backup_and_a_signed_completion(everywhere: Scene) -> None:
    service, receiver = everywhere.service, everywhere.receiver
    request = {"connection": "shop", "callback_url": receiver.url, "labels": {"night": "1"}}
    answer = service.hook("backup", request, key="nightly-1")
    assert answer.status == 202
    job_id = answer.json["job_id"]
    assert answer.headers["location"] == f"/jobs/{job_id}"
    assert answer.json["event_id"] == "nightly-1"
    assert answer.json["duplicate"] is False
    came = receiver.first_of(job_id)
    came.check_signatures(WEBHOOK_SECRET)
    parts = urlsplit(receiver.url)
    assert came.path == f"{parts.path}?{parts.query}", "a callback URL is called byte for byte"
    assert came.webhook_id == f"{job_id}/terminal" == came.event["id"]
    assert came.event | {"time": "", "data": {}} == {
        "specversion": "1.0",
        "id": f"{job_id}/terminal",
        "source": "/flexdb",
        "type": "backup.completed",
        "subject": "shop",
        "time": "",
        "datacontenttype": "application/json",
        "jobid": job_id,
        "causationid": "nightly-1",
        "data": {},
    }
    described(everywhere, came.event["data"], request["labels"])


def described(scene: Scene, told: dict[str, Any], labels: Any) -> None:
    """Event, catalogue, manifest and the stored file say the same."""
    contents = scene.world.contents()
    assert contents is not None
    counts = {item["name"].rpartition(".")[2]: item["rows"] for item in told["objects"]}
    assert {name: counts[name] for name in contents} == {name: rows for name, (rows, _) in contents.items()}
    assert (told["status"], told["level"], told["labels"]) == ("succeeded", 2, labels)
    shown = scene.service.get(f"/backups/{told['backup_id']}")
    assert (shown["sha256"], shown["level"], shown["damaged"]) == (told["sha256"], 2, False)
    assert shown["manifest"]["restore_by_hand"]
    stored = scene.service.storage / "shop" / told["backup_id"]
    assert json.loads((stored / "manifest.json").read_text()) == shown["manifest"]
    loaded = scene.service.request("GET", f"/backups/{told['backup_id']}/download").body
    assert hashlib.sha256(loaded).hexdigest() == told["sha256"]
    assert len(loaded) == told["bytes"]
    assert not loose_files(scene.service)


def test_a_backup_is_planned_restored_beside_and_put_in_place(everywhere: Scene) -> None:
    service, world = everywhere.service, everywhere.world
    backed_up = world.contents()
    backup_id = everywhere.back_up(verify=3)
    target = {"connection": "shop", "into": world.copy}

    plan = service.complete("restore", target | {"backup_id": backup_id, "mode": "plan"})
    assert plan["objects_total"] >= 2
    assert world.contents(world.copy) is None, "a plan touches nothing"

    done = service.complete("restore", target | {"latest": {"connection": "shop", "min_level": 3}})
    assert done["backup_id"] == backup_id
    assert world.contents(world.copy) == backed_up

    again = service.carry_out("restore", target | {"backup_id": backup_id})
    assert again["data"]["error"]["code"] == "target_not_empty"
    assert world.contents(world.copy) == backed_up

    world.change()
    service.complete("restore", {"connection": "shop", "backup_id": backup_id, "mode": "replace"})
    assert world.contents() == backed_up
    assert service.complete("verification", {"backup_id": backup_id, "level": 3})["level"] == 3
    assert not world.half_built(everywhere.job_ids())
    every_job_has_one_terminal_event(service)


def test_check_and_inspection_tell_what_is_there(everywhere: Scene) -> None:
    service = everywhere.service
    state = service.complete("check", {})["connections"]
    assert [(item["connection"], item["reachable"]) for item in state] == [("shop", True)]
    before = service.complete("inspection", {"connection": "shop"})
    assert {table["name"].rpartition(".")[2] for table in before["tables"]} == {"customers", "orders"}
    assert service.complete("inspection", {"connection": "shop"})["fingerprint"] == before["fingerprint"]
    everywhere.world.change()
    assert service.complete("inspection", {"connection": "shop"})["fingerprint"] != before["fingerprint"]
    assert service.get("/health")["status"] == "ok"


# ---------------------------------------------------------------- asking and waiting


def test_waiting_answers_with_the_terminal_event_or_with_202_when_the_time_is_up(scene: Scene) -> None:
    waited = scene.service.hook("check", {"connection": "shop"}, wait=30)
    assert (waited.status, waited.headers["preference-applied"]) == (200, "wait=30")
    assert waited.json["type"] == "check.completed"
    with scene.world.locked():
        early = scene.service.hook("backup", {"connection": "shop"}, wait=1)
        assert (early.status, early.headers["preference-applied"]) == (202, "wait=1")
    assert scene.service.ended(early.json["job_id"])["status"] == "succeeded"


def test_the_same_event_by_any_door_is_the_same_job(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    cloud_event = {
        "specversion": "1.0",
        "id": "order-7",
        "source": "/cron",
        "type": "check.requested",
        "data": {"connection": "shop"},
    }
    structured = {"Content-Type": "application/cloudevents+json"}
    first = service.request("POST", "/events", json.dumps(cloud_event).encode(), structured)
    assert (first.status, first.json["duplicate"]) == (202, False)
    binary = {"Content-Type": "application/json"} | {
        f"ce-{name}": str(cloud_event[name]) for name in ("specversion", "id", "source", "type")
    }
    second = service.request("POST", "/events", json.dumps(cloud_event["data"]).encode(), binary)
    assert (second.status, second.json["duplicate"]) == (202, True)
    assert second.json["job_id"] == first.json["job_id"]
    batch = [
        cloud_event,
        cloud_event | {"id": "order-8"},
        cloud_event | {"id": "order-9", "type": "no.requested"},
    ]
    third = service.request(
        "POST", "/events", json.dumps(batch).encode(), {"Content-Type": "application/cloudevents-batch+json"}
    )
    assert third.status == 200
    assert [item.get("duplicate") for item in third.json] == [True, False, None]
    assert third.json[2]["code"] == "unknown_operation"
    assert len(service.get("/jobs")["data"]) == 2


def test_many_callers_with_one_key_make_one_job(sqlite_scene: Scene) -> None:
    service, jobs = sqlite_scene.service, []

    def call() -> None:
        jobs.append(service.send("backup", {"connection": "shop"}, key="one"))

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 12
    assert len(set(jobs)) == 1


def test_a_job_can_be_followed_and_taken_up_again_by_the_last_event_id(scene: Scene) -> None:
    service = scene.service
    with scene.world.locked():
        job_id = service.send("backup", {"connection": "shop"})
        service.running(job_id)
        followed: list[list[Any]] = []
        thread = threading.Thread(target=lambda: followed.append(service.follow(job_id)))
        thread.start()
    thread.join()
    kept = [message for message in followed[0] if message.event != "backup.progressed"]
    assert [(message.event, message.id) for message in kept] == [
        ("backup.started", f"{job_id}/started/1"),
        ("backup.completed", f"{job_id}/terminal"),
    ]
    assert all(message.data["type"] == message.event for message in followed[0])
    later = service.follow(job_id, last_event_id=f"{job_id}/started/1")
    assert [message.event for message in later] == ["backup.completed"]
    assert service.follow(job_id, last_event_id=f"{job_id}/terminal") == []


def test_a_subscription_hears_of_what_it_asked_for_and_a_redelivery_has_the_same_bytes(
    sqlite_scene: Scene,
) -> None:
    service, receiver = sqlite_scene.service, sqlite_scene.receiver
    wanted = {"url": receiver.url, "types": ["backup.*"]}
    assert service.request("PUT", "/subscriptions/all-backups", wanted).status == 201
    service.complete("check", {"connection": "shop"})
    job_id = str(service.complete("backup", {"connection": "shop"})["job_id"])
    until(lambda: len(receiver.all) == 2)
    assert {each.event["type"] for each in receiver.all} == {"backup.started", "backup.completed"}
    terminal = next(each for each in receiver.all if each.event["type"] == "backup.completed")
    again = until(lambda: delivered(service, job_id, "backup.completed"))[0]
    assert service.request("POST", f"/deliveries/{again['delivery_id']}/redeliver").status == 202
    until(lambda: len(receiver.all) == 3)
    assert (receiver.all[-1].webhook_id, receiver.all[-1].body) == (terminal.webhook_id, terminal.body)
    deliveries_say_one_thing(receiver.all)


def delivered(service: RunningService, job_id: str, event_type: str) -> list[Any]:
    found = service.get(f"/deliveries?job_id={job_id}&status=delivered")["data"]
    return [each for each in found if each["event_type"] == event_type]


# ---------------------------------------------------------------- conflicts, cancel, retry


def test_a_second_backup_of_a_busy_target_waits_joins_or_is_refused(scene: Scene) -> None:
    service, receiver = scene.service, scene.receiver
    with scene.world.locked():
        first = service.send("backup", {"connection": "shop"})
        service.running(first)
        joined = service.hook("backup", {"connection": "shop", "on_conflict": "join", "callback_url": receiver.url})
        assert (joined.status, joined.json["job_id"]) == (202, first)
        refused = service.hook("backup", {"connection": "shop", "on_conflict": "reject"})
        assert (refused.status, refused.code, refused.json["job_id"]) == (409, "target_busy", first)
        waiting = service.send("backup", {"connection": "shop"})
        if scene.world.kind == "postgres":  # a locked SQLite file cannot even be checked
            assert service.complete("check", {"connection": "shop"})["reachable"], "checks exclude nobody"
        assert service.job(waiting)["status"] == "queued"
    assert service.ended(first)["status"] == "succeeded"
    assert service.ended(waiting)["status"] == "succeeded"
    assert receiver.first_of(first).event["type"] == "backup.completed"
    times = {job: service.job(job) for job in (first, waiting)}
    assert times[waiting]["started_at"] >= times[first]["ended_at"], "one at a time"


def test_a_running_dump_is_canceled_leaves_nothing_and_can_be_retried(everywhere: Scene) -> None:
    service, receiver = everywhere.service, everywhere.receiver
    with ExitStack() as held:
        if everywhere.world.kind == "sqlite":
            held.enter_context(everywhere.world.locked())
        job_id = service.send("backup", {"connection": "shop", "callback_url": receiver.url}, key="night")
        service.running(job_id)
        tools = [service.stop_dump()] if everywhere.world.kind == "postgres" else []
        queued = service.send("backup", {"connection": "shop"})
        assert service.request("POST", f"/jobs/{queued}/cancel").status == 202
        assert service.ended(queued)["attempts"] == 0
        assert service.request("POST", f"/jobs/{job_id}/cancel").status == 202
        job = service.ended(job_id, seconds=15)
        tools_are_gone(tools)
        if isinstance(everywhere.world, PostgresWorld):
            until(lambda: not everywhere.postgres.sessions(job_id), 5)
    assert (job["status"], job["error"]["code"]) == ("canceled", "canceled")
    assert service.stored() == []
    assert receiver.first_of(job_id).event["type"] == "backup.canceled"
    late = service.request("POST", f"/jobs/{job_id}/cancel")
    assert (late.status, late.code) == (409, "job_ended")
    again = service.request("POST", f"/jobs/{job_id}/retry")
    assert (again.status, again.json["event_id"]) == (202, "night/retry/1")
    assert service.ended(again.json["job_id"])["status"] == "succeeded"
    assert service.job(again.json["job_id"])["links"]["retry_of"] == f"/jobs/{job_id}"
    refused = service.request("POST", f"/jobs/{again.json['job_id']}/retry")
    assert (refused.status, refused.code) == (409, "job_not_retryable")
    every_job_has_one_terminal_event(service)


def test_a_job_that_cannot_end_in_time_fails_at_its_deadline(scene: Scene) -> None:
    with scene.world.locked():
        event = scene.service.carry_out("backup", {"connection": "shop", "deadline_seconds": 1.5})
    assert (event["type"], event["data"]["error"]["code"]) == ("backup.failed", "deadline_exceeded")
    assert scene.service.stored() == []


# ---------------------------------------------------------------- stopping


@pytest.fixture(params=["sqlite", "postgres"])
def impatient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(tmp_path, world_of(request.param, tmp_path), {"FLEXDB_DRAIN_SECONDS": "0.5"}) as scene:
        yield scene


def test_a_job_that_outlasts_the_drain_goes_back_to_the_queue_and_is_done_after_the_restart(
    impatient: Scene,
) -> None:
    service = impatient.service
    with impatient.world.locked():
        job_id = service.send("backup", {"connection": "shop", "callback_url": impatient.receiver.url})
        service.running(job_id)
        assert service.stop() == 0
        row = service.rows("SELECT status, attempts FROM jobs WHERE job_id = ?", job_id)[0]
        assert tuple(row) == ("queued", 0)
        assert service.stored() == []
        assert not list((service.home / "work").iterdir())
    service.restart()
    job = service.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 1)
    impatient.receiver.first_of(job_id)
    every_job_has_one_terminal_event(service)


def test_a_job_that_ends_within_the_drain_is_finished_and_nothing_new_is_started(scene: Scene) -> None:
    service = scene.service
    with scene.world.locked():
        job_id = service.send("backup", {"connection": "shop"})
        service.running(job_id)
        waiting = service.send("backup", {"connection": "shop"})
        service.terminate()
        until(lambda: is_draining(service))
    assert service.wait() == 0
    ended = {row["job_id"]: row["status"] for row in service.rows("SELECT job_id, status FROM jobs")}
    assert ended == {job_id: "succeeded", waiting: "queued"}
    service.restart()
    assert service.ended(waiting)["status"] == "succeeded"


def is_draining(service: RunningService) -> bool:
    try:
        return service.request("GET", "/readyz").status == 503
    except OSError:
        return True


def test_a_second_process_on_the_same_home_refuses_to_start_and_the_first_goes_on(sqlite_scene: Scene) -> None:
    first = sqlite_scene.service
    second = RunningService(first.folder / "second", settings={"FLEXDB_HOME": str(first.home)})
    try:
        with pytest.raises(AssertionError, match="instead of becoming ready"):
            second.start()
        assert f"in use by process {first.process.pid}" in second.last_words()
        assert "Traceback" not in second.last_words()
    finally:
        second.close()
    assert first.complete("backup", {"connection": "shop"})["level"] == 2


def test_the_services_own_files_may_be_backed_up_and_are_never_written_to(tmp_path: Path) -> None:
    world = world_of("sqlite", tmp_path)
    ledger = tmp_path / "service" / "home" / "ledger.sqlite"
    with open_scene(tmp_path, world, {"FLEXDB_CONNECTIONS__SELF": f"sqlite:///{ledger}"}) as scene:
        made = scene.service.complete("backup", {"connection": "self"})
        request = {"connection": "self", "backup_id": made["backup_id"], "mode": "replace"}
        refused = scene.service.hook("restore", request)
        assert (refused.status, refused.code) == (422, "invalid_request")
        assert "belongs to FlexDB itself" in refused.json["detail"]
        beside = scene.service.hook("restore", request | {"into": "token", "mode": "create"})
        assert (beside.status, beside.code) == (422, "invalid_request")

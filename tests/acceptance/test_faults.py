"""What goes wrong around the service: each fault one clear code, one terminal event, nothing half done."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from engines.postgres.clients import Clients
from tests.acceptance import mounts
from tests.acceptance.audit import every_job_has_one_terminal_event, loose_files
from tests.acceptance.scenes import Scene, open_scene, postgres15
from tests.acceptance.service_process import TOKEN, RunningService, free_port, until
from tests.acceptance.worlds import PostgresWorld, SQLiteWorld
from tests.servers import installed_postgres, version_of

SIGNING_SECRET = "whsec_aGVyZS1pcy1hLXNlY3JldC1vZi0zMi1ieXRlcy4uLi4="


@contextmanager
def running(
    folder: Path,
    connections: dict[str, str],
    settings: dict[str, str] | None = None,
    *,
    wrapper: tuple[str, ...] = (),
) -> Iterator[RunningService]:
    service = RunningService(folder / "service", connections, settings, wrapper=wrapper)
    try:
        yield service.start()
    finally:
        service.close()
        print(f"--- the service's log ({service.log})\n{service.last_words()}")


def fails(service: RunningService, operation: str, data: dict[str, Any], code: str, *, retryable: bool = False) -> Any:
    """Have a job fail with that code; the data of its one terminal event."""
    event = service.carry_out(operation, data)
    assert event["type"] == f"{operation}.failed", event
    error = event["data"]["error"]
    assert (error["code"], error["retryable"]) == (code, retryable), error
    assert error["message"] and error["hint"]
    every_job_has_one_terminal_event(service)
    return event["data"]


def shop(folder: Path, orders: int = 500) -> SQLiteWorld:
    world = SQLiteWorld(folder / "databases")
    world.fill(orders)
    return world


def needs_mounts() -> None:
    if not mounts.can_mount():
        pytest.skip("no mount namespace for this user: full and read-only file systems cannot be made")


# ---------------------------------------------------------------- the server


def test_a_server_that_is_away_is_tried_again_and_then_told_as_unavailable(tmp_path: Path) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/shop"
    with running(tmp_path, {"shop": url}) as service:
        told = fails(service, "backup", {"connection": "shop"}, "target_unavailable", retryable=True)
        assert told["attempts"] == 3
        assert not service.stored()
        state = service.complete("check", {"connection": "shop"})["connections"][0]
        assert (state["reachable"], state["problem"]["code"]) == (False, "target_unavailable")


def test_a_server_that_comes_back_between_attempts_gets_its_backup(tmp_path: Path) -> None:
    world, away = shop(tmp_path), tmp_path / "away"
    world.file.rename(away)
    with running(tmp_path, {"shop": world.url}, {"FLEXDB_RETRY_BASE_SECONDS": "1"}) as service:
        fails(service, "backup", {"connection": "shop"}, "target_missing")
        away.rename(world.file)
        assert service.complete("backup", {"connection": "shop"})["level"] == 2


def test_a_database_that_does_not_exist_is_told_without_retry(postgres_scene: Scene, tmp_path: Path) -> None:
    url = postgres_scene.postgres.url_of("acceptance_nowhere")
    with running(tmp_path / "other", {"shop": url}) as service:
        assert fails(service, "backup", {"connection": "shop"}, "target_missing")["attempts"] == 1
        assert not service.stored()


def test_a_server_that_ends_the_sessions_of_a_dump_is_tried_again(postgres_scene: Scene) -> None:
    service, world = postgres_scene.service, postgres_scene.postgres
    job_id = service.send("backup", {"connection": "shop"})
    tool = service.stop_dump()
    assert world.end_sessions(job_id) > 0
    tool.resume()
    job = service.ended(job_id)
    assert (job["status"], job["attempts"], job["error"]) == ("succeeded", 2, None)
    assert not loose_files(service)


@pytest.mark.xdist_group("postgres18")
def test_a_wrong_password_is_told_without_retry_and_without_the_password(tmp_path: Path, postgres18_url: str) -> None:
    url = urlsplit(postgres18_url)
    wrong = urlunsplit(url._replace(netloc=f"{url.username}:wr0ng-one@{url.hostname}:{url.port}"))
    with running(tmp_path, {"shop": wrong}) as service:
        told = fails(service, "backup", {"connection": "shop"}, "access_denied")
        assert told["attempts"] == 1
        state = service.complete("check", {"connection": "shop"})["connections"][0]
        assert (state["reachable"], state["problem"]["code"]) == (False, "access_denied")
        assert not service.stored()
        assert b"wr0ng-one" not in b"".join(service.answers) + service.log.read_bytes()


# ---------------------------------------------------------------- the disk


def test_a_full_storage_leaves_nothing_and_takes_the_next_backup_when_there_is_room(tmp_path: Path) -> None:
    needs_mounts()
    world, storage = shop(tmp_path, orders=6000), tmp_path / "storage"
    with running(
        tmp_path,
        {"shop": world.url},
        {"FLEXDB_STORAGE_URL": str(storage)},
        wrapper=mounts.small(storage, 14),
    ) as service:
        seen = service.inside(storage)
        good = service.complete("backup", {"connection": "shop"})["backup_id"]
        (seen / "filler").write_bytes(os.urandom(6_000_000))
        fails(service, "backup", {"connection": "shop", "max_attempts": 2}, "storage_full", retryable=True)
        left = {path.parent.name for path in seen.rglob("*") if path.is_file() and path.name != "filler"}
        assert left == {good}
        service.complete("verification", {"backup_id": good})
        (seen / "filler").unlink()
        shutil.rmtree(seen / "shop" / good)
        assert service.complete("backup", {"connection": "shop"})["level"] == 2


def test_a_full_work_folder_is_told_as_full_and_leaves_nothing(tmp_path: Path) -> None:
    needs_mounts()
    world, work = shop(tmp_path, orders=6000), tmp_path / "service" / "home" / "work"
    with running(tmp_path, {"shop": world.url}, wrapper=mounts.small(work, 2)) as service:
        fails(service, "backup", {"connection": "shop", "max_attempts": 2}, "storage_full", retryable=True)
        assert not service.stored()
        assert not list(service.inside(work).rglob("*"))


def test_a_target_without_room_is_told_as_full_and_left_as_it_was(tmp_path: Path) -> None:
    needs_mounts()
    world, folder = shop(tmp_path, orders=6000), tmp_path / "target"
    target = f"sqlite:///{folder}/target.sqlite"
    with running(tmp_path, {"shop": world.url, "target": target}, wrapper=mounts.small(folder, 4)) as service:
        backup_id = service.complete("backup", {"connection": "shop"})["backup_id"]
        for mode in ("create", "replace"):
            request = {"connection": "target", "backup_id": backup_id, "mode": mode, "max_attempts": 1}
            fails(service, "restore", request, "storage_full", retryable=True)
            assert not list(service.inside(folder).iterdir())


def test_a_full_ledger_is_503_and_every_202_before_it_keeps_its_job(tmp_path: Path) -> None:
    needs_mounts()
    world, home = shop(tmp_path), tmp_path / "service" / "home"
    storage = {"FLEXDB_STORAGE_URL": str(tmp_path / "storage")}
    with running(tmp_path, {"shop": world.url}, storage, wrapper=mounts.small(home, 8)) as service:
        accepted = [service.send("check", {"connection": "shop"})]
        filler = service.inside(home) / "filler"
        fill_up(filler)
        refused = accept_until_refused(service, accepted)
        assert (refused.status, refused.code) == (503, "ledger_unavailable")
        assert "retry-after" in refused.headers
        filler.unlink()
        until(lambda: service.hook("check", {"connection": "shop"}).status == 202)
        for job_id in accepted:
            assert service.ended(job_id)["status"] == "succeeded"
        until(lambda: service.request("GET", "/readyz").status == 200)


def fill_up(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue


def accept_until_refused(service: RunningService, accepted: list[str]) -> Any:
    """SQLite may go on in room it has already; it comes to its end."""
    for _ in range(3000):
        answer = service.hook("check", {"connection": "shop"})
        if answer.status != 202:
            return answer
        accepted.append(answer.json["job_id"])
    raise AssertionError("the ledger never ran out of room")


def test_a_storage_folder_that_cannot_be_written_is_told_and_the_connection_can_still_be_checked(
    tmp_path: Path,
) -> None:
    needs_mounts()
    world, storage = shop(tmp_path), tmp_path / "storage"
    settings = {"FLEXDB_STORAGE_URL": str(storage)}
    with running(tmp_path, {"shop": world.url}, settings, wrapper=mounts.read_only(storage)) as service:
        fails(service, "backup", {"connection": "shop"}, "storage_failed", retryable=True)
        assert service.complete("check", {"connection": "shop"})["reachable"]
        assert not list(storage.rglob("*"))


# ---------------------------------------------------------------- the tool


def fake_pg_dump(folder: Path, body: str) -> dict[str, str]:
    """Settings that make the service find a pg_dump that answers `--version` well and then does as told."""
    real = Clients.installed().for_dump(version_of(installed_postgres()), tls=False).path("pg_dump")
    folder.mkdir()
    program = folder / "pg_dump"
    program.write_text(f'#!/bin/sh\nREAL={real}\n[ "$1" = --version ] && exec $REAL --version\n{body}\n')
    program.chmod(0o755)
    return {"FLEXDB_TOOL_PATH": str(folder)}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('$REAL "$@"; exit 1', "tool_failed"),
        ('$REAL "$@"; kill -9 $$', "tool_failed"),
        ('$REAL "$@" | head -c 20000', "artefact_damaged"),
        ("exit 0", "artefact_damaged"),
    ],
    ids=[
        "exits 1 after its output",
        "is killed after its output",
        "stops early with exit 0",
        "writes nothing",
    ],
)
def test_a_dump_tool_that_ends_badly_never_makes_a_backup(tmp_path: Path, body: str, code: str) -> None:
    world = postgres15()
    settings = fake_pg_dump(tmp_path / "tools", body)
    with open_scene(tmp_path, world, settings) as scene:
        fails(scene.service, "backup", {"connection": "shop"}, code)
        assert not scene.service.stored()
        assert scene.service.get("/backups")["data"] == []


# ---------------------------------------------------------------- the artefact


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "artefact_damaged"),
    (flip, "artefact_damaged"),
    (Path.unlink, "artefact_missing"),
]


@pytest.mark.parametrize(("damage", "code"), DAMAGES, ids=["one byte short", "one bit flipped", "deleted"])
def test_a_damaged_artefact_is_found_with_evidence_and_never_restored(
    scene: Scene, damage: Callable[[Path], None], code: str
) -> None:
    service, world = scene.service, scene.world
    backup_id = scene.back_up()
    damage(artefact_file(service, backup_id))
    into = {"backup_id": backup_id, "connection": "shop", "into": world.copy}
    fails_with_evidence(service, "restore", into, code)
    assert world.contents(world.copy) is None
    before = world.contents()
    fails_with_evidence(service, "restore", {"backup_id": backup_id, "connection": "shop", "mode": "replace"}, code)
    assert world.contents() == before
    for level in (1, 2, 3):
        fails_with_evidence(service, "verification", {"backup_id": backup_id, "level": level}, code)
    assert not world.half_built(scene.job_ids())
    if code == "artefact_damaged":
        assert service.get(f"/backups/{backup_id}")["damaged"] is True
        latest = {"latest": {"connection": "shop"}, "connection": "shop", "into": world.copy}
        fails(service, "restore", latest, "unknown_backup")


def fails_with_evidence(service: RunningService, operation: str, data: dict[str, Any], code: str) -> None:
    told = fails(service, operation, data, code)
    assert told["attempts"] == 1
    assert told["backup_id"] == data["backup_id"]
    assert [item for item in told["evidence"] if not item["ok"]], told["evidence"]


def artefact_file(service: RunningService, backup_id: str) -> Path:
    files = [path for path in (service.storage / "shop" / backup_id).iterdir() if path.name != "manifest.json"]
    assert len(files) == 1
    return files[0]


# ---------------------------------------------------------------- names and passwords


def test_a_connection_name_that_looks_like_a_path_or_an_option_is_refused_at_the_door(
    sqlite_scene: Scene,
) -> None:
    service = sqlite_scene.service
    for name in ("../x", "-Fc", "a/b", "", "SHOP", "shop\x00", "demo"):
        answer = service.hook("backup", {"connection": name})
        assert (answer.status, answer.code) == (422, "invalid_request"), name
        assert answer.json["errors"][0]["pointer"] == "#/connection"
    for into in ("../x", "a/b", "..", "", ".hidden", "shop.sqlite-wal", "x\x00"):
        data = {"connection": "shop", "latest": {"connection": "shop"}, "into": into}
        answer = service.hook("restore", data)
        assert (answer.status, answer.code) == (422, "invalid_request"), into
    assert service.get("/jobs")["data"] == []


ODD_DATABASE = 'a b"; drop'
ODD_PASSWORD = "p/w @:%41 '\"\\$ ż"


@pytest.mark.xdist_group("postgres18")
def test_a_database_and_a_password_with_every_odd_character_are_backed_up_and_restored(
    tmp_path: Path, postgres18_url: str
) -> None:
    world = PostgresWorld(postgres18_url)
    odd = f"{world.name} {ODD_DATABASE}"
    role = f'{world.name} "@:/%'
    try:
        world.fill(50)
        world.make_role(role, ODD_PASSWORD)
        world.rename(odd)
        backed_up_and_restored(tmp_path, world, world.url_of(odd, role, ODD_PASSWORD), odd)
    finally:
        world.close()


def backed_up_and_restored(folder: Path, world: PostgresWorld, url: str, database: str) -> None:
    copy = f'{database} -c "x'
    with running(folder, {"shop": url}) as service:
        made = service.complete("backup", {"connection": "shop", "verify": 3, "globals": True})
        assert (made["database"], made["level"]) == (database, 3)
        service.complete("restore", {"backup_id": made["backup_id"], "connection": "shop", "into": copy, "jobs": 2})
        assert world.contents(copy) == world.contents(database)
        service.complete("restore", {"backup_id": made["backup_id"], "connection": "shop", "mode": "replace"})
        assert world.contents(database) == world.contents(copy)
        every_job_has_one_terminal_event(service)
        assert not loose_files(service)


# ---------------------------------------------------------------- bodies and events that make no sense


def test_a_body_of_100_megabytes_is_413_and_the_service_goes_on(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    block = b" " * (1 << 20)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    for chunked in (False, True):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        length = {} if chunked else {"Content-Length": str(100 << 20)}
        blocks = (block for _ in range(100))
        try:
            connection.request("POST", "/hooks/check", blocks, headers | length, encode_chunked=chunked)
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["code"]) == (413, "too_large"), chunked
        finally:
            connection.close()
    assert service.complete("check", {"connection": "shop"})["reachable"]


def event(**changes: Any) -> bytes:
    made = {"specversion": "1.0", "id": "e-1", "source": "/test", "type": "check.requested", "data": {}}
    made |= changes
    return json.dumps({name: value for name, value in made.items() if value is not None}).encode()


STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BAD_EVENTS: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("/hooks/check", b'{"connection": ', {}, 400, "malformed_json"),
    ("/hooks/check", b'{"connection": "\xff\xfe"}', {}, 400, "malformed_json"),
    ("/hooks/check", b'{"connection": NaN}', {}, 400, "malformed_json"),
    ("/hooks/check", b"[" * 100_000, {}, 400, "malformed_json"),
    ("/hooks/check", b"[]", {}, 422, "invalid_request"),
    ("/hooks/check", b"{}", {"Content-Type": "text/xml"}, 415, "unsupported_media_type"),
    ("/hooks/explode", b"{}", {}, 404, "unknown_operation"),
    ("/hooks/check", b'{"conection": "shop"}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "engine": "x"}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "jobs": 4}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "verify": 9}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "storage": "file:///etc"}', {}, 422, "invalid_request"),
    (
        "/hooks/backup",
        b'{"connection": "shop", "callback_url": "http://169.254.169.254/"}',
        {},
        422,
        "invalid_request",
    ),
    ("/events", event(specversion="0.3"), STRUCTURED, 400, "invalid_event"),
    ("/events", event(id=None), STRUCTURED, 400, "invalid_event"),
    ("/events", event(source=""), STRUCTURED, 400, "invalid_event"),
    ("/events", event(type="explode.requested"), STRUCTURED, 404, "unknown_operation"),
    ("/events", event(type="check.completed"), STRUCTURED, 404, "unknown_operation"),
    ("/events", event(data="text"), STRUCTURED, 422, "invalid_request"),
    ("/events", b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
]


def test_what_makes_no_sense_is_refused_with_a_stable_code_and_makes_no_job(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    wrong = []
    for path, body, headers, status, code in BAD_EVENTS:
        answer = service.request("POST", path, body, {"Content-Type": "application/json"} | headers)
        assert answer.headers["content-type"].startswith("application/problem+json"), (path, body[:60])
        if (answer.status, answer.code) != (status, code):
            wrong.append((path, body[:60], answer.status, answer.code))
        assert {"type", "title", "status", "code", "detail"} <= set(answer.json)
    assert not wrong
    assert service.get("/jobs")["data"] == []


def test_a_repeated_id_with_another_body_is_409_with_both_digests(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    first = service.hook("check", {"connection": "shop"}, key="one")
    again = service.hook("check", {}, key="one")
    assert (again.status, again.code) == (409, "id_reused")
    digest = hashlib.sha256(b'["check",{"connection":"shop"}]').hexdigest()
    other = hashlib.sha256(b'["check",{}]').hexdigest()
    assert {digest, other} <= set(again.json.values())
    assert again.json["job_id"] == first.json["job_id"]


def signed(body: bytes, webhook_id: str = "msg-1", *, age: int = 0) -> dict[str, str]:
    """Headers of a Standard Webhooks request."""
    timestamp = str(int(time.time()) - age)
    key = base64.b64decode(SIGNING_SECRET.removeprefix("whsec_"))
    text = f"{webhook_id}.{timestamp}.".encode() + body
    made = base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
    return {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{made}"}


def test_a_signature_that_is_wrong_in_any_way_is_401_and_a_right_one_does_not_admit_a_restore(
    tmp_path: Path,
) -> None:
    world, body = shop(tmp_path), b'{"connection": "shop"}'
    source = {"FLEXDB_SOURCES__SHOP": f"standard:{SIGNING_SECRET}"}
    with running(tmp_path, {"shop": world.url}, source) as service:

        def ask(operation: str, headers: dict[str, str]) -> tuple[int, str | None]:
            json_headers = {"Content-Type": "application/json"} | headers
            answer = service.request("POST", f"/hooks/{operation}", body, json_headers, token=None)
            return answer.status, answer.code

        assert ask("check", signed(body)) == (202, None)
        assert ask("check", signed(body)) == (202, None), "a repeat inside the window is a duplicate"
        assert len(service.get("/jobs")["data"]) == 1
        no_comma = signed(body) | {"webhook-signature": "v1nocomma"}
        assert ask("check", no_comma)[0] == 401
        assert ask("check", signed(body) | {"webhook-timestamp": "soon"})[0] == 401
        assert ask("check", signed(body + b" "))[0:2] == (401, "bad_signature")
        assert ask("check", signed(body, age=3600)) == (401, "stale_signature")
        assert ask("check", signed(body, age=-3600)) == (401, "stale_signature")
        assert ask("check", {})[0] == 401
        assert ask("restore", signed(body, "msg-2")) == (403, "operation_not_allowed")
        assert service.request("GET", "/jobs", token="wrong").status == 401

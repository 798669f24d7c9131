"""What goes wrong around the service: each fault one clear code, one terminal event, nothing half done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from engines.postgres.clients import Clients
from tests.acceptance import mounts
from tests.acceptance.audit import every_job_has_one_terminal_event, loose_files
from tests.acceptance.scenes import Scene, open_scene, postgres15, running, shop
from tests.acceptance.service_process import RunningService, free_port, until
from tests.servers import installed_postgres, version_of


def fails(service: RunningService, operation: str, data: dict[str, Any], code: str, *, retryable: bool = False) -> Any:
    """Have a job fail with that code; the data of its one terminal event."""
    event = service.carry_out(operation, data)
    assert event["type"] == f"{operation}.failed", event
    error = event["data"]["error"]
    assert (error["code"], error["retryable"]) == (code, retryable), error
    assert error["message"] and error["hint"]
    every_job_has_one_terminal_event(service)
    return event["data"]


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

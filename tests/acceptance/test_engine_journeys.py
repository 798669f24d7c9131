"""The way of a database through the whole service, by HTTP, on a real server of every engine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from engines.registry import EngineRegistry
from tests.acceptance.audit import every_job_has_one_terminal_event
from tests.acceptance.journeys import (
    dear_orders,
    downloaded,
    nobody_there,
    nothing_in_between,
    one_after_the_other,
    one_byte_flipped,
    plain,
    question,
    read_by_the_driver,
    restored_by_hand,
)
from tests.acceptance.mongodb_world import MongoWorld
from tests.acceptance.mysql_world import MySQLWorld
from tests.acceptance.scenes import Scene, open_scene
from tests.acceptance.service_process import until
from tests.acceptance.worlds import PostgresWorld, World
from tests.mariadb import own_mariadb
from tests.mongodb import own_secantus
from tests.servers import ServerMissingError, embedded_postgres, missing

ORDERS = 400
MANY = {"sqlite": 40_000}
"""So many that a backup takes long enough to be watched; else ten times the others' `ORDERS`."""
PROGRAMS = {
    "sqlite": ("sqlite3",),
    "postgres": ("psql", "createdb", "pg_restore"),
    "mysql": ("mariadb",),
    "mongodb": ("mongorestore",),
}
"""What the manifests' commands call."""
Shops = tuple[PostgresWorld | MySQLWorld, PostgresWorld | MySQLWorld] | tuple[MongoWorld, MongoWorld]
ENGINES = EngineRegistry.default().kinds()
"""Every engine there is takes every journey."""


@pytest.fixture(params=ENGINES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A shop on each engine, and the service."""
    world: World = request.getfixturevalue(f"{request.param}_world")
    with open_scene(tmp_path, world, orders=ORDERS) as scene:
        yield scene


# ---------------------------------------------------------------- from a first look to a copy


@pytest.fixture(params=ENGINES)
def full_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """As `scene`, with more to do."""
    world: World = request.getfixturevalue(f"{request.param}_world")
    with open_scene(tmp_path, world, orders=MANY.get(request.param, 10 * ORDERS)) as scene:
        yield scene


def test_a_database_is_looked_at_backed_up_proven_planned_and_restored_beside(full_scene: Scene) -> None:
    scene, service, world = full_scene, full_scene.service, full_scene.world
    original = world.contents()
    looked = service.complete("inspection", {"connection": "shop"})
    assert {plain(table["name"]) for table in looked["tables"]} == {"customers", "orders"}

    before = service.complete("preflight", {"connection": "shop", "verify": 3})
    assert (before["ok"], before["about"]) == (True, "backup")
    assert {found["severity"] for found in before["findings"]} <= {"ok", "warning"}
    assert "reachable" in {found["check"] for found in before["findings"]}

    backup_id = backed_up_with_progress(scene)
    proven_with_assertions(scene, backup_id)
    damaged_and_mended(scene)
    planned_and_restored_beside(scene, backup_id)
    assert world.contents() == original, "nothing of this writes to the database itself"
    assert not world.half_built(scene.job_ids())
    every_job_has_one_terminal_event(service)


def backed_up_with_progress(scene: Scene) -> str:
    """Follows a backup that waits for another, so that all of its progress is seen."""
    service, contents = scene.service, scene.world.contents()
    assert contents is not None
    first = service.send("backup", {"connection": "shop"})
    job_id = service.send("backup", {"connection": "shop", "labels": {"why": "journey"}})
    messages = service.follow(job_id)
    assert service.job(first)["status"] == "succeeded"
    kinds = [message.event for message in messages]
    assert (kinds[0], kinds[-1]) == ("backup.started", "backup.completed")
    progress = [message.data["data"]["progress"] for message in messages if message.event == "backup.progressed"]
    assert progress, "at least once"
    for each in progress:
        assert each["stage"] and each["unit"] and each["done"] >= 0
        assert each["percent"] is None or 0 <= each["percent"] <= 100
        assert {"total", "rate", "eta_seconds"} <= set(each)
    told: dict[str, Any] = messages[-1].data["data"]
    counted = {plain(item["name"]): item["rows"] for item in told["objects"] if item["rows"] is not None}
    assert counted == {name: rows for name, (rows, _) in contents.items()}
    return str(told["backup_id"])


def proven_with_assertions(scene: Scene, backup_id: str) -> None:
    service, world = scene.service, scene.world
    orders = (world.contents() or {})["orders"][0]
    true = [question(world, "orders", equals=orders), dear_orders(world, 700, at_least=1, at_most=orders - 100)]
    proven = service.complete("verification", {"backup_id": backup_id, "level": 3, "assertions": true})
    asked = {item["object"]: item["found"] for item in proven["evidence"] if item["check"] == "assertion"}
    assert asked == {"how many orders": orders, "dear": orders - 100}

    wrong = [question(world, "customers", equals=3), question(world, "orders", at_least=orders + 1)]
    refused = service.carry_out("verification", {"backup_id": backup_id, "level": 3, "assertions": wrong})
    error = refused["data"]["error"]
    assert (refused["type"], error["code"], error["retryable"]) == ("verification.failed", "assertion_failed", False)
    assert service.get(f"/backups/{backup_id}")["damaged"] is False, "the backup is as whole as it was"


def damaged_and_mended(scene: Scene) -> None:
    """Uncompressed, so that no checksum of zstd's finds it: most formats would not notice a flipped byte themselves."""
    service, backup_id = scene.service, scene.back_up(compression="none")
    with one_byte_flipped(service, backup_id):
        refused = service.carry_out("verification", {"backup_id": backup_id, "level": 2})
        assert (refused["type"], refused["data"]["error"]["code"]) == ("verification.failed", "artefact_damaged")
        assert service.get(f"/backups/{backup_id}")["damaged"] is True
        before = service.complete("preflight", {"connection": "shop", "backup_id": backup_id, "into": scene.world.copy})
        assert (before["ok"], before["about"]) == (False, "restore")
        assert "artefact_damaged" in {found["code"] for found in before["findings"]}
        kept = service.carry_out("restore", {"connection": "shop", "backup_id": backup_id, "into": scene.world.copy})
        assert kept["data"]["error"]["code"] == "artefact_damaged"
        assert scene.world.contents(scene.world.copy) is None, "found before the target was touched"
    assert service.complete("verification", {"backup_id": backup_id, "level": 3})["level"] == 3
    assert service.get(f"/backups/{backup_id}")["damaged"] is False


def planned_and_restored_beside(scene: Scene, backup_id: str) -> None:
    service, world = scene.service, scene.world
    target = {"connection": "shop", "into": world.copy, "backup_id": backup_id}
    plan = service.complete("restore", target | {"mode": "plan"})
    assert (plan["target_exists"], plan["would_refuse"]) == (False, None)
    assert {"customers", "orders"} <= {plain(name) for name in plan["changes"]["created"]}
    assert (plan["changes"]["replaced"], plan["changes"]["removed"]) == ([], [])
    assert world.contents(world.copy) is None, "a plan touches nothing"
    service.complete("restore", target)
    assert world.contents(world.copy) == world.contents()
    again = service.carry_out("restore", target)
    assert again["data"]["error"]["code"] == "target_not_empty"


@pytest.mark.parametrize("kind", ENGINES)
def test_a_preflight_says_what_the_backup_then_ends_with(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    world: World = request.getfixturevalue(f"{kind}_world")
    with open_scene(tmp_path, world, {"FLEXDB_CONNECTIONS__AWAY": nobody_there(world)}, orders=1) as scene:
        before = scene.service.complete("preflight", {"connection": "away"})
        errors = [found for found in before["findings"] if found["severity"] == "error"]
        assert (before["ok"], len(errors) > 0) == (False, True)
        assert all(found["hint"] and found["detail"] for found in errors), "and how to mend it"
        ended = scene.service.carry_out("backup", {"connection": "away", "max_attempts": 1})
        assert (ended["type"], ended["data"]["error"]["code"]) == ("backup.failed", errors[0]["code"])
        assert scene.service.stored() == []


def test_a_canceled_backup_ends_soon_and_leaves_nothing(full_scene: Scene) -> None:
    service, world = full_scene.service, full_scene.world
    with ExitStack() as held:
        if world.kind == "mongodb":  # no lock can hold it: it is met at work
            job_id = service.send("backup", {"connection": "shop"})
            until(lambda: service.job(job_id)["progress"], pause=0)
        else:
            held.enter_context(world.locked())
            job_id = service.send("backup", {"connection": "shop"})
            service.running(job_id)
        assert service.request("POST", f"/jobs/{job_id}/cancel").status == 202
        job = service.ended(job_id, seconds=15)
    assert (job["status"], job["error"]["code"]) == ("canceled", "canceled")
    until(lambda: not service.tools(), 10)
    assert service.stored() == []
    assert service.get("/backups")["data"] == []
    full_scene.back_up()
    every_job_has_one_terminal_event(service)


# ---------------------------------------------------------------- in place


def test_a_replaced_database_comes_back_from_the_safety_backup(scene: Scene) -> None:
    service, world = scene.service, scene.world
    backup_id, original = scene.back_up(), world.contents()
    world.change()
    changed = world.contents()
    assert changed != original

    plan = service.complete("restore", {"connection": "shop", "backup_id": backup_id, "mode": "plan"})
    assert (plan["target_exists"], plan["would_refuse"]) == (True, "target_not_empty")
    assert {plain(item["name"]) for item in plan["present"]} >= {"customers", "orders", "later"}
    assert {plain(name) for name in plan["changes"]["replaced"]} >= {"customers", "orders"}
    assert "later" in {plain(name) for name in plan["changes"]["removed"]}
    assert world.contents() == changed, "a plan touches nothing"

    replaced = service.complete("restore", {"connection": "shop", "backup_id": backup_id, "mode": "replace"})
    assert world.contents() == original
    safety = replaced["safety_backup_id"]
    assert service.get(f"/backups/{safety}")["level"] >= 2

    back = {"connection": "shop", "backup_id": safety, "mode": "replace", "safety_backup": False}
    assert service.complete("restore", back)["safety_backup_id"] is None
    assert world.contents() == changed
    every_job_has_one_terminal_event(service)


def test_backups_and_a_restore_asked_for_at_once_run_one_after_the_other(scene: Scene) -> None:
    service, world = scene.service, scene.world
    backup_id, original = scene.back_up(), world.contents()
    world.change()
    requests: list[tuple[str, dict[str, Any]]] = [
        ("backup", {"connection": "shop"}),
        ("restore", {"connection": "shop", "backup_id": backup_id, "mode": "replace"}),
        ("backup", {"connection": "shop", "verify": 3}),
    ]
    sent: list[str] = []
    together = threading.Barrier(len(requests))

    def ask(operation: str, data: dict[str, Any]) -> None:
        together.wait()
        sent.append(service.send(operation, data))

    threads = [threading.Thread(target=ask, args=request) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = [service.ended(job_id) for job_id in sent]
    assert [job["status"] for job in jobs] == ["succeeded"] * 3, [job["error"] for job in jobs]
    one_after_the_other(jobs)
    assert world.contents() == original
    every_job_has_one_terminal_event(service)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_replacement_that_was_killed_on_its_way_is_done_after_the_restart(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    world: World = request.getfixturevalue(f"{kind}_world")
    with open_scene(tmp_path, world, orders=5 * ORDERS) as scene:
        service = scene.service
        backup_id, original = scene.back_up(), world.contents()
        world.change()
        changed = world.contents()
        job_id = service.send("restore", {"connection": "shop", "backup_id": backup_id, "mode": "replace"})
        until(lambda: [name.endswith("manifest.json") for name in service.stored()].count(True) == 2, pause=0)
        service.kill()  # the safety backup is there, the restore itself has begun
        nothing_in_between(world, changed, original)
        service.restart()
        job = service.ended(job_id)
        assert job["status"] == "succeeded", job["error"]
        assert world.contents() == original
        assert not world.half_built(scene.job_ids())
        back = {"connection": "shop", "backup_id": job["result"]["safety_backup_id"], "mode": "replace"}
        service.complete("restore", back | {"safety_backup": False})
        assert world.contents() == changed, "the safety backup is of what was there before the first attempt"
        every_job_has_one_terminal_event(service)


# ---------------------------------------------------------------- for a time


def test_a_restore_with_a_time_to_live_is_dropped_when_it_is_over(scene: Scene) -> None:
    service, world = scene.service, scene.world
    scene.back_up()
    asked = {"connection": "shop", "latest": {"connection": "shop", "min_level": 2}, "keep_seconds": 2}
    done = service.complete("restore", asked)
    job_id, name = done["job_id"], f"flexdb_kept_{done['job_id']}"
    assert Path(done["database"]).name == name
    assert done["drops_at"] is not None
    assert world.contents(name) == world.contents()

    removal = until(lambda: removal_of(scene, job_id), 20)
    assert (removal["source"], removal["connection"]) == ("/flexdb", "shop")
    ended = service.ended(removal["job_id"], seconds=20)
    assert (ended["status"], ended["result"]["removed"]) == ("succeeded", True)
    assert world.contents(name) is None
    every_job_has_one_terminal_event(service)


def test_a_kept_database_is_dropped_although_the_service_was_killed_meanwhile(scene: Scene) -> None:
    service, world = scene.service, scene.world
    asked = {"connection": "shop", "backup_id": scene.back_up(), "keep_seconds": 1.5}
    job_id = str(service.complete("restore", asked)["job_id"])
    service.kill()
    assert world.contents(f"flexdb_kept_{job_id}") == world.contents()
    service.restart()
    removal = until(lambda: removal_of(scene, job_id), 20)
    assert service.ended(removal["job_id"], seconds=20)["status"] == "succeeded"
    assert world.contents(f"flexdb_kept_{job_id}") is None
    every_job_has_one_terminal_event(service)


def removal_of(scene: Scene, job_id: str) -> dict[str, Any] | None:
    """The removal that a restore has left behind, once it is there."""
    found = [
        job for job in scene.service.get("/jobs?operation=removal")["data"] if job["event_id"] == f"{job_id}/removal"
    ]
    return found[0] if found else None


def test_a_kept_database_can_be_removed_early_and_no_other_can(scene: Scene) -> None:
    service, world = scene.service, scene.world
    backup_id, original = scene.back_up(), world.contents()
    done = service.complete("restore", {"connection": "shop", "backup_id": backup_id, "keep_seconds": 3600})
    name = f"flexdb_kept_{done['job_id']}"
    assert world.contents(name) == original
    for other in (Path(getattr(world, "name", "shop.sqlite")).name, "flexdb_kept_", "../flexdb_kept_x"):
        refused = service.hook("removal", {"connection": "shop", "database": other})
        assert (refused.status, refused.code) == (422, "invalid_request")
    assert service.complete("removal", {"connection": "shop", "database": name})["removed"] is True
    assert service.complete("removal", {"connection": "shop", "database": name})["removed"] is False
    assert world.contents(name) is None
    assert world.contents() == original


# ---------------------------------------------------------------- a whole server


@pytest.fixture(params=[kind for kind in ENGINES if kind != "sqlite"])
def two_shops(request: pytest.FixtureRequest) -> Iterator[Shops]:
    """Two databases on a server of their own: whoever works beside this test would be backed up as well."""
    with ExitStack() as servers:
        try:
            if request.param == "postgres":
                url = servers.enter_context(embedded_postgres())
                yield PostgresWorld(url), PostgresWorld(url)
            elif request.param == "mysql":
                url = servers.enter_context(own_mariadb())
                yield MySQLWorld(url), MySQLWorld(url)
            else:
                url = servers.enter_context(own_secantus()).url
                yield MongoWorld(url), MongoWorld(url)
        except ServerMissingError as error:
            missing(str(error))


def test_a_backup_of_a_whole_server_gives_each_of_its_databases_back(two_shops: Shops, tmp_path: Path) -> None:
    first, second = two_shops
    second.fill(30)
    with open_scene(tmp_path, first, orders=ORDERS) as scene, closing(second):
        service = scene.service
        told = service.complete("backup", {"connection": "shop", "scope": "server", "verify": 3})
        assert {item["database"] for item in told["objects"]} >= {first.name, second.name}
        assert {file["database"] for file in told["files"]} >= {first.name, second.name}

        asked = {"connection": "shop", "backup_id": told["backup_id"], "into": first.copy}
        unsaid = service.carry_out("restore", asked)
        assert unsaid["data"]["error"]["code"] == "unsupported_operation", "which one is never guessed"
        done = service.complete("restore", asked | {"database": second.name})
        assert done["rows"] == 30 + 3
        assert first.contents(first.copy) == second.contents()

        second.change()
        in_place = {"connection": "shop", "backup_id": told["backup_id"], "database": second.name, "mode": "replace"}
        service.complete("restore", in_place)
        assert first.contents(first.copy) == second.contents()


# ---------------------------------------------------------------- without FlexDB


def test_the_commands_of_the_manifest_restore_what_was_downloaded(scene: Scene, tmp_path: Path) -> None:
    if scene.world.kind == "mongodb" and shutil.which("mongorestore") is None:
        pytest.skip("mongorestore is not installed; the driver reads the dump in the test beside this one")
    for program in ("zstd", *PROGRAMS[scene.world.kind]):
        if shutil.which(program) is None:
            missing(f"{program} is not installed: the commands of the manifest were not tried")
    original, backup_id = scene.world.contents(), scene.back_up()
    manifest = downloaded(scene, backup_id, tmp_path / "downloaded")
    assert restored_by_hand(scene, manifest, tmp_path / "downloaded") == original


def test_mongodbs_own_driver_reads_what_was_downloaded(mongodb_world: MongoWorld, tmp_path: Path) -> None:
    with open_scene(tmp_path, mongodb_world, orders=ORDERS) as scene:
        backup_id = scene.back_up(layout="directory")
        manifest = downloaded(scene, backup_id, tmp_path / "downloaded")
        assert manifest["files"][0]["format"] == "mongodump-directory-tar"
        found = read_by_the_driver(mongodb_world, tmp_path / "downloaded", manifest["files"][0])
        assert found == mongodb_world.contents()

"""SIGKILL of the real service in every phase of a job; after the restart nothing is lost, doubled or half done."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.audit import audit, loose_files, nothing_half_built, staging, tools_are_gone
from tests.acceptance.scenes import Scene, open_scene, world_of
from tests.acceptance.service_process import RunningService, until
from tests.acceptance.webhook_receiver import bodies_by_id
from tests.acceptance.worlds import PostgresWorld, World

BIG = 15_000
"""Orders of a kilobyte: dump and restore take long enough to be met in the middle."""
TRIES = 25
"""For moments of a millisecond: how often they are tried for."""


@pytest.fixture(params=["sqlite", "postgres"])
def big(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(tmp_path, world_of(request.param, tmp_path), orders=BIG) as scene:
        yield scene


def status_on_disk(service: RunningService, job_id: str) -> str:
    """What the ledger's file says, with the service dead."""
    return str(service.rows("SELECT status FROM jobs WHERE job_id = ?", job_id)[0]["status"])


# ---------------------------------------------------------------- after the 202


class Burst:
    """Many callers at once, each noting what was answered 202."""

    def __init__(self, service: RunningService, callers: int = 8) -> None:
        self.answered: dict[str, str] = {}
        """Idempotency key to job."""
        self._service = service
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _call(self, caller: int) -> None:
        for number in range(10_000):
            key = f"burst-{caller}-{number}"
            try:
                answer = self._service.hook("check", {"connection": "shop"}, key=key)
            except OSError:
                return  # killed before it answered: nothing was promised
            except ValueError:
                return  # killed in the middle of an answer
            assert answer.status == 202, answer.body
            self.answered[key] = answer.json["job_id"]


def test_every_202_of_a_burst_has_its_job_after_a_kill_in_its_middle(scene: Scene) -> None:
    burst = Burst(scene.service)
    burst.start()
    until(lambda: len(burst.answered) >= 60)
    scene.service.kill()
    burst.join()
    scene.service.restart()
    for job_id in burst.answered.values():
        assert scene.service.ended(job_id)["status"] == "succeeded"
    for key, job_id in list(burst.answered.items())[-20:]:
        again = scene.service.hook("check", {"connection": "shop"}, key=key)
        assert (again.status, again.json["job_id"], again.json["duplicate"]) == (202, job_id, True)
    audit(scene.service, burst.answered.values())


def test_a_backup_accepted_right_before_a_kill_is_made_and_told_of_once(scene: Scene) -> None:
    good = scene.back_up()
    job_id = scene.service.send("backup", {"connection": "shop", "callback_url": scene.receiver.url})
    scene.service.kill()
    scene.service.restart()
    assert scene.service.ended(job_id)["status"] == "succeeded"
    scene.receiver.first_of(job_id)
    audit(scene.service, [job_id], scene.receiver.all)
    assert scene.has_backup(good)


# ---------------------------------------------------------------- during the dump


def test_a_kill_while_a_dump_waits_for_a_lock_leaves_no_session_beside_the_next_attempt(
    postgres_scene: Scene,
) -> None:
    """The server does not notice that a client which waits for a lock has died."""
    scene, world = postgres_scene, postgres_scene.postgres
    good = scene.back_up()
    with world.locked():
        job_id = scene.service.send("backup", {"connection": "shop", "callback_url": scene.receiver.url})
        until(lambda: any(session.waits for session in world.sessions(job_id)))
        tools_are_gone(scene.service.kill())
        left = {session.token for session in world.sessions(job_id)}
        assert len(left) == 1, "no session outlived the kill: nothing was tested"
        scene.service.restart()
        until(lambda: newer_attempt_waits(world, job_id, min(left)))
    completed_by_second_attempt(scene, job_id, good)


def newer_attempt_waits(world: PostgresWorld, job_id: str, dead: int) -> bool:
    """True once a later attempt works on the shop; no session of the dead one may be there by then."""
    tokens = {session.token for session in world.sessions(job_id) if session.database == world.name}
    assert tokens <= {dead} or dead not in tokens, "two attempts at work at once"
    return bool(tokens - {dead})


def test_a_kill_while_pg_dump_hangs_takes_the_tool_with_it(postgres_scene: Scene) -> None:
    scene = postgres_scene
    good = scene.back_up()
    job_id = scene.service.send("backup", {"connection": "shop", "callback_url": scene.receiver.url})
    hanging = scene.service.stop_dump()
    tools = scene.service.kill()
    assert hanging in tools
    tools_are_gone(tools)
    scene.service.restart()
    completed_by_second_attempt(scene, job_id, good)


def completed_by_second_attempt(scene: Scene, job_id: str, good: str) -> None:
    job = scene.service.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    scene.receiver.first_of(job_id)
    audit(scene.service, [job_id], scene.receiver.all)
    assert scene.has_backup(good)


def unfinished(service: RunningService) -> bool:
    """A dump is on its way into storage."""
    return any(".part-" in path for path in service.stored())


@pytest.mark.parametrize("moment", [staging, unfinished])
def test_a_kill_while_a_big_file_is_dumped_leaves_no_half_artefact(
    big: Scene, moment: Callable[[RunningService], bool]
) -> None:
    good = big.back_up()
    request: dict[str, object] = {"connection": "shop", "callback_url": big.receiver.url}
    if moment is staging and big.world.kind == "postgres":
        request["jobs"] = 2  # a parallel dump is staged, a plain one streams
    job_id = big.service.send("backup", request)
    until(lambda: moment(big.service), pause=0.0005)
    tools = big.service.kill()
    tools_are_gone(tools)
    assert status_on_disk(big.service, job_id) == "running"
    assert loose_files(big.service) or staging(big.service), "killed too late to leave anything"
    big.service.restart()
    assert big.service.ended(job_id)["status"] == "succeeded"
    big.receiver.first_of(job_id)
    audit(big.service, [job_id], big.receiver.all)
    assert not staging(big.service)
    assert big.has_backup(good)


# ---------------------------------------------------------------- between publishing and commit


@contextmanager
def held_ledger(service: RunningService) -> Iterator[Callable[[], bool]]:
    """Gives a function that keeps the service from committing: True when it came in time for this job."""
    with closing(sqlite3.connect(service.ledger_file, timeout=2, isolation_level=None)) as db:

        def hold() -> bool:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT status FROM jobs ORDER BY seq DESC LIMIT 1").fetchone()
            if row[0] == "running":
                return True
            db.execute("ROLLBACK")
            return False

        yield hold


def publishing(service: RunningService, known: set[str]) -> bool:
    """The manifest is being written, or is there: the lease was confirmed, the commit comes next."""
    folder = service.storage / "shop"
    for backup in os.scandir(folder) if folder.exists() else ():
        if backup.name not in known:
            try:
                if any("manifest.json" in entry.name for entry in os.scandir(backup.path)):
                    return True
            except FileNotFoundError:
                continue
    return False


def test_a_kill_between_publishing_and_commit_keeps_the_artefact_and_makes_no_second(scene: Scene) -> None:
    jobs: list[str] = []
    while not killed_before_commit(scene, jobs):
        assert len(jobs) < TRIES, f"not met in {TRIES} backups"
        scene.service.ended(jobs[-1])
    job_id, published = jobs[-1], manifest_of(scene.service, jobs[-1])
    assert published is not None
    assert status_on_disk(scene.service, job_id) == "running"
    scene.service.restart()
    job = scene.service.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    assert job["result"]["backup_id"] == published.parent.name, "another was told of than was published"
    assert [path for path in scene.service.stored() if job_id in path and path.endswith("manifest.json")] == [
        f"shop/{published.parent.name}/manifest.json"
    ]
    scene.receiver.first_of(job_id)
    audit(scene.service, jobs, scene.receiver.all)
    assert scene.has_backup(published.parent.name)


def killed_before_commit(scene: Scene, jobs: list[str]) -> bool:
    """One backup; True when the service was killed with its artefact published and nothing of it committed."""
    service = scene.service
    folder = service.storage / "shop"
    known = {entry.name for entry in os.scandir(folder)} if folder.exists() else set()
    with held_ledger(service) as hold:
        jobs.append(service.send("backup", {"connection": "shop", "callback_url": scene.receiver.url}))
        until(lambda: publishing(service, known), pause=0)
        if hold():
            until(lambda: manifest_of(service, jobs[-1]))
            service.kill()
            return True
    return False


def manifest_of(service: RunningService, job_id: str) -> Path | None:
    return next(service.storage.glob(f"shop/*{job_id}*/manifest.json"), None)


# ---------------------------------------------------------------- between commit and delivery


def test_an_event_refused_before_a_kill_comes_again_with_the_same_id_and_bytes(scene: Scene) -> None:
    scene.receiver.status = 503
    job_id = scene.service.send("backup", {"connection": "shop", "callback_url": scene.receiver.url})
    scene.receiver.first_of(job_id)
    scene.service.kill()
    assert status_on_disk(scene.service, job_id) == "succeeded"
    before = len(scene.receiver.of(job_id))
    scene.receiver.status = 204
    scene.service.restart()
    until(lambda: len(scene.receiver.of(job_id)) > before)
    delivered_once_in_the_end(scene, job_id)


def test_an_event_whose_receiver_hung_during_a_kill_comes_again_with_the_same_id_and_bytes(
    scene: Scene,
) -> None:
    scene.receiver.hanging.set()
    job_id = scene.service.send("backup", {"connection": "shop", "callback_url": scene.receiver.url})
    scene.receiver.first_of(job_id)
    scene.service.kill()
    assert status_on_disk(scene.service, job_id) == "succeeded"
    scene.receiver.release()
    scene.service.restart()
    until(lambda: len(scene.receiver.of(job_id)) > 1)
    delivered_once_in_the_end(scene, job_id)


def delivered_once_in_the_end(scene: Scene, job_id: str) -> None:
    """No attempt follows the one that was answered with success."""
    until(lambda: not scene.service.rows("SELECT 1 FROM deliveries WHERE status = 'pending'"))
    came_as = bodies_by_id(scene.receiver.of(job_id))
    assert list(came_as) == [f"{job_id}/terminal"]
    assert len(came_as[f"{job_id}/terminal"]) == 1
    came = len(scene.receiver.of(job_id))
    audit(scene.service, [job_id], scene.receiver.all)
    assert len(scene.receiver.of(job_id)) == came


# ---------------------------------------------------------------- during a restore


def restore_of(world: World, mode: str, backup_id: str, url: str) -> dict[str, object]:
    request: dict[str, object] = {
        "connection": "shop",
        "backup_id": backup_id,
        "mode": mode,
        "callback_url": url,
    }
    return request | ({"into": world.copy} if mode == "create" else {})


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_kill_during_a_restore_leaves_the_target_as_it_was_and_the_next_attempt_completes_it(
    big: Scene, mode: str
) -> None:
    backed_up = big.world.contents()
    good = big.back_up()
    big.world.change()
    target = big.world.copy if mode == "create" else None
    before = big.world.contents(target)
    job_id = big.service.send("restore", restore_of(big.world, mode, good, big.receiver.url))
    until(lambda: big.world.half_built([job_id]), pause=0.001)
    tools = big.service.kill()
    tools_are_gone(tools)
    assert status_on_disk(big.service, job_id) == "running"
    assert big.world.contents(target) == before, "the target was touched before the restore was whole"
    big.service.restart()
    assert big.service.ended(job_id)["status"] == "succeeded"
    assert big.world.contents(target) == backed_up
    big.receiver.first_of(job_id)
    audit(big.service, [job_id], big.receiver.all)
    nothing_half_built(big)
    assert big.has_backup(good)


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_kill_between_the_switch_of_a_restore_and_its_commit_ends_as_completed(scene: Scene, mode: str) -> None:
    backed_up = scene.world.contents()
    good = scene.back_up()
    target = scene.world.copy if mode == "create" else None
    jobs: list[str] = []
    while not killed_after_switch(scene, jobs, mode, good):
        assert len(jobs) < TRIES, f"not met in {TRIES} restores"
        scene.service.ended(jobs[-1])
    assert status_on_disk(scene.service, jobs[-1]) == "running"
    assert scene.world.contents(target) == backed_up
    scene.service.restart()
    job = scene.service.ended(jobs[-1])
    assert (job["status"], job["attempts"], job["error"]) == ("succeeded", 2, None)
    assert scene.world.contents(target) == backed_up
    scene.receiver.first_of(jobs[-1])
    audit(scene.service, jobs, scene.receiver.all)
    nothing_half_built(scene)


def killed_after_switch(scene: Scene, jobs: list[str], mode: str, good: str) -> bool:
    """One restore; True when the service was killed with the target switched and nothing committed."""
    target = scene.world.copy if mode == "create" else None
    if mode == "create":
        scene.world.remove(scene.world.copy)
    else:
        scene.world.change()
    with held_ledger(scene.service) as hold, scene.world.watching(target) as is_another:
        request = restore_of(scene.world, mode, good, scene.receiver.url)
        jobs.append(scene.service.send("restore", request))
        until(is_another, pause=0)
        if hold():
            scene.service.kill()
            return True
    return False


def test_a_kill_right_after_a_restore_into_an_empty_database_ends_as_completed(postgres_scene: Scene) -> None:
    scene, world = postgres_scene, postgres_scene.postgres
    good = scene.back_up()
    jobs: list[str] = []
    while not killed_after_load(scene, jobs, good):
        assert len(jobs) < TRIES, f"not met in {TRIES} restores"
        scene.service.ended(jobs[-1])
    scene.service.restart()
    job = scene.service.ended(jobs[-1])
    assert (job["status"], job["attempts"], job["error"]) == ("succeeded", 2, None)
    assert world.contents(world.copy) == world.contents()
    scene.receiver.first_of(jobs[-1])
    audit(scene.service, jobs, scene.receiver.all)


def killed_after_load(scene: Scene, jobs: list[str], good: str) -> bool:
    """One restore into an empty database; True when it was killed with all loaded and nothing committed."""
    world = scene.postgres
    world.remove(world.copy)
    world.make_empty(world.copy)
    with held_ledger(scene.service) as hold:
        request = restore_of(world, "create", good, scene.receiver.url)
        jobs.append(scene.service.send("restore", request))
        until(lambda: world.contents(world.copy), pause=0)
        if hold():
            scene.service.kill()
            return True
    return False


# ---------------------------------------------------------------- during a verification


def test_a_kill_during_a_rehearsal_leaves_no_scratch_database(big: Scene) -> None:
    good = big.back_up()
    job_id = big.service.send("verification", {"backup_id": good, "level": 3, "callback_url": big.receiver.url})
    until(lambda: big.world.half_built([job_id]) or staging(big.service), pause=0.001)
    tools_are_gone(big.service.kill())
    assert status_on_disk(big.service, job_id) == "running"
    big.service.restart()
    job = big.service.ended(job_id)
    assert (job["status"], job["result"]["level"]) == ("succeeded", 3)
    nothing_half_built(big)
    assert not staging(big.service)
    big.receiver.first_of(job_id)
    audit(big.service, [job_id], big.receiver.all)

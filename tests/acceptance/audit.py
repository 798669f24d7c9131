"""What must hold after any crash: ledger, storage and deliveries compared with what was promised."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import PurePosixPath

import psutil

from tests.acceptance.scenes import Scene
from tests.acceptance.service_process import RunningService, until
from tests.acceptance.webhook_receiver import Received, bodies_by_id

STAGES = {"succeeded": "completed", "failed": "failed", "canceled": "canceled"}
TOOLS_GONE_SECONDS = 2.0


def audit(service: RunningService, answered: Iterable[str], received: Iterable[Received] = ()) -> None:
    """All jobs have ended: look at everything. Stops and starts the service, so that it sweeps once more."""
    every_answer_has_its_job(service, answered)
    every_job_has_one_terminal_event(service)
    deliveries_say_one_thing(list(received))
    service.stop()
    service.restart()
    nothing_loose_in_storage(service)
    every_backup_verifies(service)


def every_answer_has_its_job(service: RunningService, answered: Iterable[str]) -> None:
    known = {row["job_id"] for row in service.rows("SELECT job_id FROM jobs")}
    lost = set(answered) - known
    assert not lost, f"answered 202 and not in the ledger: {sorted(lost)}"


def every_job_has_one_terminal_event(service: RunningService) -> None:
    for job in service.rows("SELECT job_id, operation, status FROM jobs"):
        assert job["status"] in STAGES, f"{job['operation']} {job['job_id']} is {job['status']}"
        terminal = service.rows(
            "SELECT event_id, event_type, event FROM history WHERE job_id = ? AND to_status IN "
            "('succeeded', 'failed', 'canceled')",
            job["job_id"],
        )
        assert len(terminal) == 1
        assert terminal[0]["event_id"] == f"{job['job_id']}/terminal"
        assert terminal[0]["event_type"] == f"{job['operation']}.{STAGES[job['status']]}"
        assert json.loads(terminal[0]["event"])["data"]["status"] == job["status"]
        sent = service.rows(
            "SELECT destination, url, body FROM deliveries WHERE job_id = ? AND event_id = ?",
            job["job_id"],
            terminal[0]["event_id"],
        )
        assert len({row["url"] for row in sent}) == len(sent), "one event twice to one destination"
        assert {bytes(row["body"]) for row in sent} <= {terminal[0]["event"].encode()}
    orphans = service.rows("SELECT job_id FROM history WHERE job_id NOT IN (SELECT job_id FROM jobs)")
    assert not orphans
    assert not service.rows("SELECT * FROM claims"), "an ended job still holds a claim"


def deliveries_say_one_thing(received: list[Received]) -> None:
    """However often an event came: one id, the same bytes; and one terminal event for a job."""
    for webhook_id, bodies in bodies_by_id(received).items():
        assert len(bodies) == 1, f"{webhook_id} came with {len(bodies)} different bodies"
    for job_id in {each.event["jobid"] for each in received}:
        terminal = {each.webhook_id for each in received if each.event["jobid"] == job_id}
        terminal = {webhook_id for webhook_id in terminal if "/started/" not in webhook_id}
        assert terminal <= {f"{job_id}/terminal"}, f"{job_id} was told of with the ids {terminal}"


def loose_files(service: RunningService) -> list[str]:
    """Files in storage that no manifest beside them lists."""
    stored, loose = service.stored(), []
    published = {str(PurePosixPath(path).parent) for path in stored if path.endswith("/manifest.json")}
    for path in stored:
        folder = str(PurePosixPath(path).parent)
        if folder not in published:
            loose.append(path)
            continue
        manifest = json.loads((service.storage / folder / "manifest.json").read_text())
        listed = {file["name"] for file in manifest["files"]} | {"manifest.json"}
        if PurePosixPath(path).name not in listed:
            loose.append(path)
    return loose


def nothing_loose_in_storage(service: RunningService, seconds: float = 10.0) -> None:
    until(lambda: not loose_files(service), seconds)


def every_backup_verifies(service: RunningService) -> None:
    """No half artefact in the catalogue: each is there, whole, and passes level 2."""
    for backup in service.get("/backups?limit=200")["data"]:
        proof = service.complete("verification", {"backup_id": backup["backup_id"], "level": 2})
        assert proof["level"] == 2


def tools_are_gone(tools: list[psutil.Process]) -> None:
    """The tools of a killed service die with it."""
    _, alive = psutil.wait_procs(tools, timeout=TOOLS_GONE_SECONDS)
    alive = [tool for tool in alive if tool.is_running() and tool.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"still running after {TOOLS_GONE_SECONDS:g} s: {[tool.name() for tool in alive]}"


def staging(service: RunningService) -> bool:
    """An attempt has put something into its own folder."""
    return any(names for _, _, names in os.walk(service.home / "work"))


def nothing_half_built(scene: Scene) -> None:
    """Scratch and unfinished databases of every job are gone, at the latest after the sweep of a start."""
    until(lambda: not scene.world.half_built(scene.job_ids()), 15)

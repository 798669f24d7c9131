"""Dumps made by the databases' own tools come in by the real service: whole, once, through kills and full disks."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from handlers.incoming import INCOMING
from service.cli.packing import folder_parcel
from tests.acceptance import mounts
from tests.acceptance.audit import audit, tools_are_gone
from tests.acceptance.scenes import Scene, open_scene, running, shop, world_of
from tests.acceptance.service_process import TOKEN, RunningService, until
from tests.acceptance.test_crashes import TRIES, held_ledger, manifest_of, publishing, status_on_disk
from tests.acceptance.worlds import World
from tests.servers import missing

DATA = Path(__file__).parents[1] / "data"
BIG = 12_000
"""Orders of a kilobyte: an adoption takes long enough to be met in the middle."""


@pytest.fixture(params=["sqlite", "postgres"])
def big(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(tmp_path, world_of(request.param, tmp_path), orders=BIG) as scene:
        yield scene


@dataclass(frozen=True)
class Form:
    """A way people make dumps of a kind of database."""

    kind: str
    format: str
    """As it is recognised."""
    make: Callable[[str, Path], bytes]
    """From the connection's URL; the folder is for what the tool writes there."""


def output(*command: str) -> bytes:
    if shutil.which(command[0]) is None:
        missing(f"the program {command[0]} is not installed: nobody can make a dump with it")
    return subprocess.run(command, capture_output=True, check=True).stdout


def file_of(url: str) -> str:
    return url.removeprefix("sqlite:///")


def pg_folder(url: str, folder: Path) -> bytes:
    output("pg_dump", "--format=directory", "--jobs=2", f"--file={folder / 'dump'}", f"--dbname={url}")
    return b"".join(folder_parcel(folder / "dump").blocks())


def mariadb_dump(url: str, folder: Path) -> bytes:
    parts = urlsplit(url)
    server = (f"--host={parts.hostname}", f"--port={parts.port or 3306}", f"--user={parts.username}")
    return output("mariadb-dump", *server, "--single-transaction", parts.path.removeprefix("/"))


FORMS = {
    "sqlite3 .dump": Form("sqlite", "sqlite-sql", lambda url, _: output("sqlite3", file_of(url), ".dump")),
    "a SQLite file": Form("sqlite", "sqlite-database", lambda url, _: Path(file_of(url)).read_bytes()),
    "pg_dump -Fc": Form("postgres", "pg_dump-custom", lambda url, _: output("pg_dump", "-Fc", "-d", url)),
    "pg_dump -Fp": Form("postgres", "pg_dump-sql", lambda url, _: output("pg_dump", "-Fp", "-d", url)),
    "pg_dump -Fd": Form("postgres", "pg_dump-directory-tar", pg_folder),
    "mariadb-dump": Form("mysql", "mysqldump-sql", mariadb_dump),
}
USUAL = {form.kind: form for form in reversed(FORMS.values())}


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(tmp_path, request.getfixturevalue(f"{request.param}_world")) as scene:
        yield scene


@pytest.fixture(params=FORMS)
def formed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Scene, Form]]:
    form = FORMS[request.param]
    with open_scene(tmp_path, request.getfixturevalue(f"{form.kind}_world")) as scene:
        yield scene, form


def unpacked(scene: Scene, form: Form | None = None) -> bytes:
    """What somebody's cron job would have left."""
    form = form or USUAL[scene.world.kind]
    with tempfile.TemporaryDirectory() as folder:
        return form.make(scene.world.url, Path(folder))


def made_by_hand(scene: Scene, form: Form | None = None) -> bytes:
    return gzip.compress(unpacked(scene, form), 1)


def upload(service: RunningService, content: bytes, name: str = "by-hand.gz") -> dict[str, Any]:
    answer = service.request("PUT", f"/incoming/{name}", content)
    assert answer.status == 201, answer.body
    told: dict[str, Any] = answer.json
    return told


def request_of(scene: Scene, **data: Any) -> dict[str, Any]:
    return {"connection": "shop", "path": "by-hand.gz", "callback_url": scene.receiver.url} | data


def waiting(service: RunningService) -> list[str]:
    """Uploaded files, unfinished ones included."""
    return [path.partition("/")[2] for path in service.stored() if path.startswith(f"{INCOMING}/")]


def test_a_dump_made_by_the_databases_own_tool_is_adopted_and_restores_to_what_it_was_of(
    formed: tuple[Scene, Form],
) -> None:
    scene, form = formed
    contents = scene.world.contents()
    upload(scene.service, unpacked(scene, form) if form.format == "pg_dump-custom" else made_by_hand(scene, form))
    adopted = scene.service.complete("adoption", request_of(scene, verify=3))
    assert (adopted["format"], adopted["level"]) == (form.format, 3)
    assert not waiting(scene.service)
    scene.world.change()
    restore = {"connection": "shop", "backup_id": adopted["backup_id"], "into": scene.world.copy}
    scene.service.complete("restore", restore)
    assert scene.world.contents(scene.world.copy) == contents
    audit(scene.service, [adopted["job_id"]], scene.receiver.all)


@pytest.mark.parametrize("kind", ["postgres", "mysql", "mongodb"])
def test_a_dump_is_not_adopted_by_a_connection_of_another_engine(
    request: pytest.FixtureRequest, sqlite_world: World, tmp_path: Path, kind: str
) -> None:
    sqlite_world.fill(3)
    dump = output("sqlite3", file_of(sqlite_world.url), ".dump")
    with open_scene(tmp_path, request.getfixturevalue(f"{kind}_world"), orders=3) as scene:
        upload(scene.service, dump)
        error = scene.service.carry_out("adoption", request_of(scene))["data"]["error"]
        assert (error["code"], "is a dump for sqlite" in error["message"]) == ("invalid_dump", True), error
        assert waiting(scene.service) == ["by-hand.gz"]


@pytest.mark.parametrize("form", ["shop.archive", "shop.archive.gz", "directory"])
def test_a_real_mongodump_is_adopted_and_restored(mongodb_world: World, tmp_path: Path, form: str) -> None:
    path = DATA / "mongodump" / form
    content = b"".join(folder_parcel(path).blocks()) if path.is_dir() else path.read_bytes()
    with open_scene(tmp_path, mongodb_world, orders=5) as scene:
        upload(scene.service, content)
        adopted = scene.service.complete("adoption", request_of(scene, verify=3))
        assert adopted["format"] == ("mongodump-directory-tar" if path.is_dir() else "mongodump-archive")
        into = {"into": mongodb_world.copy, "backup_id": adopted["backup_id"], "connection": "shop"}
        scene.service.complete("restore", into)
        found = mongodb_world.contents(mongodb_world.copy)
        assert found is not None and found["customers"][0] == 500
        audit(scene.service, [adopted["job_id"]], scene.receiver.all)


def test_a_dump_cut_in_its_middle_is_never_adopted(each: Scene) -> None:
    whole = unpacked(each)
    for number, content in enumerate((whole[: len(whole) // 2], gzip.compress(whole[: len(whole) // 2]))):
        upload(each.service, content, f"cut-{number}")
        event = each.service.carry_out("adoption", request_of(each, path=f"cut-{number}"))
        assert event["type"] == "adoption.failed"
        assert event["data"]["error"]["code"] in {"artefact_damaged", "invalid_dump"}, event
    assert waiting(each.service) == ["cut-0", "cut-1"]
    assert all(path.startswith(f"{INCOMING}/") for path in each.service.stored())
    assert each.service.get("/backups")["data"] == []


# ---------------------------------------------------------------- kills


def test_a_kill_in_the_middle_of_an_adoption_is_completed_once_after_the_restart(big: Scene) -> None:
    uploaded = upload(big.service, made_by_hand(big))
    job_id = big.service.send("adoption", request_of(big, sha256=uploaded["sha256"]))
    until(lambda: any(".part-" in path for path in big.service.stored() if path.startswith("shop/")), pause=0.0005)
    tools_are_gone(big.service.kill())
    assert status_on_disk(big.service, job_id) == "running"
    assert waiting(big.service) == ["by-hand.gz"]
    big.service.restart()
    job = big.service.ended(job_id)
    assert (job["status"], job["attempts"], job["error"]) == ("succeeded", 2, None)
    assert [path for path in big.service.stored() if path.endswith("manifest.json")] == [
        f"shop/{job['result']['backup_id']}/manifest.json"
    ]
    assert not waiting(big.service)
    big.receiver.first_of(job_id)
    audit(big.service, [job_id], big.receiver.all)
    assert big.has_backup(job["result"]["backup_id"])


def test_a_kill_between_publishing_and_commit_makes_no_second_backup_of_the_dump(sqlite_scene: Scene) -> None:
    scene, dump = sqlite_scene, made_by_hand(sqlite_scene)
    jobs: list[str] = []
    while not killed_before_commit(scene, dump, jobs):
        assert len(jobs) < TRIES, f"not met in {TRIES} adoptions"
        scene.service.ended(jobs[-1])
    published = manifest_of(scene.service, jobs[-1])
    assert published is not None
    scene.service.restart()
    job = scene.service.ended(jobs[-1])
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    assert job["result"]["backup_id"] == published.parent.name
    assert len([path for path in scene.service.stored() if jobs[-1] in path and "manifest" in path]) == 1
    assert not waiting(scene.service), "the uploaded file went with it"
    audit(scene.service, jobs, scene.receiver.all)


def killed_before_commit(scene: Scene, dump: bytes, jobs: list[str]) -> bool:
    """One adoption; True when the service was killed with its backup published and nothing of it committed."""
    service = scene.service
    upload(service, dump)
    folder = service.storage / "shop"
    known = {entry.name for entry in os.scandir(folder)} if folder.exists() else set()
    with held_ledger(service) as hold:
        jobs.append(service.send("adoption", request_of(scene)))
        until(lambda: publishing(service, known), pause=0)
        if hold():
            until(lambda: manifest_of(service, jobs[-1]))
            service.kill()
            return True
    return False


def test_a_kill_in_the_middle_of_an_upload_leaves_nothing_that_counts(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        connection.putrequest("PUT", "/incoming/by-hand.gz")
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        connection.putheader("Content-Length", "8000000")
        connection.endheaders(os.urandom(4_000_000))
        until(lambda: waiting(service))
        service.kill()
    finally:
        connection.close()
    service.restart()
    assert service.get("/incoming")["data"] == []
    upload(service, made_by_hand(sqlite_scene))
    assert service.complete("adoption", request_of(sqlite_scene))["level"] == 2


# ---------------------------------------------------------------- the disk


def needs_mounts() -> None:
    if not mounts.can_mount():
        pytest.skip("no mount namespace for this user: full file systems cannot be made")


def test_a_full_storage_ends_uploads_and_adoptions_and_leaves_nothing_half(tmp_path: Path) -> None:
    needs_mounts()
    world, storage = shop(tmp_path, orders=3000), tmp_path / "storage"
    database = Path(world.url.removeprefix("sqlite:///")).read_bytes()
    settings = {"FLEXDB_STORAGE_URL": str(storage)}
    with running(tmp_path, {"shop": world.url}, settings, wrapper=mounts.small(storage, 5)) as service:
        seen = service.inside(storage)

        def there() -> list[str]:
            return sorted(path.name for path in seen.rglob("*") if path.is_file())

        upload(service, database, "first")
        for headers in ({}, {"Transfer-Encoding": "chunked"}):
            answer = chunked_upload(service, "second", database) if headers else put(service, "second", database)
            assert (answer[0], json.loads(answer[1])["code"]) == (507, "storage_full"), answer
            assert there() == ["first"]
        event = service.carry_out("adoption", {"connection": "shop", "path": "first", "max_attempts": 2})
        assert event["data"]["error"]["code"] == "storage_full"
        assert there() == ["first"], "nothing of the attempts, and the uploaded file is still there"


def put(service: RunningService, name: str, content: bytes) -> tuple[int, bytes]:
    answer = service.request("PUT", f"/incoming/{name}", content)
    return answer.status, answer.body


def chunked_upload(service: RunningService, name: str, content: bytes) -> tuple[int, bytes]:
    """Without its length being told before."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        blocks = (content[start : start + 65536] for start in range(0, len(content), 65536))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("PUT", f"/incoming/{name}", body=blocks, headers=headers, encode_chunked=True)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()

"""What the journeys of all engines share: each engine's words for the same thing, and its own tools beside FlexDB."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import bson
from bson.json_util import loads
from pymongo import MongoClient

from tests.acceptance.mongodb_world import MongoWorld
from tests.acceptance.mysql_world import MySQLWorld
from tests.acceptance.scenes import Scene
from tests.acceptance.service_process import RunningService, free_port
from tests.acceptance.worlds import Contents, PostgresWorld, SQLiteWorld, World


def plain(name: str) -> str:
    """A table's name without its schema."""
    return name.rpartition(".")[2]


def nobody_there(world: World) -> str:
    """A connection that leads nowhere: no server listens, or there is no such file."""
    if isinstance(world, SQLiteWorld):
        return f"{world.url}-of-somebody-else"
    parts = urlsplit(world.url)
    who, at, _ = parts.netloc.rpartition("@")
    patience = "serverSelectionTimeoutMS=1000" if parts.scheme == "mongodb" else parts.query  # not 10 s, three times
    return urlunsplit(parts._replace(netloc=f"{who}{at}127.0.0.1:{free_port()}", query=patience))


def question(world: World, table: str, **expected: object) -> dict[str, Any]:
    """An assertion about the number of rows, in the words of the world's engine."""
    asked = {"collection": table} if world.kind == "mongodb" else {"sql": f"SELECT count(*) FROM {table}"}
    return {"name": f"how many {table}"} | asked | expected


def dear_orders(world: World, cents: int, **expected: object) -> dict[str, Any]:
    """An assertion with a condition of its own."""
    if world.kind == "mongodb":
        return {"name": "dear", "collection": "orders", "filter": {"cents": {"$gt": cents}}} | expected
    return {"name": "dear", "sql": f"SELECT count(*) FROM orders WHERE cents > {cents}"} | expected


@contextmanager
def one_byte_flipped(service: RunningService, backup_id: str) -> Iterator[None]:
    """In the middle of the first stored file; mended at the end."""
    folder = service.storage / "shop" / backup_id
    name = json.loads((folder / "manifest.json").read_text())["files"][0]["name"]
    flip(folder / name)
    yield
    flip(folder / name)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))


def one_after_the_other(jobs: list[dict[str, Any]]) -> None:
    """No job began before the one before it had ended."""
    ordered = sorted(jobs, key=lambda job: str(job["started_at"]))
    overlaps = [
        (earlier["operation"], later["operation"])
        for earlier, later in pairwise(ordered)
        if later["started_at"] < earlier["ended_at"]
    ]
    assert not overlaps, "one at a time"


def nothing_in_between(world: World, *moments: Contents | None) -> None:
    """The shop is as it was at one of these moments.

    MongoDB cannot switch a whole database: there each collection is.
    """
    found = world.contents()
    if world.kind != "mongodb":
        assert found in moments
        return
    assert found is not None
    for name in {name for moment in moments for name in moment or ()}:
        assert found.get(name) in [(moment or {}).get(name) for moment in moments], name


def downloaded(scene: Scene, backup_id: str, folder: Path) -> dict[str, Any]:
    """The manifest, and every file of the backup in `folder`, as GET /backups/{id}/download gives them."""
    folder.mkdir()
    manifest: dict[str, Any] = scene.service.get(f"/backups/{backup_id}")["manifest"]
    for file in manifest["files"]:
        answer = scene.service.request("GET", f"/backups/{backup_id}/download?file={file['name']}")
        assert (answer.status, len(answer.body)) == (200, file["bytes"])
        (folder / file["name"]).write_bytes(answer.body)
    return manifest


def restored_by_hand(scene: Scene, manifest: Mapping[str, Any], folder: Path) -> Contents | None:
    """What the database holds after the very commands of the manifest, run in a shell without FlexDB."""
    world = scene.world
    filled_in = words(world, folder)
    for line in manifest["restore_by_hand"]:
        command = re.sub(
            r"(?<!CREATE )\b(HOST|PORT|USER|DATABASE|FILE_WITH_URI)\b", lambda found: filled_in[found[1]], line
        )
        command = command.replace(" --password ", " ")  # asks for one on the terminal, and there is none here
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **password(world)},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    if isinstance(world, SQLiteWorld):
        (folder / world.copy).rename(world.folder / world.copy)
    return world.contents(world.copy)


def password(world: World) -> dict[str, str]:
    """Where the commands of PostgreSQL and MySQL look for what they would ask on a terminal."""
    if not isinstance(world, PostgresWorld | MySQLWorld):
        return {}
    given = unquote(urlsplit(world.admin_url).password or "")
    return {"PGPASSWORD": given, "MYSQL_PWD": given} if given else {}


def words(world: World, folder: Path) -> dict[str, str]:
    """What stands for the capitals in the commands; a file that one of them wants is made in `folder`."""
    if isinstance(world, PostgresWorld | MySQLWorld):
        server = urlsplit(world.admin_url)
        return {
            "HOST": server.hostname or "",
            "PORT": str(server.port or (5432 if world.kind == "postgres" else 3306)),
            "USER": server.username or "",
            "DATABASE": world.copy,
        }
    if isinstance(world, MongoWorld):
        (folder / "uri.yaml").write_text(f"uri: {world.server_url}\n")
        return {"DATABASE": world.copy, "FILE_WITH_URI": "uri.yaml"}
    return {"DATABASE": world.copy}


def read_by_the_driver(world: MongoWorld, folder: Path, file: Mapping[str, Any]) -> Contents | None:
    """What the database holds after MongoDB's own driver has read a dump in mongodump's folder layout."""
    unpacked = subprocess.run(["zstd", "-dc", file["name"]], cwd=folder, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar, MongoClient[dict[str, Any]](world.server_url) as client:
        members = {member.name: tar.extractfile(member) for member in tar if member.isreg()}
        for name, stream in members.items():
            if not name.endswith(".bson") or stream is None:
                continue
            about = members[name.removesuffix(".bson") + ".metadata.json"]
            assert about is not None
            metadata = loads(about.read())
            target = client[world.copy][metadata["collectionName"]]
            documents = bson.decode_all(stream.read())
            if documents:
                target.insert_many(documents)
            for index in metadata["indexes"]:
                if index["name"] != "_id_":
                    target.create_index(list(index["key"].items()), name=index["name"])
    return world.contents(world.copy)

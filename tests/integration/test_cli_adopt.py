"""`flexdb adopt` as a process, against the service as it is: files and folders come in whole, or the reason is told."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sqlite3
import tarfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web

from handlers.incoming import INCOMING
from service.cli.packing import folder_parcel
from tests.integration.real_service import TOKEN, Running, running
from tests.integration.test_cli import CommandLine

SQL = b"""PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT);
INSERT INTO orders VALUES(1,'one');
INSERT INTO orders VALUES(2,'two');
COMMIT;
"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, role="all", retry_base_seconds=0.05) as found:
        yield found


@pytest.fixture
def flexdb(service: Running, tmp_path: Path) -> CommandLine:
    return line_to(f"{service.base}", tmp_path)


def line_to(url: str, folder: Path) -> CommandLine:
    made = CommandLine(folder, url)
    made.environment["FLEXDB_TOKEN"] = TOKEN
    return made


def uploaded(service: Running) -> dict[str, bytes]:
    folder = service.service.home.storage / INCOMING
    return {path.name: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "shop nightly.sql.gz"
    path.write_bytes(gzip.compress(SQL))
    return path


async def test_a_dump_is_uploaded_adopted_and_listed(
    flexdb: CommandLine, service: Running, dump: Path, tmp_path: Path
) -> None:
    words = ("--connection", "shop", "--label", "from=cron", "--label", "tier=gold=1", "--json")
    done = await flexdb("adopt", str(dump), *words)
    assert done.code == 0, done.err
    told = done.json["data"]
    assert (done.json["type"], told["format"], told["rows"], told["level"]) == (
        "adoption.completed",
        "sqlite-sql",
        2,
        2,
    )
    assert told["labels"] == {"from": "cron", "tier": "gold=1"}
    digest = hashlib.sha256(dump.read_bytes()).hexdigest()
    assert (told["adopted"]["name"], told["adopted"]["sha256"]) == ("shop_nightly.sql.gz", digest)
    assert digest in done.err and "uploaded" in done.err
    assert uploaded(service) == {}
    (listed,) = (await service.get("/backups?label=from:cron"))["data"]
    assert listed["backup_id"] == told["backup_id"]


async def test_without_json_the_end_is_told_as_that_of_send(flexdb: CommandLine, dump: Path) -> None:
    done = await flexdb("adopt", str(dump), "--connection", "shop", "--verify", "1", "--keep")
    assert done.code == 0, done.err
    assert done.out.startswith("adoption shop completed\n")
    assert "level\t1" in done.out


async def test_the_list_tells_what_is_said_to_be_whole_and_latest_passes_over_a_part(
    flexdb: CommandLine, service: Running, dump: Path
) -> None:
    for number, (said, state) in enumerate((((), "whole?"), (("--part",), "part"), (("--whole",), "ok"))):
        done = await flexdb("adopt", str(dump), "--connection", "shop", *said, "--json")
        assert done.code == 0, done.err
        (listed,) = (await service.get("/backups?limit=1"))["data"]
        assert listed["whole"] == done.json["data"]["whole"] == {"whole?": None, "part": False, "ok": True}[state]
        assert (await flexdb("backups", "--limit", "1")).out.splitlines()[1].endswith(f"\t{state}")
        newest = await flexdb(
            "restore", "--latest", "shop", "--to", "shop", "--into", f"again-{number}.sqlite", "--json"
        )
        assert newest.json["data"]["whole"] is (None if number < 2 else True)


async def test_what_is_adopted_can_be_restored(flexdb: CommandLine, dump: Path, tmp_path: Path) -> None:
    done = await flexdb("adopt", str(dump), "--connection", "shop", "--verify", "3", "--json")
    assert done.code == 0, done.err
    backup_id = done.json["data"]["backup_id"]
    done = await flexdb("restore", backup_id, "--to", "shop", "--into", "again.sqlite")
    assert done.code == 0, done.err
    with closing(sqlite3.connect(tmp_path / "again.sqlite")) as db:
        assert db.execute("SELECT * FROM orders ORDER BY id").fetchall() == [(1, "one"), (2, "two")]


async def test_no_wait_answers_as_soon_as_it_is_accepted(flexdb: CommandLine, service: Running, dump: Path) -> None:
    done = await flexdb("adopt", str(dump), "--connection", "shop", "--no-wait", "--json", "--id", "once")
    assert (done.code, done.json["operation"], done.json["event_id"]) == (0, "adoption", "once")
    await service.ended(done.json["job_id"])


async def test_a_file_that_is_no_dump_fails_and_stays_where_it_was_uploaded(
    flexdb: CommandLine, service: Running, tmp_path: Path
) -> None:
    (tmp_path / "letter").write_text("Dear Ada,\n" * 1000)
    done = await flexdb("adopt", str(tmp_path / "letter"), "--connection", "shop")
    assert done.code == 1
    assert "[invalid_dump]" in done.err and "The upload letter stays" in done.err
    assert uploaded(service) == {"letter": b"Dear Ada,\n" * 1000}
    again = await flexdb("adopt", str(tmp_path / "letter"), "--connection", "shop")
    assert again.code == 2
    assert "[incoming_exists]" in again.err and "--replace" in again.err
    (tmp_path / "letter").write_bytes(SQL)
    done = await flexdb("adopt", str(tmp_path / "letter"), "--connection", "shop", "--replace")
    assert done.code == 0, done.err


async def test_a_connection_that_is_not_there_is_refused_and_the_upload_told_of(
    flexdb: CommandLine, service: Running, dump: Path
) -> None:
    done = await flexdb("adopt", str(dump), "--connection", "nobody", "--name", "mine")
    assert done.code == 2
    assert "/connection" in done.err and "The upload mine stays" in done.err
    assert list(uploaded(service)) == ["mine"]


@pytest.mark.parametrize("words", [("nothing-there",), ("/dev/null",), (".", "--label", "x"), ("empty",), ("linked",)])
async def test_what_cannot_be_sent_is_told_before_anything_is(
    flexdb: CommandLine, service: Running, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "toc.dat").symlink_to("/etc/hostname")
    (tmp_path / "linked" / "3001.dat").write_bytes(b"plain")
    done = await flexdb("adopt", *words, "--connection", "shop")
    assert done.code == 2
    assert done.err.startswith("flexdb: ")
    assert uploaded(service) == {}


async def test_what_changes_on_the_way_is_removed_again(tmp_path: Path, dump: Path) -> None:
    asked: list[str] = []

    async def lie(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        await request.read()
        return web.json_response({"path": "x", "bytes": 1, "sha256": "0" * 64}, status=201)

    app = web.Application()
    app.router.add_route("*", "/incoming/{name}", lie)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        flexdb = line_to(f"http://127.0.0.1:{runner.addresses[0][1]}", tmp_path)
        done = await flexdb("adopt", str(dump), "--connection", "shop", "--name", "x")
    finally:
        await runner.cleanup()
    assert done.code == 2
    assert "not what was sent" in done.err
    assert asked == ["PUT /incoming/x", "DELETE /incoming/x"]


# ---------------------------------------------------------------- folders


def filled(folder: Path) -> Path:
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "orders.bson").write_bytes(os.urandom(3_000_000))
    (folder / "shop" / "customers.bson").write_bytes(b"")
    (folder / "shop" / ("ü" * 90 + ".bson")).write_bytes(b"x" * 512)
    (folder / "3001.dat").write_bytes(b"y")
    (folder / "toc.dat").write_bytes(b"PGDMP")
    return folder


def test_a_folder_becomes_a_tar_stream_that_every_tar_reads(tmp_path: Path) -> None:
    folder = filled(tmp_path / "dump")
    parcel = folder_parcel(folder)
    packed = b"".join(parcel.blocks())
    assert len(packed) == parcel.length
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        names = tar.getnames()
        for name in names:
            member = tar.extractfile(name)
            assert member is not None and member.read() == (folder / name).read_bytes()
    expected = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert names[0] == "toc.dat", "what the dump is recognised by"
    assert sorted(names) == sorted(expected) and names[1:] == sorted(names[1:])
    assert b"".join(folder_parcel(folder).blocks()) == packed, "the same folder is the same stream"


def test_blocks_of_a_folder_are_small_and_never_empty(tmp_path: Path) -> None:
    sizes = [len(block) for block in folder_parcel(filled(tmp_path / "dump")).blocks()]
    assert min(sizes) > 0 and max(sizes) <= 1 << 20


async def test_a_file_that_changes_while_it_is_sent_is_told_and_nothing_is_kept(
    flexdb: CommandLine, service: Running
) -> None:
    done = await flexdb("adopt", "/proc/self/status", "--connection", "shop")  # says 0 bytes, gives more
    assert done.code == 2
    assert "changed while it was read" in done.err
    assert uploaded(service) == {}

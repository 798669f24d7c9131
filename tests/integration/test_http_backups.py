"""Backups by HTTP: the list and its filters, the manifest, the stored file as it is."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from typing import Any

import aiohttp
import pytest

from tests.integration.doors import TOKEN, Doors


async def test_backups_are_listed_newest_first_and_filtered(doors: Doors) -> None:
    await doors.published("old", ended=1_700_000_000.0, level=1, labels={"tier": "gold", "a": "b:c"})
    await doors.published("new", ended=1_700_000_100.0, level=3)
    await doors.published("other", ended=1_700_000_050.0, connection="crm")

    async def found(query: str) -> list[str]:
        return [item["backup_id"] for item in (await doors.get(f"/backups?{query}"))["data"]]

    assert await found("") == ["new", "other", "old"]
    assert await found("connection=shop") == ["new", "old"]
    assert await found("min_level=2") == ["new", "other"]
    assert await found("label=tier:gold&label=a:b:c") == ["old"]
    assert await found("label=tier:silver") == []
    page = await doors.ask("GET", "/backups?limit=2")
    rest = await doors.ask("GET", page.headers["Link"][1:].partition(">")[0])
    assert [item["backup_id"] for item in rest.json["data"]] == ["old"]


async def test_a_part_of_a_database_is_told_from_a_whole_one(doors: Doors) -> None:
    made: dict[str, dict[str, Any]] = {
        "whole": {"include": [], "exclude": [], "content": "all"},
        "tables": {"include": ["orders"], "content": "all"},
        "rest": {"exclude": ["logs"], "content": "all"},
        "schema": {"include": [], "exclude": [], "content": "schema"},
        "rows": {"content": "data"},
        "server": {"scope": "server", "databases": {"a": {"content": "all"}, "b": {}}},
        "server's schema": {"scope": "server", "databases": {"a": {"content": "schema"}, "b": {"content": "schema"}}},
        "by hand": {"adopted": {"name": "x.sql"}},
        "by hand, said to be whole": {"adopted": {"name": "x.sql"}, "whole": True},
        "by hand, one table": {"adopted": {"name": "x.sql"}, "missing_tables": ["public.people"], "whole": True},
    }
    for number, (name, options) in enumerate(made.items()):
        await doors.published(name, ended=1_700_000_000.0 - number, options=options)

    async def found(query: str) -> dict[str, bool | None]:
        return {item["backup_id"]: item["whole"] for item in (await doors.get(f"/backups{query}"))["data"]}

    assert await found("") == {
        "whole": True,
        "tables": False,
        "rest": False,
        "schema": False,
        "rows": False,
        "server": True,
        "server's schema": False,
        "by hand": None,
        "by hand, said to be whole": True,
        "by hand, one table": False,
    }
    assert [*await found("?whole=true")] == ["whole", "server", "by hand, said to be whole"]
    parts = ["tables", "rest", "schema", "rows", "server's schema", "by hand, one table"]
    assert [*await found("?whole=false")] == parts
    assert (await doors.get("/backups/schema"))["whole"] is False


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("label=gold", "#/label"),
        ("min_level=4", "#/min_level"),
        ("min_level=x", "#/min_level"),
        ("cursor=x", "#/cursor"),
        ("whole=yes", "#/whole"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_422(doors: Doors, query: str, pointer: str) -> None:
    answer = await doors.ask("GET", f"/backups?{query}")
    assert (answer.status, answer.pointers) == (422, [pointer])


async def test_one_backup_is_shown_with_its_manifest(doors: Doors) -> None:
    entry = await doors.published("b1", b"content", labels={"tier": "gold"})
    shown = await doors.get("/backups/b1")
    assert shown["manifest"] == entry.manifest.model_dump(mode="json")
    assert (shown["bytes"], shown["sha256"]) == (7, hashlib.sha256(b"content").hexdigest())
    assert (shown["level"], shown["labels"], shown["damaged"]) == (2, {"tier": "gold"}, False)


async def test_a_stored_file_is_downloaded_as_it_is(doors: Doors) -> None:
    content = os.urandom(3_000_000)
    await doors.published("b1", content)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    digest = hashlib.sha256(content)
    for query in ("", "?file=shop.sqlite.zst"):
        async with doors.client.get(f"/backups/b1/download{query}", headers=headers) as response:
            assert response.status == 200
            assert await response.read() == content
            assert response.headers["Content-Length"] == "3000000"
            assert response.headers["ETag"] == f'"{digest.hexdigest()}"'
            assert response.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
            assert response.headers["Content-Disposition"] == 'attachment; filename="shop.sqlite.zst"'
    async with doors.client.head("/backups/b1/download", headers=headers) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "3000000")


async def test_what_is_not_there_cannot_be_downloaded(doors: Doors) -> None:
    entry = await doors.published("b1")
    for path in ("/backups/nope", "/backups/nope/download", "/backups/..%2f/download"):
        answer = await doors.ask("GET", path)
        assert (answer.status, answer.code) == (404, "unknown_backup")
    for name in ("nope", "../shop.sqlite.zst", "manifest.json", ""):
        answer = await doors.ask("GET", f"/backups/b1/download?file={name}")
        assert (answer.status, answer.code) == (404, "artefact_missing"), name
    doors.storage.delete(f"{entry.folder}/shop.sqlite.zst")
    answer = await doors.ask("GET", "/backups/b1/download")
    assert (answer.status, answer.code) == (404, "artefact_missing")


async def test_a_file_of_another_length_is_not_sent_as_if_it_were_whole(doors: Doors) -> None:
    entry = await doors.published("b1", b"stored bytes")
    path = doors.storage.local_path(f"{entry.folder}/shop.sqlite.zst")
    assert path is not None
    for content in (b"stored byte", b"stored bytes!"):
        path.write_bytes(content)
        answer = await doors.ask("GET", "/backups/b1/download")
        assert (answer.status, answer.code) == (409, "artefact_damaged")


async def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection_off(doors: Doors) -> None:
    content = os.urandom(30_000_000)
    entry = await doors.published("b1", content)
    path = doors.storage.local_path(f"{entry.folder}/shop.sqlite.zst")
    assert path is not None
    async with doors.client.get("/backups/b1/download", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
        os.truncate(path, 20_000_000)
        with pytest.raises(aiohttp.ClientError):
            async with asyncio.timeout(20):
                await response.read()
    assert (await doors.ask("GET", "/livez")).status == 200

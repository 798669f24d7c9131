"""Collections over HTTP: declared with their tables, refused with a pointer per fault, forgotten without a loss."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from handlers.collections.ready import READY
from service.app import CannotStart
from tests.integration.real_service import Running, running
from tests.integration.records_world import BOOK, Books, declaration, records_service

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, postgres15_url: str) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("collections")
    file = folder / "collections.json"
    file.write_text(json.dumps({"papers": declaration("lite", table="our_papers")}))
    async with records_service(folder, postgres15_url, collections=file) as found:
        yield found


def with_field(name: str, schema: Any) -> dict[str, Any]:
    return BOOK | {"properties": BOOK["properties"] | {name: schema}}


async def test_a_collection_is_declared_shown_listed_changed_and_forgotten(service: Running) -> None:
    books = Books(service, "pg")
    path = f"/collections/{books.name}"
    made = await service.ask("PUT", path, declaration("pg", description="Books."))
    assert (made.status, made.headers["Location"]) == (201, path)
    assert made.json["prepared"] == {"created": True, "added": [], "notes": []}
    told = {"name": books.name, "origin": "caller", "connection": "pg", "table": books.table, "key": "isbn"}
    assert made.json | told | {"schema": BOOK, "description": "Books."} == made.json
    shown = await service.get(path)
    assert shown | {"prepared": made.json["prepared"]} == made.json
    assert shown in (await service.get("/collections"))["data"]
    assert shown["links"] == {"self": path, "records": books.path}
    await books.put("1")
    wider = declaration("pg", schema=with_field("author", {"type": ["string", "null"]}))
    looked = await service.ask("PUT", f"{path}?dry_run=true", wider)
    assert (looked.status, looked.json["dry_run"], looked.json["prepared"]["added"]) == (200, True, ["author"])
    assert await service.get(path) == shown, "a dry run declares nothing"
    changed = await service.ask("PUT", path, wider)
    assert (changed.status, changed.json["prepared"]["added"]) == (200, ["author"])
    assert (await service.get(books.at("1")))["author"] is None
    assert (await service.ask("DELETE", path)).status == 204
    for method in ("GET", "DELETE"):
        gone = await service.ask(method, path)
        assert (gone.status, gone.code) == (404, "unknown_collection")
    assert (await books.ask("GET")).code == "unknown_collection"
    again = await service.ask("PUT", path, wider)
    assert again.json["prepared"] == {"created": False, "added": [], "notes": []}
    assert (await books.page())["total"] == 1, "its records had stayed"


@pytest.mark.parametrize("connection", ["lite", "pg"])
async def test_a_table_that_is_another_is_told_and_nothing_is_declared(service: Running, connection: str) -> None:
    books = await Books(service, connection).declared()
    await books.put("1")
    path = f"/collections/{books.name}"
    before = await service.get(path)
    other = declaration(connection, schema=with_field("title", {"type": "integer"}))
    for query in ("", "?dry_run=true"):
        answer = await service.ask("PUT", path + query, other)
        assert (answer.status, answer.code) == (409, "collection_mismatch")
        assert "'title'" in answer.json["detail"]
    assert await service.get(path) == before
    assert await books.keys() == ["1"]


@pytest.mark.parametrize(
    ("document", "pointers"),
    [
        ([], ["#"]),
        ({}, ["#/connection", "#/key", "#/schema"]),
        (declaration("nowhere"), ["#/connection"]),
        (declaration("lite", key="id"), ["#/key"]),
        (declaration("lite", table="books; DROP TABLE users"), ["#/table"]),
        (declaration("lite", schema=with_field("x y", {"type": "string"})), ["#/schema/properties/x y"]),
        (declaration("lite", schema=with_field("when", {"type": "moment"})), ["#/schema/properties/when/type"]),
        (declaration("lite", source={"url": "http://user:secret@here/"}), ["#/source/url"]),
        (declaration("lite", colour="red"), ["#/colour"]),
    ],
)
async def test_a_wrong_declaration_is_refused_with_a_pointer_per_fault(
    service: Running, document: Any, pointers: list[str]
) -> None:
    answer = await service.ask("PUT", "/collections/wrong", document)
    assert (answer.status, answer.code) == (422, "invalid_request")
    assert sorted(error["pointer"] for error in answer.json["errors"])[: len(pointers)] == pointers
    assert b"secret" not in answer.body
    assert (await service.ask("GET", "/collections/wrong")).status == 404


async def test_names_that_mean_something_else_are_refused(service: Running) -> None:
    for name in ("ingest", "Books", "a%20b", "-x", "x" * 64):
        answer = await service.ask("PUT", f"/collections/{name}", declaration("lite"))
        assert (answer.status, answer.code) == (422, "invalid_request"), name


async def test_a_database_that_is_away_declares_nothing(service: Running) -> None:
    answer = await service.ask("PUT", "/collections/faraway", declaration("away"))
    assert (answer.status, answer.code) == (503, "target_unavailable")
    assert (await service.ask("GET", "/collections/faraway")).status == 404


async def test_what_a_file_declares_stays_as_it_is(service: Running) -> None:
    shown = await service.get("/collections/papers")
    assert (shown["origin"], shown["table"], shown["created_at"]) == ("file", "our_papers", None)
    for method, body in (("PUT", declaration("pg")), ("DELETE", None)):
        answer = await service.ask(method, "/collections/papers", body)
        assert (answer.status, answer.code) == (409, "collection_fixed")
    assert (await service.ask("POST", "/api/papers", {"isbn": "1", "title": "A paper"})).status == 201


async def test_a_ready_collection_may_be_replaced_and_comes_back(service: Running) -> None:
    ready = await service.get("/collections/customers")
    assert (ready["origin"], ready["connection"], ready["key"]) == ("ready", "lite", "customer_id")
    assert (await service.ask("DELETE", "/collections/customers")).code == "collection_fixed"
    own = await service.ask(
        "PUT", "/collections/customers", {**READY["customers"], "connection": "pg", "table": "mine"}
    )
    assert (own.status, own.json["origin"], own.json["table"]) == (201, "caller", "mine")
    record = {"customer_id": "C1", "first_name": "A", "last_name": "B", "email": "a@example.com"}
    assert (await service.ask("POST", "/api/customers", record)).status == 201
    assert (await service.ask("DELETE", "/collections/customers")).status == 204
    assert await service.get("/collections/customers") == ready
    assert (await service.get("/api/customers"))["total"] == 0


async def test_a_wrong_file_keeps_the_service_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "collections.json"
    file.write_text('{"papers": {"connection": "shop"}}')
    with pytest.raises(CannotStart, match=r"collections\.json: /papers/key"):
        async with running(tmp_path, collections=file):
            pass

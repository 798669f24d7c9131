"""Collections by name: which declaration counts, what is read again when, and which files refuse the start."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from engines.base import Target
from engines.errors import TargetUnavailable, UnknownCollection
from engines.records.base import RecordEngine, RecordTable
from engines.records.fields import Table
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.base import Fault, Handler, Outcome, Result
from handlers.collections.ready import READY
from handlers.records import RecordsRequest
from service.access import ADMIN
from service.collections import InvalidDeclaration, NamedCollections, file_collections, ready_collections
from service.connections import NamedConnections
from service.event import Event
from service.intake import Intake, Refused
from service.ledger.base import Ledger
from tests.spine import Trouble, open_ledger, until


class ShelfEngine(RecordEngine):
    """Reads shelf:// URLs and has no table called `forbidden`."""

    kind: ClassVar[str] = "shelf"
    schemes: ClassVar[tuple[str, ...]] = ("shelf",)

    def target(self, connection: str, url: str) -> Target:
        return Target(connection, self.kind, SecretStr(url), "here", None, url.rpartition("/")[2])

    def into(self, target: Target, database: str) -> Target:
        raise NotImplementedError

    def refuse_table(self, table: Table) -> dict[str, str]:
        return {"": "There can be no such table."} if table.name == "forbidden" else {}

    def open_table(self, target: Target, table: Table) -> RecordTable:
        raise NotImplementedError


ENGINES = EngineRegistry([ShelfEngine()])
CONNECTIONS = NamedConnections({"broken": "oracle://x", "left": "shelf://left", "right": "shelf://right"}, ENGINES)
READY_ONES = ready_collections(READY, None, CONNECTIONS, ENGINES)


def books(**changes: Any) -> dict[str, Any]:
    schema = {"properties": {"isbn": {"type": "string", "maxLength": 20}, "title": {"type": "string"}}}
    return {"connection": "left", "key": "isbn", "schema": schema} | changes


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with open_ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def a_file(folder: Path, content: Any, name: str = "collections.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def from_file(path: Path) -> Sequence[Any]:
    return file_collections(path, CONNECTIONS, ENGINES)


class Shelved(Handler[RecordsRequest]):
    """Needs nothing but that there is such a collection."""

    operation = "records"
    request_model = RecordsRequest
    result_model = Result

    def __init__(self, named: NamedCollections) -> None:
        self._named = named

    def faults(self, request: RecordsRequest) -> list[Fault]:
        try:
            self._named.collection(request.collection)
        except UnknownCollection as error:
            return [Fault("/collection", error.message)]
        return []

    def run(self, request: RecordsRequest, run: Run) -> Outcome:
        raise NotImplementedError


async def test_an_event_finds_a_collection_whose_hint_has_not_come_yet(ledger: Ledger) -> None:
    named = NamedCollections(ledger)
    intake = Intake(ledger, {"records": Shelved(named)}, lambda url: None, look_again=named.load)
    await ledger.put_collection("books", books())  # as another replica does
    event = Event("e1", "tests", "records", {"collection": "books", "records": [1]})
    assert (await intake.accept(event, ADMIN)).status == "queued"
    with pytest.raises(Refused) as told:
        await intake.accept(replace(event, id="e2", data={"collection": "none", "records": [1]}), ADMIN)
    assert [fault.pointer for fault in told.value.faults] == ["/collection"]


# ---------------------------------------------------------------- which one counts


async def test_what_a_caller_puts_takes_the_place_of_the_ready_one_until_it_is_deleted(ledger: Ledger) -> None:
    named = NamedCollections(ledger, ready=READY_ONES)
    assert named.names() == ["courses", "customers"]
    assert named.declared("courses").origin == "ready"
    assert await named.put("courses", books(table="own_courses"))
    assert (named.declared("courses").origin, named.collection("courses").table.name) == ("caller", "own_courses")
    assert not await named.put("courses", books(table="other_courses")), "it was there before"
    assert named.collection("courses").table.name == "other_courses"
    assert await named.delete("courses")
    assert (named.declared("courses").origin, named.collection("courses").table.name) == ("ready", "courses")
    assert not await named.delete("courses")


async def test_a_files_collection_counts_before_what_callers_have_put(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.put_collection("books", books(table="theirs"))
    files = from_file(a_file(tmp_path, {"books": books(table="ours")}))
    named = NamedCollections(ledger, ready=READY_ONES, files=files)
    await named.load()
    assert (named.declared("books").origin, named.collection("books").table.name) == ("file", "ours")
    assert named.is_fixed("books") and not named.is_fixed("courses")


async def test_what_another_process_puts_is_found_by_name_before_it_is_called_unknown(ledger: Ledger) -> None:
    named = NamedCollections(ledger)
    await ledger.put_collection("books", books())
    with pytest.raises(UnknownCollection):
        named.collection("books")
    assert (await named.found("books")).collection.table.name == "books"
    with pytest.raises(UnknownCollection):
        await named.found("papers")


async def test_a_change_is_read_again_without_being_asked_and_told_with_all_that_are_left(ledger: Ledger) -> None:
    told: list[list[str]] = []
    named = NamedCollections(ledger, changed=lambda all_of_them: told.append(sorted(one.name for one in all_of_them)))

    async def seen(table: str) -> bool:
        return (named.collection("books").table.name if "books" in named.names() else "none") == table

    await named.start()
    try:
        await ledger.put_collection("books", books())
        await until(lambda: seen("books"))
        await ledger.put_collection("books", books(table="moved"))
        await until(lambda: seen("moved"))
        await ledger.delete_collection("books")
        await until(lambda: seen("none"))
        assert told == [["books"], ["books"], []]
        await named.load()
        assert len(told) == 3, "nothing changed, so nothing is told"
    finally:
        await named.stop()


async def test_a_job_finds_what_was_put_a_moment_ago_by_another_process(ledger: Ledger) -> None:
    trouble = Trouble(ledger, deaf=True)
    named = NamedCollections(trouble.ledger)
    await named.start()
    try:
        await ledger.put_collection("books", books())
        with pytest.raises(UnknownCollection):
            named.collection("books")  # in the loop nobody may wait
        assert (await asyncio.to_thread(named.collection, "books")).name == "books"
        with pytest.raises(UnknownCollection):
            await asyncio.to_thread(named.collection, "papers")
        trouble.away = True
        with pytest.raises(TargetUnavailable):
            await asyncio.to_thread(named.collection, "papers")
    finally:
        await named.stop()


async def test_a_stored_one_that_is_not_understood_is_left_out_and_harms_no_other(ledger: Ledger) -> None:
    await ledger.put_collection("odd", {"words": "of another version"})
    await ledger.put_collection("books", books())
    named = NamedCollections(ledger)
    await named.load()
    assert named.names() == ["books"]


# ---------------------------------------------------------------- ready ones, files


def test_ready_ones_are_on_the_first_connection_that_keeps_records_or_the_one_that_is_set() -> None:
    assert {one.collection.connection for one in READY_ONES} == {"left"}
    wished = ready_collections(READY, "right", CONNECTIONS, ENGINES)
    assert {one.collection.connection for one in wished} == {"right"}
    assert ready_collections(READY, None, NamedConnections({"broken": "oracle://x"}, ENGINES), ENGINES) == []
    with pytest.raises(InvalidDeclaration, match=r"FLEXDB_RECORDS_CONNECTION.*'nowhere'"):
        ready_collections(READY, "nowhere", CONNECTIONS, ENGINES)


def test_ready_ones_are_on_postgresql_where_there_is_one() -> None:
    engines = EngineRegistry.default()
    urls = {"a": "sqlite:////nowhere/a.sqlite", "broken": "oracle://x", "shop": "postgresql://localhost/shop"}
    found = ready_collections(READY, None, NamedConnections(urls, engines), engines)
    assert {one.collection.connection for one in found} == {"shop"}


def test_a_file_declares_many_and_a_folder_one_in_each_file(tmp_path: Path) -> None:
    together = from_file(a_file(tmp_path, {"books": books(), "papers": books(table="sheets")}, "all.json"))
    assert [(one.collection.name, one.collection.table.name) for one in together] == [
        ("books", "books"),
        ("papers", "sheets"),
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    a_file(folder, books(), "papers.json")
    a_file(folder, "not looked at", "README.md")
    assert [one.collection.name for one in from_file(folder)] == ["papers"]
    assert file_collections(None, CONNECTIONS, ENGINES) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"books": {}, "books": {}}', "'books' twice"),
        ({"books": []}, "/books: a collection is a JSON object"),
        ({"Books!": books()}, "/Books!"),
        ({"ingest": books()}, "/ingest"),
        ({"books": books(key="id")}, "/books/key"),
        ({"books": books(connection="nowhere")}, "/books/connection: There is no connection 'nowhere'"),
        ({"books": books(connection="broken")}, "/books/connection: The URL of connection 'broken'"),
        ({"books": books(table="forbidden")}, "/books/table: There can be no such table."),
        ({"books": books(schema={"properties": {"isbn": {"type": "thing"}}})}, "/books/schema/properties/isbn/type"),
    ],
)
def test_a_wrong_file_refuses_the_start_and_names_itself_and_the_place(tmp_path: Path, content: Any, told: str) -> None:
    path = a_file(tmp_path, content)
    with pytest.raises(InvalidDeclaration) as caught:
        from_file(path)
    assert str(caught.value).startswith(f"FLEXDB_COLLECTIONS: {path}") and told in str(caught.value)


def test_a_file_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(InvalidDeclaration, match="cannot be read"):
        from_file(tmp_path / "none.json")

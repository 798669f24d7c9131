"""Pages and single records over a real database, as the doors ask for them."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engines.errors import CollectionMismatch, RecordExists, TargetProtected, UnknownCollection
from engines.records.base import Condition, PageQuery, RecordTable
from engines.records.fields import Row
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.collections import Collection
from handlers.collections.preconditions import PreconditionFailed, Preconditions
from handlers.collections.reading import RecordInvalid, decode
from handlers.collections.repository import Repository
from service.connections import NamedConnections
from service.tables import OpenTables
from tests.integration.supplied import DictCollections

THINGS: dict[str, Any] = {
    "connection": "demo",
    "key": "id",
    "schema": {
        "properties": {
            "id": {"type": "integer"},
            "name": {"type": "string"},
            "rank": {"type": "integer"},
            "note": {"type": ["string", "null"]},
            "price": {"type": "number", "precision": 10, "scale": 2},
            "limit": {"type": "integer"},
            "more": {"type": "object"},
        },
        "required": ["name"],
    },
}


class CountingTables(OpenTables):
    """Says what pages and counts were asked of the tables."""

    def __init__(self, connections: NamedConnections, engines: EngineRegistry) -> None:
        super().__init__(connections, engines)
        self.pages: list[PageQuery] = []
        self.counts = 0

    def table(self, collection: Collection) -> RecordTable:
        real, world = super().table(collection), self

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def page(self, query: PageQuery) -> list[Row]:
                world.pages.append(query)
                return real.page(query)

            def count(self, where: tuple[Condition, ...] = ()) -> int:
                world.counts += 1
                return real.count(where)

        watched: Any = Watched()
        return watched  # type: ignore[no-any-return]  # it is a table by what it hands on


class World:
    """A repository over one SQLite file, with a clock that is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "records.sqlite"
        sqlite3.connect(self.file).close()
        own = folder / "own"
        own.mkdir()
        sqlite3.connect(own / "ledger.sqlite").close()
        engines = EngineRegistry.default()
        urls = {"demo": f"sqlite:///{self.file}", "own": f"sqlite:///{own / 'ledger.sqlite'}"}
        self.connections = NamedConnections(urls, engines, protected=(own,))
        self.collections = DictCollections.ready("demo")
        self.collections.declare("things", THINGS)
        self.tables = CountingTables(self.connections, engines)
        self.now = 1000.0
        self.repository = Repository(self.collections, self.tables, self.connections, lambda: self.now)

    def ask(self, collection: str = "things", /, **params: str) -> tuple[list[Any], int]:
        """The records of a page, and the total; `id__gt` says `id[gt]`."""
        asked = {re.sub(r"__(.*)", r"[\1]", one): text for one, text in params.items()}
        page = self.repository.page(collection, asked)
        return json.loads(page.encode()), page.total

    def ids(self, **params: str) -> list[Any]:
        return [record["id"] for record in self.ask(**params)[0]]

    def fill(self, count: int) -> None:
        """Records 1 to `count`, in one transaction."""
        collection = self.collections.collection("things")
        reader = self.repository.reader("things")
        rows = [reader.record({"id": one, "name": f"n{one % 3}", "rank": one % 2}) for one in range(1, count + 1)]
        with self.tables.prepared(collection).writing(Run("j1", 1, self.file.parent), whole=True) as writer:
            writer.write(rows)
            writer.finish()

    def do(self, statement: str) -> None:
        with closing(sqlite3.connect(self.file)) as connection, connection:
            connection.execute(statement)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.tables.close()


def pointers(raised: pytest.ExceptionInfo[RecordInvalid]) -> list[str]:
    return [fault.pointer for fault in raised.value.faults]


# ---------------------------------------------------------------- pages


def test_a_collection_without_a_table_is_empty_until_it_is_written_to(world: World) -> None:
    assert world.ask("customers") == ([], 0)
    assert world.repository.get("customers", "C1") is None
    assert b"".join(world.repository.export("customers", {}, "ndjson").blocks) == b""
    with closing(sqlite3.connect(world.file)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    world.repository.create(
        "customers", {"customer_id": "C1", "first_name": "Ann", "last_name": "Lee", "email": "a@b.c"}
    )
    records, total = world.ask("customers")
    assert total == 1 and records[0]["customer_id"] == "C1" and records[0]["created_at"].endswith("Z")


def test_pages_hold_every_record_once_and_say_how_many_there_are(world: World) -> None:
    world.fill(7)
    assert [world.ids(page=str(number), limit="3") for number in (1, 2, 3, 4)] == [[1, 2, 3], [4, 5, 6], [7], []]
    page = world.repository.page("things", {"page": "2", "limit": "3", "sort": "-rank"})
    assert (page.total, page.total_exact, page.page, page.limit) == (7, True, 2, 3)
    assert page.next == {"page": "3", "limit": "3", "sort": "-rank"}  # `rank` may be NULL: no cursor
    assert page.previous == {"page": "1", "limit": "3", "sort": "-rank"}
    assert world.repository.page("things", {"page": "3", "limit": "3"}).next is None


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({"name": "n1"}, [1, 4]),
        ({"name": "n1", "id__gt": "1"}, [4]),
        ({"id__gte": "2", "id__lt": "4"}, [2, 3]),
        ({"id__ne": "1", "id__lte": "2"}, [2]),
        ({"limit__eq": "9"}, [5]),
        ({"limit__null": "false"}, [5]),
        ({"limit__null": "true", "sort": "-id"}, [4, 3, 2, 1]),
        ({"sort": "-rank,name"}, [3, 1, 4, 2, 5]),
        ({"price__gte": "9.5"}, [5]),
    ],
)
def test_records_are_found_by_their_fields(world: World, params: dict[str, str], wanted: list[int]) -> None:
    world.fill(4)
    world.repository.create("things", {"id": 5, "name": "Z", "limit": 9, "price": "10.50"})
    assert world.ids(**params) == wanted and world.ask(**params)[1] == len(wanted)


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"page": "0"}, "/page"),
        ({"page": "x"}, "/page"),
        ({"limit": "501"}, "/limit"),
        ({"limit": "-1"}, "/limit"),
        ({"sort": "colour"}, "/sort"),
        ({"sort": "name,name"}, "/sort"),
        ({"sort": "more"}, "/sort"),
        ({"sort": ""}, "/sort"),
        ({"colour": "red"}, "/colour"),
        ({"name[like]": "a"}, "/name[like]"),
        ({"rank": "high"}, "/rank"),
        ({"more": "{}"}, "/more"),
        ({"name[null]": "yes"}, "/name[null]"),
        ({"id; DROP TABLE things": "1"}, "/id; DROP TABLE things"),
        ({"cursor": "?"}, "/cursor"),
        ({"cursor": "W10"}, "/cursor"),
    ],
)
def test_a_question_that_is_not_understood_is_refused_with_its_parameter(
    world: World, params: dict[str, str], pointer: str
) -> None:
    with pytest.raises(RecordInvalid) as raised:
        world.repository.page("things", params)
    assert pointers(raised) == [pointer]


def test_cursors_lead_through_all_records_whatever_is_added_or_removed_before_them(world: World) -> None:
    world.fill(6)
    page = world.repository.page("things", {"limit": "2", "sort": "-name"})
    seen = [row[0] for row in page.rows]
    world.repository.create("things", {"id": 0, "name": "zzz"})
    world.repository.remove("things", str(seen[0]))
    while page.next is not None:
        assert "cursor" in page.next and "page" not in page.next
        page = world.repository.page("things", page.next)
        seen += [row[0] for row in page.rows]
    assert seen == [5, 2, 4, 1, 6, 3] and page.page == 3
    assert page.previous == {"limit": "2", "sort": "-name", "page": "2"}


def test_a_cursor_belongs_to_one_listing(world: World) -> None:
    world.fill(3)
    onward = world.repository.page("things", {"limit": "1"}).next
    assert onward is not None
    with pytest.raises(RecordInvalid) as raised:
        world.repository.page("things", {**onward, "name": "n1"})
    assert pointers(raised) == ["/cursor"]
    with pytest.raises(RecordInvalid) as raised:
        world.repository.page("things", {**onward, "page": "2"})
    assert pointers(raised) == ["/page"]


def test_the_page_after_one_that_was_read_is_not_counted_out_from_the_start(world: World) -> None:
    world.fill(9)
    for number in ("1", "2", "3"):
        world.ask(page=number, limit="3")
    assert [query.offset for query in world.tables.pages] == [0, 0, 0]
    assert [query.after is not None for query in world.tables.pages] == [False, True, True]
    world.now += Repository.ANCHOR_SECONDS + 1
    assert world.ids(page="3", limit="3") == [7, 8, 9]
    assert world.ids(page="3", limit="3") == [7, 8, 9]
    counted, anchored = world.tables.pages[-2:]
    assert counted.offset == 5 and counted.after is None, "the one before it too"
    assert anchored.offset == 0 and anchored.after is not None
    assert world.ids(page="5", limit="3") == []


def test_a_page_past_the_end_is_empty_though_its_beginning_was_once_known(world: World) -> None:
    world.fill(8)
    assert world.ids(limit="5", page="2") == [6, 7, 8]
    assert len(world.ids(limit="5")) == 5
    world.do("DELETE FROM things WHERE id <= 5")
    assert world.ids(limit="5") == [6, 7, 8]
    page = world.repository.page("things", {"limit": "5", "page": "2"})
    assert (page.rows, page.total, page.next) == ([], 3, None)


def test_a_large_total_is_counted_again_after_a_while_or_after_an_own_write(world: World) -> None:
    world.fill(4)
    repository = world.repository
    repository.COUNTED_ALWAYS = 3

    def total() -> tuple[int, bool]:
        page = repository.page("things", {"limit": "1"})
        return page.total, page.total_exact

    assert total() == (4, True)
    world.do("DELETE FROM things WHERE id = 4")
    assert total() == (4, False)
    world.now += Repository.COUNT_SECONDS + 1
    assert total() == (3, True)
    world.do("INSERT INTO things (id, name) VALUES (4, 'n'), (5, 'n')")
    assert total() == (5, True)  # three are counted always
    repository.remove("things", "5")
    assert total() == (4, True)


def test_the_last_page_needs_no_count(world: World) -> None:
    world.fill(3)
    assert world.ask()[1] == 3 and world.tables.counts == 0


# ---------------------------------------------------------------- single records


def test_one_record_lives_its_life(world: World) -> None:
    made = world.repository.create("things", decode(b'{"id": 1, "name": "a", "price": 1234.50, "more": {"b": 1.10}}'))
    assert b'"price":1234.50' in made.encode() and made.key == "1"
    found = world.repository.get("things", "1")
    assert found is not None and found.etag == made.etag and found.row == made.row
    patched = world.repository.patch("things", "1", {"price": None, "more": {"c": [1]}})
    assert patched is not None and patched.changed and not patched.created
    assert json.loads(patched.record.encode())["more"] == {"b": 1.1, "c": [1]} and patched.record.etag != made.etag
    replaced = world.repository.replace("things", "1", {"name": "b"})
    assert json.loads(replaced.record.encode())["more"] is None and not replaced.created
    assert not world.repository.replace("things", "1", {"id": 1, "name": "b"}).changed
    assert world.repository.replace("things", "2", {"name": "c"}).created
    assert world.repository.remove("things", "1") and not world.repository.remove("things", "1")
    assert world.repository.get("things", "1") is None


def test_a_key_that_is_taken_is_not_taken_twice(world: World) -> None:
    world.fill(1)
    with pytest.raises(RecordExists):
        world.repository.create("things", {"id": 1, "name": "again"})


def test_a_course_gets_its_number_and_keeps_when_it_was_made(world: World) -> None:
    first = world.repository.create("courses", {"title": "Python", "price": 49.9})
    second = world.repository.create("courses", {"title": "SQL"})
    assert [first.key, second.key] == ["1", "2"]
    made_at = json.loads(first.encode())["created_at"]
    changed = world.repository.replace("courses", "1", {"title": "Python 2"})
    assert json.loads(changed.record.encode())["created_at"] == made_at


def test_what_is_wrong_with_a_body_is_told_by_place(world: World) -> None:
    repository = world.repository
    with pytest.raises(RecordInvalid) as raised:
        repository.create("things", {"id": 1, "colour": 1, "price": 1.234})
    assert sorted(pointers(raised)) == ["/colour", "/name", "/price"]
    with pytest.raises(RecordInvalid) as raised:
        repository.replace("things", "1", {"id": 2, "name": "a"})
    assert pointers(raised) == ["/id"]
    with pytest.raises(RecordInvalid) as raised:
        repository.replace("things", "one", {"name": "a"})
    assert pointers(raised) == ["/id"]
    world.fill(1)
    for patch, wanted in (({"id": 2}, "/id"), ({"name": None}, "/name"), ({"colour": 1}, "/colour"), ([], "")):
        with pytest.raises(RecordInvalid) as raised:
            repository.patch("things", "1", patch)
        assert pointers(raised) == [wanted]
    assert world.ask()[0][0]["name"] == "n1"


def test_nothing_is_found_under_a_key_that_no_record_can_have(world: World) -> None:
    assert world.repository.get("things", "one") is None
    assert world.repository.patch("things", "one", {"name": "a"}) is None
    assert not world.repository.remove("things", "one")
    assert world.repository.patch("things", "77", {"name": "a"}) is None


def test_conditions_hold_or_nothing_is_done(world: World) -> None:
    world.fill(1)
    repository = world.repository
    old = repository.get("things", "1")
    assert old is not None
    same = Preconditions(if_match=f'"other", {old.etag}')
    done = repository.replace("things", "1", {"name": "new"}, same)
    for refused in (same, Preconditions(if_match=f"W/{done.record.etag}"), Preconditions(if_none_match="*")):
        with pytest.raises(PreconditionFailed):
            repository.replace("things", "1", {"name": "lost"}, refused)
        with pytest.raises(PreconditionFailed):
            repository.patch("things", "1", {"name": "lost"}, refused)
        with pytest.raises(PreconditionFailed):
            repository.remove("things", "1", refused)
    with pytest.raises(PreconditionFailed):
        repository.replace("things", "9", {"name": "lost"}, Preconditions(if_match="*"))
    assert world.ask() == ([json.loads(done.record.encode())], 1)
    assert repository.replace("things", "9", {"name": "made"}, Preconditions(if_none_match="*")).created
    assert repository.remove("things", "1", Preconditions(if_match=done.record.etag))
    assert Preconditions(if_none_match=f"W/{old.etag}").unchanged(old.etag)


def test_of_many_who_change_the_state_they_saw_one_wins(world: World) -> None:
    world.fill(1)
    seen = world.repository.get("things", "1")
    assert seen is not None
    conditions, outcomes = Preconditions(if_match=seen.etag), []

    def change(number: int) -> None:
        try:
            world.repository.patch("things", "1", {"note": str(number)}, conditions)
            outcomes.append("changed")
        except PreconditionFailed:
            outcomes.append("refused")

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["changed"] + ["refused"] * 5


def test_a_field_that_was_declared_later_is_there_at_the_next_read(world: World) -> None:
    world.fill(2)
    world.collections.declare(
        "things", {**THINGS, "schema": {"properties": THINGS["schema"]["properties"] | {"new": {"type": "string"}}}}
    )
    assert world.ask()[0][0]["new"] is None


def test_another_table_of_that_name_is_told_and_left_alone(world: World) -> None:
    world.do("CREATE TABLE things (other TEXT)")
    for call in (
        lambda: world.repository.page("things", {}),
        lambda: world.repository.create("things", {"id": 1, "name": "a"}),
    ):
        with pytest.raises(CollectionMismatch):
            call()


def test_own_files_are_never_written_to(world: World) -> None:
    world.collections.declare("ours", {**THINGS, "connection": "own"})
    for call in (
        lambda: world.repository.create("ours", {"id": 1, "name": "a"}),
        lambda: world.repository.replace("ours", "1", {"name": "a"}),
        lambda: world.repository.remove("ours", "1"),
    ):
        with pytest.raises(TargetProtected):
            call()


def test_there_must_be_such_a_collection(world: World) -> None:
    with pytest.raises(UnknownCollection):
        world.repository.page("gone", {})


# ---------------------------------------------------------------- everything at once


def test_an_export_holds_all_records_of_the_question(world: World) -> None:
    world.repository.SCAN_SIZE = 3
    world.fill(8)
    export = world.repository.export("things", {"name": "n1", "sort": "-id"}, "ndjson")
    records = [json.loads(line) for block in export.blocks for line in block.splitlines()]
    assert [record["id"] for record in records] == [7, 4, 1]
    text = b"".join(world.repository.export("things", {}, "csv").blocks).decode()
    assert [line.partition(",")[0] for line in text.splitlines()] == ["id", *map(str, range(1, 9))]
    with pytest.raises(RecordInvalid) as raised:
        world.repository.export("things", {"page": "2", "colour": "red"}, "csv")
    assert pointers(raised) == ["/page", "/colour"]

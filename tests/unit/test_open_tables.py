"""Tables of collections: opened once, prepared once however many ask, closed when their collection is another."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from engines.base import Target
from engines.errors import CollectionMismatch, TargetProtected, TargetUnavailable
from engines.records.base import Condition, Decide, PageQuery, Prepared, RecordEngine, RecordTable, RecordWriter
from engines.records.fields import Row, Table, Value
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.collections import Collection, parse_collection
from service.connections import NamedConnections
from service.tables import OpenTables

SCHEMA = {"properties": {"id": {"type": "integer"}}}


class ShelfTable(RecordTable):
    """Counts what is done with it; `fault` is raised by whatever works on records, `away` by `prepare`."""

    def __init__(self) -> None:
        self.prepared = 0
        self.looked = 0
        self.closed = False
        self.fault: Exception | None = None
        self.away: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def prepare(self, *, change: bool = True) -> Prepared:
        assert self.go_on.wait(10)
        if self.away is not None:
            raise self.away
        if change:
            self.prepared += 1
        else:
            self.looked += 1
        return Prepared(created=True)

    def _work(self) -> None:
        if self.fault is not None:
            raise self.fault

    def page(self, query: PageQuery) -> list[Row]:
        self._work()
        return []

    def count(self, where: Sequence[Condition] = ()) -> int:
        self._work()
        return 0

    def get(self, key: Value) -> Row | None:
        self._work()
        return None

    def insert(self, row: Row) -> Row:
        self._work()
        return row

    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        self._work()
        return None, None

    def delete(self, keys: Sequence[Value]) -> int:
        self._work()
        return 0

    def scan(self, query: PageQuery, size: int = 1000) -> Iterator[list[Row]]:
        yield [(1,)]
        self._work()

    def writing(self, run: Run, *, whole: bool) -> AbstractContextManager[RecordWriter]:
        self._work()
        raise AssertionError

    def close(self) -> None:
        self.closed = True


class ShelfEngine(RecordEngine):
    kind: ClassVar[str] = "shelf"
    schemes: ClassVar[tuple[str, ...]] = ("shelf",)

    def __init__(self) -> None:
        self.opened: list[ShelfTable] = []

    def target(self, connection: str, url: str) -> Target:
        return Target(connection, self.kind, SecretStr(url), "here", None, "shelf")

    def into(self, target: Target, database: str) -> Target:
        raise NotImplementedError

    def refuse_table(self, table: Table) -> dict[str, str]:
        return {}

    def open_table(self, target: Target, table: Table) -> RecordTable:
        self.opened.append(ShelfTable())
        return self.opened[-1]


class Shelf:
    def __init__(self, **options: Any) -> None:
        self.engine = ShelfEngine()
        engines = EngineRegistry([self.engine])
        self.tables = OpenTables(NamedConnections({"left": "shelf://left"}, engines, **options), engines)

    @property
    def opened(self) -> list[ShelfTable]:
        return self.engine.opened


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def a_collection(name: str = "books", **changes: Any) -> Collection:
    return parse_collection(name, {"connection": "left", "key": "id", "schema": SCHEMA} | changes)


def test_a_table_is_opened_and_prepared_once(shelf: Shelf) -> None:
    books = a_collection()
    shelf.tables.table(books).page(PageQuery())
    assert [table.prepared for table in shelf.opened] == [0], "who only asks for the table does not make it"
    for _ in range(3):
        shelf.tables.prepared(books)
    assert [table.prepared for table in shelf.opened] == [1]
    shelf.tables.prepared(a_collection("papers"))
    assert [table.prepared for table in shelf.opened] == [1, 1]


def test_all_who_ask_while_it_is_prepared_wait_for_the_one_that_does_it(shelf: Shelf) -> None:
    books = a_collection()
    shelf.tables.table(books)
    shelf.opened[0].go_on.clear()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(shelf.tables.prepared, books) for _ in range(8)]
        assert not any(one.done() for one in asked)
        shelf.opened[0].go_on.set()
        assert len({id(one.result(10)) for one in asked}) == 1
    assert [table.prepared for table in shelf.opened] == [1]


def test_a_table_that_could_not_be_prepared_is_tried_again(shelf: Shelf) -> None:
    books = a_collection()
    shelf.tables.table(books)
    shelf.opened[0].away = TargetUnavailable("The server does not answer.")
    with pytest.raises(TargetUnavailable):
        shelf.tables.prepared(books)
    shelf.opened[0].away = None
    shelf.tables.prepared(books)
    assert [table.prepared for table in shelf.opened] == [1]


@pytest.mark.parametrize(
    "work",
    [
        lambda table: table.page(PageQuery()),
        lambda table: table.count(),
        lambda table: table.get(1),
        lambda table: table.insert((1,)),
        lambda table: table.change(1, lambda row: row),
        lambda table: table.delete([1]),
        lambda table: list(table.scan(PageQuery())),
        lambda table: table.writing(None, whole=False).__enter__(),
    ],
    ids=["page", "count", "get", "insert", "change", "delete", "scan", "writing"],
)
def test_a_table_that_turns_out_to_be_another_is_prepared_again(shelf: Shelf, work: Any) -> None:
    books = a_collection()
    table = shelf.tables.prepared(books)
    shelf.opened[0].fault = TargetUnavailable("The server does not answer.")
    with pytest.raises(TargetUnavailable):
        work(table)
    shelf.tables.prepared(books)
    assert shelf.opened[0].prepared == 1, "a server that is away says nothing about the table"
    shelf.opened[0].fault = CollectionMismatch("There is no table books.")
    with pytest.raises(CollectionMismatch):
        work(table)
    shelf.tables.prepared(books)
    assert shelf.opened[0].prepared == 2


def test_a_changed_collection_has_another_table_and_the_former_is_closed(shelf: Shelf) -> None:
    shelf.tables.prepared(a_collection())
    shelf.tables.prepared(a_collection(description="Changed."))
    assert [(table.prepared, table.closed) for table in shelf.opened] == [(1, True), (1, False)]


def test_only_tables_of_collections_that_are_still_so_stay_open(shelf: Shelf) -> None:
    books, papers, maps = (a_collection(name) for name in ("books", "papers", "maps"))
    for one in (books, papers, maps):
        shelf.tables.prepared(one)
    shelf.tables.retain([books, a_collection("papers", description="Changed.")])
    assert [table.closed for table in shelf.opened] == [False, True, True]
    shelf.tables.close()
    assert shelf.opened[0].closed


def test_a_declaration_is_tried_out_beside_the_tables_that_are_open(shelf: Shelf) -> None:
    shelf.tables.prepared(a_collection())
    for change in (False, True):
        assert shelf.tables.prepare(a_collection(description="Changed."), change=change) == Prepared(created=True)
    assert [(table.looked, table.prepared, table.closed) for table in shelf.opened] == [
        (0, 1, False),
        (1, 0, True),
        (0, 1, True),
    ]


def test_flexdbs_own_database_gets_no_table() -> None:
    own = Shelf(ledgers=("shelf://left",))
    for ask in (own.tables.prepared, own.tables.prepare):
        with pytest.raises(TargetProtected):
            ask(a_collection())
    assert not any(table.prepared or table.looked for table in own.opened)

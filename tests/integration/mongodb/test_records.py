"""Collections of documents that others made, and what documents can say that tables cannot."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from pymongo import MongoClient
from pymongo.database import Database

from engines.errors import CollectionMismatch, RecordRefused
from engines.mongodb import MongoEngine
from engines.mongodb.records import inline
from engines.records.base import Condition, PageQuery, RecordTable, Written
from engines.records.fields import Field, Row, Table
from engines.run import Run
from tests.mongodb import with_database

ID = Field("id", "integer", required=True)
NAME = Field("name", "text")
TABLE = Table("t", "id", (ID, NAME))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("01k0records", 1, tmp_path)


@pytest.fixture
def name() -> str:
    return f"flexdbtest_{secrets.token_hex(6)}"


@pytest.fixture
def database(mongodb_url: str, name: str) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        yield client[name]
        client.drop_database(name)


Open = Callable[[Table], RecordTable]


@pytest.fixture
def opened(mongodb_url: str, name: str, database: Database[dict[str, Any]]) -> Iterator[Open]:
    engine = MongoEngine()
    target = engine.target("shop", with_database(mongodb_url, name))
    with ExitStack() as stack:
        yield lambda table: stack.enter_context(closing(engine.open_table(target, table)))


def test_documents_of_others_are_read_and_keep_what_no_field_names(
    database: Database[dict[str, Any]], opened: Open, run: Run
) -> None:
    moment = datetime(2024, 1, 1, 12, 30, 0, 5000, tzinfo=UTC)
    database["t"].insert_many(
        [
            {"id": 1, "born": datetime(1980, 2, 29, tzinfo=UTC), "at": moment, "price": 2.5},
            {"id": 2, "price": Decimal128("1.5"), "more": {"deep": [1]}, "tags": [{"a": ObjectId("0" * 24)}, 1.0]},
            {"id": Int64(3), "price": 7, "born": None, "tags": "plain"},
        ]
    )
    fields = (
        ID,
        Field("born", "date"),
        Field("at", "timestamp"),
        Field("price", "decimal", precision=10, scale=2),
        Field("tags", "json"),
    )
    table = opened(Table("t", "id", fields))
    found = table.prepare()
    assert not found.created
    assert len(found.notes) == 2, "dates of the database's own type are told"
    assert table.page(PageQuery()) == [
        (1, date(1980, 2, 29), moment, Decimal("2.50"), None),
        (2, None, None, Decimal("1.50"), '[{"a":"000000000000000000000000"},1.0]'),
        (3, None, None, Decimal("7.00"), '"plain"'),
    ]
    before, _ = table.change(2, lambda row: row and (*row[:3], Decimal("9.00"), row[4]))
    assert before is not None
    with table.writing(run, whole=False) as writer:
        assert writer.write([(3, None, None, Decimal("7.10"), "{}")]) == Written(updated=1)
    assert database["t"].find_one({"id": 2}, {"_id": 0, "more": 1, "price": 1}) == {
        "price": Decimal128("9.00"),
        "more": {"deep": [1]},
    }
    assert table.count((Condition("price", "gte", Decimal("7.1")),)) == 2


BAD: dict[str, list[dict[str, Any]]] = {
    "a key twice": [{"id": 1}, {"id": 1}],
    "no key": [{"id": 1}, {"name": "a"}],
    "a null key": [{"id": None}],
    "another kind": [{"id": 1, "name": 5}],
    "another kind of key": [{"id": "1"}],
}


def test_a_number_that_is_none_is_told(database: Database[dict[str, Any]], opened: Open) -> None:
    table = opened(Table("t", "id", (Field("id", "integer", required=True), Field("f", "float"))))
    table.prepare()
    for value in (float("nan"), float("inf")):
        database["t"].delete_many({})
        database["t"].insert_one({"id": 1, "f": value})
        with pytest.raises(CollectionMismatch, match="'f'"):
            table.get(1)


@pytest.mark.parametrize("bad", BAD)
def test_documents_that_do_not_fit_are_told(database: Database[dict[str, Any]], opened: Open, bad: str) -> None:
    database["t"].insert_many([dict(document) for document in BAD[bad]])
    for change in (False, True):
        with pytest.raises(CollectionMismatch):
            opened(TABLE).prepare(change=change)


def test_a_collection_with_another_order_or_index_is_not_taken(
    database: Database[dict[str, Any]], opened: Open
) -> None:
    database["t"].create_index("id")
    with pytest.raises(CollectionMismatch, match="index"):
        opened(TABLE).prepare()
    database.create_collection("u", collation={"locale": "en", "strength": 2})
    with pytest.raises(CollectionMismatch, match="collation"):
        opened(Table("u", "id", (ID,))).prepare()


def test_the_key_may_be_the_documents_own(database: Database[dict[str, Any]], opened: Open, run: Run) -> None:
    table = opened(Table("t", "_id", (Field("_id", "text", required=True), NAME)))
    table.prepare()
    with table.writing(run, whole=False) as writer:
        assert writer.write([("a", "x"), ("b", None)]) == Written(inserted=2)
        assert writer.write([("a", "x"), ("b", "y")]) == Written(updated=1, unchanged=1)
    assert list(database["t"].find()) == [{"_id": "a", "name": "x"}, {"_id": "b", "name": "y"}]
    assert table.get("b") == ("b", "y")


def test_a_change_sees_another_inside_an_array(database: Database[dict[str, Any]], opened: Open) -> None:
    """A plain comparison finds an array inside an array, and would take what was changed for what was read."""
    table = opened(Table("t", "id", (ID, Field("list", "json"))))
    table.prepare()
    table.insert((1, "[1]"))
    seen: list[Row | None] = []

    def append(row: Row | None) -> Row:
        seen.append(row)
        if len(seen) == 1:
            database["t"].update_one({"id": 1}, {"$set": {"list": [[1], 2]}})
        assert row is not None
        return (1, json.dumps([*json.loads(row[1]), 3]))

    assert table.change(1, append)[1] == (1, "[[1],2,3]")
    assert len(seen) == 2


def test_what_would_be_found_again_as_something_else_is_refused(opened: Open, run: Run) -> None:
    table = opened(Table("t", "id", (ID, NAME, Field("price", "decimal"))))
    table.prepare()
    bad: list[Row] = [(1, "\ud800", None), (2, None, Decimal("1." + "1" * 34)), (3, "x" * (17 << 20), None)]
    with table.writing(run, whole=False) as writer:
        written = writer.write([*bad, (4, "good", Decimal("1.10"))])
    assert (written.inserted, [refusal.index for refusal in written.refused]) == (1, [0, 1, 2])
    for row in bad:
        with pytest.raises(RecordRefused):
            table.insert(row)
    with pytest.raises(RecordRefused):
        table.count((Condition("name", "eq", "\ud800"),))


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


@pytest.mark.parametrize(
    ("text", "is_document"),
    [
        ('{"a":[1,-0.5,true,null,"x"],"b":{}}', True),
        ("[1e400,0.1234567890123456789012345678901234,123456789012345678901234567890]", True),
        ("[1.0000000000000000000000000000000000000001]", False),
        (f"[{'9' * 5000}]", False),
        (f"[1.{'9' * 5000}]", False),
        ('{"a":1,"a":2}', False),
        ('{"$where":"1"}', False),
        ('[{"a.b":1}]', False),
        ('{"a\\u0000":1}', False),
        ('["\\ud800"]', False),
        ("[" * 5000 + "]" * 5000, False),
    ],
)
def test_json_is_a_document_only_where_that_says_the_same(text: str, is_document: bool) -> None:
    stored = inline.into(text)
    assert isinstance(stored, (dict, list)) == is_document
    back = inline.out_of(stored)
    if is_document:
        assert exactly(back) == exactly(text)
    else:
        assert back == text


def test_given_keys_go_past_those_that_others_have_brought(
    database: Database[dict[str, Any]], opened: Open, run: Run
) -> None:
    table = opened(Table("t", "id", (ID, NAME), generated=True))
    table.prepare()
    assert table.insert((None, "a")) == (1, "a")
    database["t"].insert_many([{"id": number} for number in range(2, 9)])
    assert table.insert((None, "b")) == (9, "b")
    with table.writing(run, whole=False) as writer:
        writer.write([(40, "c")])
    assert table.insert((None, "d")) == (41, "d")


def test_a_dropped_collection_is_missed(database: Database[dict[str, Any]], opened: Open, run: Run) -> None:
    table = opened(TABLE)
    with pytest.raises(CollectionMismatch):
        table.insert((1, "a"))
    assert database.list_collection_names() == []
    table.prepare()
    table.insert((1, "a"))
    database.drop_collection("t")
    with pytest.raises(CollectionMismatch), table.writing(run, whole=False):
        pass
    assert table.prepare().created
    assert table.page(PageQuery()) == []

"""The benchmarks are listed where people look for them, and the server that replays behaves as MongoDB does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo import CursorType, MongoClient
from pymongo.errors import OperationFailure

from benchmarks.__main__ import BENCHMARKS
from benchmarks.mongodb_documents import COLLECTIONS, DATABASE, encoded
from benchmarks.mongodb_server import replaying

ROOT = Path(__file__).parents[2]
DOCUMENTS, REPEAT = 900, 3


@pytest.fixture(scope="module")
def client() -> Iterator[MongoClient[Any]]:
    with replaying(DOCUMENTS, REPEAT) as url, MongoClient[Any](url) as client:
        yield client


def test_the_table_lists_every_benchmark() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "benchmarks" / "README.md").read_text(), re.MULTILINE)
    assert listed == list(BENCHMARKS)


def test_make_help_names_every_benchmark() -> None:
    text = (ROOT / "Makefile").read_text()
    assert set(BENCHMARKS) <= set(re.findall(r"\w+", text))


@pytest.mark.parametrize("batch", [1, 7, 100, 1000, None])
@pytest.mark.parametrize("kind", [CursorType.NON_TAILABLE, CursorType.EXHAUST])
def test_a_find_gives_every_document_as_often_as_asked(client: MongoClient[Any], batch: int | None, kind: int) -> None:
    options = {} if batch is None else {"batch_size": batch}
    found = b"".join(client[DATABASE]["orders"].find_raw_batches(cursor_type=kind, **options))
    assert found == b"".join(encoded("orders", DOCUMENTS // len(COLLECTIONS))) * REPEAT


def test_a_batch_is_as_large_as_asked(client: MongoClient[Any]) -> None:
    batches = client[DATABASE]["orders"].find_raw_batches(batch_size=90)
    assert [len(bson.decode_all(one)) for one in batches] == [90, 90, 90, 30] * REPEAT


def test_what_is_inserted_is_counted_and_gone_when_dropped(client: MongoClient[Any]) -> None:
    raw = [RawBSONDocument(one) for one in encoded("orders", 50)]
    client["elsewhere"]["copies"].insert_many(raw, ordered=False)
    client["elsewhere"]["copies"].create_index("number")
    assert client["elsewhere"]["copies"].count_documents({}) == 50
    assert set(client["elsewhere"]["copies"].index_information()) == {"_id_", "number_1"}
    assert client["elsewhere"].list_collection_names() == ["copies"]
    client.drop_database("elsewhere")
    assert client.list_database_names() == [DATABASE]


def test_a_command_it_does_not_know_is_refused(client: MongoClient[Any]) -> None:
    with pytest.raises(OperationFailure, match="no such command"):
        client.admin.command("fsync")

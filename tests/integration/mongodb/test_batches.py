"""Reading a collection by plain commands gives what the driver's own cursor gives, and leaves nothing on the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from engines.mongodb.batches import BATCH, Find
from tests.mongodb import with_database

NUMBER = 2 * BATCH + 345


class Heard(CommandListener):
    """The names of the commands that were sent, and their sessions."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sessions: set[bytes] = set()

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in {"find", "getMore", "killCursors"}:
            self.names.append(event.command_name)
            self.sessions.add(event.command["lsid"]["id"])

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def numbers(mongodb_url: str, heard: Heard) -> Iterator[Collection[dict[str, Any]]]:
    url = with_database(mongodb_url, "flexdb_test_batches")
    with MongoClient[dict[str, Any]](url, event_listeners=[heard]) as client:
        found = client.get_default_database()["numbers"]
        found.drop()
        found.insert_many([{"_id": number, "text": "ü" * (number % 50)} for number in range(NUMBER)])
        yield found
        client.drop_database(found.database.name)


def test_the_same_documents_in_the_same_order(numbers: Collection[dict[str, Any]]) -> None:
    read = list(Find(numbers, natural=True).batches())
    assert b"".join(documents for documents, _ in read) == b"".join(numbers.find_raw_batches())  # type: ignore[arg-type]  # the driver's annotation says documents
    assert [number for _, number in read] == [BATCH, BATCH, 345]


def test_one_session_for_all_of_a_reading(numbers: Collection[dict[str, Any]], heard: Heard) -> None:
    assert sum(number for _, number in Find(numbers).batches()) == NUMBER
    assert heard.names == ["find", "getMore", "getMore"]
    assert len(heard.sessions) == 1


def test_a_reading_that_is_left_early_leaves_no_cursor(numbers: Collection[dict[str, Any]], heard: Heard) -> None:
    reading = Find(numbers).batches()
    next(reading)
    reading.close()
    assert heard.names == ["find", "killCursors"]


def test_an_empty_collection_gives_nothing(numbers: Collection[dict[str, Any]]) -> None:
    numbers.delete_many({})
    assert list(Find(numbers).batches()) == []
    assert list(Find(numbers.database["absent"]).batches()) == []


def test_a_query_chooses(numbers: Collection[dict[str, Any]]) -> None:
    ((_, number),) = Find(numbers, {"_id": {"$lt": 7}}).batches()
    assert number == 7


def test_where_several_servers_may_answer_the_drivers_cursor_reads(numbers: Collection[dict[str, Any]]) -> None:
    elsewhere = numbers.with_options(read_preference=ReadPreference.NEAREST)
    read = list(Find(elsewhere).batches())
    assert b"".join(documents for documents, _ in read) == b"".join(numbers.find_raw_batches())  # type: ignore[arg-type]  # the driver's annotation says documents

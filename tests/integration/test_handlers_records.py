"""The operation `records`: many upserts or deletes by one event."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.errors import RecordRefused, TargetProtected
from handlers.collections.repository import Repository
from handlers.records import RecordsHandler
from service.connections import NamedConnections
from service.tables import OpenTables
from tests.integration.handler_world import HandlerWorld, shown
from tests.integration.supplied import DictCollections


class RecordsWorld(HandlerWorld):
    """The ready collections, on a connection of their own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "records.sqlite"
        sqlite3.connect(self.file).close()
        super().__init__(folder, records=f"sqlite:///{self.file}")
        self.collections = DictCollections.ready("records")
        self.tables = OpenTables(self.connections, self.engines)
        handler = RecordsHandler(self.connections, self.engines, self.collections, self.tables)
        self.handlers = {**self.handlers, "records": handler}
        self.repository = Repository(self.collections, self.tables, self.connections)

    def names(self) -> dict[str, str]:
        page = self.repository.page("customers", {})
        return {one["customer_id"]: one["first_name"] for one in json.loads(page.encode())}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RecordsWorld]:
    made = RecordsWorld(tmp_path)
    yield made
    made.tables.close()


def customer(number: int, name: str = "Ann", **more: Any) -> dict[str, Any]:
    return {"customer_id": f"C{number}", "first_name": name, "last_name": "Lee", "email": "a@b.c", **more}


def test_records_are_upserted_by_their_key_and_doing_it_twice_changes_nothing(world: RecordsWorld) -> None:
    first: dict[str, Any] = {"collection": "customers", "records": [customer(1), customer(2, account_balance=12.5)]}
    done = shown(world.ask("records", **first))
    assert (done["inserted"], done["updated"], done["unchanged"], done["ids"]) == (2, 0, 0, ["C1", "C2"])
    again = shown(world.ask("records", **first))
    assert (again["inserted"], again["updated"], again["unchanged"]) == (0, 0, 2)
    third = shown(world.ask("records", collection="customers", records=[customer(1, "Bob"), customer(3), customer(3)]))
    assert [third[name] for name in ("records", "repeated", "inserted", "updated", "unchanged")] == [3, 1, 1, 1, 0]
    assert world.names() == {"C1": "Bob", "C2": "Ann", "C3": "Ann"}


def test_of_one_key_in_one_event_the_last_record_counts(world: RecordsWorld) -> None:
    world.ask("records", collection="customers", records=[customer(1, "first"), customer(2), customer(1, "last")])
    assert world.names() == {"C1": "last", "C2": "Ann"}


def test_records_are_deleted_by_key_or_by_an_object_that_has_it(world: RecordsWorld) -> None:
    world.ask("records", collection="customers", records=[customer(1), customer(2), customer(3)])
    gone: dict[str, Any] = {
        "collection": "customers",
        "action": "delete",
        "records": ["C1", {"customer_id": "C2"}, "C9"],
    }
    assert [shown(world.ask("records", **gone))["deleted"] for _ in range(2)] == [2, 0]
    assert world.names() == {"C3": "Ann"}


def test_what_is_wrong_is_told_by_record_and_field(world: RecordsWorld) -> None:
    bad = [customer(1), customer(2, email=None, colour=1), 7, {"customer_id": "C4"}]
    assert world.faults("records", collection="customers", records=bad) == [
        "/records/1/colour",
        "/records/1/email",
        "/records/2",
        "/records/3/first_name",
        "/records/3/last_name",
        "/records/3/email",
    ]
    assert world.faults("records", collection="gone", records=[1]) == ["/collection"]
    assert world.faults("records", collection="courses", records=[{"title": "SQL"}]) == ["/records/0/id"]
    assert world.faults("records", collection="courses", action="delete", records=["x", {}]) == [
        "/records/0",
        "/records/1/id",
    ]


def test_a_collection_on_a_connection_that_is_gone_is_told_before_the_work(world: RecordsWorld) -> None:
    document = {"connection": "gone", "key": "id", "schema": {"properties": {"id": {"type": "integer"}}}}
    world.collections.declare("things", document)
    assert world.faults("records", collection="things", records=[{"id": 1}]) == ["/collection"]


def test_the_job_is_about_the_connection_of_its_collection(world: RecordsWorld) -> None:
    handler = world.handlers["records"]
    request = handler.request_model.model_validate({"collection": "customers", "records": [1]})
    assert handler.connection(request) == "records" and handler.claims(request) == () and handler.writes


def test_one_record_the_database_does_not_take_stops_all_of_them(world: RecordsWorld) -> None:
    world.ask("records", collection="customers", records=[customer(1)])
    world.in_shop("CREATE UNIQUE INDEX one_phone ON customers (phone)", world.file)
    with pytest.raises(RecordRefused):
        world.ask("records", collection="customers", records=[customer(2, phone="1"), customer(3, phone="1")])
    assert world.names() == {"C1": "Ann"}


def test_own_files_are_never_written_to(world: RecordsWorld) -> None:
    world.connections = NamedConnections({"records": f"sqlite:///{world.file}"}, world.engines, protected=(world.file,))
    handler = RecordsHandler(world.connections, world.engines, world.collections, world.tables)
    world.handlers = {**world.handlers, "records": handler}
    with pytest.raises(TargetProtected):
        world.ask("records", collection="customers", records=[customer(1)])

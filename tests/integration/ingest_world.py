"""Ingest called as a plain function: a source that can be told what to do, a table in memory or a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from engines.errors import InvalidTarget, Stopped, UnknownCollection
from engines.records.base import PageQuery, RecordTable, RecordWriter, Refusal, Written
from engines.records.fields import Row, Table, Value
from engines.registry import EngineRegistry
from engines.run import Progress, Run, StopReason, StopToken
from engines.storage.local import LocalStore
from handlers.base import Outcome
from handlers.collections import Collection, parse_collection
from handlers.collections.ready import READY
from handlers.ingest import IngestHandler, IngestResult
from handlers.supplies import Feed, Fetcher, Rejected, Supplies
from service.connections import NamedConnections, NamedStores
from service.jobs import new_id
from service.tables import OpenTables

SMALL = {
    "key": "id",
    "schema": {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "name": {"type": ["string", "null"], "maxLength": 20},
            "price": {"type": ["number", "null"], "precision": 10, "scale": 2},
            "changed": {"type": ["string", "null"], "format": "date-time"},
            "active": {"type": ["boolean", "null"]},
            "ratio": {"type": ["number", "null"]},
        },
        "required": ["id"],
    },
}


def thing(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"thing {number}"} | more


def things(count: int, first: int = 1) -> list[dict[str, Any]]:
    return [thing(number) for number in range(first, first + count)]


class MemoryTable:
    """As much of a `RecordTable` as an ingest uses, in a dictionary."""

    def __init__(self, table: Table) -> None:
        self._key = table.key_position
        self.rows: dict[Value, Row] = {}
        self.groups: list[int] = []
        """How many rows each transaction had."""
        self.before_write: Callable[[Sequence[Row]], None] = lambda rows: None
        self.refuses: Callable[[Row], bool] = lambda row: False

    @contextmanager
    def writing(self, run: Run, *, whole: bool) -> Iterator[RecordWriter]:
        yield _MemoryWriter(self, run, whole=whole)

    def put(self, rows: Sequence[Row]) -> Written:
        self.groups.append(len(rows))
        refused = tuple(Refusal(at, "The table does not take it.") for at, row in enumerate(rows) if self.refuses(row))
        last = {row[self._key]: row for row in rows if not self.refuses(row)}
        inserted = sum(key not in self.rows for key in last)
        unchanged = sum(self.rows.get(key) == row for key, row in last.items())
        self.rows.update(last)
        return Written(inserted, len(last) - inserted - unchanged, unchanged, refused)


class _MemoryWriter(RecordWriter):
    def __init__(self, table: MemoryTable, run: Run, *, whole: bool) -> None:
        self._table, self._run, self._whole = table, run, whole
        self._staged: list[Row] = []

    def write(self, rows: Sequence[Row]) -> Written:
        self._table.before_write(rows)
        if not self._whole:
            return self._table.put(rows)
        self._staged += rows
        return Written()

    def finish(self) -> Written:
        self._run.confirm()
        return self._table.put(self._staged) if self._whole else Written()


@dataclass
class DictBookmarks:
    """`Bookmarks` without a ledger. `holds` false: the lease is lost."""

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[tuple[int, int], Rejected] = field(default_factory=dict)
    holds: bool = True

    def bookmark(self, key: str) -> dict[str, Any] | None:
        return self.kept.get(key)

    def keep(self, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected] = ()) -> None:
        if not self.holds:
            raise Stopped(StopReason.LEASE_LOST)
        self.kept[key] = value
        self.rejected |= {(one.page, one.position): one for one in rejected}


class _Named:
    """Collections, tables and feeds of a world."""

    def __init__(self, world: IngestWorld) -> None:
        self._world = world

    def names(self) -> list[str]:
        return sorted(self._world.collections)

    def collection(self, name: str) -> Collection:
        try:
            return self._world.collections[name]
        except KeyError:
            raise UnknownCollection(f"There is no collection {name!r}.") from None

    def table(self, collection: Collection) -> RecordTable:
        return cast(RecordTable, self._world.tables[collection.name])

    prepared = table

    def feed(self, name: str) -> Feed:
        try:
            return self._world.feeds[name]
        except KeyError:
            raise InvalidTarget(f"There is no feed {name!r}.") from None


class IngestWorld:
    """Collections `things` and `customers`, in memory unless there is a database."""

    def __init__(self, folder: Path, fetcher: Fetcher, url: str | None = None) -> None:
        """`url`: of a database, for real tables."""
        self.folder = folder
        engines = EngineRegistry.default()
        self.connections = NamedConnections({"db": url or "postgresql://nobody@127.0.0.1:1/nothing"}, engines)
        self.collections = {
            "things": parse_collection("things", SMALL | {"connection": "db"}),
            "customers": parse_collection("customers", {**READY["customers"], "connection": "db"}),
        }
        self.tables: dict[str, Any] = {name: MemoryTable(one.table) for name, one in self.collections.items()}
        self.feeds: dict[str, Feed] = {}
        self.bookmarks = DictBookmarks()
        self.store = LocalStore("default", folder / "storage")
        self.told: list[Progress] = []
        named = _Named(self)
        self.supplies = Supplies(
            connections=self.connections,
            stores=NamedStores({"default": self.store}),
            catalogue=cast(Any, None),
            engines=engines,
            version="0",
            collections=named,
            tables=named if url is None else OpenTables(self.connections, engines),
            feeds=named,
            fetcher=fetcher,
            bookmarks=self.bookmarks,
            stacks=cast(Any, None),
            cache=cast(Any, None),
        )
        self.handler = IngestHandler(self.supplies)

    def new_run(self, **changes: Any) -> Run:
        given: dict[str, Any] = {"listener": self.told.append, "stop": StopToken()}
        return Run(changes.pop("job_id", None) or new_id(), changes.pop("token", 1), self.folder, **(given | changes))

    def request(self, source: Any, collection: str = "things", **data: Any) -> Any:
        return self.handler.request_model.model_validate({"collection": collection, "source": source} | data)

    def ingest(self, source: Any, collection: str = "things", *, run: Run | None = None, **data: Any) -> IngestResult:
        """As the worker would: parsed, without faults, carried out."""
        request = self.request(source, collection, **data)
        faults = self.handler.faults(request)
        assert not faults, faults
        outcome: Outcome = self.handler.run(request, run or self.new_run())
        assert isinstance(outcome.result, IngestResult)
        return outcome.result

    def page(self, collection: str, limit: int = 1000) -> list[Row]:
        """Records of a real table, by their keys."""
        return self.supplies.tables.table(self.collections[collection]).page(PageQuery(limit=limit))

    @property
    def things(self) -> MemoryTable:
        return cast(MemoryTable, self.tables["things"])

    @property
    def reasons(self) -> Mapping[tuple[int, int], list[str]]:
        """Page and position to what is wrong there."""
        return {place: [reason["detail"] for reason in one.reasons] for place, one in self.bookmarks.rejected.items()}

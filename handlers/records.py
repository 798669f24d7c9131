"""Records: upsert or delete records of a collection."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from engines.errors import FlexError
from engines.records.base import RecordEngine, RecordTable, Written
from engines.records.fields import Row, Value
from engines.registry import EngineRegistry
from engines.run import Run
from handlers.base import Fault, Handler, Outcome, Request, Result
from handlers.collections.reading import Readers, RecordInvalid, RecordReader
from handlers.connections import connection_faults
from handlers.ports import Connections
from handlers.supplies import Collections, Tables

MOST_RECORDS = 10_000
"""In one event; it is kept in the ledger. What is more comes by an ingest."""
FAULTS_TOLD = 100


class RecordsRequest(Request):
    collection: str = Field(max_length=63)
    action: Literal["upsert", "delete"] = Field(default="upsert")
    records: list[Any] = Field(
        min_length=1, max_length=MOST_RECORDS, description="Records; to delete, keys or objects that have the key."
    )


class RecordsResult(Result):
    collection: str
    action: str
    records: int
    """How many the request had."""
    repeated: int
    """Of them, those whose key comes again later in the request: the last one counts."""
    inserted: int
    updated: int
    unchanged: int
    """They were there with these very values."""
    deleted: int
    ids: tuple[int | str, ...]
    """Keys, in the order of the request; the first ones when there are very many."""
    rejected: tuple[dict[str, Any], ...]
    """What the database itself did not take where it cannot write all or nothing: position and reason."""


class RecordsHandler(Handler[RecordsRequest]):
    operation = "records"
    request_model = RecordsRequest
    result_model = RecordsResult
    writes = True

    IDS_SHOWN = 500
    """Events stay small."""

    def __init__(
        self, connections: Connections, engines: EngineRegistry, collections: Collections, tables: Tables
    ) -> None:
        self._connections = connections
        self._engines = engines
        self._tables = tables
        self._readers = Readers(collections)

    def connection(self, request: RecordsRequest) -> str | None:
        try:
            return self._readers.reader(request.collection).collection.connection
        except FlexError:
            return None

    def faults(self, request: RecordsRequest) -> list[Fault]:
        try:
            reader = self._readers.reader(request.collection)
        except FlexError as error:
            return [Fault("/collection", f"{error.message} {error.hint}")]
        unusable = connection_faults(self._connections, collection=reader.collection.connection)
        if unusable:
            return unusable
        faults: list[Fault] = []
        for position, record in enumerate(request.records):
            if len(faults) >= FAULTS_TOLD:
                break
            try:
                _value(reader, request.action, record)
            except RecordInvalid as error:
                faults += [Fault(f"/records/{position}{one.pointer}", one.detail) for one in error.faults]
        return faults[:FAULTS_TOLD]

    def run(self, request: RecordsRequest, run: Run) -> Outcome:
        reader = self._readers.reader(request.collection)
        collection = reader.collection
        self._connections.guard_write(self._connections.target(collection.connection))
        table = self._tables.prepared(collection)
        run.progress("writing", 0, len(request.records), unit="records")
        values = [_value(reader, request.action, record) for record in request.records]
        at = collection.table.key_position
        keys = [row[at] for row in values] if request.action == "upsert" else values
        distinct = list(dict.fromkeys(keys))
        written, deleted = Written(), 0
        if request.action == "upsert":
            written = self._upserted(reader, table, values, run)
        else:
            run.confirm()
            deleted = table.delete(distinct)
        return Outcome(
            RecordsResult(
                collection=collection.name,
                action=request.action,
                records=len(values),
                repeated=len(values) - len(distinct),
                inserted=written.inserted,
                updated=written.updated,
                unchanged=written.unchanged,
                deleted=deleted,
                ids=tuple(reader.key_shown(key) for key in distinct[: self.IDS_SHOWN]),
                rejected=tuple({"position": one.index, "reason": one.reason} for one in written.refused),
            )
        )

    def _upserted(self, reader: RecordReader, table: RecordTable, rows: list[Row], run: Run) -> Written:
        """All of them in one transaction, where the engine has such."""
        target = self._connections.target(reader.collection.connection)
        whole = self._engines.for_target(target, RecordEngine, self.operation).writes_whole
        with table.writing(run, whole=whole) as writer:
            written = writer.write(rows)
            finished = writer.finish()
        return finished if whole else written


def _value(reader: RecordReader, action: str, record: Any) -> Value:
    """The row to be written, or the key to be deleted. Raises `RecordInvalid`."""
    if action == "delete":
        return reader.key_value(record)
    row = reader.record(record)
    table = reader.collection.table
    if row[table.key_position] is None:
        detail = "A record in an event brings its key, so that doing it twice is safe; POST one to be given a key."
        raise RecordInvalid([Fault(f"/{table.key}", detail)])
    return row

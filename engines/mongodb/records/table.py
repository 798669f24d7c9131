"""A table of records in a database of MongoDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from engines.base import Target
from engines.errors import UnsupportedOperation
from engines.mongodb.address import Address
from engines.mongodb.connection import Client, Document, opened
from engines.mongodb.records import pages
from engines.mongodb.records.place import COUNTERS, Place
from engines.mongodb.records.preparing import prepare
from engines.mongodb.records.single import Single
from engines.mongodb.records.values import row_of
from engines.mongodb.records.writer import PieceWriter
from engines.records.base import Condition, Decide, Order, PageQuery, Prepared, RecordTable, RecordWriter
from engines.records.fields import LARGEST_PRECISION, Row, Table, Value
from engines.run import Run

SNAPSHOTS_SINCE = 13
"""Wire version of MongoDB 5.0, the first that reads snapshots outside transactions."""
PREPARE_SECONDS = 3600.0


def refused(table: Table) -> dict[str, str]:
    """As `RecordEngine.refuse_table`."""
    found: dict[str, str] = {}
    if "." in table.name:
        found[""] = "A collection of MongoDB has no schema before its name."
    elif table.name == COUNTERS:
        found[""] = f"{COUNTERS!r} is FlexDB's own."
    for field in table.fields:
        is_key = field.name == table.key
        if field.name == "_id" and not is_key:
            found[field.name] = "_id is the key of every document; name it as the key, or leave it out."
        elif is_key and field.kind in {"json", "float"}:
            found[field.name] = f"A key is no {field.kind} here."
        elif is_key and table.generated and field.kind != "integer":
            found[field.name] = "A key that the database gives is an integer."
        elif (field.precision or 0) > LARGEST_PRECISION:
            found[field.name] = f"A decimal has at most {LARGEST_PRECISION} digits."
    return found


class MongoTable(RecordTable):
    def __init__(self, target: Target, table: Table) -> None:
        self._address = Address.of(target)
        self._table = table
        self._place = Place(self._address, table, self.STATEMENT_SECONDS)

    @contextmanager
    def _single(self) -> Iterator[Single]:
        with self._place.reached() as database:
            yield Single(database, self._place.documents(database), self._table, self._address)

    def prepare(self, *, change: bool = True) -> Prepared:
        self._place.forget()
        with self._place.reached(seconds=PREPARE_SECONDS) as database:
            return prepare(database, self._table, change=change)

    def page(self, query: PageQuery) -> list[Row]:
        if query.limit <= 0:
            return []
        with self._place.reached() as database:
            documents = self._place.documents(database)
            found = list(_sorted(documents, self._table, query, offset=query.offset, limit=query.limit))
        return [row_of(self._table.fields, document) for document in found]

    def count(self, where: Sequence[Condition] = ()) -> int:
        with self._place.reached() as database:
            return self._place.documents(database).count_documents(pages.matching(self._table, where))

    def get(self, key: Value) -> Row | None:
        with self._single() as single:
            return single.read(key)

    def insert(self, row: Row) -> Row:
        with self._single() as single:
            return single.insert(row)

    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        with self._single() as single:
            return single.change(key, decide, self.STATEMENT_SECONDS)

    def delete(self, keys: Sequence[Value]) -> int:
        with self._single() as single:
            return single.delete(keys)

    def scan(self, query: PageQuery, size: int = 1000) -> Iterator[list[Row]]:
        """By key in ranges, so that who reads slowly loses no cursor; another order by one cursor."""
        asked = replace(query, limit=size, offset=0, after=None)
        with self._place.unhurried() as (client, database), ExitStack() as stack:
            documents = self._place.documents(database)
            session = _snapshot(client, stack)
            if [one.field for one in pages.total_order(self._table, query.order)] == [self._table.key]:
                yield from self._ranges(documents, asked, session)
                return
            cursor = stack.enter_context(_sorted(documents, self._table, asked, batch=size, session=session))
            rows: list[Row] = []
            for document in cursor:
                rows.append(row_of(self._table.fields, document))
                if len(rows) == size:
                    yield rows
                    rows = []
            if rows:
                yield rows

    def _ranges(
        self, documents: Collection[Document], asked: PageQuery, session: ClientSession | None
    ) -> Iterator[list[Row]]:
        while True:
            found = list(_sorted(documents, self._table, asked, limit=asked.limit, session=session))
            if found:
                rows = [row_of(self._table.fields, document) for document in found]
                asked = replace(asked, after=rows[-1])
                yield rows
            if len(found) < asked.limit:
                return

    @contextmanager
    def writing(self, run: Run, *, whole: bool) -> Iterator[RecordWriter]:
        if whole:
            raise UnsupportedOperation(
                "MongoDB cannot be trusted to write many pages in one transaction: a server alone has none.",
                hint="Write page by page (an ingest: `commit` is `page`).",
            )
        with opened(self._address, run.application_name, stop=run.stop) as found:
            self._place.forget()
            documents = self._place.documents(found.database)
            yield PieceWriter(found, documents, self._table, run)

    def close(self) -> None:
        self._place.close()


def _snapshot(client: Client, stack: ExitStack) -> ClientSession | None:
    """A session whose reads are all of one moment, where the server has that: members of sets, and routers."""
    hello = client.admin.command("hello")
    in_set = "setName" in hello or hello.get("msg") == "isdbgrid"
    if not in_set or int(hello.get("maxWireVersion", 0)) < SNAPSHOTS_SINCE:
        return None
    return stack.enter_context(client.start_session(snapshot=True))


def _sorted(
    documents: Collection[Document],
    table: Table,
    query: PageQuery,
    *,
    offset: int = 0,
    limit: int = 0,
    batch: int = 0,
    session: ClientSession | None = None,
) -> Any:
    """A cursor over what a query finds, in its order."""
    order: list[Order] = pages.total_order(table, query.order)
    wanted = pages.page_filter(table, query)
    stages = pages.sort_stages(table, order)
    if stages is None:
        return documents.find(
            wanted,
            pages.projection(table),
            sort=pages.plain_sort(order),
            skip=offset,
            limit=limit,
            batch_size=batch,
            allow_disk_use=True,
            session=session,
        )
    pipeline = [{"$match": wanted}, *stages]
    pipeline += [{"$skip": offset}] if offset else []
    pipeline += [{"$limit": limit}] if limit else []
    pipeline.append({"$project": pages.projection(table)})
    return documents.aggregate(pipeline, allowDiskUse=True, batchSize=batch or None, session=session)

"""Pages and single records of collections: what the doors and the event handler call."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from engines.errors import CollectionMismatch
from engines.records.base import Condition, PageQuery, RecordTable, keyset_fits
from engines.records.fields import Row, Value
from handlers.base import Fault
from handlers.collections import Collection
from handlers.collections.exporting import Export, exported
from handlers.collections.preconditions import NO_CONDITIONS, Preconditions
from handlers.collections.questions import Question, anchor, asked, cursor_after
from handlers.collections.reading import Readers, RecordInvalid, RecordReader
from handlers.collections.remembering import Remembered
from handlers.ports import Connections
from handlers.supplies import Collections, Tables

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is stored."""

    reader: RecordReader
    row: Row

    @property
    def etag(self) -> str:
        """With its quotes, strong: another one after every change of the record."""
        return self.reader.etag(self.row)

    @property
    def key(self) -> str:
        """As it stands in a URL, not yet percent-encoded."""
        return self.reader.key_text(self.row)

    def encode(self) -> bytes:
        """The JSON object."""
        return self.reader.encode_one(self.row)


@dataclass(frozen=True, slots=True)
class RecordsPage:
    """One page. The answer is `{"data": page.encode(), "total", "page", "limit"}`."""

    reader: RecordReader
    rows: list[Row]
    total: int
    total_exact: bool
    """False: counted up to five seconds ago (only above 10,000)."""
    page: int
    """Counted from 1."""
    limit: int
    next: Mapping[str, str] | None
    """Parameters of the next page, None where there is none. With a `cursor` where that can be: such a page begins
    after the last record of this one, however deep it lies and whatever is added or removed before it."""
    previous: Mapping[str, str] | None

    def encode(self) -> bytes:
        """The JSON array of the records."""
        return self.reader.encode(self.rows)


@dataclass(frozen=True, slots=True)
class Change:
    """What a write did."""

    record: Record
    created: bool
    changed: bool
    """False: the record was exactly so before."""


class Repository:
    """Everything raises from `engines.errors`, and besides `RecordInvalid` (HTTP's 422, with a JSON pointer per fault:
    into the body for what came in a body, `/limit` and the like for parameters) and `PreconditionFailed` (412).

    Safe in any thread; calls block for the database. `key` is the text of a URL's segment, percent-decoded.
    Writes make the collection's table when it is not there; reads of such a collection find nothing.
    """

    COUNTED_ALWAYS = 10_000
    """A total up to this is counted for each page; a larger one may be `COUNT_SECONDS` old."""
    COUNT_SECONDS = 5.0
    ANCHOR_SECONDS = 30.0
    """For so long the page after one that was read begins after its last record, not by counting from the start."""
    MOST_ANCHORS = 10_000
    SCAN_SIZE = 1000

    def __init__(
        self,
        collections: Collections,
        tables: Tables,
        connections: Connections,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables = tables
        self._connections = connections
        self._readers = Readers(collections)
        self._writes: Counter[str] = Counter()
        self._totals: Remembered[tuple[str, int, tuple[Condition, ...]], int] = Remembered(
            self.COUNT_SECONDS, 1000, clock
        )
        self._anchors: Remembered[tuple[str, int], Row] = Remembered(self.ANCHOR_SECONDS, self.MOST_ANCHORS, clock)

    def reader(self, name: str) -> RecordReader:
        """Of a collection as it is declared now. Raises `UnknownCollection`."""
        return self._readers.reader(name)

    def changed(self, name: str) -> None:
        """Somebody wrote to the collection past this object: its totals are counted anew."""
        self._writes[name] += 1

    # -- reading

    def page(self, name: str, params: Mapping[str, str]) -> RecordsPage:
        """Parameters: `page` (1), `limit` (50, at most 500), `sort=FIELD,-FIELD2`, `cursor` (from `next`, instead of
        `page`), and conditions on fields: `FIELD=value`, `FIELD[ne]=`, `[gt]`, `[gte]`, `[lt]`, `[lte]`,
        `FIELD[null]=true|false`; `FIELD[eq]=` for fields named like a parameter."""
        reader = self.reader(name)
        question = asked(reader, params)
        query = self._query(reader, question)
        nothing: list[Row] = []
        rows = self._reading(reader.collection, lambda table: table.page(query), nothing)
        if query.offset and query.offset < question.offset:
            self._remember_before(reader, question, rows[:1])
            rows = rows[1:]
        more, rows = len(rows) > question.limit, rows[: question.limit]
        total, exact = self._total(reader.collection, question, query, rows, more=more)
        if question.after is None and question.offset >= total:
            more, rows = False, []  # so many are gone that what lies behind the remembered record was on earlier pages
        onward = self._next(reader, question, rows[-1]) if more else None
        previous = None if question.page == 1 else {**question.base, "page": str(question.page - 1)}
        return RecordsPage(reader, rows, total, exact, question.page, question.limit, onward, previous)

    def _query(self, reader: RecordReader, question: Question) -> PageQuery:
        """One record more than the page holds, to see whether there is a next one; and the one before it, where that
        lets the page be found without counting the next time."""
        after, offset, limit = question.after, 0 if question.after else question.offset, question.limit + 1
        if after is None and offset:
            after = self._anchors.get((question.fingerprint, question.page - 1))
            if after:
                offset = 0
            elif offset > 1 and keyset_fits(reader.collection.table, question.order):
                offset, limit = offset - 1, limit + 1
        return PageQuery(question.where, question.order, limit, offset, after)

    def _remember_before(self, reader: RecordReader, question: Question, rows: list[Row]) -> None:
        for row in rows:
            found = anchor(reader.collection.table, question, row)
            self._anchors.put((question.fingerprint, question.page - 1), found)

    def _next(self, reader: RecordReader, question: Question, last: Row) -> dict[str, str]:
        table = reader.collection.table
        if keyset_fits(table, question.order):
            self._anchors.put((question.fingerprint, question.page), anchor(table, question, last))
        cursor = cursor_after(table, question, last)
        if cursor is None:
            return {**question.base, "page": str(question.page + 1)}
        return {**question.base, "cursor": cursor}

    def _total(
        self, collection: Collection, question: Question, query: PageQuery, rows: list[Row], *, more: bool
    ) -> tuple[int, bool]:
        if query.after is None and not more and (rows or not query.offset):
            return question.offset + len(rows), True  # the last page tells
        key = (collection.digest, self._writes[collection.name], question.where)
        known = self._totals.get(key)
        if known is not None:
            return known, False
        total = self._reading(collection, lambda table: table.count(question.where), 0)
        if total > self.COUNTED_ALWAYS:
            self._totals.put(key, total)
        return total, True

    def get(self, name: str, key: str) -> Record | None:
        """None: there is no such record."""
        reader = self.reader(name)
        value = self._key(reader, key)
        if value is None:
            return None
        row = self._reading(reader.collection, lambda table: table.get(value), None)
        return None if row is None else Record(reader, row)

    def export(self, name: str, params: Mapping[str, str], form: str) -> Export:
        """All records of a query; `sort` and conditions as in `page`, no page and no limit. `form`: csv, ndjson,
        parquet. What is wrong with the question is raised here, not while it is read."""
        reader = self.reader(name)
        question = asked(reader, params, paged=False)
        query = PageQuery(question.where, question.order)
        return exported(reader, self._batches(reader.collection, query), form)

    def _batches(self, collection: Collection, query: PageQuery) -> Iterator[Sequence[Row]]:
        """The first batch is read now: what fails at once must fail before an answer begins."""

        def begun(table: RecordTable) -> Iterator[Sequence[Row]]:
            batches = table.scan(query, self.SCAN_SIZE)
            first = next(batches, None)
            return iter(()) if first is None else itertools.chain([first], batches)

        return self._reading(collection, begun, iter(()))

    def _reading(self, collection: Collection, ask: Callable[[RecordTable], T], nothing: T) -> T:
        """`nothing` when there is no table; columns that the collection gained are added first."""
        table = self._tables.table(collection)
        try:
            return ask(table)
        except CollectionMismatch:
            state = table.prepare(change=False)
            if state.created:
                return nothing
            if not state.added:
                raise
        return ask(self._prepared(collection))

    # -- writing

    def create(self, name: str, body: Any) -> Record:
        """`body`: the JSON object, decoded (best by `handlers.collections.reading.decode`). Raises `RecordExists`."""
        reader = self.reader(name)
        row = reader.record(body)
        stored = self._prepared(reader.collection).insert(row)
        self.changed(name)
        return Record(reader, stored)

    def replace(self, name: str, key: str, body: Any, conditions: Preconditions = NO_CONDITIONS) -> Change:
        """PUT: the record becomes this, made when it is not there. The key may be left out of the body."""
        reader = self.reader(name)
        value = reader.key_of(key)
        wanted = reader.keyed(body, value)

        def decide(before: Row | None) -> Row:
            conditions.check(None if before is None else reader.etag(before))
            return wanted

        change = self._change(reader, value, decide)
        if change is None:
            raise RuntimeError("an engine kept no record where one was decided")
        return change

    def patch(self, name: str, key: str, body: Any, conditions: Preconditions = NO_CONDITIONS) -> Change | None:
        """PATCH by JSON merge patch (RFC 7396): null empties a field. None: there is no such record."""
        reader = self.reader(name)
        value = self._key(reader, key)
        reader.given(body)  # what is wrong with it must show whatever the record is
        if value is None:
            conditions.check(None)
            return None
        self._refuse_other_key(reader, body, value)

        def decide(before: Row | None) -> Row | None:
            conditions.check(None if before is None else reader.etag(before))
            return None if before is None else reader.merged(before, body)

        return self._change(reader, value, decide)

    def remove(self, name: str, key: str, conditions: Preconditions = NO_CONDITIONS) -> bool:
        """Whether there was such a record."""
        reader = self.reader(name)
        value = self._key(reader, key)
        if value is None:
            conditions.check(None)
            return False

        def decide(before: Row | None) -> None:
            conditions.check(None if before is None else reader.etag(before))

        before, _ = self._prepared(reader.collection).change(value, decide)
        self.changed(name)
        return before is not None

    def _change(self, reader: RecordReader, key: Value, decide: Callable[[Row | None], Row | None]) -> Change | None:
        before, after = self._prepared(reader.collection).change(key, decide)
        self.changed(reader.collection.name)
        return None if after is None else Change(Record(reader, after), before is None, before != after)

    def _refuse_other_key(self, reader: RecordReader, body: Any, key: Value) -> None:
        name = reader.collection.table.key
        if name in body and reader.given({name: body[name]})[name] != key:
            raise RecordInvalid([Fault(f"/{name}", "The key of a record cannot be changed; make another record.")])

    @staticmethod
    def _key(reader: RecordReader, text: str) -> Value:
        """None for what can be no key of the collection: there is no such record."""
        try:
            return reader.key_of(text)
        except RecordInvalid:
            return None

    def _prepared(self, collection: Collection) -> RecordTable:
        self._connections.guard_write(self._connections.target(collection.connection))
        return self._tables.prepared(collection)

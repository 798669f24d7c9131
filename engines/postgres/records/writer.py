"""Upserting many rows: staged by COPY, brought in by transactions that count, refused rows found and told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from operator import lt
from typing import TypeVar

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case
from psycopg2.sql import SQL, Composable

from engines.errors import CollectionMismatch, RecordRefused
from engines.postgres.connection import Address, connect, execute, rows, using
from engines.postgres.records import faults
from engines.postgres.records.courier import Courier
from engines.postgres.records.definition import compare
from engines.postgres.records.encode import Stream
from engines.postgres.records.naming import split
from engines.postgres.records.session import TRIES, settle
from engines.postgres.records.shape import Shape, look
from engines.postgres.records.upsert import BEGIN, COUNTERS, STAGE, TURN, Statements
from engines.records.base import RecordWriter, Refusal, Written
from engines.records.fields import Row, Table, Value
from engines.run import Run

T = TypeVar("T")

_SETTINGS = (
    # temp_buffers: staged rows of a page stay out of files; lock_timeout: another writer of this table may take long;
    # random_page_cost: few rows are rather looked up by the index than the whole table read
    "SELECT set_config(name, value, false) FROM (VALUES ('temp_buffers', '64MB'), ('work_mem', '64MB'),"
    " ('lock_timeout', '300s'), ('random_page_cost', '1.1')) AS wanted (name, value)"
)
COPY_BYTES = 1 << 18
LYING_BYTES = 1 << 21
"""So many bytes of staged rows are passed over before they are cleared away; about as dear as that."""
UNSENDABLE = f"The record cannot be stored: {faults.NO_TEXT}."
DROPPED = "A trigger of the table did not take it."


@contextmanager
def writing(address: Address, table: Table, run: Run, *, whole: bool) -> Iterator[RecordWriter]:
    """A writer on a session of its own. Raises `CollectionMismatch` when there is no such table."""
    with using(connect(address, run.application_name), address, seconds=0, stop=run.stop) as opened:
        settle(opened, 0)
        execute(opened, _SETTINGS)
        shape = look(opened, table)
        if shape is None:
            raise CollectionMismatch(f"There is no table {table.name!r}.", hint="Prepare the collection first.")
        compare(table, shape)  # a column that somebody has narrowed meanwhile would round decimals without a word
        session = _Session(opened, address, table, shape, run)
        if not whole:
            yield PieceWriter(session)
            return
        with closing(WholeWriter(session)) as writer:
            yield writer


@dataclass(frozen=True, slots=True)
class _Session:
    """What both kinds of writer work with."""

    opened: Connection
    address: Address
    table: Table
    shape: Shape
    run: Run

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Errors as ours; a statement that was canceled because of a stop as that."""
        self.run.stop.check()
        try:
            yield
        except psycopg2.Error as error:
            self.run.stop.check()
            raise faults.of_records(error, self.address, self.table) from error

    def execute(self, statement: Composable | str, mark: int | None = None) -> int:
        """Rows touched."""
        with self.opened.cursor() as cursor:
            cursor.execute(statement, None if mark is None else {"mark": mark})
            return cursor.rowcount

    def counters(self) -> tuple[int, int]:
        """Rows inserted and updated; grows within a transaction."""
        inserted, updated = rows(self.opened, COUNTERS, (self.shape.oid, self.shape.oid))[0]
        return inserted, updated

    def copy(self, statements: Statements, stream: Stream, *, emptied: bool = False) -> None:
        """`emptied`: of what was staged before."""
        with self.opened.cursor() as cursor:
            while stream.format is not None:
                cursor.copy_expert(statements.copy(stream.format, emptied=emptied), stream, size=COPY_BYTES)
                emptied = False

    def feed(self, copy: Composable, source: Courier) -> None:
        with self.opened.cursor() as cursor:
            cursor.copy_expert(copy, source, size=COPY_BYTES)

    def transaction(self, work: Callable[[], T]) -> T:
        """All of `work` at one moment of the table; from the beginning when somebody else wrote the same keys."""
        return self._insisting(lambda alone: self._attempt(work, alone=alone))

    def merge(self, merging: Mapping[bool, str], mark: int) -> tuple[int, int]:
        """Rows inserted and updated, by a transaction of its own as above; `merging`: said `alone` or not."""
        return self._insisting(lambda alone: self._at_once(merging[alone], mark))

    def _insisting(self, attempt: Callable[[bool], T]) -> T:
        """Writers of one table take turns by an advisory lock, so they neither undo each other's work nor end in a
        deadlock; it is taken before, since what the transaction sees is what is there when it begins. Single changes
        by others may still collide: then, in the end, they are kept out (`alone`) for as long as it takes.
        """
        for left in reversed(range(TRIES)):
            try:
                return attempt(left < 2)
            except psycopg2.Error as error:
                if not left or not self._collided(error):
                    raise
            self.run.stop.check()
        raise AssertionError("the last attempt returns or raises")

    def _at_once(self, statement: str, mark: int) -> tuple[int, int]:
        try:
            inserted, updated, _ = rows(self.opened, statement, {"turn": self._name, "mark": mark})[0]
        except psycopg2.Error:
            if not self.opened.closed:
                if self.opened.info.transaction_status != TRANSACTION_STATUS_IDLE:
                    self.execute("ROLLBACK")
                self.execute("SELECT pg_advisory_unlock_all()")
            raise
        return inserted, updated

    def _attempt(self, work: Callable[[], T], *, alone: bool) -> T:
        with self._turn():
            self.execute(BEGIN)
            try:
                if alone:
                    self.execute(Statements(self.table, one=False).exclude_writers())
                done = work()
                self.execute("COMMIT")
            except BaseException:
                if not self.opened.closed:
                    self.execute("ROLLBACK")
                raise
        return done

    @contextmanager
    def _turn(self) -> Iterator[None]:
        rows(self.opened, SQL("SELECT pg_advisory_lock({})").format(TURN), {"turn": self._name})
        try:
            yield
        finally:
            if not self.opened.closed:
                rows(self.opened, "SELECT pg_advisory_unlock_all()")

    @property
    def _name(self) -> str:
        return ".".join(split(self.table.name))

    def _collided(self, error: psycopg2.Error) -> bool:
        """A key that is there though it was not seen was inserted meanwhile: the staged rows hold none twice."""
        ours = self.shape.unique.get(self.table.key, frozenset())
        return faults.collided(error) or (error.pgcode == faults.UNIQUE and error.diag.constraint_name in ours)

    def refuses(self, error: psycopg2.Error) -> bool:
        return faults.refused(error) and not self._collided(error)


class PieceWriter(RecordWriter):
    """Each `write` is a transaction."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._key = session.table.key_position
        self._statements = Statements(session.table, one=True)
        self._writes = 0
        self._lying = 0
        """Bytes of rows that are staged and of no use any more."""
        self._orphans = False
        """Whether the last sifting refused a row for want of another it refers to."""
        with session.translating():
            session.execute(self._statements.make_stage())
        self._merging = {
            alone: self._statements.at_once(session.shape.oid, alone=alone).as_string(session.opened)
            for alone in (False, True)
        }
        """Put together once, which takes as long as sending it."""

    def write(self, rows: Sequence[Row]) -> Written:
        if not rows:
            return Written()
        with self._session.translating():
            positions = latest([row[self._key] for row in rows])
            try:
                return self._upsert(rows, positions)
            except psycopg2.Error as error:
                if not self._session.refuses(error):
                    raise
            return self._session.transaction(lambda: self._sifted(rows, positions or range(len(rows))))

    def finish(self) -> Written:
        return Written()

    def _upsert(self, rows: Sequence[Row], positions: Sequence[int] | None) -> Written:
        """Staged before the transaction begins, so that others wait less for their turn."""
        stream = self._stage(rows, positions)
        if self._session.shape.merges:
            inserted, updated = self._session.merge(self._merging, self._writes)
            written = Written(inserted, updated, stream.sent - inserted - updated)
            return _refusing(written, _unsendable(stream), unsendable=len(stream.unsendable))
        return self._session.transaction(lambda: self._bring_in(rows, positions, stream))

    def _stage(self, rows: Sequence[Row], positions: Sequence[int] | None) -> Stream:
        self._writes += 1
        stream = Stream(rows, positions, self._writes)
        self._session.copy(self._statements, stream, emptied=self._lying > LYING_BYTES)
        self._lying = stream.bytes + (self._lying if self._lying <= LYING_BYTES else 0)
        return stream

    def _bring_in(self, rows: Sequence[Row], positions: Sequence[int] | None, stream: Stream) -> Written:
        written = bring_in(self._session, self._statements, stream.sent, self._writes)
        refused = _unsendable(stream)
        if self._session.shape.guarded:
            refused += self._dropped(rows, positions)
        return _refusing(written, refused, unsendable=len(stream.unsendable))

    def _dropped(self, rows: Sequence[Row], positions: Sequence[int] | None) -> list[Refusal]:
        keys = not_taken(self._session, self._statements, self._writes)
        if not keys:
            return []
        chosen = positions if positions is not None else range(len(rows))
        return [Refusal(position, DROPPED) for position in chosen if rows[position][self._key] in keys]

    def _sifted(self, rows: Sequence[Row], positions: Sequence[int]) -> Written:
        """The same, where rows are refused: halved until what is left is one of those."""
        self._session.execute("SET CONSTRAINTS ALL IMMEDIATE")
        self._empty()
        self._orphans = False
        total = _sum(list(self._sift(rows, positions)))
        while self._orphans:  # a row may refer to one that came in after it
            self._orphans = False
            again = _sum(list(self._sift(rows, [refusal.index for refusal in total.refused])))
            progress = len(again.refused) < len(total.refused)
            total = _sum([replace(total, refused=()), again])
            if not progress:
                break
        return replace(total, refused=tuple(sorted(total.refused, key=lambda refusal: refusal.index)))

    def _sift(self, rows: Sequence[Row], positions: Sequence[int]) -> Iterator[Written]:
        self._session.run.stop.check()
        self._session.execute("SAVEPOINT part")
        try:
            written = self._bring_in(rows, positions, self._stage(rows, positions))
        except psycopg2.Error as error:
            if not self._session.refuses(error):
                raise
            self._session.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
            if len(positions) == 1:
                self._orphans = self._orphans or error.pgcode == faults.NO_PARENT
                yield Written(refused=(Refusal(positions[0], self._reason(error)),))
                return
        else:
            self._empty()
            self._session.execute("RELEASE SAVEPOINT part")
            yield written
            return
        middle = len(positions) // 2
        yield from self._sift(rows, positions[:middle])
        yield from self._sift(rows, positions[middle:])

    def _empty(self) -> None:
        self._session.execute(SQL("TRUNCATE {}").format(STAGE))
        self._lying = 0

    def _reason(self, error: psycopg2.Error) -> str:
        return f"The database does not take it: {faults.reason(error, self._session.address)}."


class WholeWriter(RecordWriter):
    """Every `write` only adds to what is staged; memory does not grow here, and the server's is files after 64 MB.

    Rows are staged while the caller gets the next ones, so what the server says to them comes with a later call.
    """

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._key = session.table.key_position
        self._statements = Statements(session.table, one=False)
        self._writes = self._staged = 0
        self._highest: Value = None
        """Of the keys so far, as long as they came in ascending order: then none came twice."""
        self._ascending = True
        with session.translating():
            session.execute(self._statements.make_stage())
        self._courier = Courier(lambda format, source: session.feed(self._statements.copy(format), source))

    def write(self, rows: Sequence[Row]) -> Written:
        """Raises `RecordRefused` for what cannot even be staged."""
        if not rows:
            return Written()
        keys = [row[self._key] for row in rows]
        self._ascending = self._ascending and ascending(keys, self._highest)
        self._highest = keys[-1]
        stream = Stream(rows, None if self._ascending else latest(keys), self._writes)
        with self._session.translating():
            for format, block in stream.blocks():
                self._courier.send(format, block)
        if stream.unsendable:
            raise RecordRefused(f"The database does not take a record: {faults.NO_TEXT}; nothing was written.")
        self._writes += 1
        self._staged += stream.sent
        return Written()

    def finish(self) -> Written:
        run = self._session.run
        run.confirm()
        if not self._staged:
            return Written()
        with self._session.translating():
            self._courier.finish()
            self._drop_older()
            return self._session.transaction(self._bring_in)

    def close(self) -> None:
        self._courier.close()

    def _bring_in(self) -> Written:
        written = bring_in(self._session, self._statements, self._staged)
        if self._session.shape.guarded and not_taken(self._session, self._statements):
            raise RecordRefused("A trigger of the table did not take a record; nothing was written.")
        self._session.run.confirm()  # what was staged may be much, and took its time
        return written

    def _drop_older(self) -> None:
        if self._ascending or not rows(self._session.opened, self._statements.twice_staged()):
            return
        self._staged -= self._session.execute(self._statements.drop_older())


def bring_in(session: _Session, statements: Statements, staged: int, mark: int | None = None) -> Written:
    if session.shape.merges:
        before = session.counters()
        session.execute(statements.merge(), mark)
        inserted, updated = (now - then for now, then in zip(session.counters(), before, strict=True))
        return Written(inserted, updated, staged - inserted - updated)
    update = statements.update()
    updated = session.execute(update, mark) if update is not None else 0
    inserted = session.execute(statements.insert(), mark)
    return Written(inserted, updated, staged - inserted - updated)


def not_taken(session: _Session, statements: Statements, mark: int | None = None) -> set[Value]:
    """Keys that triggers kept out of the table."""
    parameters = None if mark is None else {"mark": mark}
    return {key for (key,) in rows(session.opened, statements.not_taken(), parameters)}


def latest(keys: Sequence[Value]) -> Sequence[int] | None:
    """Positions of the last of each key, in order; None: no key is there twice."""
    if ascending(keys, None):
        return None
    last = dict(zip(keys, range(len(keys)), strict=True))
    return None if len(last) == len(keys) else sorted(last.values())


def ascending(keys: Sequence[Value], above: Value) -> bool:
    """Whether each key is greater than the one before it, the first than `above`."""
    try:
        return (above is None or above < keys[0]) and all(map(lt, keys, islice(keys, 1, None)))
    except TypeError:  # a None among them, which the database will refuse
        return False


def _unsendable(stream: Stream) -> list[Refusal]:
    return [Refusal(position, UNSENDABLE) for position in stream.unsendable]


def _refusing(written: Written, refused: list[Refusal], *, unsendable: int) -> Written:
    """Rows that were sent and dropped were counted as unchanged; unsendable ones were not counted at all."""
    unchanged = written.unchanged - (len(refused) - unsendable)
    return Written(written.inserted, written.updated, unchanged, tuple(refused))


def _sum(parts: Sequence[Written]) -> Written:
    return Written(
        sum(part.inserted for part in parts),
        sum(part.updated for part in parts),
        sum(part.unchanged for part in parts),
        tuple(refusal for part in parts for refusal in part.refused),
    )

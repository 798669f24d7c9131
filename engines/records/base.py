"""What an engine with tables of records promises: pages, single records, bulk upserts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from engines.base import Engine, Target
from engines.records.fields import Row, Table, Value
from engines.run import Run

Comparison = Literal["eq", "ne", "lt", "lte", "gt", "gte"]


@dataclass(frozen=True, slots=True)
class Condition:
    """`eq` and `ne` with None ask for NULL and its opposite; `ne` a value finds NULLs too; the others never do."""

    field: str
    comparison: Comparison
    value: Value


@dataclass(frozen=True, slots=True)
class Order:
    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which records, in which order. The key is always the last to be ordered by, in the direction of the one before
    it, so the order is total.

    Order and comparison are the same on every engine: text by code points, case and trailing spaces count; NULLs come
    last in both directions.
    """

    where: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    """Without one: by the key, ascending."""
    limit: int = 50
    offset: int = 0
    after: Row | None = None
    """The record before the first one wanted, by keyset and not by counting; only where `keyset_fits`."""


def keyset_fits(table: Table, order: Sequence[Order]) -> bool:
    """Whether pages of this order can begin `after` a record: no ordering field may be NULL, all go one way."""
    required = {one.name for one in table.fields if one.required} | {table.key}
    return all(one.field in required for one in order) and len({one.descending for one in order}) <= 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found of a table, or done to it."""

    created: bool = False
    added: tuple[str, ...] = ()
    """Names of the columns that were added."""
    notes: tuple[str, ...] = ()
    """Sentences on what differs without harm: columns that no field names, and the like."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row the database itself did not take."""

    index: int
    """Position in what was handed to `write`."""
    reason: str
    """A sentence, without values of other rows and without secrets."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of rows. Of several with one key in one `write` the last counts, the others are in none of these."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    """They were there with these very values; they were not written again."""
    refused: tuple[Refusal, ...] = field(default=())


class RecordWriter(ABC):
    """Upserts by key. Every row brings its key."""

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> Written:
        """One at a time, or staged. In pieces: one transaction, on disk when it returns; rows that the database
        refuses are told and the others written. Whole: nothing is visible before `finish`, and all counts are 0;
        what the database says to rows that are staged may be raised by a later `write`, or by `finish`.
        """

    @abstractmethod
    def finish(self) -> Written:
        """Whole: all of it in one transaction, after `run.confirm()`; the counts of everything. `RecordRefused`: the
        database took one of the rows not, so nothing was written. In pieces: nothing more is done, counts are 0.
        """


Decide = Callable[[Row | None], Row | None]
"""Given a record, or None for none, says what it shall be, None for none. May be called again with a newer one;
what it raises ends the change with nothing done."""


class RecordTable(ABC):
    """One table of one target. Safe in any thread; keeps idle connections until it is closed.

    Everything raises from `engines.errors`; a statement takes at most `STATEMENT_SECONDS`, what has a `run` as long as
    that lets it. All but `prepare` expect the table to be there: `CollectionMismatch` when it is not.
    """

    STATEMENT_SECONDS: ClassVar[float] = 30.0

    @abstractmethod
    def prepare(self, *, change: bool = True) -> Prepared:
        """Make the table, or check it against its fields and add the columns it lacks; safe when several do so at
        once. With `change=False` it only looks: `Prepared(created=True)` then means that it would be made.

        Nothing is ever dropped or retyped. Raises `CollectionMismatch` for a column of another type or too narrow,
        a key that is not unique, a required column to be added without default while there are rows, a column that
        no field names and that takes no NULL and has no default.
        """

    @abstractmethod
    def page(self, query: PageQuery) -> list[Row]:
        """At most `query.limit` records."""

    @abstractmethod
    def count(self, where: Sequence[Condition] = ()) -> int:
        """Exactly how many records."""

    @abstractmethod
    def get(self, key: Value) -> Row | None: ...

    @abstractmethod
    def insert(self, row: Row) -> Row:
        """A new record, as it is stored: with the key the database gave it where it is generated and none was
        brought. Raises `RecordExists`, `RecordRefused`."""

    @abstractmethod
    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        """Read, decide and write one record so that nobody gets in between; before and after, as stored.

        The key of what `decide` returns is `key`. Raises `RecordRefused`.
        """

    @abstractmethod
    def delete(self, keys: Sequence[Value]) -> int:
        """In one transaction; how many were there."""

    @abstractmethod
    def scan(self, query: PageQuery, size: int = 1000) -> Iterator[list[Row]]:
        """All records of a query (its limit, offset and after are not read), `size` at a time; memory stays flat.

        One moment of the table where the engine can have that (all but MongoDB without snapshot reads)."""

    @abstractmethod
    def writing(self, run: Run, *, whole: bool) -> AbstractContextManager[RecordWriter]:
        """A writer with a session of its own, named after the job. Left by an exception, what was staged is gone."""

    @abstractmethod
    def close(self) -> None:
        """Close idle connections; what is being used is closed when it comes back."""


class RecordEngine(Engine):
    """Keeps tables of records."""

    writes_whole: ClassVar[bool] = True
    """Whether many pages can be written in one transaction."""

    @abstractmethod
    def refuse_table(self, table: Table) -> dict[str, str]:
        """What of a table this engine cannot have: field name (empty: the table) to reason. No I/O."""

    @abstractmethod
    def open_table(self, target: Target, table: Table) -> RecordTable:
        """No I/O."""

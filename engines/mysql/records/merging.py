"""Rows laid aside in a temporary table, and brought from there into the real one by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import pymysql

from engines.mysql.records.definition import LONGEST_KEY, column_type
from engines.mysql.records.sessions import DUPLICATE, refuses
from engines.mysql.records.shape import Shape, indexes_of_key
from engines.mysql.records.values import row_into
from engines.mysql.session import Session, execute, number_of, quoted, rows
from engines.records.base import Written
from engines.records.fields import Row

STAGE = "`flexdb staged`"
"""A name with a space is nobody's; the table is seen by its own session only."""
STATEMENT_BYTES = 1_000_000
TRIES = 20
ROOM = 4096
"""Bytes of a packet left for what is not rows."""

_INDEX = re.compile(r"for key '(?:[^']*\.)?([^'.]+)'$")

Words = Callable[[Exception], str]
"""What to tell of a row that the database refused."""
Placed = tuple[int, Row]
"""A row and its place among those that are written together."""


class MovedError(Exception):
    """Others added some of the rows between two of our statements."""


class Merging:
    """The statements for one table, in one session."""

    def __init__(self, opened: Session, shape: Shape) -> None:
        self._opened, self._shape = opened, shape
        table, key = shape.table, shape.table.key_position
        self._names = [f"c{position}" for position in range(len(table.fields))]
        self._own_indexes = set[str]() if shape.is_loose(key) else indexes_of_key(opened, table)
        self._largest = int(rows(opened, "SELECT @@max_allowed_packet")[0][0]) - ROOM
        self._row_mark = f"({', '.join(['%s'] * (len(table.fields) + 1))})"
        real = quoted(table.name)
        same_key = shape.equal(key, f"s.c{key}", "t.")
        self._lock = f"SELECT COUNT(*) FROM {STAGE} s STRAIGHT_JOIN {real} t ON {same_key}{{where}} FOR UPDATE"  # noqa: S608  names are quoted, values are parameters
        self._update = self._updating(real, same_key)
        self._insert = (
            f"INSERT INTO {real} ({', '.join(quoted(column.name) for column in shape.columns)})"  # noqa: S608  names are quoted, values are parameters
            f" SELECT {', '.join(self._new(position) for position in range(len(self._names)))}"
            f" FROM {STAGE} s LEFT JOIN {real} t ON {same_key}"
            f" WHERE t.{quoted(shape.columns[key].name)} IS NULL{{and_where}}"
        )

    def _new(self, position: int) -> str:
        name = f"s.c{position}"
        return f"COALESCE({name}, UTC_TIMESTAMP(6))" if self._shape.table.fields[position].stamped else name

    def _updating(self, real: str, same_key: str) -> str | None:
        """None: there is nothing but the key."""
        settings, equal = [], []
        for position, (field, column) in enumerate(zip(self._shape.table.fields, self._shape.columns, strict=True)):
            if position == self._shape.table.key_position:
                continue
            new, old = f"s.c{position}", f"t.{quoted(column.name)}"
            compared = f"CAST({new} AS JSON)" if column.type == "json" else new
            same = f"{self._shape.operand(position, 't.')} <=> {compared}"
            if field.stamped:
                settings.append(f"{old} = COALESCE({new}, {old})")
                equal.append(f"({new} IS NULL OR {same})")
            else:
                settings.append(f"{old} = {new}")
                equal.append(same)
        if not settings:
            return None
        return (
            f"UPDATE {STAGE} s STRAIGHT_JOIN {real} t ON {same_key} SET {', '.join(settings)}"  # noqa: S608  names are quoted, values are parameters
            f" WHERE NOT ({' AND '.join(equal)}){{and_where}}"
        )

    def make_stage(self) -> None:
        """In the order of the keys, so that all who merge lock rows in the same order."""
        table, parts = self._shape.table, ["position INT UNSIGNED NOT NULL"]
        for position, field in enumerate(table.fields):
            is_key = position == table.key_position
            type = f"VARCHAR({LONGEST_KEY})" if is_key and field.kind == "text" else column_type(field, long=True)
            parts.append(f"c{position} {type} {'NOT NULL' if is_key else 'NULL'}")
        parts += [f"PRIMARY KEY (c{table.key_position})", "KEY (position)"]
        execute(
            self._opened,
            f"CREATE TEMPORARY TABLE {STAGE} ({', '.join(parts)}) ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
            f" DEFAULT CHARACTER SET utf8mb4 COLLATE {self._shape.collation}",
        )

    def clear(self) -> None:
        execute(self._opened, f"DELETE FROM {STAGE}")  # noqa: S608  names are quoted, values are parameters

    def lay_aside(self, placed: Sequence[Placed]) -> dict[int, str]:
        """Of rows with one key the last stays. Gives the places of those that cannot be sent, and why."""
        refused: dict[int, str] = {}
        for statement in self._statements(placed, refused):
            execute(self._opened, statement)
        return refused

    def _statements(self, placed: Sequence[Placed], refused: dict[int, str]) -> Iterator[str]:
        begin = f"REPLACE INTO {STAGE} (position, {', '.join(self._names)}) VALUES "  # noqa: S608  names are quoted, values are parameters
        parts: list[str] = []
        size = 0
        with self._opened.cursor() as cursor:
            for place, row in placed:
                text = cursor.mogrify(self._row_mark, (place, *row_into(self._shape.table.fields, row)))
                try:
                    length = len(text) if text.isascii() else len(text.encode())
                except UnicodeEncodeError:
                    refused[place] = "A text holds characters that are no Unicode text."
                    continue
                if length > self._largest:
                    refused[place] = f"The record has {length} bytes, more than max_allowed_packet lets through."
                    continue
                if parts and size + length > min(self._largest, STATEMENT_BYTES):
                    yield begin + ",".join(parts)
                    parts, size = [], 0
                parts.append(text)
                size += length + 1
        if parts:
            yield begin + ",".join(parts)

    def merge(self, low: int | None = None, high: int | None = None) -> Written:
        """Everything laid aside, or what has its place in `[low, high)`; in the caller's transaction.

        What is there is locked first: it can neither change nor go before the commit. Whether the rest was inserted
        shows that nobody else has come in between; if somebody has, `MovedError`.
        """
        within = "" if low is None else f"s.position >= {low} AND s.position < {high}"
        where, and_where = (f" WHERE {within}", f" AND {within}") if within else ("", "")
        total = int(rows(self._opened, f"SELECT COUNT(*) FROM {STAGE} s{where}")[0][0])  # noqa: S608  names are quoted, values are parameters
        there = int(rows(self._opened, self._lock.format(where=where))[0][0])
        with self._opened.cursor() as cursor:
            updated = cursor.execute(self._update.format(and_where=and_where)) if there and self._update else 0
            inserted = cursor.execute(self._insert.format(and_where=and_where)) if there < total else 0
        if there + inserted != total:
            raise MovedError
        return Written(inserted=inserted, updated=updated, unchanged=there - updated)

    def merge_whole(self) -> Written:
        """Everything, or the error of the first row that the database refuses."""
        for _ in range(TRIES):
            execute(self._opened, "SAVEPOINT before_merge")
            try:
                return self.merge()
            except (pymysql.Error, MovedError) as error:
                if not self._met_others(error):
                    raise
                execute(self._opened, "ROLLBACK TO SAVEPOINT before_merge")  # what was locked stays so
        raise MovedError

    def merge_or_tell(self, low: int, high: int, refused: dict[int, str], words: Words) -> Written:
        """As `merge`, without the rows that the database refuses: they are found by halving, and told by place."""
        for _ in range(TRIES):
            execute(self._opened, "SAVEPOINT before_merge")
            try:
                return self.merge(low, high)
            except (pymysql.Error, MovedError) as error:
                met = self._met_others(error)
                if not met and not refuses(error):
                    raise
                execute(self._opened, "ROLLBACK TO SAVEPOINT before_merge")
                if not met:
                    last = error
                    break
        else:
            raise MovedError
        if high - low == 1:
            refused[low] = words(last)
            return Written()
        middle = (low + high) // 2
        return added(self.merge_or_tell(low, middle, refused, words), self.merge_or_tell(middle, high, refused, words))

    def _met_others(self, error: Exception) -> bool:
        """Whether others have just inserted one of our keys, which the next try finds there and locks."""
        if isinstance(error, MovedError):
            return True
        found = _INDEX.search(str(error.args[-1])) if number_of(error) == DUPLICATE else None
        return found is not None and found[1] in self._own_indexes


def added(one: Written, other: Written) -> Written:
    return Written(one.inserted + other.inserted, one.updated + other.updated, one.unchanged + other.unchanged)

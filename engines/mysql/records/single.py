"""One record at a time: read, made, changed, removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pymysql

from engines.errors import RecordExists, RecordRefused
from engines.mysql.address import Address
from engines.mysql.records.pages import columns, select
from engines.mysql.records.sessions import DUPLICATE, reason, refuses
from engines.mysql.records.shape import Shape
from engines.mysql.records.values import into, mark, row_into, row_out, unfit
from engines.mysql.session import Session, execute, number_of, quoted, rows
from engines.records.base import Decide
from engines.records.fields import Row, Value

TRIES = 20
AT_ONCE = 500
"""Keys of one statement."""


class Single:
    """Works in the session it is given; the caller has a transaction open for all but `read`."""

    def __init__(self, shape: Shape, address: Address) -> None:
        self._shape, self._address = shape, address
        self._table, self._key = shape.table, shape.table.key_position

    def read(self, opened: Session, key: Value, *, locked: bool = False) -> Row | None:
        condition, parameters = self._by_key(key)
        query = f"{select(self._shape)} WHERE {condition}{' FOR UPDATE' if locked else ''}"
        found = rows(opened, query, parameters)
        return row_out(self._table.fields, found[0]) if found else None

    def _by_key(self, key: Value) -> tuple[str, list[Any]]:
        field = self._table.fields[self._key]
        condition = self._shape.equal(self._key, mark(field, key))
        return condition, [into(field, key)] * self._shape.times_asked(self._key)

    def insert(self, opened: Session, row: Row) -> Row:
        """As stored. Raises `RecordExists`, `RecordRefused`."""
        self._refuse_unfit(row)
        try:
            key = self._inserted(opened, row)
        except pymysql.Error as error:
            if number_of(error) == DUPLICATE and self._taken(opened, row):
                raise RecordExists(f"There is a record with the key {row[self._key]!r} already.") from error
            raise self._refused(error) from error
        return self._stored(opened, key)

    def _inserted(self, opened: Session, row: Row) -> Value:
        marks = [
            "UTC_TIMESTAMP(6)" if field.stamped and value is None else "%s"
            for field, value in zip(self._table.fields, row, strict=True)
        ]
        given = [
            value for value, written in zip(row_into(self._table.fields, row), marks, strict=True) if written == "%s"
        ]
        text = f"INSERT INTO {quoted(self._table.name)} ({columns(self._shape)}) VALUES ({', '.join(marks)})"  # noqa: S608  names are quoted, values are parameters
        with opened.cursor() as cursor:
            cursor.execute(text, given)
            generated = cursor.lastrowid
        return generated if row[self._key] is None else row[self._key]

    def _taken(self, opened: Session, row: Row) -> bool:
        """Whether it was the key that is there already, and not another unique value. Seen under the lock that the
        failed insert left, so that one just committed is found."""
        return row[self._key] is not None and self.read(opened, row[self._key], locked=True) is not None

    def _stored(self, opened: Session, key: Value) -> Row:
        stored = self.read(opened, key)
        if stored is None:
            raise RecordRefused(
                "The record is not there as it was written: a trigger of the table has changed its key."
            )
        return stored

    def _refuse_unfit(self, row: Row) -> None:
        told = unfit(self._shape, row)
        if told is not None:
            raise RecordRefused(told)

    def _refused(self, error: pymysql.Error) -> Exception:
        return RecordRefused(f"The database refused: {reason(error, self._address)}") if refuses(error) else error

    def change(self, opened: Session, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        """The lock on a record keeps others from changing it; where none is, one that comes meanwhile is seen by the
        insert failing, and decided on anew."""
        for _ in range(TRIES):
            before = self.read(opened, key, locked=True)
            after = decide(before)
            if after is None:
                if before is not None:
                    self.delete(opened, [key])
                return before, None
            if before is not None:
                return before, self._updated(opened, key, before, after)
            try:
                return None, self.insert(opened, after)
            except RecordExists:
                continue
        raise RecordRefused(f"The record {key!r} comes and goes all the time.")

    def _updated(self, opened: Session, key: Value, before: Row, after: Row) -> Row:
        kept = [
            old if field.stamped and new is None else new
            for field, old, new in zip(self._table.fields, before, after, strict=True)
        ]
        self._refuse_unfit(tuple(kept))
        given = row_into(self._table.fields, tuple(kept))
        names = [column.name for column in self._shape.columns]
        other = [position for position in range(len(names)) if position != self._key]
        if not other:
            return before
        condition, parameters = self._by_key(key)
        settings = ", ".join(f"{quoted(names[position])} = %s" for position in other)
        text = f"UPDATE {quoted(self._table.name)} SET {settings} WHERE {condition}"  # noqa: S608  names are quoted, values are parameters
        try:
            execute(opened, text, [*(given[position] for position in other), *parameters])
        except pymysql.Error as error:
            raise self._refused(error) from error
        return self._stored(opened, key)

    def delete(self, opened: Session, keys: Sequence[Value]) -> int:
        """In the keys' own order, so that two who delete the same wait for each other instead of for ever."""
        field, gone = self._table.fields[self._key], 0
        wanted = sorted({key for key in keys if key is not None})
        for begin in range(0, len(wanted), AT_ONCE):
            some = wanted[begin : begin + AT_ONCE]
            condition = self._shape.among(self._key, [mark(field, key) for key in some])
            with opened.cursor() as cursor:
                try:
                    gone += cursor.execute(
                        f"DELETE FROM {quoted(self._table.name)} WHERE {condition}",  # noqa: S608  names are quoted, values are parameters
                        [into(field, key) for key in some] * self._shape.times_asked(self._key),
                    )
                except pymysql.Error as error:
                    raise self._refused(error) from error
        return gone

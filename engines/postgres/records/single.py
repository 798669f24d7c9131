"""One record at a time: read, inserted, changed so that nobody gets in between, deleted. Inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case
from psycopg2.sql import SQL, Composable, Identifier

from engines.errors import RecordExists, RecordRefused, TargetBusy
from engines.postgres.connection import execute, rows
from engines.postgres.records import faults
from engines.postgres.records.naming import all_shown, column, columns, parameter, parameters, split, table_name
from engines.postgres.records.shape import Shape
from engines.records.base import Decide
from engines.records.fields import Field, Row, Table, Value

RACES = 20
"""How often somebody else may be faster before it is given up."""


class Record:
    """Statements on single records of one table."""

    def __init__(self, opened: Connection, table: Table, shape: Shape) -> None:
        self._opened = opened
        self._table = table
        self._shape = shape

    def get(self, key: Value, *, lock: bool = False) -> Row | None:
        text = SQL("SELECT {} FROM {} WHERE {}").format(all_shown(self._table), table_name(self._table), self._is_key())
        found = rows(self._opened, text + SQL(" FOR UPDATE") if lock else text, (key,))
        return found[0] if found else None

    def insert(self, row: Row) -> Row:
        """Raises `RecordExists`, `RecordRefused`; `psycopg2.Error` for what is not about the key."""
        if row[self._table.key_position] is None:
            return self._insert_numbered(row)
        stored = self._insert(row)
        if stored is None:
            if self.get(row[self._table.key_position]) is None:
                raise _dropped_by_trigger()
            raise RecordExists(f"A record of {self._table.name!r} with this {self._table.key!r} is there already.")
        return stored

    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        for _ in range(RACES):
            before = self.get(key, lock=True)
            wanted = decide(before)
            if before is not None:
                return before, self._replace(key, before, wanted)
            if wanted is None:
                return None, None
            if (stored := self._insert(wanted)) is not None:
                return None, stored
            if self._shape.guarded and self.get(key) is None:
                raise _dropped_by_trigger()
        raise TargetBusy("Others inserted and deleted this record again and again.")

    def delete(self, keys: Sequence[Value]) -> int:
        """Locked in the order of the keys, so that two who delete the same ones do not wait for each other."""
        key = self._table.field(self._table.key)
        text = SQL(
            "WITH doomed AS (SELECT {key} FROM {table} WHERE {key} = ANY ({keys}) ORDER BY {key} FOR UPDATE)"
            " DELETE FROM {table} AS t USING doomed WHERE t.{key} = doomed.{key}"
        ).format(key=column(key), table=table_name(self._table), keys=parameters(key))
        with self._opened.cursor() as cursor:
            cursor.execute(text, (list(keys),))
            return cursor.rowcount

    def _is_key(self) -> Composable:
        key = self._table.field(self._table.key)
        return column(key) + SQL(" = ") + parameter(key)

    def _insert(self, row: Row) -> Row | None:
        """None: a record of this key is there, or a trigger took the row away."""
        text, values = self._insertion(self._table.fields, row)
        text += SQL(" ON CONFLICT ({}) DO NOTHING RETURNING {}").format(
            Identifier(self._table.key), all_shown(self._table)
        )
        found = rows(self._opened, text, values)
        return found[0] if found else None

    def _insert_numbered(self, row: Row) -> Row:
        fields = [field for field in self._table.fields if field.name != self._table.key]
        place = self._table.key_position
        text, values = self._insertion(fields, row[:place] + row[place + 1 :])
        text += SQL(" RETURNING ") + all_shown(self._table)
        for _ in range(RACES):
            execute(self._opened, "SAVEPOINT numbered")
            try:
                found = rows(self._opened, text, values)
            except psycopg2.Error as error:
                if not self._number_taken(error):
                    raise
                execute(self._opened, "ROLLBACK TO SAVEPOINT numbered")
                self._skip_taken_numbers()
                continue
            if not found:
                raise _dropped_by_trigger()
            return tuple(found[0])
        raise TargetBusy("Others took every number that the database gave for this record.")

    def _number_taken(self, error: psycopg2.Error) -> bool:
        ours = self._shape.unique.get(self._table.key, frozenset())
        return error.pgcode == faults.UNIQUE and error.diag.constraint_name in ours

    def _skip_taken_numbers(self) -> None:
        """Records that brought their own key left the sequence behind."""
        schema, name = split(self._table.name)
        quoted = SQL("{}").format(Identifier(schema, name)).as_string(self._opened)
        found = rows(self._opened, "SELECT pg_get_serial_sequence(%s, %s)", (quoted, self._table.key))
        if found[0][0] is None:
            raise RecordRefused(
                f"The default of the key {self._table.key!r} gives a value that is there already.",
                hint="Use an identity or serial column, or bring the key.",
            )
        text = SQL("SELECT setval(%s::regclass, greatest(nextval(%s::regclass), (SELECT max({}) FROM {})))").format(
            Identifier(self._table.key), table_name(self._table)
        )
        rows(self._opened, text, (found[0][0], found[0][0]))

    def _insertion(self, fields: Sequence[Field], row: Row) -> tuple[Composable, tuple[Any, ...]]:
        places: list[Composable] = []
        values: list[Any] = []
        for field, value in zip(fields, row, strict=True):
            if value is None and field.stamped:
                places.append(SQL("now()"))
            else:
                places.append(parameter(field))
                values.append(value)
        text = SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
            table_name(self._table), columns(fields), SQL(", ").join(places)
        )
        return text, tuple(values)

    def _replace(self, key: Value, before: Row, wanted: Row | None) -> Row | None:
        if wanted is None:
            execute(
                self._opened, SQL("DELETE FROM {} WHERE {}").format(table_name(self._table), self._is_key()), (key,)
            )
            return None
        changed = [
            (field, value)
            for field, value, was in zip(self._table.fields, wanted, before, strict=True)
            if field.name != self._table.key and value != was and not (field.stamped and value is None)
        ]
        if not changed:
            return before
        update = SQL("UPDATE {} SET {} WHERE {} RETURNING {}").format(
            table_name(self._table),
            SQL(", ").join([column(field) + SQL(" = ") + parameter(field) for field, _ in changed]),
            self._is_key(),
            all_shown(self._table),
        )
        found = rows(self._opened, update, (*(value for _, value in changed), key))
        if not found:
            raise _dropped_by_trigger()
        return tuple(found[0])


def _dropped_by_trigger() -> RecordRefused:
    return RecordRefused("A trigger of the table did not take the record.")

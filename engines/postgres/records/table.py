"""A table of records in PostgreSQL, as `engines.records` promises it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.errors import CollectionMismatch
from engines.postgres.connection import Address, connect, rows
from engines.postgres.records import definition, faults
from engines.postgres.records.pages import Query, Questions
from engines.postgres.records.session import APPLICATION_NAME, Sessions, settle
from engines.postgres.records.shape import Shape, look
from engines.postgres.records.single import Record
from engines.postgres.records.writer import writing
from engines.records.base import Condition, Decide, PageQuery, Prepared, RecordTable, RecordWriter
from engines.records.fields import Row, Table, Value
from engines.run import Run


class PostgresTable(RecordTable):
    def __init__(self, address: Address, table: Table) -> None:
        self._address = address
        self._table = table
        self._sessions = Sessions(address, table)
        self._shape: Shape | None = None
        """As last seen; what changes in it later is found when a statement fails, or at the next `prepare`."""

    def prepare(self, *, change: bool = True) -> Prepared:
        self._shape = None
        return self._sessions.write(lambda opened: definition.prepare(opened, self._table, change=change))

    def page(self, query: PageQuery) -> list[Row]:
        def asked(opened: Connection) -> list[Row]:
            return _rows(opened, self._questions(opened).page(query))

        return self._sessions.read(asked)

    def count(self, where: Sequence[Condition] = ()) -> int:
        def asked(opened: Connection) -> int:
            return int(_rows(opened, self._questions(opened).count(where))[0][0])

        return self._sessions.read(asked)

    def get(self, key: Value) -> Row | None:
        return self._sessions.read(lambda opened: self._record(opened).get(key))

    def insert(self, row: Row) -> Row:
        return self._sessions.write(lambda opened: self._record(opened).insert(row))

    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        return self._sessions.write(lambda opened: self._record(opened).change(key, decide))

    def delete(self, keys: Sequence[Value]) -> int:
        return self._sessions.write(lambda opened: self._record(opened).delete(keys)) if keys else 0

    def scan(self, query: PageQuery, size: int = 1000) -> Iterator[list[Row]]:
        """On a session of its own: an export may last, and pages are not to wait for it."""
        opened = connect(self._address, APPLICATION_NAME)
        try:
            settle(opened, self.STATEMENT_SECONDS)
            question = self._questions(opened).scan(query)
            opened.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=False)
            with opened.cursor("scan") as cursor:
                cursor.execute(question.text, question.parameters)
                while found := cursor.fetchmany(size):
                    yield found
        except psycopg2.Error as error:
            raise faults.of_records(error, self._address, self._table) from error
        finally:
            opened.close()

    def writing(self, run: Run, *, whole: bool) -> AbstractContextManager[RecordWriter]:
        return writing(self._address, self._table, run, whole=whole)

    def close(self) -> None:
        self._sessions.close()

    def _questions(self, opened: Connection) -> Questions:
        return Questions(self._table, self._seen(opened))

    def _record(self, opened: Connection) -> Record:
        return Record(opened, self._table, self._seen(opened))

    def _seen(self, opened: Connection) -> Shape:
        if self._shape is None:
            self._shape = expected(opened, self._table)
        return self._shape


def expected(opened: Connection, table: Table) -> Shape:
    """Raises `CollectionMismatch` when there is no such table."""
    shape = look(opened, table)
    if shape is None:
        raise CollectionMismatch(f"There is no table {table.name!r}.", hint="Prepare the collection first.")
    return shape


def _rows(opened: Connection, question: Query) -> list[Row]:
    return rows(opened, question.text, tuple(question.parameters))

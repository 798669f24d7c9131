"""A table of records in a database of MySQL or MariaDB."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import pymysql
from pymysql.cursors import SSCursor

from engines.base import Target
from engines.errors import CollectionMismatch, RecordRefused, TargetBusy
from engines.mysql.address import Address
from engines.mysql.records import pages
from engines.mysql.records.merging import MovedError
from engines.mysql.records.preparing import prepare
from engines.mysql.records.sessions import Sessions, settle
from engines.mysql.records.shape import NO_SUCH_TABLE, Shape, expect_fitting, missing_table, shape_of
from engines.mysql.records.single import Single
from engines.mysql.records.values import row_out
from engines.mysql.records.writer import PieceWriter, WholeWriter
from engines.mysql.session import Session, execute, kill_query, number_of, rows, session
from engines.records.base import Condition, Decide, PageQuery, Prepared, RecordTable, RecordWriter
from engines.records.fields import Row, Table, Value
from engines.run import Run

T = TypeVar("T")
UNKNOWN_COLUMN = 1054
LOOK_AGAIN = 60.0
"""Seconds after which the columns are read anew: others may have widened one."""
LONGEST_PAUSE = 24 * 3600
"""Seconds that who reads a scan may take between two records."""


class MySQLTable(RecordTable):
    """Learns the table's columns when they are first needed, and anew when they turn out to be others."""

    def __init__(self, target: Target, table: Table) -> None:
        self._address = Address.of(target)
        self._table = table
        self._sessions = Sessions(self._address, self.STATEMENT_SECONDS)
        self._shape: Shape | None = None
        self._looked = 0.0

    def _known(self, opened: Session) -> Shape:
        shape = self._shape
        if shape is None or time.monotonic() - self._looked > LOOK_AGAIN:
            shape = self._shape = shape_of(opened, self._table)
            self._looked = time.monotonic()
        return shape

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """A table that has gone is told as such; what was known of it is forgotten."""
        try:
            yield
        except UnicodeEncodeError as error:
            raise RecordRefused("A text holds characters that are no Unicode text.") from error
        except pymysql.Error as error:
            if number_of(error) in {NO_SUCH_TABLE, UNKNOWN_COLUMN}:
                self._shape = None
                if number_of(error) == NO_SUCH_TABLE:
                    raise missing_table(self._table) from error
                raise CollectionMismatch(f"The table {self._table.name!r} has lost a column.") from error
            raise

    def _reading(self, work: Callable[[Session, Shape], T]) -> T:
        def checked(opened: Session) -> T:
            with self._checked():
                return work(opened, self._known(opened))

        return self._sessions.reading(checked)

    def _changing(self, work: Callable[[Session, Single], T]) -> T:
        def checked(opened: Session) -> T:
            with self._checked():
                return work(opened, Single(self._known(opened), self._address))

        return self._sessions.changing(checked)

    def prepare(self, *, change: bool = True) -> Prepared:
        with session(self._address, "flexdb", on=self._address.database, seconds=3600) as opened:
            settle(opened)
            try:
                return prepare(opened, self._table, change=change)
            finally:
                self._shape = None

    def page(self, query: PageQuery) -> list[Row]:
        def work(opened: Session, shape: Shape) -> list[Row]:
            text, parameters = pages.page(shape, query)
            return [row_out(self._table.fields, found) for found in rows(opened, text, parameters)]

        return self._reading(work)

    def count(self, where: Sequence[Condition] = ()) -> int:
        return self._reading(lambda opened, shape: int(rows(opened, *pages.count(shape, where))[0][0]))

    def get(self, key: Value) -> Row | None:
        return self._reading(lambda opened, shape: Single(shape, self._address).read(opened, key))

    def insert(self, row: Row) -> Row:
        return self._changing(lambda opened, single: single.insert(opened, row))

    def change(self, key: Value, decide: Decide) -> tuple[Row | None, Row | None]:
        return self._changing(lambda opened, single: single.change(opened, key, decide))

    def delete(self, keys: Sequence[Value]) -> int:
        return self._changing(lambda opened, single: single.delete(opened, keys))

    def scan(self, query: PageQuery, size: int = 1000) -> Iterator[list[Row]]:
        """One SELECT, whose rows the server sends as they are read."""
        with session(self._address, "flexdb", on=self._address.database, seconds=0) as opened, self._checked():
            settle(opened)
            execute(opened, f"SET SESSION net_write_timeout = {LONGEST_PAUSE}")
            text, parameters = pages.everything(self._known(opened), query)
            cursor = SSCursor(opened)
            try:
                cursor.execute(text, parameters)
                while found := cursor.fetchmany(size):
                    yield [row_out(self._table.fields, row) for row in found]
            except GeneratorExit:
                kill_query(self._address, opened)  # closing the cursor would read everything that is left
                with suppress(pymysql.Error, OSError):
                    cursor.close()
                raise
            cursor.close()

    @contextmanager
    def writing(self, run: Run, *, whole: bool) -> Iterator[RecordWriter]:
        with (
            session(self._address, run.application_name, on=self._address.database, seconds=0, stop=run.stop) as opened,
            self._checked(),
        ):
            settle(opened)
            kind = WholeWriter if whole else PieceWriter
            try:
                shape = shape_of(opened, self._table)
                expect_fitting(shape)
                yield kind(opened, shape, self._address, run)
            except MovedError as error:
                raise TargetBusy("Others write the same records all the time.") from error
            finally:
                with suppress(pymysql.Error, OSError):
                    opened.rollback()

    def close(self) -> None:
        self._sessions.close()

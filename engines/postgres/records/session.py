"""Sessions on a database for tables of records: settings, connections that are kept, a second try on a fresh one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.postgres.connection import Address, connect, execute, prepare
from engines.postgres.records import faults
from engines.records.base import RecordTable
from engines.records.fields import Table
from engines.records.pool import Pool

T = TypeVar("T")
Work = Callable[[Connection], T]

APPLICATION_NAME = "flexdb/records"
TRIES = 5
"""How often a transaction that met others in its way is begun."""
_SETTINGS = (
    "SELECT set_config(name, value, false) FROM (VALUES"
    " ('timezone', 'UTC'), ('datestyle', 'ISO, YMD'), ('default_transaction_isolation', 'read committed'),"
    # a role sees what its policies let it see, as any other program of that role does
    " ('row_security', 'on'), ('jit', 'off'), ('standard_conforming_strings', 'on'),"
    " ('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
    " ELSE current_setting('synchronous_commit') END))"
    " AS wanted (name, value)"
)


def settle(opened: Connection, seconds: float) -> None:
    """Settings of every session on records. `seconds` limits each statement; 0: nothing does."""
    prepare(opened, seconds)
    opened.set_client_encoding("UTF8")
    execute(opened, _SETTINGS)


def open_settled(address: Address) -> Connection:
    """A session for single pages and records. Raises from `engines.errors`, or the driver's error."""
    opened = connect(address, APPLICATION_NAME)
    try:
        settle(opened, RecordTable.STATEMENT_SECONDS)
    except BaseException:
        opened.close()
        raise
    return opened


class Sessions:
    """Runs work on kept connections; errors come out as `engines.errors`."""

    def __init__(self, address: Address, table: Table) -> None:
        self._address = address
        self._table = table
        self._pool: Pool[Connection] = Pool(lambda: open_settled(address), lambda opened: opened.close())

    def read(self, work: Work[T]) -> T:
        """Statements that change nothing, each by itself; on a dead connection they are asked again on a fresh one."""
        return self._translating(lambda: self._twice(work))

    def write(self, work: Work[T]) -> T:
        """A transaction; from the beginning again when others were in its way or when the kept connection was dead,
        as long as it is certain that nothing was done. A connection lost in the commit is raised."""
        return self._translating(lambda: self._through(lambda: self._twice(self._committing(work))))

    def close(self) -> None:
        self._pool.close()

    def _through(self, work: Callable[[], T]) -> T:
        for _ in range(TRIES - 1):
            try:
                return work()
            except psycopg2.Error as error:
                if not faults.collided(error):
                    raise
        return work()

    def _twice(self, work: Work[T]) -> T:
        try:
            return self._once(work, fresh=False)
        except psycopg2.Error as error:
            if not faults.lost(error):
                raise
        return self._once(work, fresh=True)

    def _once(self, work: Work[T], *, fresh: bool) -> T:
        """A connection that is sound after an error is kept: a refused record is no reason to connect anew."""
        with self._pool.connection(fresh=fresh) as opened:
            try:
                return work(opened)
            except Exception as error:
                if not _sound(opened):
                    raise
                problem = error
        raise problem

    def _committing(self, work: Work[T]) -> Work[T]:
        def transaction(opened: Connection) -> T:
            execute(opened, "BEGIN")
            done = work(opened)
            try:
                execute(opened, "COMMIT")
            except psycopg2.Error as error:
                # whether it was committed is not known any more: not to be tried again here
                raise faults.of_records(error, self._address, self._table) from error
            return done

        return transaction

    def _translating(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except psycopg2.Error as error:
            raise faults.of_records(error, self._address, self._table) from error
        except ValueError as error:
            if not faults.unsendable(error):
                raise
            raise faults.of_text() from error


def _sound(opened: Connection) -> bool:
    """Whether it can be used again, with whatever transaction it was in undone."""
    try:
        opened.autocommit = True
        execute(opened, "ROLLBACK")
    except psycopg2.Error:
        return False
    return True

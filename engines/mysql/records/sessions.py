"""Sessions in which records are read and changed: their settings, and what is tried again."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import pymysql

from engines.command import redact
from engines.errors import TargetUnavailable
from engines.mysql.address import Address
from engines.mysql.session import Session, close, execute, kept, number_of, rows, translated
from engines.records.pool import Pool

T = TypeVar("T")

MODE = (
    "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_VALUE_ON_ZERO,"
    "NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION"
)
DEADLOCK, LOCK_TIMEOUT = 1213, 1205
DUPLICATE = 1062
IDLE_TOO_LONG = 4031
"""MySQL's word for it; MariaDB has the number for something that only triggers know."""
TRIES = 20

_REFUSALS = frozenset(
    {
        *(1048, 1062, 1169, 1216, 1217, 1264, 1265, 1292, 1300, 1364, 1365, 1366, 1367, 1406, 1411, 1425, 1441),
        *(1451, 1452, 1526, 1557, 1586, 1644, 1690, 1748, 1859, 1906, 3105, 3140, 3156, 3819, 3853, 3988, 4025),
    }
)
"""Errors about what a row holds. 1644 and those from `OWN_NUMBERS` on are triggers' own."""
OWN_NUMBERS = 20_000
_AT_ROW = re.compile(r" at row \d+$")


def settle(opened: Session) -> None:
    """Nothing is cut in silence, times are UTC, and a transaction locks what it changes and no more."""
    logged, how = rows(opened, "SELECT @@log_bin, @@binlog_format")[0]
    by_statement = bool(logged) and how == "STATEMENT"  # InnoDB refuses the other level then
    level = "REPEATABLE READ" if by_statement else "READ COMMITTED"
    execute(opened, f"SET SESSION sql_mode = '{MODE}', SESSION time_zone = '+00:00'")
    execute(opened, f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")


def refuses(error: Exception) -> bool:
    """Whether the database does not take what a row holds."""
    return number_of(error) in _REFUSALS or number_of(error) >= OWN_NUMBERS


def reason(error: Exception, address: Address) -> str:
    """The server's own words, of a statement that wrote this row alone."""
    words = " ".join(str(error.args[-1] if error.args else error).split())
    return redact(_AT_ROW.sub("", words), address.secrets)[:300]


def wait_a_little(tries: int) -> None:
    """After a deadlock, so that the same two do not meet again."""
    time.sleep(random.uniform(0, min(0.01 * 2**tries, 0.2)))  # noqa: S311  no secret depends on it


class _AgainError(Exception):
    """The transaction is gone with nothing done; its cause says why."""


class Sessions:
    """The kept sessions of one table."""

    def __init__(self, address: Address, seconds: float) -> None:
        self.address = address
        self._seconds = seconds
        self._pool: Pool[Session] = Pool(self._connect, close)

    def _connect(self) -> Session:
        opened = kept(self.address, "flexdb", on=self.address.database, seconds=self._seconds)
        try:
            settle(opened)
        except BaseException:
            close(opened)
            raise
        return opened

    @contextmanager
    def _session(self, *, fresh: bool) -> Iterator[Session]:
        try:
            with self._pool.connection(fresh=fresh) as opened:
                yield opened
        except (pymysql.Error, OSError) as error:
            if number_of(error) == IDLE_TOO_LONG:
                raise TargetUnavailable("The server has ended a session that was idle.") from error
            raise translated(error, self.address) from error

    def reading(self, work: Callable[[Session], T]) -> T:
        """What `work` reads; once more in a new session where a kept one turns out to be dead."""
        try:
            with self._session(fresh=False) as opened:
                return work(opened)
        except TargetUnavailable:
            with self._session(fresh=True) as opened:
                return work(opened)

    def changing(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a transaction of its own; again when a deadlock ended it. What it raises undoes it."""
        for tries in range(TRIES):
            try:
                return self._changed(work, fresh=tries > 0)
            except _AgainError as again:
                if tries == TRIES - 1 and isinstance(again.__cause__, (pymysql.Error, OSError)):
                    raise translated(again.__cause__, self.address) from again.__cause__
                wait_a_little(tries)
        raise AssertionError("unreachable: the last try returns or raises")

    def _changed(self, work: Callable[[Session], T], *, fresh: bool) -> T:
        failed: Exception | None = None
        with self._session(fresh=fresh) as opened:
            try:
                opened.begin()
            except (pymysql.Error, OSError) as error:
                raise _AgainError from error
            try:
                done = work(opened)
                opened.commit()
            except (pymysql.Error, OSError) as error:
                with suppress(pymysql.Error, OSError):
                    opened.rollback()
                if number_of(error) == DEADLOCK:
                    raise _AgainError from error
                raise
            except Exception as error:  # noqa: BLE001  whatever the work raises; the session is as good as before
                opened.rollback()
                failed = error
        if failed is not None:
            raise failed
        return done

    def close(self) -> None:
        self._pool.close()

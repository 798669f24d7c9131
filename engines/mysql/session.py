"""Sessions on a server, and the one door through which the driver's and the programs' errors become ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor

from engines.command import redact
from engines.errors import (
    AccessDenied,
    FlexError,
    TargetBusy,
    TargetMissing,
    TargetUnavailable,
    ToolFailed,
    UnsupportedOperation,
)
from engines.mysql.address import CONNECT_SECONDS, Address
from engines.run import StopToken

if TYPE_CHECKING:
    Session = Connection[Cursor]
else:  # generic in the stubs only
    Session = Connection

LOCK_SECONDS = 10
LONGEST_SECONDS = 24 * 3600
"""Of a statement that only a stop may end: a network that died without a word must not hold a job for ever."""
CANCEL_EVERY = 0.2

_BY_CODE: dict[int, type[FlexError]] = {
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1370, 1410, 1419, 1449, 1698, 1820, 1862, 3118), AccessDenied),
    **dict.fromkeys((1049, 1146), TargetMissing),
    **dict.fromkeys((1205, 1213, 1226, 1317, 1969, 3024, 3058), TargetBusy),
    **dict.fromkeys((1040, 1053, 1152, 1153, 1158, 1159, 1160, 1161, 1203, 1927), TargetUnavailable),
    **dict.fromkeys((2002, 2003, 2005, 2006, 2012, 2013, 2014, 2026, 2055), TargetUnavailable),
}
"""Error numbers of server and client to what they mean for us.
https://mariadb.com/kb/en/mariadb-error-codes/ https://dev.mysql.com/doc/mysql-errors/8.4/en/"""
TOO_LONG = frozenset({1153, 2020})
"""A statement or row beyond `max_allowed_packet`; trying again does not help."""


def connect(address: Address, name: str, database: str | None = None, seconds: float = 60) -> Session:
    """Open an autocommit session, errors translated. `name` is what the server lists it as."""
    limit = max(1, int(seconds or LONGEST_SECONDS) + 15)  # the server's own limit comes first
    where = address.for_driver()
    try:
        return pymysql.connect(
            **where, database=database, program_name=name, autocommit=True, read_timeout=limit, write_timeout=limit
        )
    except (pymysql.Error, OSError, ValueError) as error:
        raise translated(error, address) from error


@contextmanager
def session(
    address: Address,
    name: str,
    *,
    on: str | None = None,
    seconds: float = 60,
    stop: StopToken | None = None,
) -> Iterator[Session]:
    """A session whose errors, from connecting to closing, come out as `engines.errors`.

    `on` is the database it is on (None: none). `seconds` limits each statement (0: only `stop` does). A stop
    kills the running statement.
    """
    if stop is not None:
        stop.check()
    opened = connect(address, name, on, seconds)
    try:
        with _cancelling(opened, address, stop):
            _prepare(opened, seconds)
            yield opened
    except (pymysql.Error, OSError) as error:
        if stop is not None:
            stop.check()
        raise translated(error, address) from error
    finally:
        close(opened)


@contextmanager
def database_session(
    address: Address, name: str, *, seconds: float = 60, stop: StopToken | None = None
) -> Iterator[Session]:
    """A session on the address's own database; `TargetMissing` where it does not exist."""
    with session(address, name, on=address.database, seconds=seconds, stop=stop) as opened:
        yield opened


def kept(address: Address, name: str, *, on: str, seconds: float) -> Session:
    """A session as `session` gives it, errors of connecting translated; the caller closes it."""
    opened = connect(address, name, on, seconds)
    try:
        _prepare(opened, seconds)
    except (pymysql.Error, OSError) as error:
        close(opened)
        raise translated(error, address) from error
    return opened


def close(opened: Session) -> None:
    with suppress(pymysql.Error, OSError):  # it was lost already
        opened.close()


def _prepare(opened: Session, seconds: float) -> None:
    """Settings every session of ours wants: no surprises from the server's or the user's own."""
    mariadb = "mariadb" in str(opened.get_server_info()).lower()  # type: ignore[no-untyped-call]  # the stubs lack it
    limit = f"max_statement_time = {seconds:g}" if mariadb else f"max_execution_time = {int(seconds * 1000)}"
    execute(
        opened,
        f"SET SESSION {limit}, SESSION lock_wait_timeout = {LOCK_SECONDS},"
        f" SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}, SESSION wait_timeout = 28800,"
        " SESSION sql_mode = 'NO_BACKSLASH_ESCAPES', SESSION sql_quote_show_create = 1",
    )


@contextmanager
def _cancelling(opened: Session, address: Address, stop: StopToken | None) -> Iterator[None]:
    if stop is None:
        yield
        return
    over = threading.Event()

    def insist() -> None:
        """Again and again: a wish that comes between two statements would find nothing to kill."""
        while True:
            kill_query(address, opened)
            if over.wait(CANCEL_EVERY):
                return

    with stop.calling(threading.Thread(target=insist, name="cancel statements", daemon=True).start):
        try:
            yield
        finally:
            over.set()


def kill_query(address: Address, opened: Session) -> None:
    """End what a session runs; it can be ended only by another one."""
    try:
        other = connect(address, "flexdb/cancel", seconds=CONNECT_SECONDS)
    except FlexError:
        return  # the server is gone, and the statement with it, or comes back before the next try
    number = int(opened.thread_id())  # type: ignore[no-untyped-call]  # the stubs lack it
    try:
        execute(other, f"KILL QUERY {number}")
    except pymysql.Error:
        return  # ended meanwhile
    finally:
        close(other)


def quoted(name: str) -> str:
    """A name as an identifier, whatever is in it."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """A text as SQL where no parameter may stand; sessions of ours run without backslash escapes."""
    return "'" + text.replace("'", "''") + "'"


def rows(opened: Session, query: str, parameters: Sequence[Any] | None = None) -> list[Any]:
    """All rows a query gives. Without `parameters` a `%` is nothing special."""
    with opened.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


def execute(opened: Session, statement: str, parameters: Sequence[Any] | None = None) -> None:
    with opened.cursor() as cursor:
        cursor.execute(statement, parameters)


def number_of(error: Exception) -> int:
    """The error's number; 0 for one without."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def translated(error: Exception, address: Address) -> FlexError:
    """The driver's error as one of ours. What fits nothing while connecting counts as unavailable."""
    number = number_of(error)
    words = redact(" ".join(str(error.args[-1] if error.args else error).split()), address.secrets)[:500]
    found = by_number(number, f"Database {redact(address.database, address.secrets)!r}: {words} ({number})")
    if found is not None:
        return found
    if number == 0:
        return TargetUnavailable(f"The server of {redact(address.database, address.secrets)!r} is lost: {words}")
    return ToolFailed(
        f"The server refused: {words} ({number})",
        hint="Read the server's own words in the message.",
        details={"errno": number},
    )


def by_number(number: int, message: str) -> FlexError | None:
    """The error that a number stands for; None when it has no meaning of its own for us."""
    if number in TOO_LONG:
        return UnsupportedOperation(message, hint="Raise max_allowed_packet on the server, to 1G if need be.")
    kind = _BY_CODE.get(number)
    if kind is AccessDenied and number == 1419:
        return AccessDenied(message, hint="Set log_bin_trust_function_creators = 1 on the server, or give SUPER.")
    return kind(message) if kind else None


_NUMBER = re.compile(r"(?:ERROR |[Ee]rror:? |\()(\d{4})\b")


@contextmanager
def tools_translated() -> Iterator[None]:
    """Failures of client programs come out as what a session would have raised."""
    try:
        yield
    except ToolFailed as error:
        words = str(error.details.get("stderr", ""))
        match = _NUMBER.search(words)
        tool = error.details.get("tool", "the program")
        found = by_number(int(match[1]), f"{tool}: {words[-500:]}") if match else None
        if found is None or (int(error.details.get("exit_code", -1)) < 0):
            raise
        found.details.update(error.details)
        raise found from error

"""A session on a PostgreSQL ledger, and what PostgreSQL's errors mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import psycopg2
import psycopg2.errors
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS, connection
from psycopg2.extras import DictCursor

from service.ledger.postgres_address import parameters
from service.ledger.queries import Query, sql
from service.ledger.records import Change, LedgerUnavailable
from service.ledger.rows import Row, storable
from service.ledger.transaction import Session
from service.ledger.writer import Faults

SCHEMA = "flexdb"
CHANNEL = "flexdb"
PAYLOAD = 7000
"""Bytes of one notification; PostgreSQL takes fewer than 8000."""
ROWS_AT_ONCE = 500
CONNECT_SECONDS = 10
SETTINGS = (
    f"SET search_path = {SCHEMA}",
    "SET statement_timeout = '60s'",
    "SET lock_timeout = '3s'",
    "SET default_transaction_isolation = 'read committed'",
    # A process that is stopped in the middle of a transaction must not keep its locks from the others.
    "SET idle_in_transaction_session_timeout = '10s'",
    "SET client_encoding = 'UTF8'",
    "SET timezone = 'UTC'",
    # An answer given is on disk: what an administrator turned off for the database is on for the ledger.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)
ALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds; keepalives do not run while something sent is not acknowledged
}
"""So that a server that vanished is noticed in half a minute, not in hours
(https://www.postgresql.org/docs/current/libpq-connect.html)."""

_AWAY = ("08", "53", "57", "58", "XX")
"""Classes of SQLSTATE that speak of the server, not of one statement: connection, resources, operator intervention,
system and internal errors (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
_READ_ONLY = "25006"
"""The server has become a standby."""
_IN_THE_WAY = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available: another process is in the way, and will not be for ever."""
_TAKEN = frozenset({"23505", "23P01"})
"""A key or claim that another process took in this moment; or a fault of the operation, if it comes again."""

_IN_TRANSACTION = (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR)


class Refusal(Exception):
    """What PostgreSQL said no to a statement with. Without the details it gave: they quote rows, which hold secrets."""

    def __init__(self, pgcode: str, message: str) -> None:
        super().__init__(f"{pgcode} {message}")
        self.pgcode = pgcode


def is_unavailable(error: BaseException) -> bool:
    if not isinstance(error, psycopg2.Error | Refusal):
        return False
    state = error.pgcode
    if state is None:  # the driver's own: the connection is gone, or it could not be made
        return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return state.startswith(_AWAY) or state == _READ_ONLY


def is_collision(error: BaseException) -> bool:
    return isinstance(error, Refusal) and error.pgcode in _IN_THE_WAY | _TAKEN


def is_in_the_way(error: BaseException) -> bool:
    return isinstance(error, Refusal) and error.pgcode in _IN_THE_WAY


def unavailable(error: BaseException) -> LedgerUnavailable:
    """The error callers get; its cause is kept. The driver's own text stays out: it names hosts and users."""
    state = getattr(error, "pgcode", None)
    found = LedgerUnavailable(f"The ledger's PostgreSQL cannot be used now ({state or type(error).__name__}).")
    found.__cause__ = error
    return found


FAULTS = Faults(is_unavailable, unavailable, is_collision, is_in_the_way)


def reason(error: psycopg2.Error) -> str:
    """Why a server could not be used, for the person who configures it: its own words, which hold no password."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]  # \t: only advice
    return error.diag.message_primary or "; ".join(lines) or type(error).__name__


def connect(url: str, name: str) -> connection:
    """A connection with the ledger's settings, every statement a transaction unless one is begun.

    `name` is seen in pg_stat_activity. Raises `psycopg2.Error`, `InvalidLedgerURL`.
    """
    ours: dict[str, Any] = {**ALIVE, "connect_timeout": CONNECT_SECONDS, "fallback_application_name": name}
    chosen = ours | parameters(url)
    opened: connection = psycopg2.connect(cursor_factory=DictCursor, **chosen)
    try:
        opened.autocommit = True
        with opened.cursor() as cursor:
            cursor.execute("; ".join(SETTINGS))
    except BaseException:
        opened.close()
        raise
    return opened


class PostgresSession(Session):
    """`origin` marks this process's notifications. `clock` stands in for the server's clock in tests."""

    def __init__(self, opened: connection, origin: str, clock: Callable[[], float] | None = None) -> None:
        self._connection = opened
        self._cursor = opened.cursor()
        self._origin = origin
        self._clock = clock

    def all(self, query: Query, **values: Any) -> list[Row]:
        self._execute(query.postgres, values)
        return cast("list[Row]", self._cursor.fetchall())

    def run(self, query: Query, **values: Any) -> int:
        self._execute(query.postgres, values)
        return self._cursor.rowcount

    def _execute(self, statement: str | bytes, values: dict[str, Any] | None = None) -> None:
        try:
            try:
                self._cursor.execute(statement, values)
            except ValueError:  # text PostgreSQL cannot hold; the driver sees it before anything is sent
                self._cursor.execute(statement, {name: _clean(value) for name, value in (values or {}).items()})
        except psycopg2.Error as error:
            if error.pgcode is None:
                raise
            raise Refusal(error.pgcode, error.diag.message_primary or "") from None

    def _one_row(self, row: str, values: Sequence[Any]) -> bytes:
        try:
            return self._cursor.mogrify(row, values)
        except ValueError:
            return self._cursor.mogrify(row, [_clean(value) for value in values])

    def insert(self, query: Query, rows: Sequence[Sequence[Any]]) -> int:
        inserted = 0
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[begin : begin + ROWS_AT_ONCE]
            values = b",".join([self._one_row(query.row, row) for row in some])
            head, tail = query.postgres.encode().split(b"%s")
            self._execute(head + values + tail)
            inserted += self._cursor.rowcount
        return inserted

    def now(self) -> float:
        return (
            self._clock() if self._clock is not None else self._moment("SELECT extract(epoch FROM clock_timestamp())")
        )

    def begin(self) -> float:
        moment = self._moment("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT extract(epoch FROM clock_timestamp())")
        return self._clock() if self._clock is not None else moment

    def _moment(self, statement: str) -> float:
        self._execute(statement)
        row = self._cursor.fetchone()
        assert row is not None  # noqa: S101  for mypy: the statement has one row
        return float(row[0])

    def commit(self, changes: Sequence[Change]) -> None:
        """One round trip: hints reach the others when the transaction is on disk, not before."""
        notices = list(payloads(self._origin, changes))
        told = "".join(f"SELECT pg_notify('{CHANNEL}', %(notice{number})s); " for number in range(len(notices)))
        self._execute(told + "COMMIT", {f"notice{number}": notice for number, notice in enumerate(notices)})
        if self._cursor.statusmessage != "COMMIT":  # PostgreSQL answers so when it rolled a failed one back
            raise psycopg2.InternalError("the transaction was rolled back at its commit")

    def rollback(self) -> None:
        self._execute("ROLLBACK")

    def mark(self) -> None:
        self._execute("SAVEPOINT operation")

    def release(self) -> None:
        self._execute("RELEASE operation")

    def undo(self) -> None:
        self._execute("ROLLBACK TO operation; RELEASE operation")

    @property
    def in_transaction(self) -> bool:
        """Also true of a failed one, which must be undone or rolled back."""
        return not self._connection.closed and self._connection.info.transaction_status in _IN_TRANSACTION

    def lock(self, names: Sequence[str]) -> None:
        if names:
            self._execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(%(names)s) AS name",
                {"names": [storable(name) for name in sorted(names)]},
            )

    def try_lock(self, names: Sequence[str]) -> bool:
        self._execute(
            "SELECT coalesce(bool_and(pg_try_advisory_xact_lock(hashtextextended(name, 0))), true)"
            " FROM unnest(%(names)s) AS name",
            {"names": [storable(name) for name in sorted(names)]},
        )
        row = self._cursor.fetchone()
        return row is not None and bool(row[0])

    def tokens(self, number: int) -> Sequence[int]:
        return [row["value"] for row in self.all(sql.next_tokens, number=number)]

    def close(self) -> None:
        self._connection.close()


def _clean(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


def payloads(origin: str, changes: Sequence[Change]) -> Iterator[str]:
    """Changes as texts short enough for a notification: `origin` and a JSON array of [kind, job, progress].

    What is too long alone is left out: hints may be lost, but a notification that is refused fails the commit.
    """
    items: list[str] = []
    size = 0
    for change in changes:
        item = json.dumps([change.kind, change.job_id, change.progress], ensure_ascii=False)
        length = len(item.encode("utf-8", "replace")) + 1
        if length > PAYLOAD:
            continue
        if size + length > PAYLOAD:
            yield f"{origin} [{','.join(items)}]"
            items, size = [], 0
        items.append(item)
        size += length
    if items:
        yield f"{origin} [{','.join(items)}]"


def changes_of(payload: str, origin: str) -> list[Change]:
    """The changes another process told of; none for our own."""
    sender, _, text = payload.partition(" ")
    if sender == origin:
        return []
    return [Change(kind, job_id, progress) for kind, job_id, progress in json.loads(text)]

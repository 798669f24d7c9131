"""One thread that writes for everybody: all that waits shares a transaction and its fsync (group commit)."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from service.ledger.base import Acceptance, Change, LedgerUnavailable, Rules, Submission
from service.ledger.queries import sql

log = structlog.get_logger(__name__)
T = TypeVar("T")
Row = sqlite3.Row
Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]

_GIVE_UP_BATCH = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
    }
)
"""Primary result codes (https://www.sqlite.org/rescode.html) that speak of the file, not of one statement."""


def is_unavailable(error: BaseException) -> bool:
    """Whether an error means that the ledger's file cannot be used now."""
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _GIVE_UP_BATCH


def unavailable(error: BaseException) -> LedgerUnavailable:
    """The error callers get; its cause is kept."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    found = LedgerUnavailable(f"The ledger's file cannot be written now ({name}). Nothing was changed.")
    found.__cause__ = error
    return found


@dataclass(slots=True)
class Transaction:
    """What an operation works with. `open_jobs` counts against the queue limit; `tell` notes a hint to give
    after the commit."""

    db: sqlite3.Connection
    rules: Rules
    now: float
    open_jobs: int
    changes: dict[Change, None] = field(default_factory=dict)

    def run(self, statement: str, **values: Any) -> int:
        """How many rows it touched."""
        return self.db.execute(statement, values).rowcount

    def one(self, statement: str, **values: Any) -> Row | None:
        rows = self.db.execute(statement, values).fetchall()
        return rows[0] if rows else None

    def all(self, statement: str, **values: Any) -> list[Row]:
        return self.db.execute(statement, values).fetchall()

    def tell(self, kind: str, job_id: str | None = None) -> None:
        self.changes[Change(kind, job_id)] = None


Operation = Callable[[Transaction], T]
AcceptMany = Callable[[Transaction, Sequence[Submission]], Sequence[Acceptance]]


class Writer:
    """Takes operations from one event loop, runs them in its thread, answers after the commit.

    Operations of one batch share a transaction; each has a savepoint, so one that fails undoes only itself.
    When the transaction fails, every caller of the batch gets `LedgerUnavailable`, and the next batch begins
    anew with a fresh connection.
    """

    BATCH = 1024
    """At most so many acceptances, and so many other operations, in one transaction."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        accept_many: AcceptMany,
        rules: Rules,
        clock: Callable[[], float],
        announce: Callable[[Sequence[Change]], None],
    ) -> None:
        self._connect = connect
        self._accept_many = accept_many
        self._rules = rules
        self._clock = clock
        self._announce = announce
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._acceptances: list[tuple[asyncio.Future[Any], Submission]] = []
        self._operations: list[tuple[asyncio.Future[Any], Operation[Any]]] = []
        self._closing = False
        self._db: sqlite3.Connection | None = None
        self._suspect = False
        self._open_jobs = 0
        self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self.commits = 0
        """Transactions committed so far."""

    # ------------------------------------------------------------ in the event loop

    def start(self) -> None:
        """To be called in the event loop whose coroutines will write. Raises `sqlite3.Error`."""
        self._loop = asyncio.get_running_loop()
        self._reconnect()
        self._thread.start()

    def accept(self, submission: Submission) -> asyncio.Future[Acceptance]:
        return self._put(lambda: self._acceptances, submission)

    def run(self, operation: Operation[T]) -> asyncio.Future[T]:
        return self._put(lambda: self._operations, operation)

    def _put(self, waiting: Callable[[], list[Any]], work: Any) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        with self._lock:
            if self._closing:
                raise LedgerUnavailable("The ledger is closed.")
            waiting().append((future, work))  # looked up under the lock: the thread replaces the lists
        if not self._wake.is_set():
            self._wake.set()
        return future

    async def close(self) -> None:
        """Write what waits, then end the thread and close its connection."""
        with self._lock:
            self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
            await asyncio.sleep(0)  # the last answers are given by callbacks that stand in line before this
        if self._db is not None:
            self._db.close()
            self._db = None

    def _answer(self, outcomes: list[Outcome], changes: list[Change]) -> None:
        for future, result, error in outcomes:
            if future.done():
                continue  # its caller went away
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
        if changes:
            self._announce(changes)

    # ------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while batch := self._next_batch():
                self._deliver(*self._write(*batch))
            if self._closing and not self._acceptances and not self._operations:
                return

    def _next_batch(self) -> tuple[list[Any], list[Any]] | None:
        with self._lock:
            acceptances, self._acceptances = self._acceptances[: self.BATCH], self._acceptances[self.BATCH :]
            operations, self._operations = self._operations[: self.BATCH], self._operations[self.BATCH :]
        return (acceptances, operations) if acceptances or operations else None

    def _deliver(self, outcomes: list[Outcome], changes: list[Change]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer, outcomes, changes)
        except RuntimeError:
            log.warning("ledger_answers_unheard", answers=len(outcomes))  # the loop is closed: nobody waits

    def _write(self, acceptances: list[Any], operations: list[Any]) -> tuple[list[Outcome], list[Change]]:
        try:
            if self._suspect or self._db is None:
                self._reconnect()
            assert self._db is not None  # noqa: S101  for mypy: _reconnect sets it or raises
            self._db.execute("BEGIN IMMEDIATE")
            tx = Transaction(self._db, self._rules, self._clock(), self._open_jobs)
            outcomes = self._accept(tx, acceptances, alone=not operations) if acceptances else []
            outcomes += [self._one(tx, future, operation) for future, operation in operations if not future.cancelled()]
            self._db.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  told to every caller of the batch; the thread must live on
            log.warning("ledger_write_failed", error=repr(error), callers=len(acceptances) + len(operations))
            self._roll_back()
            return [(future, None, unavailable(error)) for future, _ in (*acceptances, *operations)], []
        self.commits += 1
        self._open_jobs = tx.open_jobs
        return outcomes, list(tx.changes)

    def _accept(self, tx: Transaction, acceptances: list[Any], *, alone: bool) -> list[Outcome]:
        """All at once; when that fails, one by one, so that only the faulty one is refused.

        `alone` in its transaction, a batch needs no savepoint: every statement saved is one less moment in which
        the interpreter lock is given away and waited for.
        """
        together = [submission for _, submission in acceptances]
        if alone:
            answers, error = self._accept_alone(tx, together)
        else:
            _, answers, error = self._one(tx, None, lambda tx: self._accept_many(tx, together))
        if error is None:
            return [(future, answer, None) for (future, _), answer in zip(acceptances, answers, strict=True)]
        if len(acceptances) == 1:
            return [(acceptances[0][0], None, error)]
        return [
            self._one(tx, future, lambda tx, one=submission: self._accept_many(tx, [one])[0])  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            for future, submission in acceptances
        ]

    def _accept_alone(
        self, tx: Transaction, together: list[Submission]
    ) -> tuple[Sequence[Acceptance], BaseException | None]:
        """Nothing else is in the transaction: what fails is undone by beginning it anew."""
        open_jobs = tx.open_jobs
        try:
            return self._accept_many(tx, together), None
        except Exception as error:  # handed to the one caller it concerns
            if is_unavailable(error) or not tx.db.in_transaction:
                raise
            tx.db.execute("ROLLBACK")
            tx.db.execute("BEGIN IMMEDIATE")
            tx.open_jobs, tx.changes = open_jobs, {}
            return (), error

    def _one(self, tx: Transaction, future: Any, operation: Operation[Any]) -> Outcome:
        """Run one operation under a savepoint. Raises only what ends the whole batch."""
        open_jobs, changes = tx.open_jobs, dict(tx.changes)
        tx.db.execute("SAVEPOINT operation")
        try:
            result = operation(tx)
        except Exception as error:  # handed to the one caller it concerns
            if is_unavailable(error) or not tx.db.in_transaction:
                raise
            tx.db.execute("ROLLBACK TO operation")
            tx.db.execute("RELEASE operation")
            tx.open_jobs, tx.changes = open_jobs, changes
            return future, None, error
        tx.db.execute("RELEASE operation")
        return future, result, None

    def _roll_back(self) -> None:
        self._suspect = True
        try:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            log.warning("ledger_rollback_failed", error=repr(error))  # it is replaced anyway

    def _reconnect(self) -> None:
        """Open the new connection before the old one is closed: the last to close would remove the WAL."""
        fresh = self._connect()
        try:
            self._open_jobs = fresh.execute(sql.count_open_jobs).fetchone()[0]
        except BaseException:
            fresh.close()
            raise
        if self._db is not None:
            self._db.close()
        self._db, self._suspect = fresh, False

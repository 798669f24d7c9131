"""One thread that writes for everybody: all that waits shares a transaction and its fsync (group commit)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from service.ledger.queries import sql
from service.ledger.records import Change, LedgerUnavailable, Rules
from service.ledger.transaction import Session, Transaction

log = structlog.get_logger(__name__)
T = TypeVar("T")
Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]
Operation = Callable[[Transaction], T]
Bulk = Callable[[Transaction, Sequence[Any]], Sequence[Any]]
"""An operation on many items at once; its answers are in their order."""
Waiting = tuple["asyncio.Future[Any]", Any]


@dataclass(frozen=True, slots=True)
class Faults:
    """What a database's errors mean."""

    is_unavailable: Callable[[BaseException], bool]
    """The database cannot be used now: the whole batch is given up, the next begins with a fresh session."""
    describe: Callable[[BaseException], LedgerUnavailable]
    """The error callers get then; its cause is kept."""
    is_collision: Callable[[BaseException], bool] = lambda _: False
    """Another process was in the way (a deadlock, a key taken meanwhile): the transaction is tried again."""
    is_in_the_way: Callable[[BaseException], bool] = lambda _: False
    """A collision that says nothing about the operation it met; one that lasts is as if the database were away."""


class Writer:
    """Takes operations from one event loop, runs them in its thread, answers after the commit.

    Operations of one batch share a transaction. When one of them fails, all are run again, each under a savepoint,
    so that the faulty one undoes only itself: failing is rare, and savepoints are a fifth of the work. When the
    transaction itself fails, every caller of the batch gets `LedgerUnavailable`, and the next batch begins anew
    with a fresh session. So an operation may run several times and must change nothing but the database.
    """

    BATCH = 1024
    """At most so many items of each bulk operation, and so many other operations, in one transaction."""
    COLLISIONS = 5
    """Tries of a transaction that collides with those of other processes."""

    def __init__(
        self,
        connect: Callable[[], Session],
        bulks: Sequence[Bulk],
        rules: Rules,
        faults: Faults,
        announce: Callable[[Sequence[Change]], None],
        *,
        recount_seconds: float | None = None,
    ) -> None:
        """`bulks`: those that `gather` takes, in the order a batch runs them. `recount_seconds`: how old the number
        of open jobs may get where other processes change it too."""
        self._connect = connect
        self._rules = rules
        self._faults = faults
        self._announce = announce
        self._recount_seconds = recount_seconds
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._bulks = tuple(bulks)
        self._items: dict[Bulk, list[Waiting]] = {bulk: [] for bulk in bulks}
        self._operations: list[Waiting] = []
        self._closing = False
        self._session: Session | None = None
        self._suspect = False
        self._open_jobs = 0
        self._exchange: str | None = None
        self._counted_at = 0.0
        self._patient = True
        self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self.commits = 0
        """Transactions committed so far."""

    # ------------------------------------------------------------ in the event loop

    def connect(self) -> None:
        """Open the session, in any thread, before `start`. Raises the driver's errors."""
        self._reconnect()

    def start(self) -> None:
        """To be called in the event loop whose coroutines will write."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def gather(self, bulk: Bulk, item: Any) -> asyncio.Future[Any]:
        """Run `bulk` on this item and all others that wait for the same."""
        return self._put(lambda: self._items[bulk], item)

    def run(self, operation: Operation[T]) -> asyncio.Future[T]:
        return self._put(lambda: self._operations, operation)

    def _put(self, waiting: Callable[[], list[Waiting]], work: Any) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        with self._lock:
            if self._closing:
                raise LedgerUnavailable("The ledger is closed.")
            waiting().append((future, work))  # looked up under the lock: the thread replaces the lists
        if not self._wake.is_set():
            self._wake.set()
        return future

    async def close(self) -> None:
        """Write what waits, then end the thread and close its session."""
        with self._lock:
            self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
            await asyncio.sleep(0)  # the last answers are given by callbacks that stand in line before this
        if self._session is not None:
            self._session.close()
            self._session = None

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
            if self._closing and not self._operations and not any(self._items.values()):
                return

    def _next_batch(self) -> tuple[dict[Bulk, list[Waiting]], list[Waiting]] | None:
        with self._lock:
            items = {}
            for bulk in self._bulks:
                waiting = self._items[bulk]
                if waiting:
                    items[bulk], self._items[bulk] = waiting[: self.BATCH], waiting[self.BATCH :]
            operations, self._operations = self._operations[: self.BATCH], self._operations[self.BATCH :]
        return (items, operations) if items or operations else None

    def _deliver(self, outcomes: list[Outcome], changes: list[Change]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer, outcomes, changes)
        except RuntimeError:
            log.warning("ledger_answers_unheard", answers=len(outcomes))  # the loop is closed: nobody waits

    def _write(self, items: dict[Bulk, list[Waiting]], operations: list[Waiting]) -> tuple[list[Outcome], list[Change]]:
        tries, careful = 0, False
        while True:
            tries += 1
            self._patient = tries < self.COLLISIONS
            try:
                return self._transact(items, operations, careful=careful)
            except BaseException as error:  # noqa: BLE001  told to every caller of the batch; the thread must live on
                collision = self._faults.is_collision(error)
                faulty = not (collision or careful or self._faults.is_unavailable(error))
                self._roll_back(keep=collision or faulty)
                if collision and self._patient:
                    log.info("ledger_collision", error=type(error).__name__, tries=tries)
                    continue
                lasting = self._faults.is_in_the_way(error)
                if (faulty or collision) and not (lasting or careful or self._suspect):
                    careful = True
                    continue
                everybody = [*(waiting for many in items.values() for waiting in many), *operations]
                log.warning("ledger_write_failed", error=_told(error), callers=len(everybody))
                return [(future, None, self._faults.describe(error)) for future, _ in everybody], []

    def _transact(
        self, items: dict[Bulk, list[Waiting]], operations: list[Waiting], *, careful: bool
    ) -> tuple[list[Outcome], list[Change]]:
        """`careful`: each operation under a savepoint of its own, its error to its own caller."""
        session, now = self._begin()
        tx = Transaction(session, self._rules, now, self._current_open_jobs(session), self._exchange)
        together = self._together if careful else _together
        one = self._one if careful else _one
        outcomes: list[Outcome] = []
        for bulk, waiting in items.items():
            outcomes += together(tx, bulk, waiting)
        outcomes += [one(tx, future, operation) for future, operation in operations if not future.cancelled()]
        changes = list(tx.changes)
        session.commit(changes)
        self.commits += 1
        self._open_jobs, self._exchange = tx.open_jobs, tx.exchange
        return outcomes, changes

    def _begin(self) -> tuple[Session, float]:
        """A session that was left idle may have died meanwhile: nothing is lost by one more try."""
        if self._suspect or self._session is None:
            self._reconnect()
        assert self._session is not None  # noqa: S101  for mypy: _reconnect sets it or raises
        try:
            return self._session, self._session.begin()
        except Exception as error:
            if not self._faults.is_unavailable(error):
                raise
            self._reconnect()
            return self._session, self._session.begin()

    def _together(self, tx: Transaction, bulk: Bulk, waiting: list[Waiting]) -> list[Outcome]:
        """All at once; when that fails, one by one, so that only the faulty one is refused."""
        many = [item for _, item in waiting]
        _, answers, error = self._one(tx, None, lambda tx: bulk(tx, many))
        if error is None:
            return [(future, answer, None) for (future, _), answer in zip(waiting, answers, strict=True)]
        if len(waiting) == 1:
            return [(waiting[0][0], None, error)]
        return [self._one(tx, future, lambda tx, one=item: bulk(tx, [one])[0]) for future, item in waiting]  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def _one(self, tx: Transaction, future: Any, operation: Operation[Any]) -> Outcome:
        """Run one operation under a savepoint. Raises only what ends the whole batch."""
        open_jobs, changes = tx.open_jobs, dict(tx.changes)
        tx.session.mark()
        try:
            result = operation(tx)
        except Exception as error:  # handed to the one caller it concerns
            if self._ends_the_batch(error) or not tx.session.in_transaction:
                raise
            tx.session.undo()
            tx.open_jobs, tx.changes, tx.subscriptions = open_jobs, changes, None
            return future, None, error
        tx.session.release()
        return future, result, None

    def _ends_the_batch(self, error: BaseException) -> bool:
        """A key that is taken again and again is the fault of its one operation."""
        away = self._faults.is_unavailable(error) or self._faults.is_in_the_way(error)
        return away or (self._patient and self._faults.is_collision(error))

    def _roll_back(self, *, keep: bool) -> None:
        """`keep`: nothing is wrong with the session itself."""
        self._suspect = True
        try:
            if self._session is not None and self._session.in_transaction:
                self._session.rollback()
                self._suspect = not keep
        except Exception as error:  # noqa: BLE001  whatever it is, the session is replaced anyway
            log.warning("ledger_rollback_failed", error=_told(error))

    def _current_open_jobs(self, session: Session) -> int:
        if self._recount_seconds is not None and time.monotonic() - self._counted_at > self._recount_seconds:
            self._count(session)
        return self._open_jobs

    def _count(self, session: Session) -> None:
        row = session.all(sql.count_open_jobs)[0]
        self._open_jobs, self._exchange = row["open_jobs"], row["exchange"]
        self._counted_at = time.monotonic()

    def _reconnect(self) -> None:
        """Open the new session before the old one is closed: the last to close would remove SQLite's WAL."""
        fresh = self._connect()
        try:
            self._count(fresh)
        except BaseException:
            fresh.close()
            raise
        if self._session is not None:
            self._session.close()
        self._session, self._suspect = fresh, False


def _together(tx: Transaction, bulk: Bulk, waiting: list[Waiting]) -> list[Outcome]:
    answers = bulk(tx, [item for _, item in waiting])
    return [(future, answer, None) for (future, _), answer in zip(waiting, answers, strict=True)]


def _one(tx: Transaction, future: Any, operation: Operation[Any]) -> Outcome:
    return future, operation(tx), None


def _told(error: BaseException) -> str:
    """What went wrong, without what a driver quotes of rows and addresses."""
    code = getattr(error, "pgcode", None) or getattr(error, "sqlite_errorname", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__

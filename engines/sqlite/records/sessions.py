"""Connections to a user's file for short work: kept for a moment, never to a file that was replaced meanwhile."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from engines.errors import CollectionMismatch, RecordRefused, StorageFailed, TargetBusy
from engines.records.fields import Table
from engines.run import Run
from engines.sqlite.connection import STEPS_BETWEEN_LOOKS, error_name, existing, translated
from engines.sqlite.records.columns import DECIMAL_ORDER, TEXT_ORDER, by_code_points, by_number
from engines.sqlite.records.shape import Shape, absent, look

LINGER_SECONDS = 0.5
"""How often connections that were idle for half of it are closed. An open connection to a file in WAL mode keeps
others from taking the file for themselves, as a restore does."""
MOST = 8
T = TypeVar("T")


class Session:
    """One connection, used by one thread at a time and for one table.

    Waiting for other programs' locks is done here, not in SQLite: it would not notice a stop, and asks too seldom."""

    def __init__(self, path: Path, busy_seconds: float, run: Run | None = None) -> None:
        self.path = path
        self.run = run
        self._busy_seconds = busy_seconds
        self._until = float("inf")
        self._identity = _identity(path)
        self._shape: tuple[int, Shape] | None = None
        self.used = 0.0
        uri = f"file:{quote(str(path))}?mode=rw"
        with self.translating():
            self.connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            with self.translating():
                self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        self.connection.set_progress_handler(self._shall_end, STEPS_BETWEEN_LOOKS)
        self.connection.create_collation(TEXT_ORDER, by_code_points)
        self.connection.create_collation(DECIMAL_ORDER, by_number)
        for setting in ("foreign_keys = ON", "main.synchronous = FULL", "temp_store = FILE"):
            self.patiently(partial(self.connection.execute, f"PRAGMA {setting}"))

    def _shall_end(self) -> bool:
        return time.monotonic() > self._until or (self.run is not None and self.run.stop.reason is not None)

    def limit(self, seconds: float) -> None:
        """From now on, statements are ended when so much time has passed."""
        self._until = time.monotonic() + seconds

    def begin(self, how: str) -> bool:
        """Take the lock of a reader (`BEGIN`) or of a writer (`BEGIN IMMEDIATE`); False when the file that is open
        here is no longer the one at the path. While a lock is held nobody can replace it properly."""

        def begun() -> None:
            try:
                self.connection.execute(how)
                self.connection.execute("PRAGMA main.schema_version").fetchone()
            except sqlite3.Error:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

        self.patiently(begun)
        return self.is_current()

    def begin_surely(self, how: str) -> None:
        """The same; raises `TargetBusy` when the file was replaced, for sessions that are kept for longer work."""
        if not self.begin(how):
            raise TargetBusy(f"{self.path} was replaced by another file.")

    def shape(self, table: Table) -> Shape:
        """The table as this transaction sees it. Raises `CollectionMismatch` when there is none, or an unfit one."""
        version = self.connection.execute("PRAGMA main.schema_version").fetchone()[0]
        if self._shape is None or self._shape[0] != version:
            found = look(self.connection, table)
            if found is None:
                raise absent(table)
            self._shape = (version, found.checked())
        return self._shape[1]

    def is_current(self) -> bool:
        return _identity(self.path) == self._identity

    def commit(self) -> None:
        """Readers hold a commit up where the file is not in WAL mode."""
        self.patiently(lambda: self.connection.execute("COMMIT"))

    def roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def patiently(self, step: Callable[[], T]) -> T:
        """Again while another program is in the way. Raises what SQLite says in the end, or `Stopped`."""
        until = time.monotonic() + self._busy_seconds
        while True:
            if self.run is not None:
                self.run.stop.check()
            try:
                return step()
            except sqlite3.OperationalError as error:
                if not error_name(error).startswith("SQLITE_BUSY") or time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311  no secret, it only avoids walking in step

    @contextmanager
    def translating(self) -> Iterator[None]:
        """The one door through which errors of records' statements become ours."""
        try:
            yield
        except sqlite3.Error as error:
            if self.run is not None:
                self.run.stop.check()  # the statement was ended because of the stop
            raise self._translated(error) from error
        except (OverflowError, UnicodeEncodeError) as error:
            raise RecordRefused("A value is no text or integer that SQLite can hold.") from error

    def _translated(self, error: sqlite3.Error) -> Exception:
        name, text = error_name(error), str(error)
        if isinstance(error, sqlite3.IntegrityError):
            return RecordRefused(reason(error))
        if name == "SQLITE_INTERRUPT":
            return TargetBusy(f"{self.path} took too long to answer.", hint="Ask for less, or add an index.")
        if text.startswith(("no such table", "no such column")):
            return CollectionMismatch(f"The table was changed meanwhile: {text}.")
        return translated(self.path, error)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.connection.close()


def reason(error: sqlite3.Error) -> str:
    """SQLite names the constraint and no value."""
    return f"The database does not take it: {error}."


def _identity(path: Path) -> tuple[int, int]:
    """What tells this file from another of the same name; raises `TargetMissing` and the like."""
    try:
        found = os.stat(path)  # noqa: PTH116  asked before every transaction, and the quicker of the two
    except OSError:
        existing(path)
        raise StorageFailed(f"{path} cannot be looked at.", hint="Check the file and its folder.") from None
    return found.st_dev, found.st_ino


class Sessions:
    """Few connections for many threads; the one used last is handed out first, idle ones are soon closed."""

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._room = threading.BoundedSemaphore(MOST)
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._timer: threading.Timer | None = None
        self._closed = False

    @contextmanager
    def transaction(self, how: str, seconds: float) -> Iterator[Session]:
        """A session within a transaction that is committed at the end; an exception undoes it."""
        with self._room:
            session = self._begun(how, seconds)
            try:
                with session.translating():
                    yield session
                    session.commit()
            except BaseException:
                session.close()
                raise
            self._give_back(session)

    def own(self, run: Run | None = None) -> Session:
        """One that is not shared; who asks for it closes it."""
        return Session(self._path, self._busy_seconds, run)

    def _begun(self, how: str, seconds: float) -> Session:
        while True:
            session = self._taken() or self.own()
            session.limit(seconds)
            try:
                with session.translating():
                    current = session.begin(how)
            except BaseException:
                session.close()
                raise
            if current:
                return session
            session.close()

    def _taken(self) -> Session | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, session: Session) -> None:
        session.used = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                if self._timer is None:
                    self._timer = self._started()
                return
        session.close()

    def _started(self) -> threading.Timer:
        timer = threading.Timer(LINGER_SECONDS, self._sweep)
        timer.daemon = True
        timer.start()
        return timer

    def _sweep(self) -> None:
        until = time.monotonic() - LINGER_SECONDS / 2
        with self._lock:
            old = [session for session in self._idle if session.used <= until]
            self._idle = [session for session in self._idle if session.used > until]
            self._timer = self._started() if self._idle and not self._closed else None
        for session in old:
            session.close()

    def close(self) -> None:
        """Close what is idle; what is used is closed when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for session in idle:
            session.close()

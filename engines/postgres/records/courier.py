"""COPY behind the caller's back: it makes the next rows while the server takes in the ones before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from engines.postgres.records.encode import Format

AHEAD = 4
"""Blocks that wait to be sent, at most; then the caller waits."""
PATIENCE = 0.05
"""Seconds that a COPY waits for more. None stays open longer: it would keep the whole database from being cleaned up,
and the server hears nothing of a wish to cancel while it waits for data."""

LONGEST = 100
"""Blocks of one COPY: what the server has against one of them is heard when the COPY ends."""


class Courier:
    """Sends blocks in a thread of its own, which is there from the first block to `close`."""

    def __init__(self, copy: Callable[[Format, Courier], None]) -> None:
        """`copy` gives all that `read` gives to one COPY of that format; only the thread calls it."""
        self._copy = copy
        self._changed = threading.Condition()
        self._blocks: deque[tuple[Format, bytes]] = deque()
        self._format: Format | None = None
        """Of the COPY that is going on."""
        self._left = 0
        """Blocks that it may still take."""
        self._flush = self._over = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def send(self, format: Format, block: bytes) -> None:
        """Raises what became of the blocks before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._go, name="copy records", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: len(self._blocks) < AHEAD or self._failure is not None)
            self._raise()
            self._blocks.append((format, block))
            self._changed.notify_all()

    def finish(self) -> None:
        """Return when the server has all; raises what became of it. The connection is the caller's again."""
        with self._changed:
            self._flush = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: (not self._blocks and self._format is None) or self._failure is not None)
            self._flush = False
            self._raise()

    def close(self) -> None:
        """Forget what was not sent, and end the thread."""
        with self._changed:
            self._over = True
            self._blocks.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def read(self, size: int = -1) -> bytes:
        """For the driver: the next block, whatever its size; empty where this COPY ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._blocks or self._flush or self._over, PATIENCE)
            if not self._left or not self._blocks or self._blocks[0][0] is not self._format:
                return b""
            self._left -= 1
            _, block = self._blocks.popleft()
            self._changed.notify_all()
            return block

    def readline(self, size: int = -1) -> bytes:
        """Never called; the driver's types ask for it."""
        return self.read(size)

    def _go(self) -> None:
        try:
            while (format := self._next()) is not None:
                self._copy(format, self)
        except BaseException as error:  # noqa: BLE001  it is raised where the caller is
            with self._changed:
                self._failure = error
                self._blocks.clear()
                self._changed.notify_all()

    def _next(self) -> Format | None:
        """The format of the next COPY; None when there will be none."""
        with self._changed:
            self._format = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._blocks or self._over)
            self._format, self._left = None if self._over else self._blocks[0][0], LONGEST
            return self._format

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

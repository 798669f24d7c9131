"""Connections that are kept between calls: few, each used by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

C = TypeVar("C")


class Pool(Generic[C]):
    """Hands out connections, the one used last first. A connection that saw an exception is not handed out again."""

    def __init__(self, connect: Callable[[], C], close: Callable[[C], object], *, size: int = 8) -> None:
        """`size`: how many there are at most; who asks for one more waits."""
        self._connect = connect
        self._close = close
        self._room = threading.BoundedSemaphore(size)
        self._idle: list[C] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def connection(self, *, fresh: bool = False) -> Iterator[C]:
        """One connection, for as long as the block lasts. `fresh`: one that nobody has used before, for a second try
        after a kept one turned out to be dead. Raises what `connect` raises."""
        with self._room:
            taken = self._take(fresh=fresh)
            try:
                yield taken
            except BaseException:
                with suppress(Exception):
                    self._close(taken)
                raise
            self._give_back(taken)

    def _take(self, *, fresh: bool) -> C:
        if not fresh:
            with self._lock:
                if self._idle:
                    return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: C) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        self._close(connection)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(Exception):
                self._close(connection)

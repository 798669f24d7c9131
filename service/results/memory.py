"""Results in this process's memory: those used last."""

from __future__ import annotations

import threading
from collections import OrderedDict

MEMORY_BYTES = 64 * 1024 * 1024
LARGEST_BYTES = 8 * 1024 * 1024
"""Of one result; larger ones are worked out again."""


class MemoryResults:
    """`handlers.supplies.ResultCache`: the results used last, in so many bytes. Safe in any thread."""

    def __init__(self, most_bytes: int = MEMORY_BYTES) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> str | None:
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
            return value

    def put(self, key: str, value: str) -> None:
        if size_of(key, value) > min(LARGEST_BYTES, self._most):
            return
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += size_of(key, value) - (size_of(key, old) if old is not None else 0)
            self._kept[key] = value
            while self._bytes > self._most:
                self._bytes -= size_of(*self._kept.popitem(last=False))

    def close(self) -> None:
        return


def size_of(key: str, value: str) -> int:
    """Bytes, nearly: both are ASCII."""
    return len(key) + len(value) + 200

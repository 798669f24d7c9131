"""SHA-256 of a stream, taken beside the work that produces or consumes it."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor


class Sha256Thread:
    """Hashes blocks in a thread of its own; hashlib lets the interpreter go meanwhile.

    At most one block waits, so memory is bounded. A block must not change until the next `update` has
    returned. Use `close` in every case, it ends the thread.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256")
        self._pending: Future[None] | None = None

    def update(self, block: bytes | memoryview) -> None:
        self._settle()
        self._pending = self._pool.submit(self._hash.update, block)

    def hexdigest(self) -> str:
        self._settle()
        return self._hash.hexdigest()

    def close(self) -> None:
        self._pool.shutdown()

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

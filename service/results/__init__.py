"""Results of dear calculations, kept for a while: in memory, and in Redis for all replicas where there is one."""

from __future__ import annotations

from typing import Protocol

from handlers.supplies import ResultCache
from service.results.memory import MemoryResults


class Results(ResultCache, Protocol):
    """A cache that is open."""

    def close(self) -> None: ...


def open_results(redis_url: str | None) -> Results:
    """The cache for a process. Connects to nothing yet. Raises `ValueError`, without the URL in its text."""
    if redis_url is None:
        return MemoryResults()
    from service.results.shared import RedisResults  # here: the driver is large, and most services have no Redis

    return RedisResults(redis_url)


__all__ = ["Results", "open_results"]

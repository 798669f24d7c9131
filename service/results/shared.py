"""Results in Redis, for all replicas, with those of this process in front of them."""

from __future__ import annotations

import time

import redis
import structlog

from service.results.memory import LARGEST_BYTES, MemoryResults, size_of

log = structlog.get_logger(__name__)

PREFIX = "flexdb:calculation:"
KEPT_SECONDS = 86400
TIMEOUT_SECONDS = 0.25
PAUSE_SECONDS = 5.0
"""How long a Redis that failed is left alone: what it slows is one calculation in so long."""


class RedisResults:
    """As `MemoryResults`, with a Redis behind it. One that is away has nothing, and is asked again only after a pause.

    Raises `ValueError` for a URL that cannot be read.
    """

    def __init__(self, url: str, near: MemoryResults | None = None, *, pause: float = PAUSE_SECONDS) -> None:
        self._near = near or MemoryResults()
        self._pause = pause
        try:
            self._far = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                retry=None,
                protocol=2,  # understood by every version; nothing of 3 is needed
            )
        except ValueError:
            raise ValueError("FLEXDB_REDIS_URL: the URL cannot be read; it is like redis://host:6379/0.") from None
        self._again_at = 0.0

    def get(self, key: str) -> str | None:
        value = self._near.get(key)
        if value is not None or self._resting():
            return value
        try:
            found = self._far.getrange(PREFIX + key, 0, LARGEST_BYTES)  # no more, whatever others put there
        except (redis.RedisError, OSError) as error:
            self._rest(error)
            return None
        if not isinstance(found, bytes) or not 0 < len(found) <= LARGEST_BYTES or not found.isascii():
            return None
        value = found.decode("ascii")
        self._near.put(key, value)
        return value

    def put(self, key: str, value: str) -> None:
        self._near.put(key, value)
        if self._resting() or size_of(key, value) > LARGEST_BYTES:
            return
        try:
            self._far.set(PREFIX + key, value, ex=KEPT_SECONDS)
        except (redis.RedisError, OSError) as error:
            self._rest(error)

    def close(self) -> None:
        self._far.close()

    def _resting(self) -> bool:
        return time.monotonic() < self._again_at

    def _rest(self, error: Exception) -> None:
        """Leave it alone for a while. The text of the error may hold the URL, so only its kind is told."""
        self._again_at = time.monotonic() + self._pause
        log.warning("redis_unavailable", error=type(error).__name__, again_in=self._pause)

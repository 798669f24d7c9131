"""When the next request may be sent: so many at once, so many a second, fewer after the source asked for patience."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before another try, in seconds: anything from nothing to a bound that doubles (full jitter)."""

    base: float = 0.5
    cap: float = 30.0

    def wait(self, failures: int) -> float:
        """After so many failures in a row."""
        bound = min(self.cap, self.base * 2.0 ** min(failures - 1, 30))
        return random.uniform(0.0, bound)  # noqa: S311  no secret is made of it


class Gate:
    """Lets requests through one by one, those asked for first before the others, tries after a wait included.

    How many are inside at once grows by one for each full round that went well, and is halved when the source is
    busy (additive increase, multiplicative decrease). With a `rate` they are spread evenly, without bursts.
    """

    def __init__(self, most: int, rate: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = max(1, most)
        self._limit = float(self._most)
        self._interval = 1.0 / rate if rate else 0.0
        self._inside = 0
        self._admitted = 0
        self._halved_at = 0
        self._busy_rounds = 0
        self._next_at = 0.0
        self._closed_until = 0.0
        self._waiting: list[tuple[int, int, asyncio.Future[int]]] = []
        self._asked = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """Requests that may be inside at once now."""
        return int(self._limit)

    @asynccontextmanager
    async def turn(self, order: int) -> AsyncIterator[int]:
        """Wait for a turn, be inside for the block. The smallest `order` of those waiting is first.

        Gives the number of this turn, for `busy`.
        """
        turn: asyncio.Future[int] = self._loop.create_future()
        self._asked += 1
        heapq.heappush(self._waiting, (order, self._asked, turn))
        self._admit()
        try:
            yield await turn
        finally:
            if turn.done() and not turn.cancelled():
                self._inside -= 1
            self._admit()

    def _admit(self) -> None:
        """Let in who may come in now; come back when the clock lets the next one in."""
        while self._waiting and self._inside < int(self._limit):
            turn = self._waiting[0][2]
            if turn.done():  # canceled while it waited
                heapq.heappop(self._waiting)
                continue
            now = self._loop.time()
            opens = max(self._closed_until, self._next_at)
            if now < opens:
                self._come_back(opens)
                return
            heapq.heappop(self._waiting)
            # What a late timer lost is caught up with by one request, never by a burst.
            self._next_at = (self._next_at if self._next_at > now - self._interval else now) + self._interval
            self._inside += 1
            self._admitted += 1
            turn.set_result(self._admitted)

    def _come_back(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._admit)

    def well(self) -> None:
        """An answer came as it should."""
        self._limit = min(float(self._most), self._limit + 1.0 / self._limit)
        self._busy_rounds = 0

    def busy(self, turn: int, seconds: float | None, backoff: Backoff) -> None:
        """The source has too much to do: nobody is let in for so long, and fewer at once afterwards.

        Answers to requests that were under way when the limit was halved say nothing new. Where the source does
        not say how long, it is left alone longer and longer until an answer comes.
        """
        if turn > self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = self._admitted
            self._busy_rounds += 1
            seconds = seconds or backoff.wait(self._busy_rounds)
        self._closed_until = max(self._closed_until, self._loop.time() + (seconds or 0.0))

    def close(self) -> None:
        """Nobody comes back any more."""
        if self._timer is not None:
            self._timer.cancel()

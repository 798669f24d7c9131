"""Work that several threads want at once is done once in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from engines.errors import CalculationRefused
from engines.run import StopToken

T = TypeVar("T")
LOOK_SECONDS = 0.2
"""How often one who waits looks whether it shall stop."""


class Flights(Generic[T]):
    """The first who asks for a key does the work, the others wait for its result."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[str, Future[T]] = {}

    def once(self, key: str, work: Callable[[], T], stop: StopToken) -> tuple[T, bool]:
        """The result, and whether it was this caller who did the work.

        A refusal is everybody's. What ended the work otherwise, a stop above all, was meant for the one who did it:
        then the next does it. Raises what `work` raises, and `Stopped`.
        """
        while True:
            with self._lock:
                flight = self._flying.get(key)
                if flight is None:
                    mine = self._flying[key] = Future()
            if flight is None:
                return self._lead(key, mine, work), True
            try:
                return self._follow(flight, stop), False
            except CalculationRefused as error:
                raise CalculationRefused(error.reason, error.message, hint=error.hint) from error
            except _EndedError:
                continue

    def _lead(self, key: str, mine: Future[T], work: Callable[[], T]) -> T:
        try:
            result = work()
        except CalculationRefused as error:
            self._land(key)
            mine.set_exception(error)
            raise
        except BaseException:
            self._land(key)
            mine.set_exception(_EndedError())
            raise
        self._land(key)
        mine.set_result(result)
        return result

    def _land(self, key: str) -> None:
        with self._lock:
            del self._flying[key]

    def _follow(self, flight: Future[T], stop: StopToken) -> T:
        while True:
            stop.check()
            try:
                return flight.result(LOOK_SECONDS)
            except TimeoutError:
                continue


class _EndedError(Exception):
    """The one who did the work did not come to a result."""

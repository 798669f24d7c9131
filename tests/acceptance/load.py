"""Callers who send events to whichever replica answers, over again until they were answered 202."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from itertools import count
from random import Random
from typing import Any

from tests.acceptance.cluster import Cluster
from tests.acceptance.service_process import until

AGAIN_SECONDS = 0.05
BROKEN_OFF = (OSError, HTTPException, ValueError)
"""What a caller meets when the replica dies before, or in the middle of, its answer."""

MakeData = Callable[[int], Mapping[str, Any]]


class Callers:
    """A few threads; `promised` maps the ids that were answered 202 to their jobs."""

    def __init__(
        self,
        cluster: Cluster,
        data: MakeData,
        *,
        operation: str = "sleep",
        callers: int = 3,
        limit: int = 1_000_000,
        pause: float = 0.0,
        name: str = "load",
        replicas: Sequence[str] = (),
    ) -> None:
        self.promised: dict[str, str] = {}
        self.statuses: Counter[int] = Counter()
        self.unasked: list[str] = []
        """Answers that no caller should ever get, with the id they were for."""
        self._cluster, self._data, self._operation = cluster, data, operation
        self._limit, self._pause, self._name = limit, pause, name
        self._replicas = list(replicas or cluster.replicas)
        self._numbers = count()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(Random(seed),)) for seed in range(callers)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing new; what was begun is sent until it is answered 202."""
        self._done.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def further(self, number: int, seconds: float = 30.0) -> None:
        """Returns when that many more were answered 202."""
        enough = len(self.promised) + number
        until(lambda: len(self.promised) >= enough or self.unasked, seconds)
        assert not self.unasked, self.unasked

    def were_refused(self, before: int) -> bool:
        """Whether 503 was answered more often than that."""
        return self.statuses[503] > before

    def _call(self, chance: Random) -> None:
        while not self._done.is_set():
            with self._lock:
                number = next(self._numbers)
            if number >= self._limit:
                return
            self._send(f"{self._name}-{number}", dict(self._data(number)), chance)
            self._done.wait(self._pause)

    def _send(self, key: str, data: dict[str, Any], chance: Random) -> None:
        for _ in range(2000):
            service = self._cluster[chance.choice(self._replicas)]
            try:
                answer = service.hook(self._operation, data, key=key)
            except BROKEN_OFF:
                self.statuses[0] += 1
                self._done.wait(AGAIN_SECONDS)
                continue
            self.statuses[answer.status] += 1
            if answer.status == 202:
                self.promised[key] = answer.json["job_id"]
                return
            if answer.status != 503:
                self.unasked.append(f"{key}: {answer.status} {answer.body!r}")
                return
            threading.Event().wait(AGAIN_SECONDS)
        self.unasked.append(f"{key}: never answered 202")


@contextmanager
def under_load(callers: Callers) -> Iterator[Callers]:
    """Meanwhile the callers call; they have stopped, and were answered as they should be, after it."""
    callers.start()
    try:
        yield callers
    finally:
        callers.stop()
    assert not callers.unasked, callers.unasked[:5]

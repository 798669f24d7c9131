"""Stacks in a dictionary; they pass the suite that those of the ledger pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from handlers.supplies import Taken


class DictStacks:
    """`handlers.supplies.Stacks`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stacks: dict[str, list[str]] = {}
        self._revisions: dict[str, int] = {}
        self._steps: dict[str, str] = {}

    def size(self, name: str) -> int:
        with self._lock:
            return len(self._stacks.get(name, ()))

    def top(self, name: str, count: int) -> Taken:
        with self._lock:
            values = self._stacks.get(name, [])
            found = tuple(reversed(values[max(len(values) - count, 0) :])) if count else ()
            return Taken(found, len(values), self._revisions.get(name, 0))

    def push(self, name: str, values: Sequence[str], *, step: str | None = None) -> int:
        with self._lock:
            if step is not None and step in self._steps:
                return int(self._steps[step])
            stack = self._stacks.setdefault(name, [])
            stack.extend(values)
            self._changed(name, step, str(len(stack)))
            return len(stack)

    def pop(self, name: str, count: int, revision: int, *, step: str | None = None, outcome: str = "") -> bool:
        with self._lock:
            if self._revisions.get(name, 0) != revision:
                return False
            stack = self._stacks.setdefault(name, [])
            del stack[len(stack) - count :]
            self._changed(name, step, outcome)
            return True

    def step(self, step: str) -> str | None:
        with self._lock:
            return self._steps.get(step)

    def _changed(self, name: str, step: str | None, outcome: str) -> None:
        self._revisions[name] = self._revisions.get(name, 0) + 1
        if step is not None:
            self._steps[step] = outcome

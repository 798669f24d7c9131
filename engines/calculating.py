"""What an engine that calculates promises: exact results, looked at before the work, never in the way of others."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.run import StopToken

WAITING_EACH = 24
"""Callers for each process."""
MOST_WAITING = 200
"""In all: each of them keeps a thread."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one calculation may take."""

    processes: int = 2
    """Dear calculations at once."""
    seconds: float = 30.0
    megabytes: int = 1024
    digits: int = 2_000_000
    """Of an argument, of a result."""

    @property
    def waiting(self) -> int:
        """How many may wait for a process before impatient callers are turned away."""
        return min(WAITING_EACH * self.processes, MOST_WAITING)


@dataclass(frozen=True, slots=True)
class Calculation:
    """Something that can be calculated: checked, its cost known."""

    operation: str
    """The name in lower case."""
    arguments: tuple[str, ...]
    """Each written in the one way it has."""
    seconds: float
    """What it will take, nearly."""

    @property
    def key(self) -> str:
        """The same for the same operation and numbers, however they were written."""
        return f"{self.operation}:{hashlib.sha256(' '.join(self.arguments).encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Calculated:
    """A result. `text` is a decimal number of any length."""

    text: str
    exact: bool
    """False: it has no end, and is rounded to 50 significant digits, half to even."""


class CalculationEngine(ABC):
    """Calculates. Names of operations may be in upper or lower case. Safe in any thread, but never in the event loop:
    it blocks while a process works. Refusals are `CalculationRefused`."""

    @abstractmethod
    def arity(self, operation: str) -> int:
        """How many arguments it takes. Refuses with unknown_operation."""

    @abstractmethod
    def canonical(self, value: Any) -> str:
        """A number (`int`, `float` by its shortest text, `Decimal`, decimal text) written in the one way it has.

        Refuses with invalid_argument or argument_too_large."""

    @abstractmethod
    def prepare(self, operation: str, arguments: Sequence[Any]) -> Calculation:
        """Check and estimate; microseconds, however large the result would be. Refuses with unknown_operation,
        too_few_arguments, too_many_arguments, invalid_argument, argument_too_large, not_an_integer, division_by_zero,
        negative_factorial, result_too_large."""

    @abstractmethod
    def calculate(self, calculation: Calculation, stop: StopToken | None = None, *, patient: bool = True) -> Calculated:
        """Do it. Refuses with result_too_large, time_limit, memory_limit. Raises `Stopped`; `TargetBusy` when the
        engine is closed, or without patience when many wait already."""

    @abstractmethod
    def close(self) -> None:
        """End what it has started."""

"""Arithmetic: arguments checked and estimated first, then worked out here or, when that is dear, in a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.arithmetic import exact
from engines.arithmetic.arguments import number
from engines.arithmetic.operations import OPERATIONS, Operation, seconds
from engines.arithmetic.pool import Pool, too_large
from engines.calculating import Calculated, Calculation, CalculationEngine, Limits
from engines.errors import CalculationRefused
from engines.run import StopToken

ELSEWHERE_SECONDS = 0.001
"""From this cost on a process does it: asking one costs a tenth of that, and nothing here stands still."""


class ArithmeticEngine(CalculationEngine):
    """Whole and decimal numbers of any size, exactly."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._pool = Pool(self._limits)

    @property
    def pool(self) -> Pool:
        return self._pool

    def arity(self, operation: str) -> int:
        return _operation(operation).arity

    def canonical(self, value: Any) -> str:
        return number(value, self._limits.digits).text

    def prepare(self, operation: str, arguments: Sequence[Any]) -> Calculation:
        known = _operation(operation)
        numbers = [number(value, self._limits.digits) for value in arguments]
        if len(numbers) != known.arity:
            few = len(numbers) < known.arity
            raise CalculationRefused(
                "too_few_arguments" if few else "too_many_arguments",
                f"{'Not enough' if few else 'Too many'} arguments to perform the operation {operation}",
                hint=f"It takes {known.arity}.",
            )
        known.refuse(known, numbers)
        digits = known.digits(numbers)
        if digits > self._limits.digits + 2:  # what an estimate may be off by; the work itself looks again
            raise too_large(self._limits)
        return Calculation(known.name, tuple(number.text for number in numbers), seconds(digits, numbers))

    def calculate(self, calculation: Calculation, stop: StopToken | None = None, *, patient: bool = True) -> Calculated:
        numbers = [number(text, self._limits.digits) for text in calculation.arguments]
        wire = [one.wire for one in numbers]
        if calculation.seconds < ELSEWHERE_SECONDS:
            return self._here(calculation.operation, wire)
        text, whole = self._pool.calculate(calculation.operation, wire, stop or StopToken(), patient=patient)
        return Calculated(text, whole)

    def _here(self, operation: str, wire: list[str]) -> Calculated:
        try:
            return Calculated(*exact.compute(operation, wire, self._limits.digits))
        except exact.TooLargeError:
            raise too_large(self._limits) from None

    def close(self) -> None:
        self._pool.close()


def _operation(name: str) -> Operation:
    found = OPERATIONS.get(name.lower())
    if found is None:
        raise CalculationRefused(
            "unknown_operation", f"unknown operation: {name[:100]}", hint=f"There are: {', '.join(OPERATIONS)}."
        )
    return found

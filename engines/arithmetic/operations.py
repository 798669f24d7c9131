"""What each operation takes and refuses, how long its result will be, what it will cost: all before the work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engines.arithmetic.arguments import Number
from engines.errors import CalculationRefused

_LOG_PHI = math.log10((1 + math.sqrt(5)) / 2)
_ENDLESS = float("inf")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `refuse` raises for arguments it has no result for; `digits` is at least the result's length,
    give or take two, as far as the arguments alone tell it."""

    name: str
    title: str
    arity: int
    refuse: Callable[[Operation, Sequence[Number]], None]
    digits: Callable[[Sequence[Number]], float]


def _never(operation: Operation, arguments: Sequence[Number]) -> None:
    return


def _refused(operation: Operation, reason: str, why: str) -> CalculationRefused:
    return CalculationRefused(reason, f"Error while performing operation {operation.title}: {why}")


def _by_zero(operation: Operation, arguments: Sequence[Number]) -> None:
    if arguments[1].zero:
        raise _refused(operation, "division_by_zero", "division by 0")


def _no_power(operation: Operation, arguments: Sequence[Number]) -> None:
    base, power = arguments
    if base.zero and power.negative:
        raise _refused(operation, "division_by_zero", "division by 0")
    if base.negative and not power.integer:
        raise _refused(operation, "invalid_argument", "a negative number has no real power with a fraction")


def _no_integer(operation: Operation, arguments: Sequence[Number]) -> None:
    if not arguments[0].integer:
        raise _refused(operation, "not_an_integer", "it takes an integer")


def _no_factorial(operation: Operation, arguments: Sequence[Number]) -> None:
    _no_integer(operation, arguments)
    if arguments[0].negative:
        raise _refused(operation, "negative_factorial", "not supported for the negative number")


# ---------------------------------------------------------------- how long


def _of_sum(arguments: Sequence[Number]) -> float:
    known = [number for number in arguments if not number.zero]
    return max((number.point for number in known), default=1) - min([0, *(number.exponent for number in known)]) + 1


def _of_product(arguments: Sequence[Number]) -> float:
    first, second = arguments
    if first.zero or second.zero:
        return 1
    return max(first.point + second.point, 1) + max(-first.exponent - second.exponent, 0)


def _of_quotient(arguments: Sequence[Number]) -> float:
    """Only the least there is: whether it ends, and where, shows in the work."""
    return max(arguments[0].point - arguments[1].point, 1)


def _of_power(arguments: Sequence[Number]) -> float:
    base, power = arguments
    if base.zero or base.one or power.zero:
        return 1
    times = power.small() if power.integer else 0
    if times is None:
        return _ENDLESS
    size: float = 10**power.log10 * abs(base.log10)
    if not power.integer or power.negative:
        return size  # below 1 it is as small as it could be large
    return max(size if base.log10 > 0 else 1, 1) + max(-base.exponent, 0) * times


def _of_amount(arguments: Sequence[Number]) -> float:
    return arguments[0].length


def _of_factorial(arguments: Sequence[Number]) -> float:
    number = arguments[0].small()
    return _ENDLESS if number is None else math.lgamma(number + 1) / math.log(10) + 1


def _of_fibonacci(arguments: Sequence[Number]) -> float:
    number = arguments[0].small()
    return _ENDLESS if number is None else abs(number) * _LOG_PHI + 1


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("plus", "Plus", 2, _never, _of_sum),
        Operation("minus", "Minus", 2, _never, _of_sum),
        Operation("times", "Times", 2, _never, _of_product),
        Operation("divide", "Divide", 2, _by_zero, _of_quotient),
        Operation("pow", "Pow", 2, _no_power, _of_power),
        Operation("abs", "Abs", 1, _never, _of_amount),
        Operation("fact", "Factorial", 1, _no_factorial, _of_factorial),
        Operation("fibonacci", "Fibonacci", 1, _no_integer, _of_fibonacci),
    )
}


def seconds(digits: float, arguments: Sequence[Number]) -> float:
    """What a calculation costs, within a factor of two or three: text and back is most of it, then division.

    Measured with GMP 6.3: a text of 10,000 digits takes 72 us to write, one of 1,000,000 takes 50 ms.
    """
    longest = max(max(len(number.digits) for number in arguments), 1)
    return _writing(digits) * 1.4 + sum(_writing(len(number.digits)) for number in arguments) + _writing(longest)


def _writing(digits: float) -> float:
    return 1.8e-10 * math.pow(digits, 1.4)

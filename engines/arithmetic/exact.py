"""The sums themselves: numbers of any size, on gmpy2 and the standard library alone.

The engine imports it for what takes microseconds, `worker.py` loads it in a process of its own for the rest. Arguments
come as `[-]DIGITS[e[-]EXPONENT]`, as `arguments.Number.wire` writes them, checked before.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import NamedTuple

import gmpy2
from gmpy2 import mpz

SIGNIFICANT = 50
"""Digits of a result that has no end, rounded half to even."""
GUARD = 50
"""Digits that powers are worked out with beyond those shown."""
LONGEST_PLAIN = 50
"""Zeros behind the point that a rounded result is written with; smaller ones are written as 1.2E-99."""


class TooLargeError(Exception):
    """The result would have more digits than are allowed; found before it was worked out."""


class Value(NamedTuple):
    """`coefficient * 10 ** exponent`, exactly."""

    coefficient: mpz
    exponent: int


class Found(NamedTuple):
    value: Value
    exact: bool


def compute(operation: str, arguments: list[str], limit: int) -> tuple[str, bool]:
    """The result as text, and whether it is exact.

    Raises `TooLargeError` for an exact result of more than `limit` digits, where that shows only now.
    """
    found = _OPERATIONS[operation]([_read(text) for text in arguments], limit)
    return (_plain(found.value, limit), True) if found.exact else (_rounded(found.value, limit), False)


def _read(text: str) -> Value:
    digits, _, exponent = text.partition("e")
    return Value(mpz(digits), int(exponent or "0"))


# ---------------------------------------------------------------- text


def _plain(value: Value, limit: int) -> str:
    """All of its digits, without an exponent and without zeros at the end of a fraction."""
    if not value.coefficient:
        return "0"
    if value.coefficient.num_digits(10) + max(value.exponent, 0) > limit + 1:  # `num_digits` may be one too many
        raise TooLargeError
    sign, digits, exponent = _stripped(value)
    if exponent >= 0:
        return _within(f"{sign}{digits}{'0' * exponent}", limit)
    if -exponent > limit:
        raise TooLargeError
    digits = digits.rjust(1 - exponent, "0")
    return _within(f"{sign}{digits[:exponent]}.{digits[exponent:]}", limit)


def _within(text: str, limit: int) -> str:
    if len(text.lstrip("-").replace(".", "", 1)) > limit:
        raise TooLargeError
    return text


def _stripped(value: Value) -> tuple[str, str, int]:
    """Sign, digits and exponent; zeros at the end of a fraction are no digits of it."""
    digits, exponent = value.coefficient.digits(), value.exponent
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if exponent < 0:
        kept = digits.rstrip("0")
        fewer = min(len(digits) - len(kept), -exponent)
        digits, exponent = digits[: len(digits) - fewer], exponent + fewer
    return sign, digits, exponent


def _rounded(value: Value, limit: int) -> str:
    """As `1.2E+99` where plain digits would look more exact than they are, or be mostly zeros."""
    sign, digits, exponent = _stripped(value)
    point = len(digits) + exponent
    if exponent <= 0 and point > -LONGEST_PLAIN:
        return _plain(value, max(limit, SIGNIFICANT + LONGEST_PLAIN + 1))
    digits = digits.rstrip("0")
    return f"{sign}{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}E{point - 1:+d}"


# ---------------------------------------------------------------- operations


def _plus(arguments: list[Value], limit: int) -> Found:
    first, second = arguments
    exponent = min(first.exponent, second.exponent)
    return Found(Value(_at(first, exponent) + _at(second, exponent), exponent), True)


def _at(value: Value, exponent: int) -> mpz:
    """Its coefficient for a smaller exponent."""
    return value.coefficient * mpz(10) ** (value.exponent - exponent)


def _minus(arguments: list[Value], limit: int) -> Found:
    first, second = arguments
    return _plus([first, Value(-second.coefficient, second.exponent)], limit)


def _times(arguments: list[Value], limit: int) -> Found:
    first, second = arguments
    return Found(Value(first.coefficient * second.coefficient, first.exponent + second.exponent), True)


def _divide(arguments: list[Value], limit: int) -> Found:
    above, below = arguments
    twos, fives, rest = _without_two_and_five(below.coefficient)
    exponent = above.exponent - below.exponent
    whole, left = gmpy2.f_divmod(above.coefficient, rest)
    if not left:  # it comes to an end: whole / (2**twos * 5**fives)
        places = max(twos, fives)
        if places > 4 * limit + 100:
            raise TooLargeError
        scaled = whole * mpz(5) ** (places - fives) * mpz(2) ** (places - twos)
        return Found(Value(scaled, exponent - places), True)
    quotient, dropped = _quotient(abs(above.coefficient), abs(below.coefficient))
    negative = (above.coefficient < 0) != (below.coefficient < 0)
    return Found(Value(-quotient if negative else quotient, exponent + dropped), False)


def _without_two_and_five(number: mpz) -> tuple[int, int, mpz]:
    """How often 2 and 5 are in it, and what is left, with its sign."""
    rest, twos = gmpy2.remove(number, 2)
    rest, fives = gmpy2.remove(rest, 5)
    return int(twos), int(fives), rest


def _quotient(above: mpz, below: mpz) -> tuple[mpz, int]:
    """`above / below` to the nearest of 50 significant digits: a coefficient and its exponent."""
    shift = SIGNIFICANT + 1 - (above.num_digits(10) - below.num_digits(10))
    if shift > 0:
        above *= mpz(10) ** shift
    else:
        below *= mpz(10) ** -shift
    quotient, left = gmpy2.f_divmod(above, below)
    extra = len(quotient.digits()) - SIGNIFICANT
    unit = mpz(10) ** extra
    quotient, low = gmpy2.f_divmod(quotient, unit)
    if 2 * (low * below + left) > unit * below:  # never just half: that would have an end
        quotient += 1
    return quotient, extra - shift


def _pow(arguments: list[Value], limit: int) -> Found:
    base, power = arguments
    if power.exponent < 0:
        return _fractional_power(base, power, limit)
    times = int(power.coefficient * mpz(10) ** power.exponent) if base.coefficient not in (-1, 0, 1) else None
    if base.coefficient == 0:
        return Found(Value(mpz(0 if power.coefficient else 1), 0), True)
    if times is None:  # 1 or -1 and a power of ten; the exponent of that power may be too large to be made a number
        odd = power.exponent == 0 and power.coefficient.is_odd()
        sign = base.coefficient if odd else mpz(1)
        tens = int(power.coefficient * mpz(10) ** power.exponent) * base.exponent if base.exponent else 0
        return Found(Value(sign, tens), True)
    return _integer_power(base, power, times, limit)


def _integer_power(base: Value, power: Value, times: int, limit: int) -> Found:
    if times >= 0:
        return Found(Value(base.coefficient**times, base.exponent * times), True)
    twos, fives, rest = _without_two_and_five(base.coefficient)
    if abs(rest) != 1:
        return _by_decimals(base, power)
    places = max(twos, fives) * -times
    if max(places * 0.3, places - base.exponent * times) > limit + 10:
        raise TooLargeError
    other = mpz(5) ** (twos * -times) * mpz(2) ** (fives * -times)  # one of both is no factor of it
    sign = rest if times % 2 else mpz(1)
    return Found(Value(sign * other, base.exponent * times - places), True)


def _fractional_power(base: Value, power: Value, limit: int) -> Found:
    """Of a base that is not negative. Exact where the root is."""
    if base.coefficient == 0:
        return Found(Value(mpz(0), 0), True)
    numerator, denominator = power.coefficient, mpz(10) ** -power.exponent
    common = gmpy2.gcd(numerator, denominator)
    numerator, denominator = numerator // common, denominator // common
    root = _root(base, denominator)
    if root is None:
        return _by_decimals(base, power)
    times = int(numerator)
    size = abs(times) * (root.coefficient.num_digits(10) - 1)
    if root.coefficient != 1 and size > limit:
        raise TooLargeError
    return _integer_power(root, Value(numerator, 0), times, limit)


def _root(base: Value, degree: mpz) -> Value | None:
    """The exact root, None when there is none. Ten is no factor of the coefficient, so the exponent must divide too."""
    if base.exponent % degree:
        return None
    exponent = int(base.exponent // degree)
    if base.coefficient == 1:
        return Value(base.coefficient, exponent)
    if degree >= base.coefficient.bit_length():
        return None
    root, exact = gmpy2.iroot(base.coefficient, int(degree))
    return Value(root, exponent) if exact else None


def _by_decimals(base: Value, power: Value) -> Found:
    """A power that has no end, by `decimal` with 50 digits more than are shown."""
    precision = SIGNIFICANT + GUARD + len(str(power.exponent)) + min(power.coefficient.num_digits(10), 100)
    context = decimal.Context(precision, decimal.ROUND_HALF_EVEN, decimal.MIN_EMIN, decimal.MAX_EMAX, traps=[])
    found = context.power(_decimal(base, context), _decimal(power, context))
    context.prec = SIGNIFICANT
    sign, digits, exponent = context.plus(found).as_tuple()
    if not isinstance(exponent, int):  # infinite or no number: beyond what the estimate let pass
        raise TooLargeError
    coefficient = mpz("".join(map(str, digits)))
    return Found(Value(-coefficient if sign else coefficient, exponent), False)


def _decimal(value: Value, context: decimal.Context) -> decimal.Decimal:
    return context.create_decimal(f"{value.coefficient.digits()}E{value.exponent}")


def _abs(arguments: list[Value], limit: int) -> Found:
    return Found(Value(abs(arguments[0].coefficient), arguments[0].exponent), True)


def _fact(arguments: list[Value], limit: int) -> Found:
    return Found(Value(gmpy2.fac(_small(arguments[0])), 0), True)


def _fibonacci(arguments: list[Value], limit: int) -> Found:
    """Of a negative number: F(-n) = (-1)**(n + 1) * F(n)."""
    number = _small(arguments[0])
    found = gmpy2.fib(abs(number))
    return Found(Value(-found if number < 0 and number % 2 == 0 else found, 0), True)


def _small(value: Value) -> int:
    """An integer whose size was looked at before."""
    return int(value.coefficient * mpz(10) ** value.exponent)


_OPERATIONS: dict[str, Callable[[list[Value], int], Found]] = {
    "plus": _plus,
    "minus": _minus,
    "times": _times,
    "divide": _divide,
    "pow": _pow,
    "abs": _abs,
    "fact": _fact,
    "fibonacci": _fibonacci,
}

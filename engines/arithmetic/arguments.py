"""Arguments of calculations: read exactly from what JSON and Python bring, however long."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import gmpy2

from engines.errors import CalculationRefused

ZEROS_WRITTEN = 20
"""Zeros at either end that a kept number is written with; with more it is written as `1E+99`."""
_EXPONENT_DIGITS = 18
_DIGITS = re.compile("[0-9]+")  # four times as fast as `str.isdigit`, which counts when there are a million


@dataclass(frozen=True, slots=True)
class Number:
    """`digits * 10 ** exponent`, exactly; `digits` begins and ends with no zero, but for zero itself."""

    negative: bool
    digits: str
    exponent: int

    @property
    def zero(self) -> bool:
        return self.digits == "0"

    @property
    def integer(self) -> bool:
        return self.exponent >= 0

    @property
    def one(self) -> bool:
        """1 or -1."""
        return self.digits == "1" and not self.exponent

    @property
    def point(self) -> int:
        """Digits before the point; negative for zeros behind it."""
        return len(self.digits) + self.exponent

    @property
    def length(self) -> int:
        """Digits when it is written without an exponent."""
        return max(self.point, 1) + max(-self.exponent, 0)

    @property
    def log10(self) -> float:
        """Of its amount, nearly; not for zero."""
        return math.log10(float(f"0.{self.digits[:17]}")) + self.point

    def small(self, most: int = 18) -> int | None:
        """As an integer, None when it has more digits than that or is none."""
        if not self.integer or self.point > most:
            return None
        amount = int(self.digits + "0" * self.exponent)
        return -amount if self.negative else amount

    @property
    def wire(self) -> str:
        """As `exact.compute` reads it."""
        return f"{'-' if self.negative else ''}{self.digits}e{self.exponent}"

    @property
    def text(self) -> str:
        """The one way this number is written: for keys, stacks and histories. `number` reads it."""
        sign = "-" if self.negative else ""
        if 0 <= self.exponent <= ZEROS_WRITTEN:
            return f"{sign}{self.digits}{'0' * self.exponent}"
        if self.exponent > 0 or self.point < -ZEROS_WRITTEN:
            return f"{sign}{self.digits}E{self.exponent:+d}"
        digits = self.digits.rjust(1 - self.exponent, "0")
        return f"{sign}{digits[: self.exponent]}.{digits[self.exponent :]}"


def number(value: Any, limit: int) -> Number:
    """A JSON number or decimal text as it is; a float is what its shortest text says.

    Raises `CalculationRefused`: `invalid_argument`, or `argument_too_large` for more than `limit` digits.
    """
    text = _text(value)
    if len(text) > limit + 64:
        raise _too_large(limit)
    mantissa, mark, exponent = text.partition("e" if "e" in text else "E")
    negative = mantissa.startswith("-")
    whole, point, fraction = mantissa.lstrip("+-").partition(".")
    if not _is_number(mantissa, whole, point, fraction) or (mark and not _is_exponent(exponent)):
        raise _invalid(text)
    digits = f"{whole}{fraction}".lstrip("0")
    if not digits:
        return Number(False, "0", 0)
    kept = digits.rstrip("0")
    found = Number(negative, kept, (int(exponent) if mark else 0) - len(fraction) + len(digits) - len(kept))
    if found.length > limit:
        raise _too_large(limit)
    return found


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            raise _invalid(str(value).lower())
        case int():
            return str(gmpy2.mpz(value).digits())  # not `str`: it refuses more than 4,300 digits, and is slow
        case float() | Decimal():
            return str(value)
    raise _invalid(type(value).__name__)


def _is_number(mantissa: str, whole: str, point: str, fraction: str) -> bool:
    if len(mantissa) - len(whole) - len(point) - len(fraction) > 1:
        return False
    return bool(_DIGITS.fullmatch(whole) and (_DIGITS.fullmatch(fraction) or not point))


def _is_exponent(text: str) -> bool:
    digits = text[1:] if text[:1] in ("+", "-") else text
    return digits.isascii() and digits.isdigit() and len(digits) <= _EXPONENT_DIGITS


def _invalid(text: str) -> CalculationRefused:
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return CalculationRefused(
        "invalid_argument",
        f"{shown!r} is not a number",
        hint="Send numbers, or decimal numbers as text: 12, -0.5, 1.5e3.",
    )


def _too_large(limit: int) -> CalculationRefused:
    return CalculationRefused(
        "argument_too_large",
        f"An argument has more than {limit} digits",
        hint="Send smaller numbers, or raise FLEXDB_CALCULATION_DIGITS.",
    )

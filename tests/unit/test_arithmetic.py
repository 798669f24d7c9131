"""Arithmetic is exact, refuses in its own words, and knows beforehand what a result would cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.arithmetic import ArithmeticEngine
from engines.arithmetic.exact import SIGNIFICANT
from engines.calculating import Calculated, Limits
from engines.errors import CalculationRefused

DIGITS = 20_000
ENGINE = ArithmeticEngine(Limits(processes=1, digits=DIGITS))
"""Nothing in this file is dear enough for a process."""

decimals = st.decimals(min_value=-(10**30), max_value=10**30, allow_nan=False, allow_infinity=False, places=None)
integers = st.integers(-(10**40), 10**40)
numbers = st.one_of(decimals, integers)


@pytest.fixture(autouse=True, scope="module")
def _no_process() -> Iterator[None]:
    yield
    assert ENGINE.pool.pids() == []
    ENGINE.close()


def calculated(operation: str, *arguments: Any) -> Calculated:
    return ENGINE.calculate(ENGINE.prepare(operation, arguments))


def result(operation: str, *arguments: Any) -> str:
    return calculated(operation, *arguments).text


def refused(operation: str, *arguments: Any) -> str:
    with pytest.raises(CalculationRefused) as caught:
        calculated(operation, *arguments)
    assert caught.value.code == "calculation_refused" and caught.value.hint
    assert caught.value.details == {"reason": caught.value.reason}
    return caught.value.reason


def value(text: str) -> Fraction:
    return Fraction(Decimal(text))


def exactly(number: Any) -> Fraction:
    return Fraction(Decimal(number)) if isinstance(number, Decimal | str) else Fraction(number)


# ---------------------------------------------------------------- against fractions


@given(first=numbers, second=numbers)
def test_sums_differences_and_products_are_exact(first: Any, second: Any) -> None:
    a, b = exactly(first), exactly(second)
    for operation, expected in (("plus", a + b), ("minus", a - b), ("times", a * b)):
        found = calculated(operation, first, second)
        assert value(found.text) == expected and found.exact
        assert_plain(found.text)


def assert_plain(text: str) -> None:
    """As every exact result is written: digits and at most one point, nothing that says nothing."""
    whole, point, fraction = text.removeprefix("-").partition(".")
    assert whole.isdigit() and (whole == "0" or whole[0] != "0")
    assert not point or (fraction.isdigit() and fraction[-1] != "0")
    assert text != "-0"


@given(first=numbers, second=numbers.filter(bool))
def test_a_quotient_is_exact_where_it_ends_and_else_rounded_to_fifty_digits(first: Any, second: Any) -> None:
    expected = exactly(first) / exactly(second)
    found = calculated("divide", first, second)
    rest = expected.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    assert found.exact is (rest == 1)
    if found.exact:
        assert value(found.text) == expected
        assert_plain(found.text)
    else:
        assert_rounded(found.text, expected)


def assert_rounded(text: str, expected: Fraction) -> None:
    digits = text.partition("E")[0].replace(".", "").lstrip("-0")
    assert len(digits) <= SIGNIFICANT
    size = math.floor(math.log10(abs(value(text)))) if value(text) else 0
    assert abs(value(text) - expected) <= Fraction(10) ** (size - SIGNIFICANT + 2) / 2 / 10


@given(base=st.one_of(st.integers(-999, 999), st.decimals(-99, 99, places=3)), power=st.integers(-60, 60))
def test_whole_powers_are_exact_where_they_end(base: Any, power: int) -> None:
    if not base and power < 0:
        assert refused("pow", base, power) == "division_by_zero"
        return
    expected = exactly(base) ** power
    found = calculated("pow", base, power)
    if found.exact:
        assert value(found.text) == expected
    else:
        assert power < 0
        assert_rounded(found.text, expected)


@given(root=st.decimals(0, 999, places=2), number=st.sampled_from(["0.5", "0.25", "1.5", "0.2", "0.125"]))
def test_a_power_with_a_fraction_is_exact_where_the_root_is(root: Decimal, number: str) -> None:
    power = Fraction(number)
    base = exactly(root) ** power.denominator
    found = calculated("pow", result("pow", str(root), power.denominator), number)
    assert found.exact and value(found.text) == exactly(root) ** power.numerator
    assert base == value(result("pow", str(root), power.denominator))


@given(number=st.integers(0, 600))
def test_factorials_are_those_of_the_standard_library(number: int) -> None:
    assert int(result("fact", number)) == math.factorial(number)


@given(number=st.integers(-400, 400))
def test_fibonacci_numbers_follow_their_rule_below_zero_too(number: int) -> None:
    one, two, three = (int(result("fibonacci", number + step)) for step in (0, 1, 2))
    assert one + two == three


def test_the_first_fibonacci_numbers() -> None:
    assert [int(result("fibonacci", number)) for number in range(-4, 9)] == [-3, 2, -1, 1, 0, 1, 1, 2, 3, 5, 8, 13, 21]


@given(number=numbers)
def test_a_number_has_one_way_to_be_written_and_is_read_back_from_it(number: Any) -> None:
    text = ENGINE.canonical(number)
    assert value(text) == exactly(number)
    assert ENGINE.canonical(text) == text
    assert ENGINE.canonical(f"{Decimal(number) if isinstance(number, Decimal) else number}") == text
    assert value(result("abs", number)) == abs(exactly(number))


# ---------------------------------------------------------------- forms


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        ("plus", (0.1, 0.2), "0.3"),
        ("PLUS", ("1.50", "1.50"), "3"),
        ("Times", (1e22, 1), "1" + "0" * 22),
        ("plus", ("1e3", "-1E-3"), "999.999"),
        ("plus", (2**53, 1), "9007199254740993"),
        ("divide", (6, 3), "2"),
        ("divide", (1, 8), "0.125"),
        ("divide", (2, 3), "0." + "6" * 49 + "7"),
        ("divide", (-2, 3), "-0." + "6" * 49 + "7"),
        ("divide", (10**60, 3), "3." + "3" * 49 + "E+59"),
        ("divide", (1, 3 * 10**60), "3." + "3" * 49 + "E-61"),
        ("pow", (2, "0.5"), "1.4142135623730950488016887242096980785696718753769"),
        ("pow", (2, -2), "0.25"),
        ("pow", (0, 0), "1"),
        ("pow", (-1, "1e40"), "1"),
        ("pow", (-1, 10**40 + 1), "-1"),
        ("pow", (0, "0.5"), "0"),
        ("abs", ("-0.0",), "0"),
        ("fact", ("5.0",), "120"),
        ("fact", (0,), "1"),
    ],
)
def test_results_as_they_are_documented(operation: str, arguments: tuple[Any, ...], expected: str) -> None:
    assert result(operation, *arguments) == expected


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("modulo", (1, 2), "unknown_operation"),
        ("", (), "unknown_operation"),
        ("plus", (1,), "too_few_arguments"),
        ("plus", (1, 2, 3), "too_many_arguments"),
        ("fact", (), "too_few_arguments"),
        ("divide", (1, "0.000"), "division_by_zero"),
        ("pow", (0, -1), "division_by_zero"),
        ("pow", (-8, "0.2"), "invalid_argument"),
        ("fact", (-1,), "negative_factorial"),
        ("fact", ("1.5",), "not_an_integer"),
        ("fact", ("-1.5",), "not_an_integer"),
        ("fibonacci", (0.5,), "not_an_integer"),
        ("plus", (1, "1" * (DIGITS + 1)), "argument_too_large"),
        ("plus", (1, f"1e{DIGITS}"), "argument_too_large"),
        ("plus", (1, f"1e-{DIGITS}0"), "argument_too_large"),
        ("plus", (1, "1e99999999999999999999"), "invalid_argument"),
        ("times", ("9" * DIGITS, "9" * DIGITS), "result_too_large"),
        ("pow", (9, 10**9), "result_too_large"),
        ("pow", (9, 10**99), "result_too_large"),
        ("pow", ("0.5", 10**6), "result_too_large"),
        ("pow", (2, -(10**6)), "result_too_large"),
        ("fact", (10**7,), "result_too_large"),
        ("fact", (10**99,), "result_too_large"),
        ("fibonacci", (10**18,), "result_too_large"),
        ("fibonacci", (-(10**30),), "result_too_large"),
        ("divide", (1, result("pow", 2, 60_000)), "result_too_large"),
    ],
)
def test_refusals_have_a_reason(operation: str, arguments: tuple[Any, ...], reason: str) -> None:
    assert refused(operation, *arguments) == reason


NO_NUMBERS: tuple[Any, ...] = (
    *("", " 1", "1 ", "+-1", "--1", "1_000", "1,5", "0x10", "1.", ".5", "1e", "1e+-2", "1e1.5", "1.5.5", "1\n"),
    *("NaN", "-inf", "Infinity", "²", "\u0661", "\ud800"),
    *(True, None, [], {}, float("nan"), float("inf"), Decimal("sNaN")),
)


@pytest.mark.parametrize("argument", NO_NUMBERS, ids=ascii)
def test_what_is_no_number_is_refused(argument: Any) -> None:
    assert refused("plus", 1, argument) == "invalid_argument"


def test_the_words_of_refusals() -> None:
    def words(operation: str, *arguments: Any) -> str:
        with pytest.raises(CalculationRefused) as caught:
            ENGINE.prepare(operation, arguments)
        return caught.value.message

    assert words("modulo", 1) == "unknown operation: modulo"
    assert words("plus", 1) == "Not enough arguments to perform the operation plus"
    assert words("plus", 1, 2, 3) == "Too many arguments to perform the operation plus"
    assert words("divide", 1, 0) == "Error while performing operation Divide: division by 0"
    assert words("fact", -1) == "Error while performing operation Factorial: not supported for the negative number"


# ---------------------------------------------------------------- before the work


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("fact", (5000,)),
        ("fibonacci", (90_000,)),
        ("pow", (7, 23_000)),
        ("pow", ("1.5", 9000)),
        ("times", ("9" * 9999,) * 2),
    ],
)
def test_the_limit_is_met_to_the_digit(operation: str, arguments: tuple[Any, ...]) -> None:
    found = calculated(operation, *arguments)
    length = len(found.text.replace(".", ""))
    enough, short = ArithmeticEngine(Limits(digits=length)), ArithmeticEngine(Limits(digits=length - 1))
    assert enough.calculate(enough.prepare(operation, arguments)) == found
    with pytest.raises(CalculationRefused) as caught:
        short.calculate(short.prepare(operation, arguments))
    assert caught.value.reason == "result_too_large"


def test_a_huge_wish_is_refused_in_no_time() -> None:
    engine = ArithmeticEngine()
    began = time.perf_counter()
    for _ in range(1000):
        with pytest.raises(CalculationRefused):
            engine.prepare("fact", (10**7,))
    assert time.perf_counter() - began < 0.5


def test_the_same_numbers_have_the_same_key_however_they_are_written() -> None:
    keys = {ENGINE.prepare(name, ["1500", other]).key for name in ("plus", "PLUS") for other in (0.1, "0.10", "1e-1")}
    assert keys == {ENGINE.prepare("plus", [Decimal("1.5e3"), Decimal("0.1")]).key}
    assert ENGINE.prepare("plus", ["0.1", "1500"]).key not in keys
    assert ENGINE.prepare("times", ["1500", "0.1"]).key not in keys


@settings(deadline=None, max_examples=20)
@given(digits=st.integers(4_000, 19_000), base=st.integers(2, 9))
def test_the_interpreters_limit_on_digits_is_not_met(digits: int, base: int) -> None:
    long = str(base) * digits
    assert result("minus", result("plus", long, 1), 1) == long

"""Values of fields: from JSON and from text to what engines take, and back to JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation, localcontext
from typing import Any

import msgspec

from engines.records.fields import LARGEST_INTEGER, LARGEST_PRECISION, SMALLEST_INTEGER, Field, Kind, Value

SHOWN_PRECISION = 15
"""Digits that a decimal may have to be shown as a JSON number: every program reads those exactly."""
SHOWN_INTEGER = 2**53 - 1
LARGEST_FLOAT_DECIMAL = 10**15
DEEPEST_JSON = 64
"""Objects and arrays in each other; databases have limits of their own, the lowest is 100."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}\Z")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?\Z")
_LOST_PLUS = re.compile(r"(?<=[0-9]) (?=[0-9]{2}:[0-9]{2}\Z)")
"""In a query string a + that is not encoded is a space: that before a time zone is meant as a +."""
_WIDE = Context(prec=200, Emax=MAX_EMAX, Emin=MIN_EMIN)
_JSON = msgspec.json.Encoder(decimal_format="number")
_CANONICAL_JSON = msgspec.json.Encoder(decimal_format="number", order="sorted")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


class Unfit(ValueError):
    """A value is not one of the field's. The message is a sentence; it does not quote the value."""


def decoded(document: bytes | str | msgspec.Raw) -> Any:
    """JSON, numbers with a point or an exponent as `Decimal`, digit by digit. Raises `ValueError`."""
    try:
        return _DECODER.decode(document)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except msgspec.MsgspecError as error:
        # msgspec's word for half of a surrogate pair; it tells nothing to who sent it
        told = "it ends too early, or a string in it holds half a surrogate pair"
        raise ValueError(told if "truncated" in str(error) else str(error)) from None


# ---------------------------------------------------------------- from JSON


def from_json(field: Field, value: Any) -> Value:
    """What engines take for a JSON value that is not null. Raises `Unfit`."""
    return _FROM_JSON[field.kind](field, value)


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit(f"Expected a string, got {told(value)}.")
    if "\0" in value:
        raise Unfit("The text holds U+0000, which databases do not take.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit("The text holds half a surrogate pair: it is not Unicode.") from None
    if field.max_length is not None and len(value) > field.max_length:
        raise Unfit(f"The text has {len(value)} characters; at most {field.max_length} are allowed.")
    return value


def _integer(field: Field, value: Any) -> int:
    if isinstance(value, str):
        whole = _INTEGER.match(value) is not None
    elif isinstance(value, float | Decimal):
        whole = _is_whole(value)
    else:
        whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole:
        raise Unfit(f"Expected an integer, got {told(value)}.")
    number = int(value)
    if not SMALLEST_INTEGER <= number <= LARGEST_INTEGER:
        raise Unfit("The integer is outside of 64 bits, signed.")
    return number


def _is_whole(value: float | Decimal) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and value.adjusted() < LARGEST_PRECISION and value == value.to_integral_value()
    return value.is_integer()


def _decimal(field: Field, value: Any) -> Decimal:
    if isinstance(value, str) and _DECIMAL.match(value):
        number = Decimal(value)
    elif isinstance(value, Decimal):
        number = value
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise Unfit(f"Expected a decimal number (a number, or its digits as a string), got {told(value)}.")
    elif isinstance(value, int):
        if abs(value) >= 10**LARGEST_PRECISION:
            raise Unfit(f"The number has more than {LARGEST_PRECISION} digits.")
        number = Decimal(value)
    else:
        number = _from_float(value)
    return fitted(field, number)


def _from_float(value: float) -> Decimal:
    """A float's shortest text, where that can only be what was written. Raises `Unfit`."""
    number = Decimal(repr(value))
    if not number.is_finite():
        raise Unfit("Expected a number, got NaN or infinity.")
    if abs(number) >= LARGEST_FLOAT_DECIMAL or len(number.normalize().as_tuple().digits) > SHOWN_PRECISION:
        raise Unfit(f"The number has more than {SHOWN_PRECISION} digits: send it as a string, so that none is lost.")
    return number


def fitted(field: Field, number: Decimal) -> Decimal:
    """The number with the digits its field has; never rounded. Raises `Unfit`."""
    if not number.is_finite():
        raise Unfit("Expected a number, got NaN or infinity.")
    if not number:
        number = Decimal(0)  # neither -0 nor zeros with an exponent
    if field.precision is None or field.scale is None:
        return _undeclared(number)
    if number.adjusted() >= field.precision - field.scale:
        raise Unfit(f"The number has more than {field.precision - field.scale} digits before the point.")
    try:
        return number.quantize(Decimal(1).scaleb(-field.scale), context=exact_context(field.precision))
    except (InvalidOperation, Inexact):
        raise Unfit(f"The number has more than {field.scale} digits behind the point; it is not rounded.") from None


def exact_context(precision: int) -> Context:
    """Refuses what would lose a digit, by `Inexact` or `InvalidOperation`."""
    return Context(prec=precision, traps=[Inexact, InvalidOperation])


def _undeclared(number: Decimal) -> Decimal:
    """Without exponent, and with no more digits than every engine holds."""
    exponent = int(number.as_tuple().exponent)
    if -LARGEST_PRECISION <= number.adjusted() < LARGEST_PRECISION and len(number.as_tuple().digits) <= _WIDE.prec:
        # only now, that nothing writes out zeros by the million
        if exponent > 0:
            number = number.quantize(Decimal(1), context=_WIDE)
        elif exponent < -LARGEST_PRECISION:
            number = number.normalize(_WIDE)
        if len(number.as_tuple().digits) <= LARGEST_PRECISION and int(number.as_tuple().exponent) >= -LARGEST_PRECISION:
            return number
    raise Unfit(f"The number needs more than {LARGEST_PRECISION} digits.")


def _float(field: Field, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Unfit(f"Expected a number, got {told(value)}.")
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = float("inf")
    if number - number != 0:
        raise Unfit("The number is too large, or none.")
    return number + 0.0


def _boolean(field: Field, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unfit(f"Expected true or false, got {told(value)}.")
    return value


def _date(field: Field, value: Any) -> date:
    try:
        if isinstance(value, str):
            return msgspec.convert(value, date)
    except msgspec.ValidationError:
        pass
    raise Unfit(f'Expected a date "YYYY-MM-DD" of the years 1 to 9999, got {told(value)}.')


def _timestamp(field: Field, value: Any) -> datetime:
    try:
        if isinstance(value, str):
            return in_utc(msgspec.convert(value, datetime))
    except (msgspec.ValidationError, OverflowError):
        pass
    raise Unfit(f'Expected a time like "2026-01-31T12:00:00Z" of the years 1 to 9999, got {told(value)}.')


def in_utc(moment: datetime) -> datetime:
    """A time without zone is UTC. Raises `OverflowError` outside of the years 1 to 9999."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _json(field: Field, value: Any) -> str:
    if not isinstance(value, dict | list):
        raise Unfit(f"Expected an object or an array, got {told(value)}.")
    if _depth(value) > DEEPEST_JSON:
        raise Unfit(f"The value is nested more than {DEEPEST_JSON} deep.")
    try:
        text = _JSON.encode(value).decode()
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        raise Unfit("The value holds what is not JSON: half a surrogate pair, or a number too large.") from None
    if "\\u0000" in text and _holds_nul(value):
        raise Unfit("A text in the value holds U+0000, which databases do not take.")
    return text


def _depth(value: Any) -> int:
    """How deep it is nested, counted no further than is allowed."""
    level, depth = [value], 0
    while level and depth <= DEEPEST_JSON:
        depth += 1
        inner: list[Any] = []
        for one in level:
            inner.extend(one.values() if isinstance(one, dict) else one)
        level = [one for one in inner if isinstance(one, dict | list)]
    return depth


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in name or _holds_nul(one) for name, one in value.items())
    if isinstance(value, list):
        return any(_holds_nul(one) for one in value)
    return isinstance(value, str) and "\0" in value


_FROM_JSON: Mapping[Kind, Callable[[Field, Any], Value]] = {
    "text": _text,
    "integer": _integer,
    "decimal": _decimal,
    "float": _float,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
    "json": _json,
}


def told(value: Any) -> str:
    """What kind of JSON value it is, in words; a string is one that does not fit."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "another string"
    if isinstance(value, int | float | Decimal):
        return "a number"
    return "an object" if isinstance(value, dict) else "an array"


# ---------------------------------------------------------------- from text


def from_text(field: Field, text: str) -> Value:
    """What a value means that came as text: in a query string, in a URL. Raises `Unfit`."""
    if field.kind == "boolean":
        if text not in ("true", "false"):
            raise Unfit("Expected true or false.")
        return text == "true"
    if field.kind == "float":
        if not _DECIMAL.match(text):
            raise Unfit("Expected a number.")
        return _float(field, Decimal(text))
    if field.kind == "timestamp":
        if len(text) == len("2026-01-31"):
            text += "T00:00:00Z"  # a day is where it begins; people ask like this
        text = _LOST_PLUS.sub("+", text)
    if field.kind == "json":
        raise Unfit("A field that holds JSON cannot be asked for by value.")
    return from_json(field, text)


# ---------------------------------------------------------------- to JSON and text


def shower(field: Field) -> Callable[[Value], Any] | None:
    """How a value of the field that is not None becomes what `msgspec` encodes rightly; None: it is that already."""
    if field.kind == "integer":
        return _shown_integer
    if field.kind == "decimal" and not (field.precision is not None and field.precision <= SHOWN_PRECISION):
        return plain_decimal
    return _raw if field.kind == "json" else None


def _shown_integer(value: int) -> int | str:
    return value if -SHOWN_INTEGER <= value <= SHOWN_INTEGER else str(value)


def plain_decimal(value: Decimal) -> str:
    """Its digits, without exponent."""
    return format(value, "f")


def _raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(value.encode())


def text_of(field: Field, value: Value) -> str:
    """What `from_text` reads as this value."""
    if field.kind == "timestamp":
        return time_text(value)
    if field.kind == "boolean":
        return "true" if value else "false"
    if field.kind == "decimal":
        return plain_decimal(value)
    return value.isoformat() if field.kind == "date" else str(value)


def time_text(value: datetime) -> str:
    """RFC 3339 in UTC, with a fraction only when there is one."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def canonical_json(text: str) -> bytes:
    """Equal JSON gives equal bytes."""
    with localcontext(_WIDE):
        return _CANONICAL_JSON.encode(_canonical(decoded(text)))


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _canonical(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    if isinstance(value, Decimal):
        return value.normalize() + 0
    return value

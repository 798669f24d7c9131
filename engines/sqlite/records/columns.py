"""How a column holds the values of a field: what is stored, how it is read, by what it is ordered.

SQLite looks at a declared type only for an affinity (https://www.sqlite.org/datatype3.html), and would make a float of
a decimal. So the columns made here have types that contain TEXT: DECIMAL_TEXT(15,2), DATE_TEXT, TIMESTAMP_TEXT,
JSON_TEXT. Columns that others made are used where what is in them can be read and written exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any

from engines.records.fields import LARGEST_PRECISION, Field, Value
from engines.records.json_text import is_json

TEXT_ORDER = "flexdb_text"
"""Collation for databases in UTF-16, whose BINARY is not the order of code points."""
DECIMAL_ORDER = "flexdb_decimal"
"""Collation for decimals as text that need not have a fixed number of digits behind the point."""
EXACT_IN_A_FLOAT = 15
"""Decimal digits that SQLite keeps where a type's affinity is NUMERIC."""
LOW_DIGITS = 17
"""A decimal of up to 34 digits is compared as two integers of so many digits, which SQLite does exactly."""
_WIDE = Context(prec=100)
_DECLARED = re.compile(r"\s*([^()]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*", re.DOTALL)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?Z?")


class Unfit(Exception):
    """Why a column cannot hold a field, or what is in it is no such value; a sentence without its subject."""


@dataclass(frozen=True, slots=True)
class Storage:
    """`encode` and `decode` are None where nothing is to be done; neither is ever given NULL."""

    declared: str
    """The column's type, as it is or as it would be made."""
    encode: Callable[[Value], Any] | None = None
    decode: Callable[[Any], Value] | None = None
    terms: tuple[str, ...] = ("{}",)
    """SQL expressions, `{}` for the column; compared one after the other they order it."""
    places: Callable[[Value], tuple[Any, ...]] | None = None
    """What a value is compared as with `terms`; None: as it is encoded."""
    scale: int | None = None
    """Digits behind the point of what `places` compares; it rounds a value that has more down."""
    note: str = ""

    def compared(self, value: Value) -> tuple[Any, ...]:
        if self.places is not None:
            return self.places(value)
        return (self.encode(value) if self.encode else value,)


@dataclass(frozen=True, slots=True)
class _Declared:
    text: str
    word: str
    first: int | None
    second: int | None

    @property
    def affinity(self) -> str:
        """By the rules and in the order that SQLite's documentation gives."""
        for affinity, parts in _AFFINITIES:
            if any(part in self.word for part in parts):
                return affinity
        return "NUMERIC" if self.word else "BLOB"

    @property
    def plain_text(self) -> bool:
        """Whether it is a text column of nobody's special meaning."""
        return self.affinity == "TEXT" and not self.word.endswith("_TEXT")

    def holds(self, characters: int | None) -> bool:
        """Whether texts of so many characters (None: of any) fit what was declared."""
        if "CHAR" not in self.word or self.first is None:
            return True
        return characters is not None and characters <= self.first


_AFFINITIES = (
    ("INTEGER", ("INT",)),
    ("TEXT", ("CHAR", "CLOB", "TEXT")),
    ("BLOB", ("BLOB",)),
    ("REAL", ("REAL", "FLOA", "DOUB")),
)


def _parsed(declared: str) -> _Declared:
    found = _DECLARED.fullmatch(declared)
    if found is None:
        return _Declared(declared, declared.upper(), None, None)
    word, first, second = found.groups()
    return _Declared(declared, " ".join(word.upper().split()), _number(first), _number(second))


def _number(digits: str | None) -> int | None:
    return int(digits) if digits else None


def own_type(field: Field) -> str:
    """The type a column for the field is made with."""
    if field.kind == "text":
        return "TEXT" if field.max_length is None else f"VARCHAR({field.max_length})"
    if field.kind == "decimal":
        return "DECIMAL_TEXT" if field.precision is None else f"DECIMAL_TEXT({field.precision},{field.scale or 0})"
    return _OWN[field.kind]


_OWN = {
    "integer": "INTEGER",
    "float": "REAL",
    "boolean": "BOOLEAN",
    "date": "DATE_TEXT",
    "timestamp": "TIMESTAMP_TEXT",
    "json": "JSON_TEXT",
}


def storage(field: Field, declared: str, *, utf8: bool = True) -> Storage:
    """How a column of that declared type holds the field; raises `Unfit`."""
    type_ = _parsed(declared)
    if field.kind == "text":
        return _text(field, type_, utf8=utf8)
    return _KINDS[field.kind](field, type_)


def _text(field: Field, type_: _Declared, *, utf8: bool) -> Storage:
    _expect(type_.plain_text, field, type_)
    if not type_.holds(field.max_length):
        raise Unfit(f"is declared {type_.text}, and texts of {field.max_length or 'any'} characters were asked for")
    return Storage(type_.text, None, _same_text, ("{} COLLATE " + ("BINARY" if utf8 else TEXT_ORDER),))


def _integer(field: Field, type_: _Declared) -> Storage:
    _expect(type_.affinity == "INTEGER" or type_.text.upper() in ("NUMERIC", "NUMBER"), field, type_)
    return Storage(type_.text, None, _same_integer)


def _boolean(field: Field, type_: _Declared) -> Storage:
    _expect(type_.word in ("BOOLEAN", "BOOL") or type_.affinity == "INTEGER", field, type_)
    return Storage(type_.text, int, _boolean_of)


def _float(field: Field, type_: _Declared) -> Storage:
    _expect(type_.affinity == "REAL", field, type_)
    return Storage(type_.text, float, _float_of)


def _date(field: Field, type_: _Declared) -> Storage:
    _expect(type_.word in ("DATE", "DATE_TEXT") or (type_.plain_text and type_.holds(10)), field, type_)
    return Storage(type_.text, date.isoformat, _date_of, ("{} COLLATE BINARY",))


def _timestamp(field: Field, type_: _Declared) -> Storage:
    if type_.word == "TIMESTAMP_TEXT":
        return Storage(type_.text, _moment_text, _moment_of, ("{} COLLATE BINARY",))
    usual = type_.word.startswith(("DATETIME", "TIMESTAMP"))
    _expect(usual or (type_.plain_text and type_.holds(26)), field, type_)
    return Storage(type_.text, _moment_text, _moment_of, (_ANY_MOMENT,))


_ANY_MOMENT = (
    "substr(replace(rtrim({0}, 'Z'), 'T', ' ')"
    " || CASE length(rtrim({0}, 'Z')) WHEN 19 THEN '.000000' ELSE '000000' END, 1, 26) COLLATE BINARY"
)
"""The forms that `_MOMENT` knows, brought to the one that is written here."""


def _json(field: Field, type_: _Declared) -> Storage:
    _expect(type_.word in ("JSON", "JSON_TEXT") or (type_.plain_text and type_.holds(None)), field, type_)
    return Storage(type_.text, None, _json_of, ("{} COLLATE BINARY",))


def _decimal(field: Field, type_: _Declared) -> Storage:
    if type_.word == "DECIMAL_TEXT" and type_.first is not None:
        _expect_digits(field, type_)
        return _decimal_in_digits(field, type_)
    if type_.word == "DECIMAL_TEXT" or (type_.plain_text and type_.holds(None)):
        return Storage(
            type_.text, _free_text(field), _decimal_of(field), ("{} COLLATE " + DECIMAL_ORDER,), lambda v: (str(v),)
        )
    _expect(type_.word in ("DECIMAL", "NUMERIC", "DEC", "NUMBER"), field, type_)
    if field.precision is None or field.precision > EXACT_IN_A_FLOAT:
        raise Unfit(
            f"is declared {type_.text}, where SQLite keeps {EXACT_IN_A_FLOAT} digits at most;"
            " declare the column DECIMAL_TEXT, or the field with fewer digits"
        )
    if type_.first is not None:
        _expect_digits(field, type_)
    return _decimal_in_float(field, type_)


def _decimal_in_digits(field: Field, type_: _Declared) -> Storage:
    """Text of always so many digits behind the point: without the point it is an integer, in two parts."""
    scale = type_.second or 0
    digits = "replace({0}, '.', '')"
    high = f"CAST(substr({digits}, 1, max(length({digits}) - {LOW_DIGITS}, 0)) AS INTEGER)"
    low = f"CAST(substr(ltrim({digits}, '-'), -{LOW_DIGITS}) AS INTEGER)"
    sign = "CASE substr({0}, 1, 1) WHEN '-' THEN -1 ELSE 1 END"
    unit = Decimal(1).scaleb(-scale)

    def encode(value: Decimal) -> str:
        return format(value.quantize(unit, context=_WIDE) if value else abs(unit * 0), "f")

    def places(value: Decimal) -> tuple[int, int]:
        whole = _units(value, scale)
        high, low = divmod(abs(whole), 10**LOW_DIGITS)
        return (-high, -low) if whole < 0 else (high, low)

    return Storage(type_.text, encode, _decimal_of(field), (high, f"{low} * {sign}"), places, scale)


def _units(value: Decimal, scale: int) -> int:
    """How many of the last digit's units, rounded down; what is larger than any that can be stored is cut to that."""
    most: int = 10 ** (LARGEST_PRECISION + 1)
    if value.adjusted() > LARGEST_PRECISION:
        return most if value > 0 else -most
    units = int(value.scaleb(scale, context=_WIDE).to_integral_value(ROUND_FLOOR))
    return max(min(units, most), -most)


def between_units(value: Decimal, scale: int) -> bool:
    """Whether it has more digits behind the point than that, so that nothing stored equals it."""
    return value.adjusted() <= LARGEST_PRECISION and value != value.quantize(
        Decimal(1).scaleb(-scale), ROUND_FLOOR, context=_WIDE
    )


def _decimal_in_float(field: Field, type_: _Declared) -> Storage:
    scale = field.scale or 0

    def decode(stored: Any) -> Decimal:
        if isinstance(stored, float):
            stored = format(stored, f".{EXACT_IN_A_FLOAT}g")
        return _fixed(stored, field)

    def places(value: Decimal) -> tuple[int]:
        return (max(min(_units(value, scale), 10**18), -(10**18)),)

    term = f"CAST(round({{}} * 1e{scale}) AS INTEGER)"
    note = f"is declared {type_.text}: SQLite keeps its numbers as floats, which is exact to {EXACT_IN_A_FLOAT} digits"
    return Storage(type_.text, str, decode, (term,), places, scale, note)


def _expect(fits: bool, field: Field, type_: _Declared) -> None:
    if not fits:
        raise Unfit(f"is declared {type_.text or 'without a type'}, which is not for the kind {field.kind}")


def _expect_digits(field: Field, type_: _Declared) -> None:
    there, behind = type_.first or 0, type_.second or 0
    if field.precision is None or field.precision - (field.scale or 0) > there - behind or (field.scale or 0) > behind:
        asked = "any number of" if field.precision is None else f"({field.precision},{field.scale or 0})"
        raise Unfit(f"is declared {type_.text}, and {asked} digits were asked for")


def _free_text(field: Field) -> Callable[[Decimal], str]:
    return str if field.scale is None else lambda value: format(value, "f")


def _decimal_of(field: Field) -> Callable[[Any], Decimal]:
    return lambda stored: _fixed(stored, field)


def _fixed(stored: Any, field: Field) -> Decimal:
    """With the field's scale; raises `Unfit` rather than round."""
    try:
        value = Decimal(stored)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise Unfit("holds something that is no decimal") from error
    if not value.is_finite():
        raise Unfit("holds something that is no decimal")
    if field.scale is None:
        return value
    exponent = value.as_tuple().exponent
    if exponent == -field.scale:
        return value
    fixed = value.quantize(Decimal(1).scaleb(-field.scale), context=_WIDE)
    if fixed != value:
        raise Unfit(f"holds a decimal of more than {field.scale} digits behind the point")
    return fixed


def _same_text(stored: Any) -> str:
    if not isinstance(stored, str):
        raise Unfit("holds something that is no text")
    return stored


def _same_integer(stored: Any) -> int:
    if not isinstance(stored, int):
        raise Unfit("holds something that is no integer")
    return stored


def _boolean_of(stored: Any) -> bool:
    if stored not in (0, 1) or not isinstance(stored, int):
        raise Unfit("holds something that is no boolean")
    return bool(stored)


def _float_of(stored: Any) -> float:
    if not isinstance(stored, int | float) or stored - stored != 0:
        raise Unfit("holds something that is no number")
    return float(stored)


def _json_of(stored: Any) -> str:
    if not isinstance(stored, str) or not is_json(stored):
        raise Unfit("holds something that is no JSON")
    return stored


def _date_of(stored: Any) -> date:
    if isinstance(stored, str) and _DATE.fullmatch(stored):
        try:
            return date.fromisoformat(stored)
        except ValueError:
            pass
    raise Unfit("holds something that is no date of the form YYYY-MM-DD")


def _moment_text(value: datetime) -> str:
    """The form of SQLite's own functions, always with microseconds: it sorts, and others can read it."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _moment_of(stored: Any) -> datetime:
    if isinstance(stored, str) and _MOMENT.fullmatch(stored):
        try:
            return datetime.fromisoformat(stored).replace(tzinfo=UTC)
        except ValueError:
            pass
    raise Unfit("holds something that is no time in UTC of the form YYYY-MM-DD HH:MM:SS")


_KINDS: dict[str, Callable[[Field, _Declared], Storage]] = {
    "integer": _integer,
    "boolean": _boolean,
    "float": _float,
    "date": _date,
    "timestamp": _timestamp,
    "json": _json,
    "decimal": _decimal,
}


def by_code_points(one: str, other: str) -> int:
    return (one > other) - (one < other)


def by_number(one: str, other: str) -> int:
    """What is no number comes after all numbers."""
    try:
        first, second = Decimal(one), Decimal(other)
    except ArithmeticError:
        return by_code_points(one, other)
    return (first > second) - (first < second)

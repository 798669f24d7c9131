"""JSON inside a document: as sub-documents where these say the very same, else as its text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, DecimalException
from typing import Any

import bson
from bson import Decimal128, Int64
from bson.errors import BSONError

from engines.records.fields import LARGEST_INTEGER, SMALLEST_INTEGER

DEEPEST = 80
"""MongoDB takes 100 levels of a whole document. https://www.mongodb.com/docs/manual/reference/limits/"""
LONGEST_NUMBER = 400
"""Characters; longer ones fit no number of BSON, and are not read as one to find that out."""


class _OtherwiseError(Exception):
    """There is no document that says the same."""


def into(text: str) -> Any:
    """A document or array whose numbers are exactly those of the text, or the text itself.

    The text stands for itself where names would begin with `$` or hold a dot, which MongoDB reads as operators and
    paths, where a name comes twice, and where a number has more digits than any type of BSON.
    """
    try:
        found = json.loads(text, parse_int=_integer, parse_float=_fraction, object_pairs_hook=_document)
        if _depth(found) > DEEPEST:
            return text
        bson.encode({"value": found})
    except (_OtherwiseError, RecursionError, UnicodeEncodeError, BSONError, OverflowError):
        return text
    return found


def _integer(token: str) -> Any:
    if len(token) < 21:
        value = int(token)
        if SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
            return Int64(value)
    return _many_digits(token)


def _fraction(token: str) -> Any:
    if len(token) > LONGEST_NUMBER:
        raise _OtherwiseError
    value = float(token)
    if abs(value) != float("inf") and Decimal(repr(value)) == Decimal(token):
        return value
    return _many_digits(token)


def _many_digits(token: str) -> Decimal128:
    if len(token) > LONGEST_NUMBER:
        raise _OtherwiseError
    try:
        found = Decimal128(token)
    except DecimalException:
        raise _OtherwiseError from None
    if found.to_decimal() != Decimal(token):
        raise _OtherwiseError
    return found


def _document(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or any(name.startswith("$") or "." in name or "\0" in name for name in found):
        raise _OtherwiseError
    return found


def _depth(value: Any, level: int = 0) -> int:
    if level > DEEPEST:
        return level
    if isinstance(value, dict):
        return max((_depth(one, level + 1) for one in value.values()), default=level + 1)
    if isinstance(value, list):
        return max((_depth(one, level + 1) for one in value), default=level + 1)
    return level


def out_of(value: Any) -> str:
    """JSON text. What only BSON knows, in documents of others, comes as a string."""
    if isinstance(value, str) and value[:1] in {"{", "["}:
        return value
    return _written(value)


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(str(name))}:{_written(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, Decimal128):
        number = value.to_decimal()
        return str(number) if number.is_finite() else _text(str(number))
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(value) if abs(value) < float("inf") else _text(repr(value))
    if isinstance(value, datetime):
        return _text(value.isoformat() + "Z")
    return _text(str(value))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)

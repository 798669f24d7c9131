"""Bodies, by whichever door they came: unpacked within the limit, parsed once."""

from __future__ import annotations

import json
import zlib
from decimal import Decimal
from typing import Any

from pydantic_core import from_json

from service.intake import Refused

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content codings that are understood, as zlib's `wbits`."""


LONGEST_NUMBER = "4300 digits"
"""That the parser takes as a JSON number, as Python does."""


def decoded(coding: str, body: bytes, limit: int) -> bytes:
    """The body with its content coding undone, never more than `limit` bytes.

    Raises `Refused`: 413 for what unpacks to more, 415 for an unknown coding, 400 for a broken one.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOW:
        known = "identity, gzip and deflate"
        raise Refused(415, "unsupported_media_type", f"Content-Encoding may be {known}; send the body as it is.")
    press = zlib.decompressobj(_WINDOW[coding])
    try:
        plain = press.decompress(body, limit + 1)
    except zlib.error:
        plain, press = b"", zlib.decompressobj()
    if len(plain) > limit:
        raise too_large(limit)
    if not press.eof or press.unused_data:
        raise Refused(400, "bad_request", f"The body is not whole {coding}.")
    return plain


def too_large(limit: int) -> Refused:
    return Refused(
        413,
        "too_large",
        f"The body is larger than {limit} bytes (FLEXDB_MAX_BODY_BYTES); send references, not data.",
    )


def parse(body: bytes) -> Any:
    """JSON in UTF-8; NaN, lone surrogates and absurd nesting are refused, and a name that an object gives twice, as
    nobody knows which one is meant. Raises `Refused` (400)."""
    found = _parsed(body)
    if body.count(b":") == _names(found):
        return found  # every name has a colon of its own, so none was given twice; a second reading is dear
    try:
        json.loads(body, parse_int=len, parse_float=len, object_pairs_hook=each_once)
    except NameTwice as error:
        raise _not_understood(str(error)) from None
    return found


def _names(value: Any) -> int:
    """How many names the objects in a value have."""
    if isinstance(value, dict):
        return len(value) + sum(_names(inner) for inner in value.values() if isinstance(inner, dict | list))
    if isinstance(value, list):
        return sum(_names(inner) for inner in value if isinstance(inner, dict | list))
    return 0


def _parsed(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        what, _, where = str(error).rpartition(" at ")
        where = f" at {where}" if where.startswith("line") else ""
        if what == "number out of range":
            raise Refused(
                400, "malformed_json", f"A number{where} is longer than {LONGEST_NUMBER}; send it as text."
            ) from None
        raise Refused(400, "malformed_json", f"The body is not JSON in UTF-8{where}.") from None


def parse_exact(body: bytes) -> Any:
    """As `parse`, every number as it is written: an `int`, or a `Decimal` for one with a point or an exponent."""
    _parsed(body)
    try:
        return json.loads(body, parse_float=Decimal, object_pairs_hook=each_once)
    except (ValueError, ArithmeticError, RecursionError) as error:
        why = str(error) if isinstance(error, NameTwice) else "a number in it is out of all bounds"
        raise _not_understood(why) from None


def _not_understood(why: str) -> Refused:
    return Refused(400, "malformed_json", f"The body cannot be understood: {why}.")


class NameTwice(ValueError):
    """An object that gives a name twice."""


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that raises `NameTwice`."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NameTwice(f"an object gives {name!r} twice")
            seen.add(name)
    return found


def media_type(content_type: str | None) -> str:
    """The content type without parameters, lower case; empty when there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")

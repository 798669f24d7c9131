"""Opaque cursors: where a page ended, as text that only the list which gave it out takes back."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from service.ledger.records import InvalidCursor
from service.ledger.rows import storable

END = 2**62
"""Stands before the newest row when no cursor is given."""


def encode(kind: str, position: Sequence[Any]) -> str:
    text = json.dumps([kind, *position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(kind: str, cursor: str, types: Sequence[type]) -> list[Any]:
    """The position, one value per entry of `types`. Raises `InvalidCursor`."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII, not UTF-8, not JSON
        raise InvalidCursor(f"This cursor is not one that the list of {kind} gave out.") from error
    if (
        not isinstance(found, list)
        or found[:1] != [kind]
        or len(found) != len(types) + 1
        or any(type(value) is not wanted or _is_odd(value) for value, wanted in zip(found[1:], types, strict=True))
    ):
        raise InvalidCursor(f"This cursor is not one that the list of {kind} gave out.")
    return found[1:]


def _is_odd(value: Any) -> bool:
    """Text no row could hold."""
    return isinstance(value, str) and storable(value) != value


def before(kind: str, cursor: str | None) -> int:
    """The row number a page of a list by row number starts before."""
    if cursor is None:
        return END
    number: int = decode(kind, cursor, [int])[0]
    if not 0 <= number <= END:
        raise InvalidCursor(f"This cursor is not one that the list of {kind} gave out.")
    return number

"""JSON that lies in columns of text, where others may have written anything."""

from __future__ import annotations

import msgspec

_read = msgspec.json.Decoder(msgspec.Raw).decode


def is_json(text: str) -> bool:
    """Whether it is one JSON value and nothing else. Nothing is built of it, so this is quick."""
    try:
        _read(text)
    except (ValueError, RecursionError):
        return False
    return True

"""Which keys a store accepts."""

from __future__ import annotations

LONGEST_PART = 200
"""Bytes; room is left below the 255 of common file systems for the temporary name."""


def key_parts(key: str) -> list[str]:
    """The parts of a relative, `/`-separated key; raises `ValueError` for any other."""
    parts = key.split("/")
    for part in parts:
        if part in {"", ".", ".."} or "\\" in part or not part.isprintable():
            raise ValueError(f"not a storage key: {key!r}")
        if len(part.encode()) > LONGEST_PART + 50:
            raise ValueError(f"a part of the storage key is too long: {part[:40]!r}…")
    return parts


def new_key_parts(key: str) -> list[str]:
    """As `key_parts`, for an object to be written: hidden names belong to unfinished writes."""
    parts = key_parts(key)
    if any(part.startswith(".") or len(part.encode()) > LONGEST_PART for part in parts):
        raise ValueError(f"not a key for a new object: {key[:200]!r}")
    return parts

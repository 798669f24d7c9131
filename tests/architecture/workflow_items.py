"""Items as they go from node to node, and what is known of them."""

from __future__ import annotations

import json
from typing import Any

from tests.architecture.flexdb_answers import KNOWN, OPEN

MOST = 48
"""Different items that are kept of an output."""
ANY: dict[str, Any] = {OPEN: "anything"}

Item = Any
Outputs = dict[int, list[Item]]


def distinct(items: list[Item]) -> list[Item]:
    known: dict[str, Item] = {}
    for item in items:
        known.setdefault(json.dumps(item, sort_keys=True), item)
    return list(known.values())[:MOST]


def closed(value: Any) -> Any:
    """Without the marks of what is known of objects."""
    if isinstance(value, dict):
        return {key: closed(inner) for key, inner in value.items() if key not in (OPEN, KNOWN)}
    return [closed(inner) for inner in value] if isinstance(value, list) else value


def json_or(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def with_error(item: Item) -> Item:
    error = {"message": "409 - it was refused", "name": "AxiosError", **ANY}
    return {**(item if isinstance(item, dict) else {}), "error": error}

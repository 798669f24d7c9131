"""Collections: a named table with a JSON Schema, on a connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.records.fields import Table


@dataclass(frozen=True, slots=True)
class Collection:
    """A declared collection, its schema understood."""

    name: str
    connection: str
    table: Table
    schema: Mapping[str, Any]
    """The JSON Schema of one record, as it was declared."""
    source: Mapping[str, Any] | None
    """An ingest's `source` for those who name none."""
    digest: str
    """SHA-256 over the declaration: another one after every change."""


def collection_key(name: str) -> str:
    """The claim key of a collection."""
    return f"collection:{name}"

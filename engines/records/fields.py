"""What a table of records looks like to every engine: fields, their kinds, the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "integer", "decimal", "float", "boolean", "date", "timestamp", "json"]
"""What a value is, and as what it is handed over in both directions:

text        `str`, without U+0000
integer     `int` of 64 bits, signed
decimal     `decimal.Decimal`, finite, with the field's scale exactly when it has one
float       `float`, finite
boolean     `bool`
date        `datetime.date`
timestamp   `datetime.datetime` in UTC, aware, to the microsecond
json        `str`: JSON text of an object or array; comes back as equal JSON, not necessarily as the same text
"""

Value = Any
Row = tuple[Value, ...]
"""One record: a value or None for each of the table's fields, in their order."""

LARGEST_INTEGER = 2**63 - 1
SMALLEST_INTEGER = -(2**63)
LARGEST_PRECISION = 34
"""Digits of a decimal that every engine holds (MongoDB's Decimal128 has the fewest)."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: Kind
    required: bool = False
    """The column takes no NULL."""
    max_length: int | None = None
    """Characters, for text; None: as long as the database takes."""
    precision: int | None = None
    """Digits in all, for a decimal; with `scale` or not at all."""
    scale: int | None = None
    """Digits behind the point."""
    default: Value = None
    """For rows that are there when the column is added; new records bring their values."""
    stamped: bool = False
    """A timestamp set when a record comes without one: on insert the time of the write, on update what it was."""


@dataclass(frozen=True, slots=True)
class Table:
    """`name` is the table's or document collection's; on PostgreSQL it may begin with `schema.`."""

    name: str
    key: str
    """Name of the field by which a record is known; its values are unique."""
    fields: tuple[Field, ...]
    generated: bool = False
    """The key is an integer that the database gives to records without one."""

    @property
    def key_position(self) -> int:
        return self.names.index(self.key)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    def field(self, name: str) -> Field:
        """Raises `KeyError`."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

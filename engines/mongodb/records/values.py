"""Values of records as BSON and back; documents of others may hold them in other types that say the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, DecimalException
from typing import Any

import bson
from bson import Decimal128, Int64
from bson.errors import BSONError

from engines.errors import CollectionMismatch
from engines.mongodb.records import inline
from engines.records.fields import LARGEST_INTEGER, SMALLEST_INTEGER, Field, Row, Table, Value

Document = dict[str, Any]
LARGEST_DOCUMENT = 16 * 1024 * 1024 - 16 * 1024
"""Bytes of the fields, with room left for what else a document holds."""


def into(field: Field, value: Value) -> Any:
    """As it is stored and compared. Dates and times are text of one width in UTC, which sorts as they do."""
    if value is None:
        return None
    if field.kind == "integer":
        return Int64(value)
    if field.kind == "decimal":
        return Decimal128(value)
    if field.kind == "date":
        return value.isoformat()
    if field.kind == "timestamp":
        return moment(value)
    return inline.into(value) if field.kind == "json" else value


def moment(value: datetime) -> str:
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def now() -> str:
    return moment(datetime.now(UTC))


def unfit(table: Table, row: Row) -> str | None:
    """Why a row cannot be stored; None: nothing is known against it. MongoDB itself would take nearly everything."""
    for field, value in zip(table.fields, row, strict=True):
        if value is None:
            if field.required and not field.stamped and not (table.generated and field.name == table.key):
                return f"{field.name!r} is required."
        elif field.kind == "text" and field.max_length is not None and len(value) > field.max_length:
            return f"{field.name!r} has {len(value)} characters, more than {field.max_length}."
        elif field.kind == "decimal" and not _fits(field, value):
            return f"{field.name!r} has more digits than can be kept."
    return None


def _fits(field: Field, value: Decimal) -> bool:
    try:
        exact = Decimal128(value).to_decimal() == value
    except DecimalException:
        return False
    if field.precision is None or not exact:
        return exact
    digits, exponent = value.as_tuple().digits, int(value.as_tuple().exponent)
    scale = field.scale or 0
    return -exponent <= scale and (len(digits) + exponent <= field.precision - scale or not value)


def document_of(table: Table, row: Row) -> Document:
    return {field.name: into(field, value) for field, value in zip(table.fields, row, strict=True)}


def unsendable(document: Document) -> str | None:
    """Why the driver would not send it."""
    try:
        size = len(bson.encode(document))
    except (UnicodeEncodeError, BSONError, OverflowError) as error:
        return f"It cannot be written as BSON: {type(error).__name__}."
    return None if size <= LARGEST_DOCUMENT else f"It has {size} bytes, more than a document may have."


def row_of(fields: Sequence[Field], document: Mapping[str, Any]) -> Row:
    """What is missing reads as None. Raises `CollectionMismatch` for a value of another kind than its field's."""
    return tuple(_out(field, document.get(field.name)) for field in fields)


def _out(field: Field, value: Any) -> Value:
    if value is None:
        return None
    try:
        return _READ[field.kind](field, value)
    except (ValueError, TypeError, DecimalException) as error:
        raise CollectionMismatch(
            f"A document holds {type(value).__name__} in {field.name!r}, which is a field of kind {field.kind}."
        ) from error


def _text_out(_: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer_out(_: Field, value: Any) -> int:
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, bool) or int(value) != value or not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        raise ValueError
    return int(value)


def _decimal_out(field: Field, value: Any) -> Decimal:
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, Decimal128):
        found = value.to_decimal()
    elif isinstance(value, (int, float)):
        found = Decimal(repr(value) if isinstance(value, float) else int(value))
    else:
        raise TypeError
    if not found.is_finite():
        raise ValueError
    if field.scale is None or -int(found.as_tuple().exponent) == field.scale:
        return found
    whole, _, fraction = f"{found:f}".partition(".")
    fraction = fraction.rstrip("0").ljust(field.scale, "0")
    return Decimal(f"{whole}.{fraction}") if fraction else Decimal(whole)


def _float_out(_: Field, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value - value != 0:
        raise TypeError
    return float(value)


def _boolean_out(_: Field, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _date_out(_: Field, value: Any) -> date:
    if isinstance(value, datetime):
        if value.time() != datetime.min.time():
            raise ValueError
        return value.date()
    return date.fromisoformat(value)


def _timestamp_out(_: Field, value: Any) -> datetime:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    found = datetime.fromisoformat(value)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


_READ: dict[str, Callable[[Field, Any], Value]] = {
    "text": _text_out,
    "integer": _integer_out,
    "decimal": _decimal_out,
    "float": _float_out,
    "boolean": _boolean_out,
    "date": _date_out,
    "timestamp": _timestamp_out,
    "json": lambda _, value: inline.out_of(value),
}

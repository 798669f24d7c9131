"""Values on their way into the driver and back, and those that the server would cut without a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any

from engines.errors import CollectionMismatch
from engines.mysql.records.definition import LARGEST_SCALE, digits
from engines.mysql.records.shape import Shape
from engines.records.fields import Field, Row, Value
from engines.records.json_text import is_json

Convert = Callable[[Any], Any]
_FINEST = Decimal(1).scaleb(-LARGEST_SCALE)
_WIDE = Context(prec=200)


def _decimal_in(value: Decimal) -> str:
    return f"{value:f}"


def _timestamp_in(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(tzinfo=None)


_IN: dict[str, Convert] = {"decimal": _decimal_in, "timestamp": _timestamp_in, "boolean": bool}


def into(field: Field, value: Value) -> Any:
    """As the driver takes it. A decimal is its digits: the driver would write some with an exponent, as a float."""
    convert = _IN.get(field.kind)
    return value if value is None or convert is None else convert(value)


def row_into(fields: Sequence[Field], row: Row) -> tuple[Any, ...]:
    return tuple(into(field, value) for field, value in zip(fields, row, strict=True))


def mark(field: Field, value: Value) -> str:
    """The placeholder of a value that a column is compared with: a text beside a DECIMAL would become a float."""
    if field.kind != "decimal" or value is None:
        return "%s"
    _, given, exponent = value.as_tuple()
    scale = min(max(-int(exponent), 0), 30)
    whole = max(len(given) + int(exponent), 1)
    return f"CAST(%s AS DECIMAL({min(whole + scale, 65)},{scale}))"


def next_below(value: Decimal) -> Decimal | None:
    """The greatest that a column can hold below a value with more digits behind the point than any column has; the
    server would round it, and find what is not asked for. None: a column can hold the value itself."""
    below = value.quantize(_FINEST, ROUND_FLOOR, _WIDE)
    return None if below == value else below


def row_out(fields: Sequence[Field], found: Sequence[Any]) -> Row:
    """Raises `CollectionMismatch` for a date that is none, as servers without strict mode may hold."""
    return tuple(value if value is None else _out(field, value) for field, value in zip(fields, found, strict=True))


def _out(field: Field, value: Any) -> Value:
    kind = field.kind
    if kind == "boolean":
        return bool(value)
    if kind == "decimal":
        return _decimal_out(field, value)
    if kind == "timestamp":
        if not isinstance(value, datetime):
            raise CollectionMismatch(f"The column {field.name!r} holds {str(value)[:40]!r}, which is no time.")
        return value.replace(tzinfo=UTC)
    if kind == "json" and not is_json(value):
        raise CollectionMismatch(f"The column {field.name!r} holds a text that is no JSON.")
    if kind == "date" and not isinstance(value, date):
        raise CollectionMismatch(f"The column {field.name!r} holds {str(value)[:40]!r}, which is no date.")
    return value


def _decimal_out(field: Field, value: Decimal) -> Decimal:
    """With the field's digits behind the point, where the column has others; without scale, without idle zeros."""
    exponent = value.as_tuple().exponent
    if field.scale is not None and -int(exponent) == field.scale:
        return value
    shown = f"{value:f}"
    whole, _, fraction = shown.partition(".")
    fraction = fraction.rstrip("0")
    if field.scale is not None:
        fraction = fraction.ljust(field.scale, "0")
    return Decimal(f"{whole}.{fraction}") if fraction else Decimal(whole)


def unfit(shape: Shape, row: Row) -> str | None:
    """Why a column would not take a value, or would cut it: a server rounds decimals, and drops spaces at the end,
    whatever its mode. None: nothing is known against it."""
    for position, (field, value) in enumerate(zip(shape.table.fields, row, strict=True)):
        if value is None:
            if field.required and not field.stamped and not shape.gives_key(position):
                return f"{field.name!r} is required."
        elif field.kind == "text":
            if (reason := _unfit_text(shape, position, value)) is not None:
                return reason
        elif field.kind == "decimal" and not _fits(field, value):
            precision, scale = digits(field)
            return f"{field.name!r} has more digits than ({precision},{scale}) takes."
    return None


def _unfit_text(shape: Shape, position: int, value: str) -> str | None:
    column = shape.columns[position]
    room = column.longest or 0
    if len(value) * 4 <= room:
        return None
    try:
        used = len(value.encode()) if column.counts_bytes else len(value)
    except UnicodeEncodeError:
        return f"{column.name!r} holds characters that are no Unicode text."
    what = "bytes" if column.counts_bytes else "characters"
    return None if used <= room else f"{column.name!r} has {used} {what}, its column takes {room}."


def _fits(field: Field, value: Decimal) -> bool:
    precision, scale = digits(field)
    _, given, exponent = value.as_tuple()
    fraction, whole = -int(exponent), len(given) + int(exponent)
    if fraction > scale:
        fraction -= len(given) - len("".join(map(str, given)).rstrip("0") or "0")
    return fraction <= scale and (whole <= precision - scale or not value)

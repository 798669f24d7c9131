"""Many records at once: decoded by a typed structure at the speed of C, the few that do not fit one by one."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any

import msgspec

from engines.records.fields import LARGEST_INTEGER, SMALLEST_INTEGER, Row, Value
from handlers.base import Fault
from handlers.collections.properties import Property
from handlers.collections.values import decoded, exact_context, fitted, in_utc

_NUL = rb"\u0000"
_UNFIT = (ValueError, ArithmeticError, RecursionError)
"""What decoding and converting raise; msgspec's own errors are ValueErrors."""
LONGEST_KEPT = 64 * 1024
"""Bytes of a rejected item's text that are kept."""
Item = msgspec.Raw | bytes
Column = tuple[Value, ...] | list[Value]
Convert = Callable[[Column], Column]
"""A column as it was decoded, to one as engines take it. Raises `ValueError`, `ArithmeticError` for the first value
that does not fit."""


@dataclass(frozen=True, slots=True)
class ReadPage:
    """What became of the items of one page."""

    rows: list[Row]
    positions: list[int]
    """For each row, which item it was."""
    rejected: list[tuple[int, str, tuple[Fault, ...]]]
    """Which item, its text (64 KiB of it at most), and why it is none of the rows. Pointers are into the item."""
    unknown: dict[str, int]
    """Names that the collection has no field for, and in how many items of `rows` they were."""


class PageReader:
    """Reads pages of one collection's records."""

    def __init__(
        self,
        properties: Sequence[Property],
        slow: Callable[[Any], tuple[Row, list[Fault]]],
        *,
        generated_key: str | None = None,
    ) -> None:
        """`slow`: a decoded item to its row, or to what is wrong with it; unknown fields are not wrong."""
        self._slow = slow
        self._names = frozenset(one.field.name for one in properties)
        optional = frozenset({generated_key})
        self._convert = [(at, how) for at, one in enumerate(properties) if (how := _conversion(one)) is not None]
        fields = [_struct_field(at, one, optional) for at, one in enumerate(properties)]
        rename = {f"f{at}": one.field.name for at, one in enumerate(properties)}
        strict, lenient = (
            msgspec.defstruct("Record", fields, rename=rename, gc=False, kw_only=True, forbid_unknown_fields=forbid)
            for forbid in (True, False)
        )
        self._strict = msgspec.json.Decoder(strict).decode
        self._lenient = msgspec.json.Decoder(lenient).decode
        self._row_of = operator.attrgetter(*rename) if len(rename) > 1 else lambda one: (one.f0,)
        self._keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def read(self, items: Sequence[Item]) -> ReadPage:
        """Raises nothing for what the items are."""
        if _NUL not in b"".join(items):  # no text of a database holds it, and JSON has it only like this
            for decode, drifted in ((self._strict, False), (self._lenient, True)):
                try:
                    rows = self._converted(list(map(self._row_of, map(decode, items))))
                    unknown = Counter(chain.from_iterable(map(self._unknown, items))) if drifted else {}
                except _UNFIT:
                    continue  # which of them it was, and what is wrong with it, is found out one by one
                return ReadPage(rows, list(range(len(rows))), [], dict(unknown))
        return self._one_by_one(items)

    def _converted(self, rows: list[Row]) -> list[Row]:
        if not self._convert or not rows:
            return rows
        columns: list[Column] = list(zip(*rows, strict=True))
        for at, convert in self._convert:
            columns[at] = convert(columns[at])
        return list(zip(*columns, strict=True))

    def _one_by_one(self, items: Sequence[Item]) -> ReadPage:
        page = ReadPage([], [], [], {})
        unknown: Counter[str] = Counter()
        for position, item in enumerate(items):
            try:
                if _NUL in bytes(item):
                    raise ValueError
                row, strange = self._converted([self._row_of(self._lenient(item))])[0], self._unknown(item)
            except _UNFIT:
                row, strange, faults = self._slowly(item)
                if faults:
                    page.rejected.append((position, _kept(item), tuple(faults)))
                    continue
            page.rows.append(row)
            page.positions.append(position)
            unknown.update(strange)
        page.unknown.update(unknown)
        return page

    def _unknown(self, item: Item) -> set[str]:
        return self._keys(item).keys() - self._names

    def _slowly(self, item: Item) -> tuple[Row, set[str], list[Fault]]:
        try:
            value = decoded(item)
        except ValueError as error:
            return (), set(), [Fault("", f"The record cannot be read as JSON: {error}.")]
        row, faults = self._slow(value)
        return row, set() if faults else value.keys() - self._names, faults


def _kept(item: Item) -> str:
    return bytes(item)[:LONGEST_KEPT].decode(errors="replace")


# ---------------------------------------------------------------- what the structure is made of


def _struct_field(at: int, one: Property, optional: frozenset[str | None]) -> tuple[str, Any] | tuple[str, Any, Any]:
    kind = _typed(one)
    if one.nullable or one.field.name in optional:
        kind = kind if kind is msgspec.Raw else kind | None
    if one.needed and one.field.name not in optional:
        return f"f{at}", kind
    return f"f{at}", kind, one.default


def _typed(one: Property) -> Any:
    if one.field.kind == "text":
        return Annotated[str, msgspec.Meta(max_length=one.field.max_length, min_length=one.min_length)]
    if one.field.kind == "integer":
        return Annotated[int, msgspec.Meta(ge=SMALLEST_INTEGER, le=LARGEST_INTEGER)]
    kinds = {"decimal": Decimal, "float": float, "boolean": bool, "date": date, "timestamp": datetime}
    return kinds.get(one.field.kind, msgspec.Raw)


def _conversion(one: Property) -> Convert | None:
    """None: what was decoded is what engines take."""
    steps = [step for step in (_of_kind(one), _kept_rules(one), _defaulted(one)) if step is not None]
    if len(steps) < 2:
        return steps[0] if steps else None

    def all_steps(column: Column) -> Column:
        for step in steps:
            column = step(column)
        return column

    return all_steps


def _of_kind(one: Property) -> Convert | None:
    field = one.field
    if field.kind == "timestamp":
        return lambda column: [
            moment if moment is None or moment.tzinfo is UTC else in_utc(moment) for moment in column
        ]
    if field.kind == "float":
        return lambda column: [None if number is None else number + 0.0 for number in column]  # no -0.0
    if field.kind == "json":
        return lambda column: [_json(one, raw) for raw in column]
    if field.kind != "decimal":
        return None
    if field.precision is None or field.scale is None:
        return lambda column: [None if number is None else fitted(field, number) for number in column]
    return _exact(Decimal(1).scaleb(-field.scale), field.precision)


def _exact(step: Decimal, precision: int) -> Convert:
    zero = Decimal(0).quantize(step)

    def exact(column: Column) -> Column:
        context = exact_context(precision)
        cut = [None if number is None else number.quantize(step, None, context) or zero for number in column]
        if not all(map(operator.eq, cut, cut)):  # NaN, the only value that does not equal itself
            raise ValueError
        return cut

    return exact


def _json(one: Property, raw: Any) -> Value:
    if isinstance(raw, msgspec.Raw):
        value = decoded(raw)
        return one.value(value)
    return raw  # the default, that was a value already


def _kept_rules(one: Property) -> Convert | None:
    plain = (one.allowed, one.shape, one.pattern, one.least, one.most, one.above, one.below)
    if all(rule is None for rule in plain):
        return None

    def checked(column: Column) -> Column:
        if any(value is not None and one.refusal(value) is not None for value in column):
            raise ValueError
        return column

    return checked


def _defaulted(one: Property) -> Convert | None:
    if one.null or not one.nullable or one.default is None:
        return None
    return lambda column: [one.default if value is None else value for value in column]

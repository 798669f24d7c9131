"""Questions about records, as they come in a query string."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec

from engines.records.base import Comparison, Condition, Order, keyset_fits
from engines.records.fields import Row, Table
from handlers.base import Fault
from handlers.collections.properties import escaped
from handlers.collections.reading import RecordInvalid, RecordReader
from handlers.collections.values import text_of

LIMIT = 50
LARGEST_LIMIT = 500
LARGEST_PAGE = 10**12
_CONDITION = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,62})(?:\[([a-z]+)\])?\Z")
_COMPARISONS = ("eq", "ne", "gt", "gte", "lt", "lte")
_PAGING = frozenset({"page", "limit", "cursor"})
_OWN = _PAGING | {"sort"}


@dataclass(frozen=True, slots=True)
class Question:
    """Which records, in which order, and which page of them."""

    where: tuple[Condition, ...]
    order: tuple[Order, ...]
    page: int
    limit: int
    after: Row | None
    """From a cursor; then `page` is the cursor's."""
    base: Mapping[str, str]
    """The parameters without `page` and `cursor`."""
    fingerprint: str
    """Equal for pages of one listing."""

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.limit


def asked(reader: RecordReader, params: Mapping[str, str], *, paged: bool = True) -> Question:
    """Understand the parameters. Raises `RecordInvalid` with a pointer per parameter. `paged`: whether one page is
    wanted, or all."""
    table = reader.collection.table
    faults: list[Fault] = []
    limit = _number(params, "limit", LIMIT, LARGEST_LIMIT, faults)
    page = _number(params, "page", 1, LARGEST_PAGE, faults)
    order = _order(table, params.get("sort"), faults)
    where = _where(reader, params, faults, _OWN if paged else _OWN - _PAGING)
    base = {name: value for name, value in params.items() if name not in ("page", "cursor")}
    mark = hashlib.sha256(repr((reader.collection.digest, where, order, limit)).encode()).hexdigest()[:16]
    question = Question(where, order, page, limit, None, base, mark)
    if not faults and paged and "cursor" in params:
        question = _from_cursor(table, reader, question, params, faults)
    if faults:
        raise RecordInvalid(faults)
    return question


def _number(params: Mapping[str, str], name: str, default: int, most: int, faults: list[Fault]) -> int:
    text = params.get(name)
    if text is None:
        return default
    if re.fullmatch(r"[0-9]{1,15}", text) and 1 <= int(text) <= most:
        return int(text)
    faults.append(Fault(f"/{name}", f"Expected a number from 1 to {most}."))
    return default


def _order(table: Table, text: str | None, faults: list[Fault]) -> tuple[Order, ...]:
    if text is None:
        return ()
    order: list[Order] = []
    for word in text.split(","):
        name = word.strip().removeprefix("-")
        if name not in table.names:
            faults.append(Fault("/sort", f"The collection has no field {name[:63]!r}."))
        elif table.field(name).kind == "json":
            faults.append(Fault("/sort", f"The field {name!r} holds JSON, which has no order."))
        elif any(one.field == name for one in order):
            faults.append(Fault("/sort", f"The field {name!r} is named twice."))
        else:
            order.append(Order(name, descending=word.strip().startswith("-")))
    names = [one.field for one in order]
    return tuple(order[: names.index(table.key) + 1] if table.key in names else order)


def _where(
    reader: RecordReader, params: Mapping[str, str], faults: list[Fault], own: frozenset[str]
) -> tuple[Condition, ...]:
    found = []
    for name, text in params.items():
        if name in own:
            continue
        try:
            found.append(_condition(reader, name, text))
        except RecordInvalid as error:
            faults.extend(Fault(f"/{escaped(name)}", fault.detail) for fault in error.faults)
    return tuple(found)


def _condition(reader: RecordReader, name: str, text: str) -> Condition:
    parts = _CONDITION.match(name)
    if parts is None or parts[1] not in reader.collection.table.names:
        raise RecordInvalid([Fault("", "There is no such parameter, and the collection has no such field.")])
    field, comparison = parts[1], parts[2] or "eq"
    if comparison == "null":
        if text not in ("true", "false"):
            raise RecordInvalid([Fault("", "Expected true or false.")])
        return Condition(field, "eq" if text == "true" else "ne", None)
    if comparison not in _COMPARISONS:
        raise RecordInvalid([Fault("", f"A comparison is one of {', '.join(_COMPARISONS)} and null.")])
    return Condition(field, cast("Comparison", comparison), reader.value_of(field, text))


# ---------------------------------------------------------------- cursors


def cursor_after(table: Table, question: Question, row: Row) -> str | None:
    """Where the page after this record begins; None where the order does not let a page begin after a record."""
    if not keyset_fits(table, question.order):
        return None
    values = [text_of(table.field(name), row[table.names.index(name)]) for name in _ordering(table, question)]
    document = msgspec.json.encode([question.fingerprint, question.page + 1, *values])
    return base64.urlsafe_b64encode(document).rstrip(b"=").decode()


def anchor(table: Table, question: Question, row: Row) -> Row:
    """The record with only what a page needs that begins after it."""
    needed = {table.names.index(name) for name in _ordering(table, question)}
    return tuple(value if position in needed else None for position, value in enumerate(row))


def _ordering(table: Table, question: Question) -> list[str]:
    names = [one.field for one in question.order]
    return names if table.key in names else [*names, table.key]


def _from_cursor(
    table: Table, reader: RecordReader, question: Question, params: Mapping[str, str], faults: list[Fault]
) -> Question:
    names = _ordering(table, question)
    read = _cursor(params["cursor"])
    if "page" in params:
        faults.append(Fault("/page", "A cursor says itself which page it begins; leave this out."))
    elif read is None or len(read) != len(names) + 2 or not keyset_fits(table, question.order):
        faults.append(Fault("/cursor", "This is no cursor; take it from the `next` link of a page."))
    elif read[0] != question.fingerprint:
        faults.append(Fault("/cursor", "The cursor belongs to another listing: other conditions, order or limit."))
    else:
        try:
            values = {name: reader.value_of(name, text) for name, text in zip(names, read[2:], strict=True)}
        except RecordInvalid:
            faults.append(Fault("/cursor", "This is no cursor; take it from the `next` link of a page."))
            return question
        after = tuple(values.get(name) for name in table.names)
        return replace(question, page=read[1], after=after)
    return question


def _cursor(text: str) -> Sequence[Any] | None:
    try:
        read = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return None
    if not isinstance(read, list) or len(read) < 3:
        return None
    texts = all(isinstance(one, str) for one in (read[0], *read[2:]))
    number = isinstance(read[1], int) and not isinstance(read[1], bool) and 1 <= read[1] <= LARGEST_PAGE
    return read if texts and number else None

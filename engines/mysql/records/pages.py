"""Questions for records as SQL: conditions, order, and where a page begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.mysql.records.shape import Shape
from engines.mysql.records.values import into, mark, next_below
from engines.mysql.session import quoted
from engines.records.base import Condition, Order, PageQuery
from engines.records.fields import Row

Part = tuple[str, list[Any]]
"""SQL and its parameters."""

_SIGNS = {"eq": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


def columns(shape: Shape) -> str:
    return ", ".join(quoted(column.name) for column in shape.columns)


def select(shape: Shape) -> str:
    return f"SELECT {columns(shape)} FROM {quoted(shape.table.name)}"  # noqa: S608  names are quoted, values are parameters


def page(shape: Shape, query: PageQuery) -> Part:
    order = total_order(shape, query.order)
    conditions, parameters = _all_of(shape, query.where)
    if query.after is not None:
        condition, more = _behind(shape, order, query.after)
        conditions.append(condition)
        parameters += more
    text = f"{select(shape)}{_where(conditions)} ORDER BY {_ordered(shape, order)} LIMIT %s OFFSET %s"
    return text, [*parameters, query.limit, query.offset]


def everything(shape: Shape, query: PageQuery) -> Part:
    """All records of a query, whatever page it asks for."""
    conditions, parameters = _all_of(shape, query.where)
    return (
        f"{select(shape)}{_where(conditions)} ORDER BY {_ordered(shape, total_order(shape, query.order))}",
        parameters,
    )


def count(shape: Shape, where: Sequence[Condition]) -> Part:
    conditions, parameters = _all_of(shape, where)
    return f"SELECT COUNT(*) FROM {quoted(shape.table.name)}{_where(conditions)}", parameters  # noqa: S608  names are quoted, values are parameters


def total_order(shape: Shape, order: Sequence[Order]) -> list[Order]:
    """With the key at the end, in the direction of what stands before it."""
    found: list[Order] = []
    for one in order:
        found.append(one)
        if one.field == shape.table.key:
            return found
    return [*found, Order(shape.table.key, bool(found) and found[-1].descending)]


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _all_of(shape: Shape, where: Sequence[Condition]) -> tuple[list[str], list[Any]]:
    conditions, parameters = [], []
    for one in where:
        condition, more = _holds(shape, one)
        conditions.append(condition)
        parameters += more
    return conditions, parameters


def _holds(shape: Shape, asked: Condition) -> Part:
    position = shape.table.names.index(asked.field)
    field, operand = shape.table.fields[position], shape.operand(position)
    if asked.value is None:
        return {"eq": f"{operand} IS NULL", "ne": f"{operand} IS NOT NULL"}.get(asked.comparison, "FALSE"), []
    value, comparison = asked.value, asked.comparison
    if field.kind == "decimal" and (below := next_below(value)) is not None:
        if comparison in ("eq", "ne"):
            return ("TRUE" if comparison == "ne" else "FALSE"), []
        value, comparison = below, "lte" if comparison in ("lt", "lte") else "gt"
    given, other = into(field, value), mark(field, value)
    if comparison == "eq":
        return shape.equal(position, other), [given] * shape.times_asked(position)
    if comparison == "ne":
        return f"NOT ({operand} <=> {other})", [given]
    return f"{operand} {_SIGNS[comparison]} {other}", [given]


def _ordered(shape: Shape, order: Sequence[Order]) -> str:
    """NULLs come last; a column that takes none is ordered by itself alone, so that its index serves."""
    parts = []
    for one in order:
        position = shape.table.names.index(one.field)
        operand = shape.operand(position)
        if shape.columns[position].nullable:
            parts.append(f"{operand} IS NULL")
        parts.append(f"{operand} DESC" if one.descending else operand)
    return ", ".join(parts)


def _behind(shape: Shape, order: Sequence[Order], last: Row) -> Part:
    """What comes after a record: behind it in the first field, or there as it and behind it in the next, and so on."""
    if len(order) == 1:
        return _further(shape, order[0], last, orequal=False)
    first, parameters = _further(shape, order[0], last, orequal=True)  # alone it lets an index find the beginning
    steps: list[str] = []
    equal: list[str] = []
    same: list[Any] = []
    for one in order:
        condition, more = _further(shape, one, last, orequal=False)
        steps.append(f"({' AND '.join([*equal, condition])})")
        parameters += [*same, *more]
        position = shape.table.names.index(one.field)
        field, value = shape.table.fields[position], last[position]
        equal.append(f"{shape.operand(position)} <=> {mark(field, value)}")
        same.append(into(field, value))
    return f"{first} AND ({' OR '.join(steps)})", parameters


def _further(shape: Shape, one: Order, last: Row, *, orequal: bool) -> Part:
    position = shape.table.names.index(one.field)
    field, column, value = shape.table.fields[position], shape.columns[position], last[position]
    operand = shape.operand(position)
    if value is None:
        return (f"{operand} IS NULL" if orequal else "FALSE"), []
    sign = ("<" if one.descending else ">") + ("=" if orequal else "")
    found = f"{operand} {sign} {mark(field, value)}"
    return (f"({found} OR {operand} IS NULL)" if column.nullable else found), [into(field, value)]

"""SELECTs over a table of records: conditions, order, and where a page begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from engines.records.base import Condition, Order, PageQuery
from engines.records.fields import Row
from engines.sqlite.records.columns import between_units
from engines.sqlite.records.shape import Column, Shape

_OPERATORS = {"eq": "=", "ne": "IS NOT", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_WHERE_BETWEEN = {"lt": "<=", "lte": "<=", "gt": ">", "gte": ">"}
"""For a decimal that lies between two that can be stored, and was rounded down."""


@dataclass(slots=True)
class Query:
    """A statement as it grows; names in it are quoted, values are parameters."""

    text: str
    values: list[Any] = field(default_factory=list)


def page(shape: Shape, query: PageQuery) -> Query:
    found = Query(f"SELECT {shape.names} FROM {shape.sql}")  # noqa: S608  names are quoted
    ordering = _ordering(shape, query.order)
    _add_where(found, shape, query.where, ordering if query.after is not None else (), query.after)
    _add_order(found, shape, ordering)
    found.text += " LIMIT ? OFFSET ?"
    found.values += [query.limit, query.offset]
    return found


def everything(shape: Shape, query: PageQuery) -> Query:
    """Without limit, offset and after."""
    found = Query(f"SELECT {shape.names} FROM {shape.sql}")  # noqa: S608  names are quoted
    _add_where(found, shape, query.where, (), None)
    _add_order(found, shape, _ordering(shape, query.order))
    return found


def count(shape: Shape, where: Sequence[Condition]) -> Query:
    found = Query(f"SELECT count(*) FROM {shape.sql}")  # noqa: S608  names are quoted
    _add_where(found, shape, where, (), None)
    return found


def one(shape: Shape, key: Any) -> Query:
    return Query(
        f"SELECT {shape.names} FROM {shape.sql} WHERE {shape.key_sql} = ?",  # noqa: S608  names are quoted
        [shape.encoded_key(key)],
    )


def _ordering(shape: Shape, order: Sequence[Order]) -> tuple[tuple[int, bool], ...]:
    """Positions of fields and whether they descend, up to the key, after which nothing is left to order."""
    found: list[tuple[int, bool]] = []
    key = shape.table.key_position
    for by in order:
        position = shape.table.names.index(by.field)
        found.append((position, by.descending))
        if position == key:
            return tuple(found)
    return (*found, (key, found[-1][1] if found else False))


def _add_order(found: Query, shape: Shape, ordering: tuple[tuple[int, bool], ...]) -> None:
    """SQLite takes NULL for the smallest; it is told otherwise only where there may be one: else an index serves."""
    words = []
    for position, descending in ordering:
        column = shape.columns[position]
        way = " DESC" if descending else " NULLS LAST" if column.takes_null else ""
        words += [term + way for term in _terms(column)]
    found.text += " ORDER BY " + ", ".join(words)


def _terms(column: Column) -> tuple[str, ...]:
    return tuple(term.format(column.sql) for term in column.storage.terms)


def _add_where(
    found: Query,
    shape: Shape,
    where: Sequence[Condition],
    ordering: tuple[tuple[int, bool], ...],
    after: Row | None,
) -> None:
    conditions = []
    for condition in where:
        column = shape.columns[shape.table.names.index(condition.field)]
        text, values = _condition(column, condition)
        conditions.append(text)
        found.values += values
    if after is not None:
        terms: list[str] = []
        for position, _ in ordering:
            column = shape.columns[position]
            terms += _terms(column)
            found.values += column.storage.compared(after[position])
        conditions.append(_compared(terms, "<" if ordering[0][1] else ">"))
    if conditions:
        found.text += " WHERE " + " AND ".join(conditions)


def _condition(column: Column, condition: Condition) -> tuple[str, tuple[Any, ...]]:
    value, comparison = condition.value, condition.comparison
    if value is None:
        null = {"eq": f"{column.sql} IS NULL", "ne": f"{column.sql} IS NOT NULL"}
        return null.get(comparison, "0"), ()
    operator = _OPERATORS[comparison]
    scale = column.storage.scale
    if scale is not None and isinstance(value, Decimal) and between_units(value, scale):
        if comparison not in _WHERE_BETWEEN:
            return ("1" if comparison == "ne" else "0"), ()
        operator = _WHERE_BETWEEN[comparison]
    return _compared(_terms(column), operator), column.storage.compared(value)


def _compared(terms: Sequence[str], operator: str) -> str:
    if len(terms) == 1:
        return f"{terms[0]} {operator} ?"
    return f"({', '.join(terms)}) {operator} ({', '.join('?' * len(terms))})"

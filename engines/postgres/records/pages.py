"""The questions asked of a table of records: pages by offset and by keyset, counts, scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.sql import SQL, Composable, Identifier

from engines.postgres.records.naming import all_shown, column, comparable, parameter, table_name
from engines.postgres.records.shape import Shape
from engines.records.base import Condition, Order, PageQuery
from engines.records.fields import Field, Row, Table

DEFERRED_FROM = 200
"""Rows to be passed over from which it pays to find a page's keys first: small rows, often from the index alone."""
_OPERATORS = {"eq": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


@dataclass(frozen=True, slots=True)
class Query:
    text: Composable
    parameters: list[Any]


@dataclass(frozen=True, slots=True)
class Questions:
    """Composes queries on one table; `shape` says which columns may hold NULL."""

    table: Table
    shape: Shape

    def page(self, query: PageQuery) -> Query:
        order = self._total(query.order)
        if query.after is None and query.offset >= DEFERRED_FROM:
            return self._deferred(query, order)
        where, parameters = self._where(query.where)
        if query.after is not None:
            beyond, more = self._beyond(order, query.after)
            where, parameters = [*where, beyond], [*parameters, *more]
        text = SQL("SELECT {} FROM {}{}{} LIMIT %s OFFSET %s").format(
            all_shown(self.table), table_name(self.table), _clause(where), self._order_by(order)
        )
        return Query(text, [*parameters, query.limit, query.offset])

    def scan(self, query: PageQuery) -> Query:
        where, parameters = self._where(query.where)
        text = SQL("SELECT {} FROM {}{}{}").format(
            all_shown(self.table), table_name(self.table), _clause(where), self._order_by(self._total(query.order))
        )
        return Query(text, parameters)

    def count(self, conditions: Sequence[Condition]) -> Query:
        where, parameters = self._where(conditions)
        return Query(SQL("SELECT count(*) FROM {}{}").format(table_name(self.table), _clause(where)), parameters)

    def _deferred(self, query: PageQuery, order: Sequence[Order]) -> Query:
        where, parameters = self._where(query.where)
        key = Identifier(self.table.key)
        text = SQL(
            "SELECT {shown} FROM {table} AS t JOIN"
            " (SELECT {key} AS k FROM {table}{where}{order} LIMIT %s OFFSET %s) AS p ON p.k = t.{key}{again}"
        ).format(
            shown=all_shown(self.table, "t"),
            table=table_name(self.table),
            key=key,
            where=_clause(where),
            order=self._order_by(order),
            again=self._order_by(order, "t"),
        )
        return Query(text, [*parameters, query.limit, query.offset])

    def _total(self, order: Sequence[Order]) -> list[Order]:
        """With the key as the last, in the direction of the one before it; nothing after the key decides anything."""
        names = [one.field for one in order]
        if self.table.key in names:
            return list(order[: names.index(self.table.key) + 1])
        return [*order, Order(self.table.key, order[-1].descending if order else False)]

    def _order_by(self, order: Sequence[Order], of: str | None = None) -> Composable:
        return SQL(" ORDER BY ") + SQL(", ").join([self._ordered(one, of) for one in order])

    def _ordered(self, one: Order, of: str | None) -> Composable:
        words = comparable(self.table.field(one.field), of)
        if not one.descending:
            return words
        # NULLS LAST where there is none would keep an index from being read backwards
        return words + SQL(" DESC NULLS LAST" if self.shape.nullable(one.field) else " DESC")

    def _beyond(self, order: Sequence[Order], after: Row) -> tuple[Composable, list[Any]]:
        """Rows behind `after`. As a comparison of rows, for which an index is used, unless there may be NULLs."""
        fields = [self.table.field(one.field) for one in order]
        values = [after[self.table.names.index(one.field)] for one in order]
        sign = "<" if order[0].descending else ">"
        if not any(self.shape.nullable(one.field) for one in order):
            left = SQL(", ").join([comparable(field) for field in fields])
            right = SQL(", ").join([parameter(field) for field in fields])
            return SQL(f"({{}}) {sign} ({{}})").format(left, right), values
        return _behind(fields, values, sign)

    def _where(self, conditions: Sequence[Condition]) -> tuple[list[Composable], list[Any]]:
        parts: list[Composable] = []
        parameters: list[Any] = []
        for condition in conditions:
            part, more = _condition(self.table.field(condition.field), condition)
            parts.append(part)
            parameters += more
        return parts, parameters


def _clause(parts: Sequence[Composable]) -> Composable:
    return SQL(" WHERE ") + SQL(" AND ").join(parts) if parts else SQL("")


def _condition(field: Field, condition: Condition) -> tuple[Composable, list[Any]]:
    named, value = column(field), condition.value
    if value is None:
        asked = {"eq": " IS NULL", "ne": " IS NOT NULL"}.get(condition.comparison)
        return (named + SQL(asked), []) if asked else (SQL("false"), [])
    if condition.comparison == "ne":
        return comparable(field) + SQL(" IS DISTINCT FROM ") + parameter(field), [value]
    exact = comparable(field) + SQL(f" {_OPERATORS[condition.comparison]} ") + parameter(field)
    if condition.comparison == "eq" and field.kind == "text":
        # the first finds it by an index of any collation, the second sees to it that it is the same text
        return named + SQL(" = ") + parameter(field) + SQL(" AND ") + exact, [value, value]
    return exact, [value]


def _behind(fields: Sequence[Field], values: Sequence[Any], sign: str) -> tuple[Composable, list[Any]]:
    """(a beyond x) or (a as x and (b beyond y …)), where NULL lies beyond every value."""
    field, value = fields[0], values[0]
    named, shown = column(field), comparable(field)
    if value is None:
        beyond: Composable = SQL("false")
        same: Composable = named + SQL(" IS NULL")
        given: list[Any] = []
    else:
        beyond = SQL("({} {} {} OR {} IS NULL)").format(shown, SQL(sign), parameter(field), named)
        same = shown + SQL(" = ") + parameter(field)
        given = [value]
    if len(fields) == 1:
        return beyond, given
    rest, more = _behind(fields[1:], values[1:], sign)
    return SQL("({} OR ({} AND {}))").format(beyond, same, rest), [*given, *given, *more]

"""Questions for records as MongoDB's filters and sorts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.mongodb.records.values import Document, into
from engines.records.base import Condition, Order, PageQuery
from engines.records.fields import Field, Row, Table

_SIGNS = {"lt": "$lt", "lte": "$lte", "gt": "$gt", "gte": "$gte"}
_NEVER: Document = {"$nor": [{}]}


def projection(table: Table) -> dict[str, int]:
    return {"_id": 0} | dict.fromkeys(table.names, 1)


def total_order(table: Table, order: Sequence[Order]) -> list[Order]:
    """With the key at the end, in the direction of what stands before it."""
    found: list[Order] = []
    for one in order:
        found.append(one)
        if one.field == table.key:
            return found
    return [*found, Order(table.key, bool(found) and found[-1].descending)]


def matching(table: Table, where: Sequence[Condition]) -> Document:
    return _all_of([_holds(table.field(one.field), one) for one in where])


def page_filter(table: Table, query: PageQuery) -> Document:
    wanted = matching(table, query.where)
    if query.after is None:
        return wanted
    return _all_of([wanted, *behind(table, total_order(table, query.order), query.after)])


def _all_of(conditions: Sequence[Document]) -> Document:
    found = [condition for condition in conditions if condition]
    if len(found) == 1:
        return found[0]
    return {"$and": found} if found else {}


def _holds(field: Field, asked: Condition) -> Document:
    """Comparisons see values of their own type alone, so no NULL; `$ne` finds what has no value."""
    if asked.comparison in {"eq", "ne"}:
        return {asked.field: {f"${asked.comparison}": into(field, asked.value)}}
    if asked.value is None:
        return _NEVER
    return {asked.field: {_SIGNS[asked.comparison]: into(field, asked.value)}}


def _may_lack(table: Table, name: str) -> bool:
    return name != table.key and not table.field(name).required


def sort_stages(table: Table, order: Sequence[Order]) -> list[Document] | None:
    """Stages of a pipeline that sort with NULLs last; None where a plain sort does, since none comes first.

    MongoDB sorts what has no value before everything else.
    """
    rising = [one.field for one in order if not one.descending and _may_lack(table, one.field)]
    if not rising:
        return None
    flags = {f"lacks {name}": {"$cond": [{"$eq": [{"$ifNull": [f"${name}", None]}, None]}, 1, 0]} for name in rising}
    sort: dict[str, int] = {}
    for one in order:
        if one.field in rising:
            sort[f"lacks {one.field}"] = 1
        sort[one.field] = -1 if one.descending else 1
    return [{"$addFields": flags}, {"$sort": sort}]


def plain_sort(order: Sequence[Order]) -> list[tuple[str, int]]:
    return [(one.field, -1 if one.descending else 1) for one in order]


def behind(table: Table, order: Sequence[Order], last: Row) -> list[Document]:
    """What comes after a record: behind it in the first field, or there as it and behind it in the next, and so on."""
    first, steps, equal = _further(table, order[0], last, orequal=True), [], list[Document]()
    for one in order:
        further = _further(table, one, last, orequal=False)
        if further is not None:
            steps.append(_all_of([*equal, further]))
        field = table.field(one.field)
        equal.append({one.field: {"$eq": into(field, last[table.names.index(one.field)])}})
    found: list[Any] = [first] if first is not None and len(order) > 1 else []
    return [*found, {"$or": steps} if steps else _NEVER]


def _further(table: Table, one: Order, last: Row, *, orequal: bool) -> Document | None:
    """None: nothing is."""
    field, value = table.field(one.field), last[table.names.index(one.field)]
    if value is None:
        return {one.field: {"$eq": None}} if orequal else None
    sign = ("$lt" if one.descending else "$gt") + ("e" if orequal else "")
    found = {one.field: {sign: into(field, value)}}
    return {"$or": [found, {one.field: {"$eq": None}}]} if _may_lack(table, one.field) else found

"""What every engine promises of pages of records: one order, one meaning of comparisons, one moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import pytest

from engines.records.base import Comparison, Condition, Order, PageQuery, RecordTable, keyset_fits
from engines.records.fields import Field, Row
from engines.run import Run
from tests.contracts.record_cases import OpenTable, RecordCase, in_pieces, new_table, together
from tests.contracts.record_values import KINDS, SAMPLES

COMPARISONS: dict[Comparison, Callable[[Any, Any], bool]] = {
    "eq": eq,
    "ne": ne,
    "lt": lt,
    "lte": le,
    "gt": gt,
    "gte": ge,
}


@pytest.fixture
def samples(opened: OpenTable, run: Run) -> tuple[RecordTable, list[Row]]:
    """A table with the samples in no order, and NULLs among them."""
    table = opened(new_table(*KINDS[:-1]))
    names = [field.name for field in KINDS[:-1]]
    columns = [(*SAMPLES[name], None, *SAMPLES[name][:1], None) for name in names]
    rows: list[Row] = [(n * 7 % 23, *(column[n % len(column)] for column in columns)) for n in range(23)]
    in_pieces(table, rows, run)
    return table, rows


def test_every_comparison_means_the_same_everywhere(samples: tuple[RecordTable, list[Row]]) -> None:
    table, rows = samples
    for position, (name, values) in enumerate(SAMPLES.items(), start=1):
        for value, comparison in product(values[-5:], COMPARISONS):
            holds = COMPARISONS[comparison]
            wanted = sorted(
                row[0] for row in rows if (comparison == "ne" if row[position] is None else holds(row[position], value))
            )
            where = (Condition(name, comparison, value),)
            assert [row[0] for row in table.page(PageQuery(where=where))] == wanted, (name, comparison, value)
            assert table.count(where) == len(wanted)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_decimal_with_more_digits_than_a_column_holds_is_not_rounded_to_be_found(
    opened: OpenTable, run: Run, sign: int
) -> None:
    numbers = [Decimal("-0.5"), Decimal(0), Decimal("0.5")]
    table = opened(new_table(Field("number", "decimal")))
    in_pieces(table, list(enumerate(numbers)), run)
    fine = sign * Decimal("1E-34")
    for comparison, holds in COMPARISONS.items():
        wanted = [row for row, number in enumerate(numbers) if holds(number, fine)]
        where = (Condition("number", comparison, fine),)
        assert [row[0] for row in table.page(PageQuery(where=where))] == wanted, comparison


def test_null_is_asked_for_and_compared_with_nothing(samples: tuple[RecordTable, list[Row]]) -> None:
    table, rows = samples
    for position, name in enumerate(SAMPLES, start=1):
        nulls = sum(row[position] is None for row in rows)
        assert table.count((Condition(name, "eq", None),)) == nulls
        assert table.count((Condition(name, "ne", None),)) == len(rows) - nulls
        for comparison in ("lt", "lte", "gt", "gte"):
            assert table.count((Condition(name, comparison, None),)) == 0


def test_conditions_hold_all_together(samples: tuple[RecordTable, list[Row]]) -> None:
    table, rows = samples
    where = (
        Condition("an_integer", "gt", 0),
        Condition("a_boolean", "eq", True),
        Condition("id", "gte", 3),
        Condition("id", "lt", 20),
    )
    wanted = [row for row in rows if row[2] is not None and row[2] > 0 and row[5] is True and 3 <= row[0] < 20]
    assert wanted
    assert table.count(where) == len(wanted)
    assert shown(table.page(PageQuery(where=where))) == shown(sorted(wanted))


def shown(rows: list[Row]) -> list[Row]:
    return [tuple(str(value) for value in row) for row in rows]


def ordered(rows: list[Row], positions: list[int], descending: bool) -> list[Row]:
    """By those positions and then the key, NULLs last, all the same way."""
    found = sorted(rows, key=lambda row: row[0], reverse=descending)
    for position in reversed(positions):
        there = [row for row in found if row[position] is not None]
        there.sort(key=lambda row: row[position], reverse=descending)
        found = there + [row for row in found if row[position] is None]
    return found


@pytest.mark.parametrize("descending", [False, True])
def test_every_order_has_nulls_last_and_the_key_at_its_end(
    samples: tuple[RecordTable, list[Row]], descending: bool
) -> None:
    table, rows = samples
    for position, name in enumerate(SAMPLES, start=1):
        found = table.page(PageQuery(order=(Order(name, descending),), limit=100))
        assert [row[0] for row in found] == [row[0] for row in ordered(rows, [position], descending)], name
    by_two = (Order("a_boolean", descending), Order("a_date", descending))
    found = table.page(PageQuery(order=by_two, limit=100))
    assert [row[0] for row in found] == [row[0] for row in ordered(rows, [5, 6], descending)]


def test_orders_may_go_different_ways(samples: tuple[RecordTable, list[Row]]) -> None:
    table, rows = samples
    there = [row for row in rows if row[5] is not None and row[2] is not None]
    where = (Condition("a_boolean", "ne", None), Condition("an_integer", "ne", None))
    order = (Order("a_boolean", descending=True), Order("an_integer"))
    found = table.page(PageQuery(where=where, order=order, limit=100))
    wanted = sorted(there, key=lambda row: (not row[5], row[2], row[0]))
    assert [row[0] for row in found] == [row[0] for row in wanted]
    assert shown([row for rows in table.scan(PageQuery(where, order)) for row in rows]) == shown(found)


ORDERS = (
    (),
    (Order("id", descending=True),),
    (Order("name"),),
    (Order("amount", descending=True),),
    (Order("day"), Order("name"), Order("amount")),
    (Order("day", descending=True), Order("id", descending=True)),
    (Order("moment"), Order("id")),
)


@pytest.fixture
def many(opened: OpenTable, run: Run) -> RecordTable:
    """120 records with many equal values."""
    shape = new_table(
        Field("name", "text", required=True),
        Field("amount", "decimal", required=True, precision=20, scale=2),
        Field("day", "date", required=True),
        Field("moment", "timestamp", required=True),
        Field("note", "text"),
    )
    table = opened(shape)
    day, moment = date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        (
            n * 37 % 121,
            ("a", "B", "b", "é")[n % 4],
            Decimal(n % 7 - 3).scaleb(-2) * 100 + Decimal("0.10"),
            day + timedelta(n % 5),
            moment + timedelta(microseconds=n % 9),
            None if n % 3 else "x",
        )
        for n in range(120)
    ]
    in_pieces(table, rows, run)
    return table


def test_pages_by_keyset_are_pages_by_offset(many: RecordTable) -> None:
    for order in ORDERS:
        everything = many.page(PageQuery(order=order, limit=1000))
        assert len(everything) == 120
        last: Row | None = None
        for begin in range(0, 140, 17):
            by_offset = many.page(PageQuery(order=order, limit=17, offset=begin))
            by_keyset = many.page(PageQuery(order=order, limit=17, after=last))
            assert by_offset == by_keyset == everything[begin : begin + 17], order
            last = by_keyset[-1] if by_keyset else last


def test_pages_by_keyset_keep_their_conditions(many: RecordTable) -> None:
    where = (Condition("name", "ne", "b"), Condition("note", "eq", None))
    order = (Order("day", descending=True),)
    everything = many.page(PageQuery(where, order, limit=1000))
    assert 0 < len(everything) < 120
    assert many.count(where) == len(everything)
    assert many.page(PageQuery(where, order, limit=9, after=everything[8])) == everything[9:18]


def test_keyset_paging_fits_where_no_null_can_come() -> None:
    table = new_table(Field("name", "text", required=True), Field("note", "text"))
    assert keyset_fits(table, (Order("name"), Order("id")))
    assert not keyset_fits(table, (Order("note"),))
    assert not keyset_fits(table, (Order("name"), Order("id", descending=True)))


def test_a_scan_gives_everything_once_in_batches(many: RecordTable) -> None:
    where = (Condition("name", "ne", "b"),)
    query = PageQuery(where, (Order("note"), Order("amount", descending=True)), limit=3, offset=5)
    batches = list(many.scan(query, size=40))
    assert [len(batch) for batch in batches] == [40, 40, 10]
    flat = [row for batch in batches for row in batch]
    assert flat == many.page(PageQuery(where, query.order, limit=1000))
    assert list(many.scan(PageQuery((Condition("name", "eq", "nobody"),)))) == []


def test_a_scan_shows_one_moment_and_keeps_nobody_from_writing(
    records: RecordCase, many: RecordTable, run: Run
) -> None:
    scan = many.scan(PageQuery(), size=10)
    first = next(scan)
    assert many.delete([row[0] for row in first] + [60]) == 11
    changed = many.get(100)
    assert changed is not None
    many.change(100, lambda row: row and (*row[:-1], "changed"))
    rest = [row for batch in scan for row in batch]
    if records.sees_one_moment:
        assert len(first) + len(rest) == 120
        assert changed in rest
    assert many.count() == 109


def test_a_scan_may_be_left_early(many: RecordTable) -> None:
    for _ in range(10):  # more than a pool of connections holds
        scan: Any = many.scan(PageQuery(), size=10)  # what iterates is a generator
        assert len(next(scan)) == 10
        scan.close()
    assert many.count() == 120


def test_a_table_may_be_closed_while_it_is_used(many: RecordTable) -> None:
    scan = many.scan(PageQuery(), size=50)
    rows = len(next(scan))
    many.close()
    assert rows + sum(len(batch) for batch in scan) == 120
    many.close()


def test_one_table_serves_many_threads(many: RecordTable) -> None:
    def look() -> int:
        return sum(len(many.page(PageQuery(limit=10, offset=n))) + many.count() for n in range(5))

    assert set(together(*(look for _ in range(12)))) == {5 * (10 + 120)}

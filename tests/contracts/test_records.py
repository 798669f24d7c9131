"""What every engine promises of tables of records: values come back as they were, order and comparison are one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest

from engines.errors import CollectionMismatch, RecordExists, RecordRefused, TargetMissing
from engines.records.base import Condition, Decide, Order, PageQuery, RecordEngine, RecordTable
from engines.records.fields import Field, Row, Table
from engines.registry import EngineRegistry
from engines.run import Run
from tests.contracts.record_cases import CASES, OpenTable, RecordCase, in_pieces, new_table, together
from tests.contracts.record_values import KINDS, all_values, exactly


def by_inserting(table: RecordTable, rows: list[Row], run: Run) -> None:
    for row in rows:
        assert exactly([table.insert(row)]) == exactly([row])


def always(row: Row | None) -> Decide:
    return lambda _: row


def by_changing(table: RecordTable, rows: list[Row], run: Run) -> None:
    for row in rows:
        before, after = table.change(row[0], always(row))
        assert before is None
        assert after is not None
        assert exactly([after]) == exactly([row])


def pieces(table: RecordTable, rows: list[Row], run: Run) -> None:
    assert in_pieces(table, rows, run).inserted == len(rows)


def whole(table: RecordTable, rows: list[Row], run: Run) -> None:
    with table.writing(run, whole=True) as writer:
        writer.write(rows)
        assert writer.finish().inserted == len(rows)


def test_every_engine_with_records_has_a_case() -> None:
    registry = EngineRegistry.default()
    able = {kind for kind in registry.kinds() if isinstance(registry.by_kind(kind), RecordEngine)}
    assert able == {name.partition("-")[0] for name in CASES}


@pytest.mark.parametrize("write", [by_inserting, by_changing, pieces, whole])
def test_values_of_every_kind_come_back_exactly(
    records: RecordCase, opened: OpenTable, run: Run, write: Callable[[RecordTable, list[Row], Run], None]
) -> None:
    if write is whole and not records.engine.writes_whole:
        pytest.skip("writes nothing whole")
    table, rows = opened(new_table(*KINDS)), all_values()
    write(table, rows, run)
    assert exactly(table.page(PageQuery(limit=100))) == exactly(rows)
    assert exactly([row for rows in table.scan(PageQuery()) for row in rows]) == exactly(rows)
    for row in rows:
        found = table.get(row[0])
        assert found is not None
        assert exactly([found]) == exactly([row])


def test_a_decimal_of_no_declared_precision_keeps_its_value_or_is_refused(
    records: RecordCase, opened: OpenTable
) -> None:
    shape = new_table(Field("amount", "decimal"))
    if "amount" in records.engine.refuse_table(shape):
        return
    table = opened(shape)
    amounts = [Decimal(digits) for digits in ("0", "1.50", "-1E+20", "1E-20", "1234567890123456789012345678901234")]
    for number, amount in enumerate(amounts):
        assert table.insert((number, amount)) == (number, amount)
    in_order = table.page(PageQuery(order=(Order("amount"),)))
    assert [row[1] for row in in_order] == sorted(amounts)


def test_the_tables_that_come_ready_are_taken(records: RecordCase, opened: OpenTable) -> None:
    customers = Table(
        "customers",
        "customer_id",
        (
            Field("customer_id", "text", required=True, max_length=50),
            Field("first_name", "text", required=True, max_length=100),
            Field("email", "text", required=True),
            Field("address", "text"),
            Field("date_of_birth", "date"),
            Field("account_balance", "decimal", precision=15, scale=2),
            Field("created_at", "timestamp", stamped=True),
        ),
    )
    assert records.engine.refuse_table(customers) == {}
    table = opened(customers)
    born, balance = date(1980, 2, 29), Decimal("1234567890123.40")
    stored = table.insert(("C-1", "Zoë", "z@example.org", None, born, balance, None))
    assert stored[:6] == ("C-1", "Zoë", "z@example.org", None, born, balance)
    assert stored[6].tzinfo is not None
    assert table.get("C-1") == stored


KEYS = ("a", "A", "a ", " a", "á", "a\u0301", "ä", "ß", "ss", "SS", "\uffff", "\U0001f600", "Z", "z", "10", "9", "")


def test_texts_are_other_keys_when_a_code_point_differs(records: RecordCase, opened: OpenTable, run: Run) -> None:
    table = opened(
        Table(new_table().name, "k", (Field("k", "text", required=True, max_length=20), Field("n", "integer")))
    )
    for number, key in enumerate(KEYS):
        table.insert((key, number))
    with table.writing(run, whole=False) as writer:
        written = writer.write([(key, number + 1) for number, key in enumerate(KEYS)])
    assert (written.inserted, written.updated) == (0, len(KEYS))
    for number, key in enumerate(KEYS):
        assert table.get(key) == (key, number + 1)
        assert table.count((Condition("k", "eq", key),)) == 1
    assert [row[0] for row in table.page(PageQuery())] == sorted(KEYS)
    assert table.delete(["a", "ss"]) == 2
    assert [row[0] for row in table.page(PageQuery())] == sorted(set(KEYS) - {"a", "ss"})


def test_a_record_is_inserted_once(records: RecordCase, opened: OpenTable) -> None:
    table = opened(shape := new_table(Field("name", "text", required=True)))
    assert table.insert((1, "a")) == (1, "a")
    with pytest.raises(RecordExists) as refused:
        table.insert((1, "b"))
    assert not refused.value.retryable
    assert table.get(1) == (1, "a")
    assert table.get(2) is None
    assert records.values(shape, "name") == ["a"]


def test_what_the_database_does_not_take_is_refused(records: RecordCase, opened: OpenTable) -> None:
    table = opened(shape := new_table(Field("name", "text", required=True), Field("code", "integer")))
    records.make_unique(shape, "code")
    table.insert((1, "a", 7))
    table.insert((3, "c", 8))
    for name, code in ((None, 9), ("b", 7)):
        writes: tuple[Callable[[], object], ...] = (
            partial(table.insert, (2, name, code)),
            partial(table.change, 2, always((2, name, code))),
            partial(table.change, 3, always((3, name, code))),
        )
        for write in writes:
            with pytest.raises(RecordRefused) as told:
                write()
            assert told.value.message
    assert table.page(PageQuery()) == [(1, "a", 7), (3, "c", 8)]
    assert records.values(shape, "name") == ["a", "c"]


def test_the_database_gives_keys_that_nobody_has(opened: OpenTable, run: Run) -> None:
    shape = Table(
        new_table().name, "id", (Field("name", "text"), Field("id", "integer", required=True)), generated=True
    )
    table = opened(shape)
    first = table.insert(("a", None))
    assert isinstance(first[1], int)
    assert table.get(first[1]) == first
    explicit = [("b", first[1] + step) for step in (1, 2, 3)]
    for row in explicit:
        assert table.insert(row) == row
    second = table.insert(("c", None))
    with table.writing(run, whole=False) as writer:
        ahead = [("d", second[1] + step) for step in (1, 2, 3)]
        assert writer.write(ahead).inserted == 3
    third = table.insert(("e", None))
    created = table.change(third[1] + 1, lambda _: ("f", third[1] + 1))[1]
    fourth = table.insert(("g", None))
    rows = table.page(PageQuery())
    assert len({row[1] for row in rows}) == len(rows) == 11
    assert created in rows
    assert fourth in rows


def test_keys_given_to_many_at_once_differ(opened: OpenTable) -> None:
    table = opened(new_table(Field("name", "text"), generated=True))
    found = together(*(lambda: [table.insert((None, "x"))[0] for _ in range(5)] for _ in range(4)))
    assert len({key for keys in found for key in keys}) == 20


def test_a_key_is_inserted_by_one_of_many(opened: OpenTable) -> None:
    table = opened(new_table(Field("name", "text")))
    found = together(*(partial(table.insert, (5, str(n))) for n in range(4)))
    assert sorted(type(one).__name__ for one in found) == ["RecordExists"] * 3 + ["tuple"]


def test_a_change_creates_replaces_and_deletes(records: RecordCase, opened: OpenTable) -> None:
    table = opened(shape := new_table(Field("name", "text"), Field("n", "integer")))
    seen: list[Row | None] = []

    def becoming(after: Row | None) -> Callable[[Row | None], Row | None]:
        def decide(before: Row | None) -> Row | None:
            seen.append(before)
            return after

        return decide

    assert table.change(1, becoming(None)) == (None, None)
    assert table.change(1, becoming((1, "a", 1))) == (None, (1, "a", 1))
    assert table.change(1, becoming((1, "b", None))) == ((1, "a", 1), (1, "b", None))
    assert table.change(1, becoming((1, "b", None))) == ((1, "b", None), (1, "b", None))
    assert records.values(shape, "name") == ["b"]
    assert table.change(1, becoming(None)) == ((1, "b", None), None)
    assert records.count(shape) == 0
    assert seen == [None, None, (1, "a", 1), (1, "b", None), (1, "b", None)]


def test_a_change_that_raises_does_nothing(opened: OpenTable) -> None:
    table = opened(new_table(Field("name", "text")))
    table.insert((1, "a"))

    def refuse(row: Row | None) -> Row | None:
        raise LookupError(str(row))

    for key in (1, 2, 1):
        with pytest.raises(LookupError):
            table.change(key, refuse)
    assert table.page(PageQuery()) == [(1, "a")]
    assert table.change(1, lambda _: (1, "b"))[1] == (1, "b")


def test_changes_of_one_record_by_many_are_all_kept(opened: OpenTable) -> None:
    table = opened(new_table(Field("n", "integer", required=True)))

    def increment(row: Row | None) -> Row | None:
        return (9, row[1] + 1 if row else 1)

    done = together(*(lambda: [table.change(9, increment) for _ in range(10)] for _ in range(8)))
    assert all(isinstance(one, list) for one in done), done
    assert table.get(9) == (9, 80)


def test_records_are_deleted_and_counted(records: RecordCase, opened: OpenTable, run: Run) -> None:
    table = opened(shape := new_table(Field("name", "text")))
    in_pieces(table, [(n, "x") for n in range(500)], run)
    assert table.delete([]) == 0
    assert table.delete([5, 5, 6, -1]) == 2
    assert table.delete(list(range(10, 410))) == 400
    assert records.count(shape) == table.count() == 98
    assert table.delete(list(range(500))) == 98


def test_a_record_that_comes_without_its_time_is_stamped(opened: OpenTable, run: Run) -> None:
    table = opened(new_table(Field("name", "text"), Field("made", "timestamp", stamped=True)))
    began = datetime.now(UTC) - timedelta(minutes=1)
    writes: tuple[Callable[[], object], ...] = (
        partial(table.insert, (0, "a", None)),
        partial(table.change, 1, always((1, "a", None))),
        partial(in_pieces, table, [(2, "a", None)], run),
    )
    for key, write in enumerate(writes):
        write()
        first = table.get(key)
        assert first is not None
        assert began < first[2] < datetime.now(UTC) + timedelta(minutes=1)
        assert table.change(key, always((key, "b", None))) == (first, (key, "b", first[2]))
    with table.writing(run, whole=False) as writer:
        same = writer.write([(key, "b", None) for key in range(3)])
        assert (same.inserted, same.updated, same.unchanged) == (0, 0, 3)
        other = writer.write([(0, "c", None), (1, "b", began)])
        assert (other.updated, other.unchanged) == (2, 0)
    assert [row[2] == began for row in table.page(PageQuery())] == [False, True, False]


def test_names_may_look_like_sql(records: RecordCase, opened: OpenTable, run: Run) -> None:
    words = ("select", "order", "from", "group", "user", "table", "null", "values", "index", "_x", "rowid_", "desc")
    shape = Table("Order", "Key", (Field("Key", "integer", required=True), *(Field(word, "text") for word in words)))
    assert records.engine.refuse_table(shape) == {}
    table = opened(shape)
    row = (1, *(f"{word}'); DROP TABLE x; --" for word in words))
    assert table.insert(row) == row
    in_pieces(table, [(2, *words)], run)
    assert table.change(1, lambda row: row and (1, *row[:0:-1]))[1] == (1, *row[:0:-1])
    for word in words:
        assert table.count((Condition(word, "eq", word),)) == 1
    assert table.page(PageQuery(order=(Order("select"), Order("order", descending=True)), limit=1))
    assert table.delete([1, 2]) == 2


def test_fields_that_differ_by_case_only_are_refused_or_kept_apart(records: RecordCase, opened: OpenTable) -> None:
    shape = new_table(Field("name", "text"), Field("NAME", "text"))
    if records.engine.refuse_table(shape):
        return
    assert opened(shape).insert((1, "a", "b")) == (1, "a", "b")


def test_everything_but_prepare_expects_the_table(records: RecordCase, opened: OpenTable, run: Run) -> None:
    shape = new_table(Field("name", "text"))
    table = opened(shape, prepare=False)
    calls: tuple[Callable[[], object], ...] = (
        partial(table.page, PageQuery()),
        table.count,
        partial(table.get, 1),
        partial(table.insert, (1, "a")),
        partial(table.change, 1, always((1, "a"))),
        partial(table.delete, [1]),
        lambda: list(table.scan(PageQuery())),
        partial(in_pieces, table, [(1, "a")], run),
    )
    for call in calls:
        with pytest.raises(CollectionMismatch):
            call()
    assert not records.exists(shape)


def test_a_database_that_is_not_there_is_said_to_be_missing(records: RecordCase) -> None:
    target = records.absent()
    if target is None:
        return
    table = records.engine.open_table(target, new_table(Field("name", "text")))
    calls: tuple[Callable[[], object], ...] = (partial(table.page, PageQuery()), table.count, table.prepare)
    for call in calls:
        with pytest.raises(TargetMissing):
            call()

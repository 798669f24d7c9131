"""What every engine promises of making tables of records, and of writing many of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from engines.errors import CollectionMismatch, RecordRefused, Stopped, UnsupportedOperation
from engines.records.base import PageQuery, Prepared, RecordTable, Written
from engines.records.fields import Field, Row
from engines.run import Run, StopReason
from tests.contracts.record_cases import OpenTable, RecordCase, in_pieces, new_table, together
from tests.contracts.record_values import KINDS, all_values

NAME = Field("name", "text", required=True, max_length=20)
NOTE = Field("note", "text")
LONG = 200


def test_a_table_is_made_once(records: RecordCase, opened: OpenTable) -> None:
    shape = new_table(NAME, NOTE)
    table = opened(shape, prepare=False)
    assert table.prepare(change=False).created
    assert not records.exists(shape)
    assert table.prepare().created
    assert records.exists(shape)
    table.insert((1, "a", None))
    for change in (True, False):
        assert table.prepare(change=change) == Prepared()
    assert records.count(shape) == 1


def test_a_table_may_be_made_by_many_at_once(records: RecordCase, opened: OpenTable) -> None:
    shape = new_table(NAME, NOTE)
    tables = [opened(shape, prepare=False) for _ in range(4)]
    found = together(*(table.prepare for table in tables))
    assert all(isinstance(one, Prepared) for one in found), found
    assert any(one.created for one in found)
    assert tables[0].insert((1, "a", None)) == (1, "a", None)
    wider = replace(shape, fields=(*shape.fields, Field("more", "integer"), Field("most", "date")))
    found = together(*(opened(wider, prepare=False).prepare for _ in range(4)))
    assert all(isinstance(one, Prepared) for one in found), found
    assert {name for one in found for name in one.added} == {"more", "most"}
    assert opened(wider).get(1) == (1, "a", None, None, None)


def test_columns_that_lack_are_added_and_nothing_is_dropped(records: RecordCase, opened: OpenTable) -> None:
    shape = new_table(NAME)
    opened(shape).insert((1, "a"))
    added = (
        Field("note", "text"),
        Field("greeting", "text", required=True, default='it\'s ü \\ "%s"'),
        Field("price", "decimal", precision=15, scale=2, default=Decimal("1.50")),
        Field("flag", "boolean", required=True, default=False),
        Field("size", "integer", default=-5),
    )
    wider = opened(wide := replace(shape, fields=(*shape.fields, *added)), prepare=False)
    found = wider.prepare(change=False)
    assert (found.created, set(found.added)) == (False, {field.name for field in added})
    assert set(wider.prepare().added) == {field.name for field in added}
    old = (1, "a", None, 'it\'s ü \\ "%s"', Decimal("1.50"), False, -5)
    new = (2, "b", "x", "y", None, True, None)
    assert wider.get(1) == old
    assert wider.insert(new) == new
    assert opened(wide).prepare() == Prepared()
    narrow = opened(replace(wide, fields=(*shape.fields, *added[:2])), prepare=False)
    assert narrow.prepare().added == ()
    assert wider.page(PageQuery()) == [old, new]
    assert records.count(shape) == 2


def test_a_required_column_without_default_is_added_to_an_empty_table_only(
    records: RecordCase, opened: OpenTable
) -> None:
    shape = new_table(NAME)
    table = opened(shape)
    wider = opened(replace(shape, fields=(*shape.fields, Field("n", "integer", required=True))), prepare=False)
    table.insert((1, "a"))
    for change in (False, True):
        with pytest.raises(CollectionMismatch):
            wider.prepare(change=change)
    table.delete([1])
    assert wider.prepare().added == ("n",)
    assert wider.insert((1, "a", 5)) == (1, "a", 5)
    with pytest.raises(RecordRefused):
        wider.insert((2, "b", None))


MISMATCHES = {
    "another type": (Field("f", "text"), Field("f", "integer")),
    "another type the other way": (Field("f", "integer"), Field("f", "text")),
    "a date that is a timestamp": (Field("f", "timestamp"), Field("f", "date")),
    "floats for decimals": (Field("f", "float"), Field("f", "decimal", precision=15, scale=2)),
    "too short": (Field("f", "text", max_length=10), Field("f", "text", max_length=11)),
    "too short for any length": (Field("f", "text", max_length=10), Field("f", "text")),
    "too few digits": (
        Field("f", "decimal", precision=10, scale=2),
        Field("f", "decimal", precision=15, scale=2),
    ),
    "too few digits behind the point": (
        Field("f", "decimal", precision=15, scale=2),
        Field("f", "decimal", precision=15, scale=3),
    ),
    "too few digits before the point": (
        Field("f", "decimal", precision=15, scale=4),
        Field("f", "decimal", precision=15, scale=2),
    ),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_a_column_that_cannot_hold_the_field_is_refused(records: RecordCase, opened: OpenTable, mismatch: str) -> None:
    if not records.has_columns:
        return
    there, wanted = MISMATCHES[mismatch]
    shape = new_table(there)
    opened(shape)
    other = opened(replace(shape, fields=(shape.fields[0], wanted, NOTE)), prepare=False)
    for change in (False, True):
        with pytest.raises(CollectionMismatch) as refused:
            other.prepare(change=change)
        assert "f" in refused.value.message
    columns = opened(replace(shape, fields=(*shape.fields, NOTE)), prepare=False)
    assert columns.prepare(change=False).added == (NOTE.name,), "it was added although another column is refused"


def test_a_column_may_be_wider_than_its_field(records: RecordCase, opened: OpenTable) -> None:
    shape = new_table(Field("t", "text", max_length=100), Field("d", "decimal", precision=20, scale=2))
    opened(shape).insert((1, "a", Decimal("1.50")))
    fields = (shape.fields[0], Field("t", "text", max_length=10), Field("d", "decimal", precision=15, scale=2))
    table = opened(replace(shape, fields=fields), prepare=False)
    assert table.prepare().added == ()
    assert table.get(1) == (1, "a", Decimal("1.50"))


def test_a_key_that_is_not_unique_is_refused(records: RecordCase, opened: OpenTable, run: Run) -> None:
    if not records.has_columns:
        return
    shape = new_table(NAME)
    table = opened(shape)
    by_name = opened(replace(shape, key="name"), prepare=False)
    with pytest.raises(CollectionMismatch):
        by_name.prepare()
    records.make_unique(shape, "name")
    assert by_name.prepare().added == ()
    table.insert((1, "a"))
    assert by_name.get("a") == (1, "a")
    assert in_pieces(by_name, [(2, "a"), (3, "b")], run) == Written(inserted=1, updated=1)
    assert records.values(shape, "id") == [2, 3]


def test_a_column_that_no_field_names_must_do_without(records: RecordCase, opened: OpenTable, run: Run) -> None:
    shape = new_table(NAME)
    table = opened(shape)
    table.insert((1, "a"))
    records.add_column(shape, "extra")
    if records.has_columns:
        found = table.prepare()
        assert (found.created, found.added) == (False, ())
        assert any("extra" in note for note in found.notes)
    assert table.insert((2, "b")) == (2, "b")
    assert in_pieces(table, [(1, "c"), (3, "d")], run) == Written(inserted=1, updated=1)
    assert table.page(PageQuery()) == [(1, "c"), (2, "b"), (3, "d")]
    if records.has_columns:
        opened(strict := new_table(NAME, Field("must", "integer", required=True)))
        with pytest.raises(CollectionMismatch) as refused:
            opened(replace(strict, fields=strict.fields[:2]), prepare=False).prepare()
        assert "must" in refused.value.message


def test_writing_tells_what_became_of_every_row(records: RecordCase, opened: OpenTable, run: Run) -> None:
    table = opened(shape := new_table(NAME, NOTE))
    with table.writing(run, whole=False) as writer:
        assert writer.write([]) == Written()
        assert writer.write([(1, "a", None), (2, "b", "x"), (3, "c", "y")]) == Written(inserted=3)
        assert records.values(shape, "name") == ["a", "b", "c"]
        assert writer.write([(2, "b", None), (3, "c", "y"), (4, "d", None)]) == Written(1, 1, 1)
        assert writer.write([(1, "a", ""), (2, "B", None), (4, "d", "\t")]) == Written(updated=3)
        assert writer.write([(3, "c", "y "), (1, "a", None)]) == Written(updated=2)
        assert writer.finish() == Written()
    assert table.page(PageQuery()) == [(1, "a", None), (2, "B", None), (3, "c", "y "), (4, "d", "\t")]


def test_of_several_rows_with_one_key_the_last_counts(records: RecordCase, opened: OpenTable, run: Run) -> None:
    table = opened(shape := new_table(NAME))
    table.insert((1, "old"))
    table.insert((2, "same"))
    rows = [(1, "x"), (2, "x"), (3, "x"), (1, "new"), (3, "y"), (2, "same"), (3, "z")]
    assert in_pieces(table, rows, run) == Written(inserted=1, updated=1, unchanged=1)
    assert table.page(PageQuery()) == [(1, "new"), (2, "same"), (3, "z")]
    assert records.count(shape) == 3


def test_what_is_unchanged_is_not_written_again(records: RecordCase, opened: OpenTable, run: Run) -> None:
    table = opened(shape := new_table(*KINDS))
    rows = all_values()
    in_pieces(table, rows, run)
    versions = records.watched(shape)
    before = versions()
    assert in_pieces(table, rows, run) == Written(unchanged=len(rows))
    assert versions() == before
    other = (*rows[3][:2], 77, *rows[3][3:])
    assert in_pieces(table, [*rows[:3], other, *rows[4:]], run) == Written(updated=1, unchanged=len(rows) - 1)
    after = versions()
    assert {key for key in after if after[key] != before.get(key)} == {3}


def test_rows_that_the_database_refuses_are_told_and_the_others_written(
    records: RecordCase, opened: OpenTable, run: Run
) -> None:
    table = opened(shape := new_table(NAME, Field("code", "integer")))
    records.make_unique(shape, "code")
    in_pieces(table, [(n, "old", n) for n in range(10)], run)
    rows: list[Row] = [(n, "new", n) for n in range(5, 200)]
    rows[10] = (1000, "new", 3)  # another record's code: it must neither be written nor change that one
    rows[20] = (1001, None, 1001)
    rows[190] = (195 + 5, None, None)
    with table.writing(run, whole=False) as writer:
        written = writer.write(rows)
        assert sorted(refusal.index for refusal in written.refused) == [10, 20, 190]
        assert all(refusal.reason for refusal in written.refused)
        assert (written.inserted, written.updated, written.unchanged) == (187, 5, 0)
        assert writer.write([(9, "last", 9)]) == Written(updated=1)
    assert table.get(3) == (3, "old", 3)
    assert records.count(shape) == 10 + 187
    assert table.get(1000) is None


def refuse_lease() -> None:
    raise Stopped(StopReason.LEASE_LOST)


def wholly(table: RecordTable, pages: list[list[Row]], run: Run) -> Written:
    with table.writing(run, whole=True) as writer:
        for page in pages:
            writer.write(page)
        return writer.finish()


def leave_by_exception(table: RecordTable, run: Run) -> None:
    with table.writing(run, whole=True) as writer:
        writer.write([(1, "new"), (2, "new")])
        raise LookupError


def needs_whole(records: RecordCase) -> None:
    if not records.engine.writes_whole:
        pytest.skip("writes nothing whole")


def test_an_engine_that_cannot_write_whole_says_so(records: RecordCase, opened: OpenTable, run: Run) -> None:
    if records.engine.writes_whole:
        return
    table = opened(new_table(NAME))
    with pytest.raises(UnsupportedOperation), table.writing(run, whole=True):
        pass


def test_written_whole_it_is_all_there_or_nothing(records: RecordCase, opened: OpenTable, run: Run) -> None:
    needs_whole(records)
    table = opened(shape := new_table(NAME))
    in_pieces(table, [(n, "old") for n in range(10)], run)
    with table.writing(run, whole=True) as writer:
        for begin in range(0, 100, 10):
            assert writer.write([(n, "old" if n < 5 else "new") for n in range(begin, begin + 10)]) == Written()
        assert writer.write([(5, "old"), (50, "x"), (50, "last")]) == Written()
        assert records.values(shape, "name") == ["old"] * 10
        assert table.count() == 10
        assert writer.finish() == Written(inserted=90, updated=4, unchanged=6)
    assert records.count(shape) == 100
    assert table.get(50) == (50, "last")
    assert table.get(5) == (5, "old")


def test_nothing_of_a_whole_is_kept_unless_it_is_finished(records: RecordCase, opened: OpenTable, run: Run) -> None:
    needs_whole(records)
    table = opened(shape := new_table(NAME))
    table.insert((1, "old"))
    with table.writing(run, whole=True) as writer:
        writer.write([(1, "new"), (2, "new")])
    with pytest.raises(LookupError):
        leave_by_exception(table, run)
    with pytest.raises(Stopped):
        wholly(table, [[(1, "new"), (2, "new")]], replace(run, confirm=refuse_lease))
    assert records.values(shape, "name") == ["old"]
    with table.writing(run, whole=True) as writer:
        assert writer.finish() == Written()
        writer.write([(1, "new")])
    assert records.values(shape, "name") == ["old"]


def test_a_whole_with_a_row_that_is_refused_is_not_written(records: RecordCase, opened: OpenTable, run: Run) -> None:
    needs_whole(records)
    table = opened(shape := new_table(NAME, Field("code", "integer")))
    records.make_unique(shape, "code")
    table.insert((1, "old", 7))
    for bad in ((3, "new", 7), (3, None, 8)):
        with pytest.raises(RecordRefused) as refused:
            wholly(table, [[(1, "new", 7), (2, "new", 9)], [bad]], run)
        assert not refused.value.retryable
    assert table.page(PageQuery()) == [(1, "old", 7)]


def test_a_second_unique_value_never_overwrites_another_record(
    records: RecordCase, opened: OpenTable, run: Run
) -> None:
    table = opened(shape := new_table(NAME, Field("code", "integer")))
    records.make_unique(shape, "code")
    in_pieces(table, [(1, "a", 1), (2, "b", 2)], run)
    written = in_pieces(table, [(3, "c", 1)], run)
    assert [refusal.index for refusal in written.refused] == [0]
    assert (written.inserted, written.updated) == (0, 0)
    assert table.page(PageQuery()) == [(1, "a", 1), (2, "b", 2)]


@pytest.mark.parametrize("whole", [False, True])
def test_two_writers_of_the_same_keys_both_succeed(
    records: RecordCase, opened: OpenTable, run: Run, whole: bool
) -> None:
    if whole:
        needs_whole(records)
    table = opened(shape := new_table(NAME))

    def upsert(name: str, step: int) -> Callable[[], list[Written]]:
        def write() -> list[Written]:
            done = []
            for turn in range(3):
                with table.writing(run, whole=whole) as writer:
                    rows = [(n, f"{name}{turn}") for n in range(LONG)][::step]
                    written = writer.write(rows)
                    done += [writer.finish()] if whole else [written]
            return done

        return write

    found = together(upsert("a", 1), upsert("b", -1), upsert("c", 1))
    assert all(isinstance(one, list) for one in found), found
    assert sum(written.inserted for one in found for written in one) == LONG
    assert sum(written.updated for one in found for written in one) == 8 * LONG
    names = records.values(shape, "name")
    assert len(names) == LONG
    assert set(names) <= {"a2", "b2", "c2"}


def test_writers_and_changes_of_the_same_records_lose_nothing(opened: OpenTable, run: Run) -> None:
    table = opened(new_table(NAME, Field("n", "integer")))
    table.insert((1, "a", 0))

    def increment(row: Row | None) -> Row | None:
        assert row is not None
        return (1, row[1], row[2] + 1)

    found = together(
        lambda: [table.change(1, increment) for _ in range(10)],
        lambda: [table.change(1, increment) for _ in range(10)],
        lambda: [in_pieces(table, [(n, "x", 0) for n in range(2, 300)], run) for _ in range(4)],
    )
    assert all(isinstance(one, list) for one in found), found
    assert table.get(1) == (1, "a", 20)


@pytest.mark.parametrize("whole", [False, True])
def test_who_asked_for_a_stop_gets_it_and_nothing_half(
    records: RecordCase, opened: OpenTable, run: Run, whole: bool
) -> None:
    if whole:
        needs_whole(records)
    table = opened(shape := new_table(NAME))
    with table.writing(run, whole=whole) as writer:
        writer.write([(1, "a")])
        run.stop.request(StopReason.CANCEL)
        with pytest.raises(Stopped):
            writer.finish() if whole else writer.write([(2, "b"), (3, "c")])
    assert records.count(shape) == (0 if whole else 1)


@pytest.mark.parametrize("whole", [False, True])
def test_a_stop_ends_the_waiting_for_another_program(
    records: RecordCase, opened: OpenTable, run: Run, whole: bool
) -> None:
    if not records.holds_locks:
        return
    if whole:
        needs_whole(records)
    table = opened(shape := new_table(NAME))
    table.insert((1, "old"))
    told: list[Any] = []

    def write() -> None:
        try:
            with table.writing(run, whole=whole) as writer:
                writer.write([(1, "new"), (2, "new")])
                writer.finish()
        except Stopped as stopped:
            told.append(stopped)

    writing = threading.Thread(target=write)
    with records.holding(shape, 1):
        writing.start()
        writing.join(0.2)  # long enough to be waiting; were it not, it would be stopped just the same
        run.stop.request(StopReason.CANCEL)
        writing.join(10)
        assert not writing.is_alive()
    assert len(told) == 1
    assert records.values(shape, "name") == ["old"]

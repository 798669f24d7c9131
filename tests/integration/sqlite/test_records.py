"""What is SQLite's own about tables of records: locks, files that are replaced, tables that others made."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

import pytest

from engines.errors import CollectionMismatch, InvalidTarget, RecordExists, RecordRefused, TargetBusy, TargetMissing
from engines.records.base import Condition, Order, PageQuery, Prepared, Written
from engines.records.fields import Field, Kind, Row, Table
from engines.run import Run
from engines.sqlite.names import SIDE_FILES
from engines.sqlite.records import SQLiteTable, refused

NAMES = Table("t", "id", (Field("id", "integer", required=True), Field("name", "text")))
OpenTable = Callable[..., SQLiteTable]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "users"
    folder.mkdir()
    return database(folder / "shop.sqlite")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return Run("job1", 1, workspace)


@pytest.fixture
def opened(file: Path) -> Iterator[OpenTable]:
    made: list[SQLiteTable] = []

    def make(table: Table = NAMES, *, busy_seconds: float = 5.0, prepare: bool = True) -> SQLiteTable:
        made.append(SQLiteTable(file, table, busy_seconds))
        if prepare:
            made[-1].prepare()
        return made[-1]

    yield make
    for table in made:
        table.close()


def database(path: Path, *statements: str, journal: str = "delete") -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        for statement in statements:
            connection.execute(statement)
    return path


def asked(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def shape(*fields: Field, name: str = "t") -> Table:
    return Table(name, "id", (Field("id", "integer", required=True), *fields))


def test_a_file_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    table = SQLiteTable(tmp_path / "none.sqlite", NAMES, 1.0)
    for change in (True, False):
        with pytest.raises(TargetMissing):
            table.prepare(change=change)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    with pytest.raises(InvalidTarget):
        SQLiteTable(tmp_path / "text.sqlite", NAMES, 1.0).page(PageQuery())


def test_the_journal_mode_stays_as_the_user_chose_it(file: Path, opened: OpenTable, run: Run) -> None:
    table = opened()
    with table.writing(run, whole=True) as writer:
        writer.write([(1, "a")])
        writer.finish()
    table.close()
    assert asked(file, "PRAGMA journal_mode") == [("delete",)]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_lock_that_is_held_too_long_is_told_as_busy(file: Path, opened: OpenTable, run: Run, journal: str) -> None:
    database(file, journal=journal)
    table = opened(busy_seconds=0.05)
    table.insert((1, "a"))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE t SET name = 'theirs'")
        with pytest.raises(TargetBusy) as busy:
            table.insert((2, "b"))
        assert busy.value.retryable
        with pytest.raises(TargetBusy), table.writing(run, whole=False) as writer:
            writer.write([(2, "b")])
        if journal == "wal":
            assert table.get(1) == (1, "a")
        else:
            with pytest.raises(TargetBusy):
                table.get(1)
        other.execute("COMMIT")
    assert table.page(PageQuery()) == [(1, "theirs")]


def test_a_lock_that_is_given_back_is_waited_for(file: Path, opened: OpenTable) -> None:
    table = opened()
    done: list[Row] = []
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = threading.Thread(target=lambda: done.append(table.insert((1, "a"))))
        waiting.start()
        waiting.join(0.05)
        assert not done
        other.execute("COMMIT")
        waiting.join(5)
    assert done == [(1, "a")]


def test_a_reader_of_a_rollback_journal_holds_a_commit_up_only_while_it_reads(file: Path, opened: OpenTable) -> None:
    table = opened()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM t").fetchall()
        waiting = threading.Thread(target=table.insert, args=((1, "a"),))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        other.execute("COMMIT")
        waiting.join(5)
    assert table.get(1) == (1, "a")


def test_while_a_whole_is_staged_others_may_write(file: Path, opened: OpenTable, run: Run) -> None:
    table = opened()
    with table.writing(run, whole=True) as writer:
        writer.write([(1, "ours"), (2, "ours")])
        database(file, "INSERT INTO t VALUES (1, 'theirs')")
        assert writer.finish() == Written(inserted=1, updated=1)
    assert list(run.workspace.iterdir()) == []
    with pytest.raises(LookupError), table.writing(run, whole=True) as writer:
        raise LookupError
    assert list(run.workspace.iterdir()) == []


def test_what_is_written_after_the_file_was_replaced_is_in_the_new_one(file: Path, opened: OpenTable) -> None:
    table = opened()
    table.insert((1, "old"))
    new = database(file.with_name("new.sqlite"), "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, more TEXT)")
    new.replace(file)
    assert table.page(PageQuery()) == []
    table.insert((2, "new"))
    assert asked(file, "SELECT id, name FROM t") == [(2, "new")]
    file.unlink()
    with pytest.raises(TargetMissing):
        table.page(PageQuery())


def test_idle_connections_soon_leave_the_file_to_others(file: Path, opened: OpenTable) -> None:
    database(file, journal="wal")
    table = opened()
    table.insert((1, "a"))
    until = time.monotonic() + 10
    while any(file.with_name(file.name + suffix).exists() for suffix in SIDE_FILES):
        assert time.monotonic() < until, "a connection is still open"
        time.sleep(0.05)
    assert table.get(1) == (1, "a")


def test_a_table_that_was_made_anew_meanwhile_is_looked_at_again(file: Path, opened: OpenTable) -> None:
    table = opened()
    table.insert((1, "a"))
    database(file, "DROP TABLE t", "CREATE TABLE t (name CLOB, id INTEGER PRIMARY KEY, more INT)")
    assert table.insert((2, "b")) == (2, "b")
    database(file, "DROP TABLE t", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    with pytest.raises(CollectionMismatch) as told:
        table.page(PageQuery())
    assert "name" in told.value.message
    database(file, "DROP TABLE t")
    with pytest.raises(CollectionMismatch):
        table.get(1)


CUSTOMERS = """
CREATE TABLE Customers (
    id INTEGER PRIMARY KEY,
    NAME VARCHAR(50) COLLATE NOCASE NOT NULL,
    balance DECIMAL(10,2),
    born DATE,
    made DATETIME DEFAULT CURRENT_TIMESTAMP,
    active BOOLEAN,
    visits BIGINT,
    weight DOUBLE PRECISION,
    notes
)
"""
FIELDS = (
    Field("name", "text", required=True, max_length=50),
    Field("balance", "decimal", precision=10, scale=2),
    Field("born", "date"),
    Field("made", "timestamp"),
    Field("active", "boolean"),
    Field("visits", "integer"),
    Field("weight", "float"),
)


def test_a_table_that_others_made_is_used_as_it_is(file: Path, opened: OpenTable, run: Run) -> None:
    database(
        file,
        CUSTOMERS,
        "INSERT INTO customers (id, name, balance, born, active, made)"
        " VALUES (1, 'ann', 1234.5, '1980-02-29', 1, '2024-05-01 10:00:00'),"
        " (2, 'Bob', -0.1, NULL, 0, '2024-05-01T09:00:00.5Z'), (3, 'ANN', 1e2, NULL, NULL, '2024-05-01T10:00:00Z')",
    )
    table = opened(shape(*FIELDS, name="customers"), prepare=False)
    found = table.prepare()
    assert (found.created, found.added) == (False, ())
    assert any("balance" in note for note in found.notes)
    assert any("notes" in note for note in found.notes)
    ten = datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert table.get(1) == (1, "ann", Decimal("1234.50"), date(1980, 2, 29), ten, True, None, None)
    new = (4, "zoë", Decimal("99999999.99"), date(1, 1, 1), ten.replace(microsecond=1), True, 2**62, 0.5)
    assert table.insert(new) == new
    with table.writing(run, whole=False) as writer:
        assert writer.write([new, table.get(3) or ()]) == Written(updated=1, unchanged=1)  # 3: the same time, rewritten
        assert writer.write([new, table.get(3) or ()]) == Written(unchanged=2)

    def keys(*order: Order, where: tuple[Condition, ...] = ()) -> list[int]:
        return [row[0] for row in table.page(PageQuery(where, order))]

    assert keys(Order("name")) == [3, 2, 1, 4]
    assert keys(Order("balance")) == [2, 3, 1, 4]
    assert keys(Order("made")) == [2, 1, 3, 4]
    assert keys(where=(Condition("made", "eq", ten),)) == [1, 3]
    assert keys(where=(Condition("name", "eq", "ann"),)) == [1]
    assert keys(where=(Condition("balance", "eq", Decimal("-0.10")),)) == [2]
    assert keys(where=(Condition("balance", "gt", Decimal("-0.1")),)) == [1, 3, 4]


def test_what_is_no_value_of_its_field_is_told_and_never_guessed(file: Path, opened: OpenTable) -> None:
    database(file, CUSTOMERS)
    table = opened(shape(*FIELDS, name="customers"))
    wrong = {
        "name": "x'00ff'",
        "balance": "1.005",
        "born": "'01.02.2024'",
        "made": "1714557600",
        "active": "2",
        "visits": "1.5",
        "weight": "'heavy'",
    }
    for name, value in wrong.items():
        database(
            file,
            "DELETE FROM customers",
            "INSERT INTO customers (id, name) VALUES (1, 'a')",
            f"UPDATE customers SET {name} = {value}",
        )
        with pytest.raises(CollectionMismatch) as told:
            table.page(PageQuery())
        assert name in told.value.message, name


@pytest.mark.parametrize(("column", "kind", "value"), [("JSON", "json", "'{not json'"), ("REAL", "float", "9e999")])
def test_what_json_cannot_say_is_told(file: Path, opened: OpenTable, column: str, kind: Kind, value: str) -> None:
    database(file, f"CREATE TABLE t (id INTEGER PRIMARY KEY, x {column})", f"INSERT INTO t VALUES (1, {value})")
    with pytest.raises(CollectionMismatch, match="'x'"):
        opened(shape(Field("x", kind), name="t")).page(PageQuery())


UNFIT = {
    "money of more digits than SQLite keeps": (
        "amount DECIMAL(30,2)",
        Field("amount", "decimal", precision=30, scale=2),
    ),
    "money in floats": ("amount REAL", Field("amount", "decimal", precision=10, scale=2)),
    "too few digits": ("amount DECIMAL(8,2)", Field("amount", "decimal", precision=10, scale=2)),
    "too short": ("name VARCHAR(10)", Field("name", "text")),
    "numbers for a text": ("name NUMERIC", Field("name", "text")),
    "a text for a number": ("n TEXT", Field("n", "integer")),
    "computed": ("n INTEGER AS (id * 2)", Field("n", "integer")),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_column_that_would_lose_something_is_refused(file: Path, opened: OpenTable, unfit: str) -> None:
    column, field = UNFIT[unfit]
    database(file, f"CREATE TABLE t (id INTEGER PRIMARY KEY, {column})")
    with pytest.raises(CollectionMismatch):
        opened(shape(field))


KEYS = {
    "no index": "CREATE TABLE t (k TEXT)",
    "an index of two": "CREATE TABLE t (k TEXT, o TEXT, PRIMARY KEY (k, o))",
    "large and small letters alike": "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY)",
    "unique in part": "CREATE TABLE t (k TEXT)",
    "a view": "CREATE VIEW t AS SELECT 'a' AS k",
}


@pytest.mark.parametrize("made", KEYS)
def test_a_key_that_does_not_tell_records_apart_is_refused(file: Path, opened: OpenTable, made: str) -> None:
    extra = ("CREATE UNIQUE INDEX i ON t (k) WHERE k > 'm'",) if made == "unique in part" else ()
    database(file, KEYS[made], *extra)
    with pytest.raises(CollectionMismatch):
        opened(Table("t", "k", (Field("k", "text", required=True, max_length=20),)))


@pytest.mark.parametrize("words", ["WITHOUT ROWID", "STRICT"])
def test_other_sorts_of_tables_are_served(file: Path, opened: OpenTable, run: Run, words: str) -> None:
    database(file, f"CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, d TEXT, n INTEGER) {words}")
    fields = (Field("k", "text", required=True), Field("d", "decimal", precision=20, scale=2), Field("n", "integer"))
    table = opened(Table("t", "k", fields), prepare=False)
    assert table.prepare() == Prepared()
    amounts = ("9.00", "-10.00", "123456789012345678.90", "10.00")
    rows = [(key, Decimal(amount), n) for n, (key, amount) in enumerate(zip("abcd", amounts, strict=True))]
    with table.writing(run, whole=True) as writer:
        writer.write(rows)
        assert writer.finish() == Written(inserted=4)
    assert table.insert(("e", Decimal("9.50"), None))
    assert [row[0] for row in table.page(PageQuery(order=(Order("d"),)))] == ["b", "a", "e", "d", "c"]


def test_a_database_in_utf_16_has_the_same_order(tmp_path: Path, run: Run) -> None:
    path = database(tmp_path / "wide.sqlite", "PRAGMA encoding = 'UTF-16le'", "CREATE TABLE other (a)")
    assert asked(path, "PRAGMA encoding") == [("UTF-16le",)]
    with closing(SQLiteTable(path, Table("t", "k", (Field("k", "text", required=True),)), 5.0)) as table:
        assert table.prepare().created
        assert any("UTF-16" in note for note in table.prepare().notes)
        keys = ["a", "b", "é", "\u0100", "\ufffd", "\U0001f600", "aa", "A"]
        with table.writing(run, whole=True) as writer:
            writer.write([(key,) for key in keys])
            writer.finish()
        everything = table.page(PageQuery())
        assert [key for (key,) in everything] == sorted(keys)
        assert table.page(PageQuery(after=everything[3])) == everything[4:]
        assert table.count((Condition("k", "gt", "\ufffd"),)) == 1


def test_constraints_and_triggers_of_the_user_hold(file: Path, opened: OpenTable, run: Run) -> None:
    database(
        file,
        "CREATE TABLE p (id INTEGER PRIMARY KEY, name TEXT CHECK (name <> 'bad'))",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id))",
        "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.id = 13 BEGIN SELECT RAISE(ABORT, 'not thirteen'); END",
    )
    parents, children = opened(shape(Field("name", "text"), name="p")), opened(shape(Field("p", "integer")))
    parents.insert((1, "a"))
    with pytest.raises(RecordRefused):
        parents.insert((2, "bad"))
    with children.writing(run, whole=False) as writer:
        written = writer.write([(1, 1), (2, 99), (13, 1), (14, None)])
    assert written.inserted == 2
    assert [refusal.index for refusal in written.refused] == [1, 2]
    assert "thirteen" in written.refused[1].reason
    for refuse in (lambda: parents.delete([1]), lambda: children.insert((3, 99)), lambda: children.insert((13, 1))):
        with pytest.raises(RecordRefused):
            refuse()
    assert parents.get(1) == (1, "a")


def test_a_key_is_not_given_again_after_its_record_was_deleted(opened: OpenTable) -> None:
    table = opened(Table("g", "id", NAMES.fields, generated=True))
    first = table.insert((None, "a"))
    table.delete([first[0]])
    assert table.insert((None, "b"))[0] > first[0]
    with pytest.raises(RecordRefused):
        opened().insert((None, "a"))


def test_what_is_no_text_or_integer_for_sqlite_is_refused(opened: OpenTable, run: Run) -> None:
    table = opened()
    for row in ((1, "\ud800"), (2**63, "a")):
        with pytest.raises(RecordRefused):
            table.insert(row)
    with table.writing(run, whole=False) as writer:
        written = writer.write([(1, "\ud800"), (2, "b"), (2**63, "a")])
    assert (written.inserted, [refusal.index for refusal in written.refused]) == (1, [0, 2])
    with pytest.raises(RecordExists):
        table.insert((2, "c"))


class Hasty(SQLiteTable):
    STATEMENT_SECONDS: ClassVar[float] = 0.0


def test_a_statement_that_takes_too_long_is_ended(file: Path) -> None:
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
    database(
        file,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)",
        f"INSERT INTO t {numbers} SELECT i, 'x' FROM n",
    )
    with closing(Hasty(file, NAMES, 1.0)) as table:
        with pytest.raises(TargetBusy):
            table.count((Condition("name", "gt", "x"),))
        assert table.get(1) == (1, "x")


def test_decimals_are_compared_as_numbers(opened: OpenTable, run: Run) -> None:
    for precision, scale in ((34, 0), (34, 17), (34, 34), (18, 2), (5, 5), (17, 0)):
        name = f"d{precision}_{scale}"
        table = opened(shape(Field("d", "decimal", precision=precision, scale=scale), name=name))
        chance = random.Random(precision * 100 + scale)  # the same in every run
        lengths = [chance.randint(0, precision) for _ in range(150)]
        units = [chance.choice((1, -1)) * chance.randrange(10**length) for length in lengths]
        amounts = [Decimal((unit < 0, tuple(map(int, str(abs(unit)))), -scale)) for unit in units]
        with table.writing(run, whole=False) as writer:
            writer.write(list(enumerate(amounts)))
        found = table.page(PageQuery(order=(Order("d"),), limit=1000))
        assert [row[1] for row in found] == sorted(amounts)
        for probe in (amounts[7], amounts[8], Decimal(0), Decimal("0.5"), Decimal("1e30"), Decimal("-1e50")):
            assert table.count((Condition("d", "lt", probe),)) == sum(one < probe for one in amounts)
            assert table.count((Condition("d", "gte", probe),)) == sum(one >= probe for one in amounts)
            assert table.count((Condition("d", "eq", probe),)) == amounts.count(probe)
            assert table.count((Condition("d", "ne", probe),)) == len(amounts) - amounts.count(probe)
        table.close()


def test_tables_that_sqlite_cannot_have_are_refused() -> None:
    assert refused(NAMES) == {}
    assert set(refused(Table("s.t", "id", NAMES.fields))) == {""}
    assert set(refused(Table("sqlite_x", "id", NAMES.fields))) == {""}
    assert set(refused(shape(Field("Name", "text"), Field("name", "text")))) == {"name"}
    assert set(refused(Table("t", "f", (Field("f", "float"),)))) == {"f"}

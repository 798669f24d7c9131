"""Tables of records in MySQL and MariaDB that others made, and what the server does with sessions and statements."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from engines.errors import CollectionMismatch, RecordRefused, TargetUnavailable
from engines.mysql import MySQLEngine
from engines.mysql.records.shape import Column, problem
from engines.records.base import Condition, Order, PageQuery, RecordTable, Refusal, Written
from engines.records.fields import Field, Row, Table
from engines.run import Run
from tests.integration.mysql.conftest import Fresh
from tests.mariadb import connected, sql

KEY = Field("k", "text", required=True, max_length=20)
N = Field("n", "integer")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("01k0records", 1, tmp_path)


@pytest.fixture
def opened() -> Iterator[Callable[[str, Table], RecordTable]]:
    engine = MySQLEngine()
    with ExitStack() as stack:
        yield lambda url, table: stack.enter_context(closing(engine.open_table(engine.target("shop", url), table)))


Open = Callable[[str, Table], RecordTable]


def write_whole(table: RecordTable, rows: list[Row], run: Run, meanwhile: Callable[[], None] = lambda: None) -> None:
    with table.writing(run, whole=True) as writer:
        writer.write(rows)
        meanwhile()
        writer.finish()


def end_sessions_on(url: str) -> None:
    database = url.rpartition("/")[2]
    for (number,) in sql(url, f"SELECT id FROM information_schema.PROCESSLIST WHERE db = '{database}'", on=""):
        sql(url, f"KILL {number}", on="")


def test_a_column_of_another_collation_is_read_by_code_points(fresh: Fresh, opened: Open, run: Run) -> None:
    url = fresh()
    sql(
        url,
        "CREATE TABLE t (k VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n BIGINT, note LONGTEXT) CHARSET latin1",
        "INSERT INTO t VALUES ('b', 1, 'x'), ('C', 2, 'X'), ('a', 3, 'x ')",
    )
    table = opened(url, Table("t", "k", (KEY, N, Field("note", "text"))))
    assert any("note" in note for note in table.prepare().notes)
    assert [row[0] for row in table.page(PageQuery())] == ["C", "a", "b"]
    assert table.get("B") is None
    assert table.get("b") == ("b", 1, "x")
    assert table.count((Condition("note", "eq", "x"),)) == 1
    assert table.delete(["A", "c"]) == 0
    with table.writing(run, whole=False) as writer:
        written = writer.write([("b", 1, "X"), ("B", 9, None), ("d", 4, "日本")])
    assert (written.inserted, written.updated) == (0, 1)
    assert [refusal.index for refusal in written.refused] == [1, 2]
    assert sql(url, "SELECT k, n FROM t ORDER BY n") == [("b", 1), ("C", 2), ("a", 3)]


def test_what_a_trigger_refuses_is_told_in_its_words(fresh: Fresh, opened: Open, run: Run) -> None:
    url = fresh()
    table = opened(url, Table("t", "k", (KEY, N)))
    table.prepare()
    sql(
        url,
        "CREATE TRIGGER no_seven BEFORE INSERT ON t FOR EACH ROW"
        " IF NEW.n = 7 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'seven is unlucky'; END IF",
    )
    with table.writing(run, whole=False) as writer:
        written = writer.write([(str(n), n) for n in range(20)])
    assert written == Written(inserted=19, refused=(Refusal(7, "seven is unlucky"),))
    with pytest.raises(RecordRefused, match="seven is unlucky"):
        table.insert(("x", 7))


def test_spaces_at_the_end_are_not_cut(fresh: Fresh, opened: Open, run: Run) -> None:
    """The server itself cuts them in any mode, to make a text fit."""
    table = opened(fresh(), Table("t", "k", (KEY, Field("name", "text", max_length=3))))
    table.prepare()
    assert table.insert(("a  ", "b  ")) == ("a  ", "b  ")
    with pytest.raises(RecordRefused, match="4 characters"):
        table.insert(("b", "abc "))
    with table.writing(run, whole=False) as writer:
        assert [refusal.index for refusal in writer.write([("b", "abc "), ("c", "abc")]).refused] == [0]
    with pytest.raises(RecordRefused, match="Record 2"):
        write_whole(table, [("d", "abc"), ("e", "abc ")], run)
    assert [row[0] for row in table.page(PageQuery())] == ["a  ", "c"]


def test_statements_stay_below_the_largest_packet(fresh: Fresh, opened: Open, run: Run) -> None:
    url = fresh()
    (packet,) = sql(url, "SELECT @@max_allowed_packet")[0]
    table = opened(url, Table("t", "k", (KEY, Field("body", "text"))))
    table.prepare()
    half = "é" * (packet // 5)
    with table.writing(run, whole=False) as writer:
        written = writer.write([("a", half), ("b", half), ("c", half), ("d", half * 3), ("e", "x")])
        assert writer.write([("e", "y")]) == Written(updated=1)
    assert written.inserted == 4
    assert [refusal.index for refusal in written.refused] == [3]
    assert "max_allowed_packet" in written.refused[0].reason


def test_a_lost_session_takes_all_that_was_laid_aside(fresh: Fresh, opened: Open, run: Run) -> None:
    url = fresh()
    table = opened(url, Table("t", "k", (KEY, N)))
    table.prepare()
    table.insert(("a", 1))
    with pytest.raises(TargetUnavailable):
        write_whole(table, [("a", 2), ("b", 2)], run, meanwhile=lambda: end_sessions_on(url))
    assert table.page(PageQuery()) == [("a", 1)], "a kept session that died is replaced"
    end_sessions_on(url)
    assert table.insert(("c", 3)) == ("c", 3)


def test_a_row_that_others_insert_meanwhile_is_updated_and_counted_so(fresh: Fresh, opened: Open, run: Run) -> None:
    """A trigger holds the writer between finding out which rows are there and inserting those that are not."""
    url = fresh()
    table = opened(url, Table("t", "k", (KEY, N)))
    table.prepare()
    table.insert(("a", 1))
    gate = f"gate {url}"[-60:]
    sql(url, f"CREATE TRIGGER waits BEFORE UPDATE ON t FOR EACH ROW SET @passed = GET_LOCK('{gate}', 20)")
    told: list[Written] = []

    def write() -> None:
        with table.writing(run, whole=False) as writer:
            told.append(writer.write([("a", 2), ("b", 2)]))

    writing = threading.Thread(target=write)
    with closing(connected(url, url.rpartition("/")[2])) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, 0)", (gate,))
        writing.start()
        until = time.monotonic() + 20
        while not sql(
            url,
            f"SELECT 1 FROM information_schema.PROCESSLIST WHERE db = '{url.rpartition('/')[2]}'"
            " AND state = 'User lock'",
        ):
            assert time.monotonic() < until
        cursor.execute("INSERT INTO t VALUES ('b', 1)")
    writing.join(20)
    assert told == [Written(updated=2)]
    assert table.page(PageQuery()) == [("a", 2), ("b", 2)]


MISFITS = {
    "no transactions": "CREATE TABLE t (k VARCHAR(20) PRIMARY KEY, n BIGINT) ENGINE = MyISAM",
    "a view": "CREATE VIEW t AS SELECT 'a' AS k, 1 AS n",
    "a key with NULLs": "CREATE TABLE t (k VARCHAR(20) UNIQUE, n BIGINT)",
    "a key in part": "CREATE TABLE t (k VARCHAR(20) NOT NULL, n BIGINT, UNIQUE (k(5)))",
    "a key of two": "CREATE TABLE t (k VARCHAR(20) NOT NULL, n BIGINT, PRIMARY KEY (k, n))",
    "spaces filled up": "CREATE TABLE t (k CHAR(20) PRIMARY KEY, n BIGINT)",
    "a calculated column": "CREATE TABLE t (k VARCHAR(20) PRIMARY KEY, n BIGINT AS (1) STORED)",
    "no sign": "CREATE TABLE t (k VARCHAR(20) PRIMARY KEY, n BIGINT UNSIGNED)",
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_table_that_does_not_fit_is_refused(fresh: Fresh, opened: Open, misfit: str) -> None:
    url = fresh()
    sql(url, MISFITS[misfit])
    with pytest.raises(CollectionMismatch):
        opened(url, Table("t", "k", (KEY, N))).prepare()


def test_tables_of_others_keep_what_no_field_names(fresh: Fresh, opened: Open, run: Run) -> None:
    url = fresh()
    sql(
        url,
        "CREATE TABLE t (n INT AUTO_INCREMENT PRIMARY KEY, at TIMESTAMP(6) NULL, price DECIMAL(20,4),"
        " own VARCHAR(9) NOT NULL DEFAULT 'mine')",
        "INSERT INTO t (n, at, price, own) VALUES (5, NULL, 1.2500, 'theirs')",
    )
    fields = (
        Field("n", "integer", required=True),
        Field("at", "timestamp"),
        Field("price", "decimal", False, None, 10, 2),
    )
    table = opened(url, Table("t", "n", fields, generated=True))
    assert len(table.prepare().notes) == 2
    moment = datetime(2024, 3, 31, 1, 30, 0, 1, tzinfo=UTC)
    with table.writing(run, whole=False) as writer:
        assert writer.write([(5, moment, Decimal("2.50")), (0, moment, None)]) == Written(inserted=1, updated=1)
    assert table.get(5) == (5, moment, Decimal("2.50"))
    assert table.insert((None, None, None))[0] == 6
    assert [row[0] for row in table.page(PageQuery(order=(Order("at"),)))] == [0, 5, 6]
    assert sql(url, "SET time_zone = '+05:30'", "SELECT n, own, CAST(at AS CHAR) FROM t ORDER BY n") == [
        (0, "mine", "2024-03-31 07:00:00.000001"),
        (5, "theirs", "2024-03-31 07:00:00.000001"),
        (6, "mine", None),
    ]


def test_a_column_that_was_narrowed_meanwhile_rounds_nothing(fresh: Fresh, opened: Open, run: Run) -> None:
    url = fresh()
    price = Field("price", "decimal", precision=10, scale=2)
    table = opened(url, Table("t", "n", (Field("n", "integer", required=True), price)))
    table.prepare()
    sql(url, "ALTER TABLE t MODIFY price DECIMAL(10,0)")
    with pytest.raises(CollectionMismatch, match="price"):
        write_whole(table, [(1, Decimal("1.25"))], run)


def test_a_text_that_is_no_json_is_told(fresh: Fresh, opened: Open) -> None:
    url = fresh()
    sql(url, "CREATE TABLE t (n BIGINT PRIMARY KEY, data LONGTEXT)", "INSERT INTO t VALUES (1, '{no'), (2, '[]')")
    table = opened(url, Table("t", "n", (Field("n", "integer", required=True), Field("data", "json"))))
    assert table.get(2) == (2, "[]")
    with pytest.raises(CollectionMismatch, match="data"):
        table.page(PageQuery())


def test_a_key_of_any_length_is_as_long_as_an_index_allows(fresh: Fresh, opened: Open) -> None:
    shape = Table("t", "k", (Field("k", "text", required=True), N))
    table = opened(fresh(), shape)
    assert table.prepare().created
    assert table.prepare().notes == ()
    assert table.insert(("é" * 255, 1)) == ("é" * 255, 1)
    with pytest.raises(RecordRefused, match="256"):
        table.insert(("é" * 256, 1))
    assert MySQLEngine().refuse_table(Table("t", "k", (Field("k", "text", max_length=769),))).keys() == {"k"}


def test_columns_are_read_as_mysql_writes_them() -> None:
    """MySQL 8 tells no display widths, and has a word of its own for defaults that are expressions."""
    with_default = Column.read(("n", "bigint", None, "NO", "", "(0)", "DEFAULT_GENERATED", "", ""))
    assert with_default.fills_itself
    assert problem(N, with_default) is None
    assert problem(N, Column.read(("n", "bigint", None, "YES", "", None, "VIRTUAL GENERATED", "", ""))) is not None
    price = Column.read(("p", "decimal(15,2) unsigned", None, "YES", "", None, "", "", ""))
    assert (price.type, price.sizes, price.unsigned) == ("decimal", (15, 2), True)

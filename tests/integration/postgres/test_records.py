"""Tables of records in PostgreSQL: what its own tables bring along, and what happens to its sessions."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from engines.errors import CollectionMismatch, RecordExists, RecordRefused, Stopped, TargetUnavailable
from engines.postgres import PostgresEngine
from engines.records.base import Condition, Decide, Order, PageQuery, RecordTable, RecordWriter, Written
from engines.records.fields import Field, Row, Table
from engines.run import Run, StopReason
from tests.integration.postgres.workbench import sql

ID = Field("id", "integer", required=True)
NAME = Field("name", "text")
Open = Callable[..., RecordTable]


@pytest.fixture(scope="module")
def url(postgres15_url: str) -> Iterator[str]:
    name = f"flexdbtest_{secrets.token_hex(6)}"
    sql(postgres15_url, f"CREATE DATABASE {name} TEMPLATE template0")
    yield f"{postgres15_url.rpartition('/')[0]}/{name}"
    sql(postgres15_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    engine = PostgresEngine()
    tables: list[RecordTable] = []

    def make(table: Table) -> RecordTable:
        tables.append(engine.open_table(engine.target("shop", url), table))
        return tables[-1]

    yield make
    for table in tables:
        table.close()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(f"test{secrets.token_hex(6)}", 1, tmp_path)


@pytest.fixture
def name() -> str:
    return f"t_{secrets.token_hex(6)}"


def write(table: RecordTable, rows: list[Row], run: Run, *, whole: bool = False) -> Written:
    with table.writing(run, whole=whole) as writer:
        written = writer.write(rows)
        return writer.finish() if whole else written


EXISTING = {
    "wider and other types": (
        "id integer PRIMARY KEY, name varchar(500), price numeric, at timestamp, data json, extra int DEFAULT 5",
        "notes",
    ),
    "unique index": ("id bigint NOT NULL UNIQUE, name text, price numeric(20,4), at timestamptz, data jsonb", ""),
    "identity always": (
        "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, price numeric(15,2), at timestamptz, data json",
        "",
    ),
    "partitioned": (
        "id bigint PRIMARY KEY, name text, price numeric(15,2), at timestamptz, data json) PARTITION BY HASH (id",
        "",
    ),
    "a generated column": (
        "id bigint PRIMARY KEY, name text, price numeric, at timestamptz, data json,"  # noqa: ISC004  one definition
        " twice numeric GENERATED ALWAYS AS (price * 2) STORED",
        "",
    ),
}


@pytest.mark.parametrize("kind", EXISTING)
def test_a_table_that_was_there_before_keeps_records(url: str, opened: Open, name: str, run: Run, kind: str) -> None:
    sql(url, f"CREATE TABLE {name} ({EXISTING[kind][0]})")
    if kind == "partitioned":
        for part in range(2):
            sql(url, f"CREATE TABLE {name}_{part} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {part})")
    fields = (
        ID,
        Field("name", "text", max_length=500),
        Field("price", "decimal", precision=15, scale=2),
        Field("at", "timestamp"),
        Field("data", "json"),
    )
    table = opened(Table(name, "id", fields))
    found = table.prepare()
    assert (found.created, found.added) == (False, ())
    assert bool(found.notes) or kind not in ("wider and other types", "a generated column")
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    rows = [(number, f"n{number}", Decimal("1.50"), at, '{"a": [1]}') for number in range(1, 6)]
    assert table.insert(rows[0]) == rows[0]
    assert write(table, rows, run) == Written(4, 0, 1)
    changed = [*rows[:4], (5, None, Decimal("-0.01"), None, None)]
    assert write(table, changed, run, whole=True) == Written(0, 1, 4)
    assert table.page(PageQuery()) == changed
    assert str(table.page(PageQuery(limit=1))[0][2]) == "1.50"


BEYOND = {
    Field("f", "float"): ("NaN", "Infinity", "-Infinity"),
    Field("d", "decimal"): ("NaN",),
    Field("m", "decimal", precision=15, scale=2): ("NaN",),
    Field("day", "date"): ("infinity", "-infinity", "0044-03-15 BC", "20000-01-01"),
    Field("at", "timestamp"): ("infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "20000-01-01 00:00:00+00"),
    Field("plain", "timestamp"): ("infinity",),
}
READS: list[Callable[[RecordTable], object]] = [
    lambda table: table.get(1),
    lambda table: table.page(PageQuery()),
    lambda table: list(table.scan(PageQuery())),
    lambda table: table.change(1, lambda row: row),
]


@pytest.mark.parametrize("field", BEYOND, ids=lambda field: str(field.name))
def test_what_no_record_can_have_is_told_and_never_made_something_else(
    url: str, opened: Open, name: str, field: Field
) -> None:
    columns = "f float8, d numeric, m numeric(15,2), day date, at timestamptz, plain timestamp"
    sql(url, f"CREATE TABLE {name} (id bigint PRIMARY KEY, {columns}); INSERT INTO {name} VALUES (1)")
    table = opened(Table(name, "id", (ID, field)))
    assert table.get(1) == (1, None)
    for value in BEYOND[field]:
        sql(url, f"UPDATE {name} SET {field.name} = '{value}'")
        for read in READS:
            with pytest.raises(CollectionMismatch) as told:
                read(table)
            assert f"'{field.name}'" in told.value.message and value in told.value.message


def test_a_column_that_was_narrowed_meanwhile_rounds_nothing(url: str, opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, Field("price", "decimal", precision=10, scale=2))))
    table.prepare()
    sql(url, f"ALTER TABLE {name} ALTER price TYPE numeric(10,0)")
    for whole in (False, True):
        with pytest.raises(CollectionMismatch, match="price"):
            write(table, [(1, Decimal("1.25"))], run, whole=whole)


def test_a_schema_may_be_named(url: str, opened: Open, name: str) -> None:
    table = opened(Table(f"{name}.things", "id", (ID, NAME)))
    with pytest.raises(CollectionMismatch, match="schema"):
        table.prepare()
    sql(url, f"CREATE SCHEMA {name}")
    assert table.prepare().created
    assert table.insert((1, "a")) == (1, "a")
    assert sql(url, f"SELECT * FROM {name}.things") == [(1, "a")]


REFUSED = {
    "a view": "CREATE VIEW {0} AS SELECT 1::bigint AS id, ''::text AS name",
    "a partial index": "CREATE TABLE {0} (id bigint NOT NULL, name text); CREATE UNIQUE INDEX ON {0} (id) WHERE id > 0",
    "an index on two": "CREATE TABLE {0} (id bigint NOT NULL, name text, UNIQUE (id, name))",
    "a deferrable key": "CREATE TABLE {0} (id bigint PRIMARY KEY DEFERRABLE, name text)",
    "a key that may be NULL": "CREATE TABLE {0} (id bigint UNIQUE, name text)",
    "padded text": "CREATE TABLE {0} (id bigint PRIMARY KEY, name character(20))",
    "a computed column": "CREATE TABLE {0} (id bigint PRIMARY KEY, name text GENERATED ALWAYS AS ('x') STORED)",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_cannot_keep_them_is_refused(url: str, opened: Open, name: str, kind: str) -> None:
    sql(url, REFUSED[kind].format(name))
    with pytest.raises(CollectionMismatch):
        opened(Table(name, "id", (ID, NAME))).prepare()


def test_text_is_ordered_by_code_points_whatever_the_collation(url: str, opened: Open, name: str, run: Run) -> None:
    collation = "SELECT coalesce((SELECT collname FROM pg_collation WHERE collname = 'und-x-icu'), 'default')"
    sql(url, f'CREATE TABLE {name} (name text COLLATE "{sql(url, collation)[0][0]}" PRIMARY KEY)')
    table = opened(Table(name, "name", (replace(NAME, required=True),)))
    assert any("collation" in note for note in table.prepare().notes)
    words = ["b", "a", "B", "ä", "Z", "_", "é", "aa"]
    write(table, [(word,) for word in words], run)
    assert [row[0] for row in table.page(PageQuery())] == sorted(words)
    assert table.page(PageQuery(after=("Z",), limit=2)) == [("_",), ("a",)]
    assert table.count([Condition("name", "gt", "b")]) == 2


def test_pages_by_keyset_use_the_index_of_the_key(url: str, opened: Open, name: str, run: Run) -> None:
    shape = Table(name, "name", (replace(NAME, required=True), Field("n", "integer")))
    table = opened(shape)
    table.prepare()
    write(table, [(f"k{number:05d}", number) for number in range(5000)], run)
    sql(url, f"VACUUM ANALYZE {name}")
    from engines.postgres.records.pages import Questions
    from engines.postgres.records.shape import look

    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path = pg_catalog")
        seen = look(connection, shape)
        assert seen is not None
        for order in ((), (Order("name", descending=True),)):
            asked = Questions(shape, seen).page(PageQuery(order=order, after=("k02500", 0)))
            cursor.execute(b"EXPLAIN " + cursor.mogrify(asked.text, asked.parameters))
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Index Cond" in plan, plan
            assert "Sort" not in plan, plan


def test_a_required_field_whose_column_takes_null_loses_no_row_between_pages(url: str, opened: Open, name: str) -> None:
    sql(url, f"CREATE TABLE {name} (id bigint PRIMARY KEY, name text)")
    sql(url, f"INSERT INTO {name} SELECT g, CASE WHEN g % 3 = 0 THEN chr(97 + g % 7) END FROM generate_series(1, 30) g")
    table = opened(Table(name, "id", (ID, replace(NAME, required=True))))
    assert any("may be NULL" in note for note in table.prepare().notes)
    for descending in (False, True):
        order = (Order("name", descending),)
        everything = table.page(PageQuery(order=order, limit=100))
        paged: list[Row] = []
        while more := table.page(PageQuery(order=order, limit=7, after=paged[-1] if paged else None)):
            paged += more
        assert paged == everything
        assert len(paged) == 30


def test_explicit_keys_do_not_stand_in_the_way_of_given_ones(opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, NAME), generated=True))
    table.prepare()
    write(table, [(number, "explicit") for number in range(1, 51)], run)
    assert table.insert((None, "given"))[0] > 50
    with pytest.raises(RecordExists):
        table.insert((7, "again"))
    table.insert((2**63 - 1, "the last there is"))
    assert table.insert((None, "given"))[0] == 52


TRIGGERS = {
    "RAISE EXCEPTION 'not on sundays'": "not on sundays",
    "RETURN NULL": "trigger",
}


@pytest.mark.parametrize("body", TRIGGERS)
def test_what_a_trigger_does_not_take_is_told(url: str, opened: Open, name: str, run: Run, body: str) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    sql(
        url,
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF NEW.name = 'bad' THEN {body}; END IF; RETURN NEW; END $$;"
        f"CREATE TRIGGER t BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION {name}()",
    )
    written = write(table, [(1, "good"), (2, "bad"), (3, "good"), (4, "bad")], run)
    assert (written.inserted, written.updated, written.unchanged) == (2, 0, 0)
    assert [refusal.index for refusal in written.refused] == [1, 3]
    assert all(TRIGGERS[body] in refusal.reason for refusal in written.refused)
    with pytest.raises(RecordRefused):
        write(table, [(5, "good"), (6, "bad")], run, whole=True)
    with pytest.raises(RecordRefused):
        table.insert((7, "bad"))
    assert table.count() == 2


def test_a_constraint_that_waits_for_the_commit_is_no_different(url: str, opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, Field("parent", "integer"))))
    table.prepare()
    sql(url, f"ALTER TABLE {name} ADD FOREIGN KEY (parent) REFERENCES {name} DEFERRABLE INITIALLY DEFERRED")
    written = write(table, [(2, 1), (1, None), (3, 99)], run)
    assert (written.inserted, [refusal.index for refusal in written.refused]) == (2, [2])
    with pytest.raises(RecordRefused):
        table.insert((4, 98))


def test_refused_values_are_not_repeated_with_those_of_others(url: str, opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    sql(url, f"CREATE UNIQUE INDEX ON {name} (name)")
    table.insert((1, "taken"))
    (refusal,) = write(table, [(2, "taken"), (3, "free")], run).refused
    assert refusal.index == 0
    assert "taken" not in refusal.reason


def test_control_characters_and_what_copy_and_json_escape_come_through(opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, NAME, Field("data", "json"))))
    table.prepare()
    odd = [
        "\\",
        "\\.",
        "\\N",
        "null",
        ',null,"',
        "\t",
        "\n\r\b\f",
        "\x01\x1f\x7f",
        '"]\n["',
        ",",
        "",
        "\u2028😀",
        "\\n",
    ]
    rows: list[Row] = [(number, text, '{"a": "\\n\\\\"}') for number, text in enumerate(odd)]
    rows.append((len(rows), None, None))
    refused = [(98, "\0", None), (99, "\ud800", None)]
    written = write(table, [*rows, *refused], run)
    assert (written.inserted, [refusal.index for refusal in written.refused]) == (len(rows), [len(rows), len(rows) + 1])
    assert table.page(PageQuery()) == rows
    assert write(table, [(row[0], row[1], None) for row in rows], run, whole=True).updated == len(rows) - 1
    with pytest.raises(RecordRefused):
        write(table, refused[:1], run, whole=True)


@pytest.mark.parametrize("texts", [[",", "[", "],", "ü", "", ", ,"], [",", None, "", ",,"], [",null,", None, "null"]])
def test_texts_that_look_like_the_borders_between_values_come_through(
    opened: Open, name: str, run: Run, texts: list[str | None]
) -> None:
    table = opened(Table(name, "key", (Field("key", "text", required=True), NAME, Field("last", "text"))))
    table.prepare()
    rows: list[Row] = [
        ("+", "", ""),
        (",", texts[0], texts[-1]),
        *((f",{number}", text, text) for number, text in enumerate(texts)),
    ]
    for whole in (False, True):
        write(table, rows, run, whole=whole)
        assert table.page(PageQuery()) == rows
        table.delete([row[0] for row in rows])


def test_a_text_that_says_null_is_none(opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    rows: list[Row] = [(1, "null"), (2, None), (3, "null null")]
    for one in ([rows[0]], rows):
        write(table, one, run)
    assert table.page(PageQuery()) == rows


def test_writers_meet_others_changes_and_keep_both(opened: Open, name: str, tmp_path: Path) -> None:
    """Two writers in opposite order and one who changes single records, until all are through."""
    table = opened(Table(name, "id", (ID, Field("a", "integer"), Field("b", "integer"))))
    table.prepare()
    keys = list(range(300))
    write(table, [(key, 0, 0) for key in keys], Run("first", 1, tmp_path))
    failures: list[Exception] = []

    def guarded(work: Callable[[], object]) -> threading.Thread:
        def go() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  looked at below
                failures.append(error)

        thread = threading.Thread(target=go)
        thread.start()
        return thread

    def upsert(order: list[int], value: int) -> None:
        with table.writing(Run(f"job{value}", 1, tmp_path), whole=False) as writer:
            for turn in range(10):
                writer.write([(key, value * 100 + turn, value * 100 + turn) for key in order])

    def made(key: int) -> Decide:
        return lambda before: before or (key, 1, 1)

    def change() -> None:
        for key in keys[::3]:
            table.change(key + 1000, made(key + 1000))
            table.change(key, lambda before: before and (before[0], before[1], before[1]))

    threads = [guarded(lambda: upsert(keys, 1)), guarded(lambda: upsert(keys[::-1], 2)), guarded(change)]
    for thread in threads:
        thread.join()
    assert failures == []
    found = table.page(PageQuery(limit=1000))
    assert len(found) == 400
    assert {row[1] for row in found if row[0] < 1000} <= {109, 209}
    assert all(row[1] == row[2] for row in found)


WAYS = {
    "merging": "",
    "update, then insert": "CREATE TRIGGER t AFTER DELETE ON {0} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
}


class Gate:
    """A table whose rows are written only while the gate is open; counts how often one came to it."""

    def __init__(self, url: str, name: str, way: str) -> None:
        self._url, self._name = url, name
        self._key = secrets.randbelow(1 << 31)
        self._shut = psycopg2.connect(url)
        sql(
            url,
            f"CREATE SEQUENCE {name}_passed; CREATE FUNCTION {name}(bigint) RETURNS boolean LANGUAGE plpgsql AS $$"
            f" BEGIN PERFORM nextval('public.{name}_passed'), pg_advisory_lock_shared({self._key});"
            f" RETURN pg_advisory_unlock_shared({self._key}); END $$;"
            f" ALTER TABLE {name} ADD CHECK (public.{name}(id)) NOT VALID; {WAYS[way].format(name)}",
        )

    def shut(self) -> None:
        with self._shut.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_lock({self._key})")

    def open(self) -> None:
        self._shut.close()

    def await_waiting(self, count: int) -> None:
        """Until so many sessions on this database wait for a lock."""
        waiting = "datname = current_database() AND wait_event_type = 'Lock'"
        while len(sql(self._url, f"SELECT pid FROM pg_stat_activity WHERE {waiting}")) < count:
            pass

    def passed(self) -> int:
        return int(sql(self._url, f"SELECT last_value FROM {self._name}_passed WHERE is_called")[0][0])


@pytest.mark.parametrize("way", WAYS)
def test_writers_of_many_rows_do_not_undo_each_others_work(
    url: str, opened: Open, name: str, tmp_path: Path, way: str
) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    write(table, [(1, "a"), (2, "a")], Run("first", 1, tmp_path))
    gate = Gate(url, name, way)
    gate.shut()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(write, table, [(1, "b"), (2, "b")], Run("one", 1, tmp_path))
        gate.await_waiting(1)
        other = pool.submit(write, table, [(2, "c"), (1, "c")], Run("other", 1, tmp_path))
        gate.await_waiting(2)
        gate.open()
    assert (one.result(), other.result()) == (Written(updated=2), Written(updated=2))
    assert gate.passed() == 4, "some of the work was done again"


@pytest.mark.parametrize("way", WAYS)
def test_a_record_that_came_while_others_were_written_is_not_passed_over(
    url: str, opened: Open, name: str, tmp_path: Path, way: str
) -> None:
    """It is not there when rows are updated, and there when they are inserted."""
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    table.insert((1, "a"))
    gate = Gate(url, name, way)
    with closing(psycopg2.connect(url)) as meanwhile, ThreadPoolExecutor(1) as pool, meanwhile.cursor() as cursor:
        cursor.execute(f"INSERT INTO {name} VALUES (2, 'theirs')")
        gate.shut()
        ours = pool.submit(write, table, [(1, "ours"), (2, "ours")], Run("ours", 1, tmp_path))
        gate.await_waiting(1)
        meanwhile.commit()
        gate.open()
    assert ours.result() == Written(updated=2)
    assert table.page(PageQuery()) == [(1, "ours"), (2, "ours")]


def test_staged_rows_do_not_pile_up(url: str, opened: Open, name: str, run: Run) -> None:
    from engines.postgres.records.writer import LYING_BYTES

    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    sizes: list[int] = []
    with table.writing(run, whole=False) as writer:
        for turn in range(8):
            writer.write([(number, secrets.token_hex(800) + str(turn)) for number in range(500)])
            sizes += sql(url, "SELECT max(pg_relation_size(oid)) FROM pg_class WHERE relname = 'flexdb_staged'")[0]
    assert max(sizes) < 3 * LYING_BYTES
    assert sizes != sorted(sizes), "it never became less"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "copy records"]


def write_on(table: RecordTable, rows: list[Row], run: Run, then: Callable[[], object]) -> None:
    """Staged again and again, `then` after each time, until something is raised."""
    with table.writing(run, whole=True) as writer:
        for _ in range(10_000):
            writer.write(rows)
            assert len(threads()) == 1
            then()


def test_staging_in_the_background_leaves_nothing_behind(url: str, opened: Open, name: str, tmp_path: Path) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    run = Run("job", 1, tmp_path)
    rows: list[Row] = [(number, "x" * 1000) for number in range(5000)]
    with pytest.raises(ZeroDivisionError):
        write_on(table, rows, run, lambda: 1 // 0)
    assert threads() == []
    with table.writing(run, whole=True) as writer:
        writer.write(rows)
        state = "SELECT state, backend_xmin FROM pg_stat_activity WHERE application_name = 'flexdb/job/1'"
        while sql(url, state) != [("idle", None)]:
            pass  # a COPY that waited for more would keep the database from being vacuumed
        writer.write([(0, "last"), (1, "\\"), (5000, None)])
        assert writer.finish() == Written(5001)
    assert threads() == []
    with pytest.raises(Stopped):
        write_on(table, rows, run, lambda: run.stop.request(StopReason.CANCEL))
    assert threads() == []
    assert (table.count(), table.get(0), table.get(1)) == (5001, (0, "last"), (1, "\\"))


def test_what_cannot_be_staged_is_told_at_the_latest_at_the_end(opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, replace(NAME, max_length=3))))
    table.prepare()
    with pytest.raises(RecordRefused, match="too long"):
        write(table, [(1, "abc"), (2, "abcd")], run, whole=True)
    with pytest.raises(RecordRefused, match="too long"):
        write_on(table, [(1, "abcd")], run, lambda: None)
    assert threads() == []
    assert table.count() == 0


def write_and_finish(writer: RecordWriter, rows: list[Row]) -> None:
    writer.write(rows)
    writer.finish()


def sessions(url: str, application_name: str) -> list[Any]:
    return sql(
        url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        f" AND application_name LIKE '{application_name}%'",
    )


def test_a_connection_that_died_meanwhile_is_not_noticed(url: str, opened: Open, name: str) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    table.change(1, lambda _: (1, str(table.count())))  # on two connections at once, so two are kept
    for work in (lambda: table.count(), lambda: table.insert((2, "a")), lambda: table.change(1, lambda _: (1, "b"))):
        for (pid,) in sessions(url, "flexdb/records"):
            sql(url, f"SELECT pg_terminate_backend({pid}, 5000)")
        work()
        table.change(1, lambda before: table.get(1) and before)
    assert table.page(PageQuery()) == [(1, "b"), (2, "a")]


def test_a_refused_record_costs_no_connection(url: str, opened: Open, name: str) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    table.insert((1, "a"))
    before = sessions(url, "flexdb/records")
    with pytest.raises(RecordExists):
        table.insert((1, "a"))
    with pytest.raises(ZeroDivisionError):
        table.change(1, lambda _: 1 // 0)  # type: ignore[arg-type,return-value]  # it never returns
    assert sessions(url, "flexdb/records") == before
    assert table.get(1) == (1, "a")


@pytest.mark.parametrize("whole", [False, True])
def test_a_writer_whose_session_is_ended_wrote_nothing_half(
    url: str, opened: Open, name: str, run: Run, whole: bool
) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    with table.writing(run, whole=whole) as writer:
        writer.write([(1, "a"), (2, "b")])
        (pid,) = sessions(url, run.application_name)[0]
        sql(url, f"SELECT pg_terminate_backend({pid}, 5000)")
        with pytest.raises(TargetUnavailable):
            write_and_finish(writer, [(3, "c")])
    assert table.count() == (0 if whole else 2)
    assert sessions(url, run.application_name) == []


def test_a_stop_ends_what_a_writer_is_doing(url: str, opened: Open, name: str, run: Run) -> None:
    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    table.insert((1, "a"))
    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute(f"UPDATE {name} SET name = 'held' WHERE id = 1")

        def stop() -> None:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = "
            while not sql(url, f"{waiting}'{run.application_name}'"):
                pass
            run.stop.request(StopReason.CANCEL)

        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(Stopped):
            write(table, [(1, "b"), (2, "c")], run)
        thread.join()
        other.rollback()
    assert table.page(PageQuery()) == [(1, "a")]


def test_a_lease_that_was_lost_before_the_end_leaves_nothing(opened: Open, name: str, tmp_path: Path) -> None:
    def lost() -> None:
        raise Stopped(StopReason.LEASE_LOST)

    table = opened(Table(name, "id", (ID, NAME)))
    table.prepare()
    with pytest.raises(Stopped):
        write(table, [(1, "a")], Run("job", 1, tmp_path, confirm=lost), whole=True)
    assert table.count() == 0

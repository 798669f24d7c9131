"""Taking in what the sqlite3 program made by hand, and what somebody made look like it."""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engines.artefacts.manifest import Manifest, Verification
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.assertions import Assertion
from engines.base import RestoreOptions, Target
from engines.errors import ArtefactDamaged, FlexError, InvalidDump, Stopped
from engines.run import Progress, StopToken
from tests.contracts.engine_cases import ROWS, Bench, SQLiteCase
from tests.integration.sqlite.databases import StopAfterLooks, content, query, rich, settings

START = b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n"


def told(command: str, database: str) -> bytes:
    """What the sqlite3 program says."""
    program = shutil.which("sqlite3")
    if program is None:
        pytest.skip("no sqlite3 program is installed here")
    return subprocess.run([program, database, command], check=True, capture_output=True, timeout=120).stdout


def adopted(
    case: SQLiteCase, bench: Bench, data: bytes, compression: str = "zstd", stop: StopToken | None = None
) -> Artefact:
    """As the adoption handler makes an artefact of a dump; discarded on failure."""
    run = bench.run(stop=stop or StopToken())
    format = case.engine.recognise(data[: 1 << 16])
    assert format is not None, "not recognised"
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse(compression))
    try:
        dump = case.engine.adopt(io.BytesIO(data), format, out, run)
    except BaseException:
        out.discard()
        raise
    now = datetime.now(UTC)
    manifest = Manifest(
        backup_id=f"adopted-{run.token}",
        job_id=run.job_id,
        event_id="event-1",
        connection="shop",
        engine="sqlite",
        database="shop.db",
        server_version=dump.server_version,
        flexdb_version="0",
        options=dump.options,
        started_at=now,
        ended_at=now,
        seconds=0,
        consistency=dump.consistency,
        counts="exact",
        objects=dump.objects,
        files=tuple(out.files),
        verification=Verification(level=0, at=now),
        restore_by_hand=dump.restore_by_hand,
    )
    return Artefact(bench.store, out.folder, manifest)


def restored(case: SQLiteCase, bench: Bench, artefact: Artefact, include: tuple[str, ...] = ()) -> Target:
    target = case.absent()
    case.engine.restore(artefact, target, RestoreOptions(include=include), bench.run())
    assert query(target, "PRAGMA integrity_check") == [("ok",)]
    return target


def proven(case: SQLiteCase, bench: Bench, artefact: Artefact) -> None:
    artefact.check(bench.run())
    case.engine.parse(artefact, bench.run())
    question = Assertion("orders", sql="SELECT count(*) FROM sqlite_schema", at_least=1)
    evidence = case.engine.rehearse(artefact, case.empty(), bench.run(), (question,))
    assert all(item.ok for item in evidence)
    assert [item.object for item in evidence if item.check == "assertion"] == ["orders"]
    assert list(bench.workspace.iterdir()) == []


def test_what_the_sqlite3_program_dumped_is_taken_in_proven_and_restored(case: SQLiteCase, bench: Bench) -> None:
    source = rich(case, "encoding = 'UTF-8'")
    artefact = adopted(case, bench, told(".dump", source.database))
    assert artefact.manifest.files[0].format == "sqlite-sql"
    whole = bench.back_up(case, source).manifest
    assert {item.name: item.rows for item in artefact.manifest.objects} == {
        item.name: item.rows for item in whole.objects
    }
    proven(case, bench, artefact)
    target = restored(case, bench, artefact)
    before, after = content(source), content(target)
    assert set(before) == set(after)
    for name, (sql, rows) in before.items():
        assert after[name][1] == rows, name
        assert sql is None or name.startswith("sqlite_") or sql == after[name][0] or "_" in name
    assert query(target, "SELECT subject FROM letters WHERE letters MATCH 'fox'") == [("hello",)]
    case.run(target, "UPDATE documents SET body = 'mended' WHERE id = 7")
    assert query(target, "SELECT rowid FROM beside WHERE beside MATCH 'indexed'") == [(1,)]


def test_what_the_sqlite3_program_backed_up_is_taken_in_as_it_is(
    case: SQLiteCase, bench: Bench, tmp_path: Path
) -> None:
    source = rich(case, "page_size = 1024", "journal_mode = wal")
    told(f".backup {tmp_path / 'copy.db'}", source.database)
    data = (tmp_path / "copy.db").read_bytes()
    artefact = adopted(case, bench, data)
    assert artefact.manifest.files[0].format == "sqlite-database"
    assert artefact.manifest.files[0].raw_bytes == len(data)
    assert "-wal" in artefact.manifest.consistency
    proven(case, bench, artefact)
    target = restored(case, bench, artefact)
    assert content(target) == content(source)
    assert settings(target) == settings(source)


def test_what_we_wrote_ourselves_is_taken_in_again(case: SQLiteCase, bench: Bench) -> None:
    source = case.filled()
    first = bench.back_up(case, source)
    with first.open_raw(first.manifest.files[0], bench.run()) as raw:
        data = b"".join(iter(raw.read, b""))
    again = adopted(case, bench, data)
    assert again.manifest.files[0].raw_sha256 == first.manifest.files[0].raw_sha256
    assert again.manifest.objects == first.manifest.objects
    assert case.rows(restored(case, bench, again)) == ROWS


def test_what_python_dumped_is_taken_in(case: SQLiteCase, bench: Bench) -> None:
    source = case.filled()
    with closing(sqlite3.connect(source.database)) as connection:
        text = "\n".join(connection.iterdump())
    artefact = adopted(case, bench, text.encode())
    proven(case, bench, artefact)
    assert case.rows(restored(case, bench, artefact)) == ROWS


def test_some_tables_only_of_an_sql_dump_are_restored(case: SQLiteCase, bench: Bench) -> None:
    artefact = adopted(case, bench, told(".dump", case.filled().database))
    target = restored(case, bench, artefact, include=("orders", "customers"))
    assert case.rows(target) == {"orders": 100, "customers": 8}


def test_an_sql_dump_restores_by_hand_as_its_manifest_says(case: SQLiteCase, bench: Bench, tmp_path: Path) -> None:
    artefact = adopted(case, bench, told(".dump", case.filled().database))
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    if not shutil.which("zstd"):
        pytest.skip("no zstd program is installed here")
    for line in artefact.manifest.restore_by_hand:
        line = line.replace("DATABASE", str(tmp_path / "by-hand.db")).replace(path.name, str(path))
        answer = subprocess.run(["sh", "-c", line], check=True, capture_output=True, timeout=60)
    assert answer.stdout == b"ok\n"


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_an_sql_dump_may_come_in_pieces_of_any_size(case: SQLiteCase, bench: Bench, size: int) -> None:
    class Slow(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            return super().read(size)

    data = told(".dump", rich(case, "page_size = 512").database)
    out = ArtefactWriter(bench.store, "shop/slow", Compression.parse("none"))
    dump = case.engine.adopt(Slow(data), "sqlite-sql", out, bench.run())
    assert {item.name: item.rows for item in dump.objects}["words"] == 4
    assert (bench.store.open("shop/slow/database.sql")).read() == data


def test_what_newer_programs_write_is_understood(case: SQLiteCase, bench: Bench) -> None:
    """Since 3.50 `.dump` writes control characters with `unistr`, which older libraries do not have."""
    rows = rb"INSERT INTO t VALUES(unistr('a\u000ab\\c''d\000d\U0001f600'));"
    target = restored(case, bench, adopted(case, bench, START + b"CREATE TABLE t(x);" + rows + b"COMMIT;\n"))
    assert query(target, "SELECT x FROM t") == [("a\nb\\c'd\r\U0001f600",)]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "without its last line": lambda data: data[: data.rindex(b"COMMIT")],
    "cut in the middle of a row": lambda data: data[: len(data) // 2],
    "ended by errors": lambda data: data.replace(b"COMMIT;", b"ROLLBACK; -- due to errors"),
    "a word changed": lambda data: data.replace(b"CREATE TABLE customers", b"CREATE TAXLE customers"),
    "a quote lost": lambda data: data.replace(b"'name 3'", b"'name 3"),
    "a row twice": lambda data: data.replace(b"INSERT INTO orders VALUES(5,", b"INSERT INTO orders VALUES(4,"),
    "something behind the end": lambda data: data + b"INSERT INTO orders",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_sql_dump_that_is_not_whole_is_not_taken_in(case: SQLiteCase, bench: Bench, damage: str) -> None:
    data = told(".dump", case.filled().database)
    changed = DAMAGES[damage](data)
    assert changed != data
    with pytest.raises(ArtefactDamaged) as damaged:
        adopted(case, bench, changed)
    assert damaged.value.details["evidence"]
    assert bench.stored() == []
    assert list(bench.workspace.iterdir()) == []


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_stored_sql_dump_that_was_damaged_is_found_and_never_restored(
    case: SQLiteCase, bench: Bench, compression: str
) -> None:
    artefact = adopted(case, bench, told(".dump", case.filled().database), compression)
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    whole = path.read_bytes()
    for at in (0, 60, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :])
        absent = case.absent()
        with pytest.raises(ArtefactDamaged) as parsed:
            case.engine.parse(artefact, bench.run())
        with pytest.raises(ArtefactDamaged):
            case.engine.rehearse(artefact, case.empty(), bench.run())
        with pytest.raises(ArtefactDamaged):
            case.engine.restore(artefact, absent, RestoreOptions(), bench.run())
        assert parsed.value.details["evidence"]
        assert not case.exists(absent)
        assert case.leftovers(absent) == []
        assert list(bench.workspace.iterdir()) == []


FILE_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut by a page": lambda data: data[:-4096],
    "cut by a byte": lambda data: data[:-1],
    "only its header": lambda data: data[:100],
    "half a header": lambda data: data[:50],
    "pages swapped": lambda data: data[:4096] + data[8192:12288] + data[4096:8192] + data[12288:],
    "a page of noughts": lambda data: data[: 4096 * 2] + bytes(4096) + data[4096 * 3 :],
}


@pytest.mark.parametrize("damage", FILE_DAMAGES)
def test_a_database_file_that_is_not_whole_is_not_taken_in(
    case: SQLiteCase, bench: Bench, tmp_path: Path, damage: str
) -> None:
    told(f".backup {tmp_path / 'copy.db'}", case.filled().database)
    with pytest.raises(ArtefactDamaged) as damaged:
        adopted(case, bench, FILE_DAMAGES[damage]((tmp_path / "copy.db").read_bytes()))
    assert damaged.value.details["evidence"]
    assert bench.stored() == []
    assert list(bench.workspace.iterdir()) == []


EVIL = {
    "attach": b"ATTACH '{outside}' AS other;",
    "vacuum into": b"VACUUM INTO '{outside}';",
    "extension": b"CREATE TABLE t(x); INSERT INTO t VALUES(load_extension('{outside}'));",
    "tokenizer": b"CREATE TABLE t(x); INSERT INTO t VALUES(fts3_tokenizer('simple', x'41414141'));",
    "pragma": b"PRAGMA journal_mode=WAL;",
    "temp": b"CREATE TEMP TABLE t(x);",
    "update": b"CREATE TABLE t(x); UPDATE t SET x = 1;",
    "schema": b"PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = 'x';",
    "dropping": b"CREATE TABLE t(x); DROP TABLE t;",
    "deleting": b"CREATE TABLE t(x); DELETE FROM t;",
    "dot command": b".shell touch {outside}\n;",
    "explaining": b"EXPLAIN SELECT 1;",
}


@pytest.mark.parametrize("evil", EVIL)
def test_statements_that_no_dump_has_are_refused(case: SQLiteCase, bench: Bench, tmp_path: Path, evil: str) -> None:
    outside = tmp_path / "outside.db"
    statement = EVIL[evil].replace(b"{outside}", str(outside).encode())
    with pytest.raises(InvalidDump) as refused:
        adopted(case, bench, START + statement + b"\nCOMMIT;\n")
    assert not refused.value.retryable
    assert not outside.exists()
    assert bench.stored() == []
    assert list(bench.workspace.iterdir()) == []


@pytest.mark.parametrize(
    "row",
    [
        "'table','t','t',2,'CREATE TABLE t(x)'",
        "'table','x','x',0,'CREATE TABLE x(y)'",
        "'trigger','r','t',0,'not at all'",
    ],
)
def test_a_schema_written_by_hand_is_not_believed(case: SQLiteCase, bench: Bench, row: str) -> None:
    script = f"CREATE TABLE t(x);PRAGMA writable_schema=ON;INSERT INTO sqlite_schema VALUES({row});COMMIT;"
    with pytest.raises(FlexError) as refused:
        adopted(case, bench, START + script.encode())
    assert isinstance(refused.value, ArtefactDamaged | InvalidDump)
    assert bench.stored() == []


def test_an_endless_statement_can_be_canceled(case: SQLiteCase, bench: Bench) -> None:
    endless = b"CREATE TABLE t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n;"
    with pytest.raises(Stopped):
        adopted(case, bench, START + endless, stop=StopAfterLooks(20))
    assert list(bench.workspace.iterdir()) == []
    assert bench.stored() == []


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b"SQLite format 3\0" + bytes(84), "sqlite-database"),
        (START, "sqlite-sql"),
        (START.replace(b"\n", b"\r\n"), "sqlite-sql"),
        (b"\xef\xbb\xbf" + START, "sqlite-sql"),
        (b"BEGIN TRANSACTION;\nCREATE TABLE t (x);", "sqlite-sql"),
        (b"", None),
        (b"PGDMP\x01", None),
        (b"-- MySQL dump 10.13", None),
        (b"--\n-- PostgreSQL database dump\n--\n", None),
        (b"SQLite format 2\0", None),
    ],
)
def test_only_sqlites_own_dumps_are_recognised(case: SQLiteCase, head: bytes, format: str | None) -> None:
    assert case.engine.recognise(head) == format


def test_a_dump_tells_how_far_it_is(case: SQLiteCase, bench: Bench) -> None:
    adopted(case, bench, told(".dump", case.filled().database))
    stages = {report.stage for report in bench.reports if isinstance(report, Progress)}
    assert {"adopting", "checking", "counting"} <= stages

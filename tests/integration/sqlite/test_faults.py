"""SQLite databases of every make, changing under the copy, damaged, huge, or without room: nothing comes out half."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from engines.artefacts.reading import Artefact
from engines.base import RestoreOptions, Target
from engines.errors import ArtefactDamaged, Stopped
from engines.run import Progress, Run, StopReason, StopToken
from tests.contracts.engine_cases import ROWS, Bench, SQLiteCase
from tests.integration.sqlite.databases import StopAfterLooks, content, query, rich, settings
from tests.integration.sqlite.programs import holding


def restored(case: SQLiteCase, bench: Bench, artefact: Artefact) -> Target:
    target = case.absent()
    case.engine.restore(artefact, target, RestoreOptions(), bench.run())
    assert query(target, "PRAGMA integrity_check") == [("ok",)]
    return target


def round_trip(case: SQLiteCase, bench: Bench, source: Target) -> None:
    artefact = bench.back_up(case, source)
    case.engine.parse(artefact, bench.run())
    case.engine.rehearse(artefact, source, bench.run())
    target = restored(case, bench, artefact)
    assert content(target) == content(source)
    assert settings(target) == settings(source)
    (whole,) = [item for item in case.engine.inspect(target, bench.run()).tables if item.name == "words"]
    assert whole.rows == 4


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "memory", "off", "wal"])
def test_a_round_trip_in_every_journal_mode(case: SQLiteCase, bench: Bench, journal: str) -> None:
    round_trip(case, bench, rich(case, f"journal_mode = {journal}"))


@pytest.mark.parametrize("size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
def test_a_round_trip_with_every_page_size(case: SQLiteCase, bench: Bench, size: int) -> None:
    source = rich(case, f"page_size = {size}")
    assert settings(source)["page_size"] == size
    round_trip(case, bench, source)


@pytest.mark.parametrize("vacuum", [0, 1, 2])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_a_round_trip_with_every_encoding_and_way_to_vacuum(
    case: SQLiteCase, bench: Bench, vacuum: int, encoding: str
) -> None:
    source = rich(case, f"encoding = '{encoding}'", f"auto_vacuum = {vacuum}", "journal_mode = wal")
    assert (settings(source)["encoding"], settings(source)["auto_vacuum"]) == (encoding, vacuum)
    round_trip(case, bench, source)


@pytest.mark.parametrize("name", ["with space.db", "quo'te\".db", "файл ☃.sqlite", "a%20b?c#d.db", "semi;colon.db"])
def test_files_may_have_any_name(case: SQLiteCase, folder: Path, bench: Bench, name: str) -> None:
    made = case.filled()
    query(made, "PRAGMA wal_checkpoint(TRUNCATE)")
    Path(made.database).rename(folder / name)
    source = case.engine.into(case.absent(), name)
    artefact = bench.back_up(case, source, exclude=("noise",))
    target = case.engine.into(source, "new " + name)
    case.engine.restore(artefact, target, RestoreOptions(), bench.run())
    assert case.rows(target) == {table: rows for table, rows in ROWS.items() if table != "noise"}
    assert case.engine.drop(target, bench.run()) is True
    assert case.engine.drop(target, bench.run()) is False


def big(case: SQLiteCase, rows: int = 40_000) -> Target:
    """Too big for one step of the copy."""
    target = case.filled()
    case.run(target, "CREATE TABLE big (a integer PRIMARY KEY, b text)")
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    case.run(target, f"INSERT INTO big {numbers} SELECT i, hex(randomblob(120)) FROM n")
    return target


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE orders",
        "DELETE FROM big",
        "INSERT INTO big SELECT a + 100000, b FROM big",
        "CREATE INDEX later ON big (b)",
        "ALTER TABLE orders ADD COLUMN later text",
    ],
)
def test_what_another_program_does_during_the_copy_is_not_in_it(case: SQLiteCase, bench: Bench, statement: str) -> None:
    source = big(case)
    before = content(source)
    did: list[str] = []

    def meanwhile(progress: Progress) -> None:
        if progress.stage == "copying" and not did:
            assert progress.done < (progress.total or 0), "the copy was whole already: this test shows nothing"
            with holding(source.database, statement):
                did.append(statement)

    artefact = bench.back_up(case, source, bench.run(listener=meanwhile))
    assert did
    assert content(source) != before
    assert content(restored(case, bench, artefact)) == before


def test_a_wal_without_its_shared_memory_is_read(case: SQLiteCase, bench: Bench) -> None:
    source = case.filled()
    with holding(source.database, "PRAGMA wal_autocheckpoint = 0", "INSERT INTO customers VALUES (99, 'x')") as program:
        program.process.kill()
        program.process.wait(30)
    shm = Path(source.database + "-shm")
    shm.unlink()
    artefact = bench.back_up(case, source)
    assert case.rows(restored(case, bench, artefact))["customers"] == 9


def rewritten(bench: Bench, artefact: Artefact, change: Callable[[bytes], bytes]) -> Artefact:
    """As if the damage had been there before the digests were taken."""
    (file,) = artefact.manifest.files
    path = artefact.stored_path(file)
    assert path is not None
    data = change(path.read_bytes())
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    sizes = {"raw_bytes": len(data), "bytes": len(data), "raw_sha256": digest, "sha256": digest}
    manifest = artefact.manifest.model_copy(update={"files": (file.model_copy(update=sizes),)})
    return Artefact(bench.store, artefact.folder, manifest)


def page(number: int) -> slice:
    """Counted from 1, as SQLite does."""
    return slice((number - 1) * 4096, number * 4096)


def swapped(data: bytes, one: int, other: int) -> bytes:
    changed = bytearray(data)
    changed[page(one)], changed[page(other)] = data[page(other)], data[page(one)]
    return bytes(changed)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "two tables' pages swapped": lambda data: swapped(data, 2, 3),
    "a table's page and an index's swapped": lambda data: swapped(data, 3, 4),
    "the last page missing": lambda data: data[:-4096],
    "half of the pages missing": lambda data: data[: len(data) // 8192 * 4096],
    "a page of noughts": lambda data: data[:8192] + bytes(4096) + data[12288:],
    "the type of a page": lambda data: flipped(data, 8192),
    "the cells of a page": lambda data: flipped(data, 8192 + 9),
    "the schema": lambda data: data.replace(b"CREATE TABLE orders", b"CREATE TABLE ord\xffrs", 1),
    "the magic": lambda data: flipped(data, 3),
    "the page size": lambda data: flipped(data, 16),
    "nothing left": lambda data: b"",
    "something else": lambda data: b"x" * len(data),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_that_no_digest_shows_is_found_by_sqlite_itself(case: SQLiteCase, bench: Bench, damage: str) -> None:
    source = case.filled()
    artefact = rewritten(bench, bench.back_up(case, source, compression="none"), DAMAGES[damage])
    absent = case.absent()

    def prove() -> None:
        case.engine.parse(artefact, bench.run())
        case.engine.rehearse(artefact, source, bench.run())  # where all that is left is a whole database

    with pytest.raises(ArtefactDamaged) as damaged:
        prove()
    assert damaged.value.details["evidence"]
    with pytest.raises(ArtefactDamaged):
        case.engine.restore(artefact, absent, RestoreOptions(), bench.run())
    assert not case.exists(absent)
    assert case.leftovers(source) == []
    assert list(bench.workspace.iterdir()) == []


def test_three_thousand_tables_and_some_of_them(case: SQLiteCase, bench: Bench) -> None:
    source = case.empty()
    with closing(sqlite3.connect(source.database)) as connection:
        for number in range(3000):
            connection.execute(f"CREATE TABLE t{number} (id integer PRIMARY KEY, x text)")
            connection.execute(f"INSERT INTO t{number} VALUES (1, 'x')")
        connection.execute("CREATE VIEW few AS SELECT t1.x FROM t1 JOIN t2999")
        connection.commit()
    whole = bench.back_up(case, source)
    assert len(whole.manifest.objects) == 3000
    case.engine.rehearse(whole, source, bench.run())
    part = bench.back_up(case, source, include=("t29*", "few"))
    assert len(part.manifest.objects) == 111
    assert part.manifest.options["left_out"] == ["view few"]
    case.engine.rehearse(part, source, bench.run())
    assert len(case.rows(restored(case, bench, part))) == 111


def test_blobs_of_sixteen_megabytes(case: SQLiteCase, bench: Bench) -> None:
    source = case.empty()
    case.run(source, "CREATE TABLE big (id integer PRIMARY KEY, data blob)")
    case.run(source, "CREATE TABLE other (id integer)")
    case.run(source, "INSERT INTO big VALUES (%s, randomblob(16777216))", (1,), (2,))
    digest = query(source, "SELECT id, data FROM big")
    for exclude in ((), ("other",)):
        artefact = bench.back_up(case, source, compression="none", exclude=exclude)
        case.engine.rehearse(artefact, source, bench.run())
        assert query(restored(case, bench, artefact), "SELECT id, data FROM big") == digest


class StopAt:
    def __init__(self, number: int) -> None:
        self.token = StopToken()
        self.stages: list[str] = []
        self._number = number

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self.stages:
            self.stages.append(progress.stage)
            if len(self.stages) == self._number:
                self.token.request(StopReason.CANCEL)


@pytest.mark.parametrize("work", ["parse", "rehearse", "restore"])
def test_work_on_an_artefact_can_be_canceled_at_every_stage(case: SQLiteCase, bench: Bench, work: str) -> None:
    source, target = case.filled(), case.absent()
    artefact = bench.back_up(case, source, exclude=("noise",))

    def do(run: Run) -> object:
        if work == "restore":
            return case.engine.restore(artefact, target, RestoreOptions(include=("orders",)), run)
        return case.engine.parse(artefact, run) if work == "parse" else case.engine.rehearse(artefact, source, run)

    seen = StopAt(0)
    do(bench.run(listener=seen, stop=seen.token))
    case.engine.drop(target, bench.run())
    assert len(seen.stages) > 1
    for number in range(1, len(seen.stages) + 1):
        stop = StopAt(number)
        with pytest.raises(Stopped):
            do(bench.run(listener=stop, stop=stop.token))
        assert not case.exists(target)
        assert case.leftovers(source) == []
        assert list(bench.workspace.iterdir()) == []


def test_an_integrity_check_can_be_canceled_in_its_midst(case: SQLiteCase, bench: Bench) -> None:
    artefact = bench.back_up(case, big(case, 200_000))
    stop = StopAfterLooks(1_000_000)
    case.engine.parse(artefact, bench.run(stop=stop))
    looks = 1_000_000 - stop._left
    with pytest.raises(Stopped):
        case.engine.parse(artefact, bench.run(stop=StopAfterLooks(max(1, looks // 2))))
    assert list(bench.workspace.iterdir()) == []


WORK_WITH_SMALL_FILES = """
import io, resource, sys
from pathlib import Path
from engines.artefacts.reading import Artefact, read_manifest
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupOptions, RestoreOptions
from engines.errors import FlexError
from engines.run import Run
from engines.sqlite import SQLiteEngine
from engines.storage.local import LocalStore
storage, folder, workspace, database, work = sys.argv[1:]
store, engine, run = LocalStore("main", Path(storage)), SQLiteEngine(0.5), Run("job", 1, Path(workspace))
artefact = Artefact(store, folder, read_manifest(store, folder))
target, new = (engine.target("shop", "sqlite:///" + path) for path in (database, database + ".new"))
out = ArtefactWriter(store, "shop/new", Compression.parse("zstd"))
script = b"BEGIN TRANSACTION; CREATE TABLE t(x);" + b"INSERT INTO t VALUES(zeroblob(9000));" * 100 + b"COMMIT;"
data = Path(database).read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    if work == "whole": engine.backup(target, BackupOptions(), out, run)
    if work == "part": engine.backup(target, BackupOptions(include=("noise",)), out, run)
    if work == "schema": engine.backup(target, BackupOptions(content="schema"), out, run)
    if work == "file": engine.adopt(io.BytesIO(data), "sqlite-database", out, run)
    if work == "script": engine.adopt(io.BytesIO(script), "sqlite-sql", out, run)
    if work == "restore": engine.restore(artefact, new, RestoreOptions(), run)
    if work == "include": engine.restore(artefact, new, RestoreOptions(include=("noise",)), run)
    if work == "parse": engine.parse(artefact, run)
    print("done", end=" ")
except FlexError as error:
    print(error.code, end=" ")
print(len(list(Path(workspace).iterdir())), len(list(Path(database).parent.iterdir())))
"""


@pytest.mark.parametrize("work", ["whole", "part", "schema", "file", "script", "restore", "include", "parse"])
def test_a_disk_that_fills_up_amid_the_work_is_storage_full_and_leaves_nothing(
    case: SQLiteCase, folder: Path, bench: Bench, work: str
) -> None:
    """In a process whose files may not grow beyond 200 kB; the database has 400."""
    made = case.filled()
    artefact = bench.back_up(case, made)
    query(made, "PRAGMA journal_mode = DELETE")
    plain = folder / "plain.db"
    Path(made.database).rename(plain)
    storage = bench.store.url.removeprefix("file://")
    arguments = (storage, artefact.folder, str(bench.workspace), str(plain), work)
    answer = subprocess.run(
        [sys.executable, "-c", WORK_WITH_SMALL_FILES, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.stdout.split() == ["done" if work == "schema" else "storage_full", "0", "1"]


def test_leftovers_of_every_name_of_ours_are_removed_and_others_kept(case: SQLiteCase, folder: Path) -> None:
    target = case.filled()
    ours = [".flexdb_new_dead_1", ".flexdb_new_dead_12-wal", "flexdb_scratch_dead", "flexdb_scratch_dead-shm"]
    theirs = ["flexdb_kept_dead", "flexdb_scratch_alive", ".flexdb_new_alive_1", "my_flexdb_scratch_dead", "dead"]
    for name in (*ours, *theirs):
        (folder / name).touch()
    gone = case.engine.remove_leftovers(target, lambda job: job == "dead")
    assert sorted(gone) == sorted(ours)
    assert all((folder / name).exists() for name in theirs)


def test_a_dropped_database_is_gone_with_the_files_beside_it(case: SQLiteCase, folder: Path, bench: Bench) -> None:
    target = case.filled()
    with holding(target.database, "INSERT INTO customers VALUES (99, 'x')") as program:
        program.process.kill()
        program.process.wait(30)
    assert len(list(folder.iterdir())) == 3
    assert case.engine.drop(target, bench.run()) is True
    assert list(folder.iterdir()) == []

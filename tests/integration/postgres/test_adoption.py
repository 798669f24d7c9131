"""Dumps made by hand are taken in whole or not at all, and then work like our own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from engines.base import RestoreOptions
from engines.errors import ArtefactDamaged, FlexError, InvalidDump, Stopped, ToolFailed, UnsupportedOperation
from engines.postgres.archive import CUSTOM, DIRECTORY, SQL
from engines.run import Progress, StopReason
from tests.conftest import FreshDatabase
from tests.integration.postgres.test_round_trip import run_by_hand
from tests.integration.postgres.workbench import ROWS, Workbench, dumped, facts, sql


def by_hand(bench: Workbench, url: str, *arguments: str) -> bytes:
    """With the client programs of the server's own version."""
    major = sql(url, "SELECT current_setting('server_version_num')::int / 10000")[0][0]
    return dumped(url, *arguments, program=bench.clients.for_dump(major, tls=False).path("pg_dump"))


def folder_as_tar(bench: Workbench, url: str, tmp_path: Path, *, prefix: str, order: int = 1) -> bytes:
    """A folder of pg_dump -Fd, tarred as people do it: with a prefix, in any order."""
    folder = tmp_path / "by hand"
    by_hand(bench, url, "-Fd", "-j2", f"--file={folder}")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        if prefix:
            tar.add(folder, arcname=prefix, recursive=False)
        for path in sorted(folder.iterdir(), reverse=order < 0):
            tar.add(path, arcname=f"{prefix}/{path.name}" if prefix else path.name)
    return packed.getvalue()


@pytest.mark.parametrize(("how", "format"), [("-Fc", CUSTOM), ("-Fp", SQL), ("-Ft", DIRECTORY)])
def test_a_dump_made_by_hand_is_proven_and_restored(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase, how: str, format: str
) -> None:
    artefact = bench.adopt(by_hand(bench, shop, how))
    assert [file.format for file in artefact.manifest.files] == [format]
    assert {item.name: item.rows for item in artefact.manifest.objects if item.rows is not None} == ROWS
    assert artefact.manifest.server_version == sql(shop, "SHOW server_version")[0][0].split()[0]
    bench.prove(artefact, shop)
    before = facts(shop)
    target = fresh_database(server, create=False)
    restored = bench.restore(artefact, target)
    assert facts(target) == before and restored.notes == ()
    replaced = fresh_database(server)
    sql(replaced, "CREATE TABLE mine (a int)")
    bench.restore(artefact, replaced, mode="replace")
    assert facts(replaced) == before


@pytest.mark.parametrize(("prefix", "order"), [("dump", 1), (".", -1), ("", -1)])
def test_a_folder_that_was_tarred_by_hand_gets_plain_names(
    bench: Workbench,
    shop15: str,
    postgres15_url: str,
    fresh_database: FreshDatabase,
    tmp_path: Path,
    prefix: str,
    order: int,
) -> None:
    artefact = bench.adopt(folder_as_tar(bench, shop15, tmp_path, prefix=prefix, order=order))
    stream = artefact.stage(artefact.file(DIRECTORY), tmp_path, bench.run())
    with tarfile.open(stream) as tar:
        names = tar.getnames()
    assert names[0] == "toc.dat" and not any("/" in name for name in names)
    bench.prove(artefact, shop15)
    target = fresh_database(postgres15_url)
    before = facts(shop15)
    bench.restore(artefact, target)
    assert facts(target) == before


@pytest.mark.parametrize("how", ["-Fc", "-Fp", "-Ft"])
def test_the_commands_of_an_adopted_dump_restore_it(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase, how: str
) -> None:
    artefact = bench.adopt(by_hand(bench, shop15, how))
    target = fresh_database(postgres15_url, create=False)
    tools = bench.clients.for_dump(15, tls=False).folder
    run_by_hand(artefact.manifest.restore_by_hand, target, bench.store.root / artefact.folder, tools)
    assert facts(target) == facts(shop15)


@pytest.mark.parametrize("how", ["-Fc", "-Fp", "-Ft"])
@pytest.mark.parametrize("at", ["half", "a byte before its end"])
def test_a_dump_cut_short_is_damaged(bench: Workbench, shop15: str, how: str, at: str) -> None:
    dump = by_hand(bench, shop15, how)
    end = len(dump) // 2
    if at != "half":
        # a tar stream is padded with zeros, a script ends with a comment that may lack its last line break
        end = len(dump.rstrip(b"\0")) - 1 if how != "-Fp" else dump.rindex(b"dump complete") + 4
    with pytest.raises(ArtefactDamaged) as damaged:
        bench.adopt(dump[:end])
    assert damaged.value.details["evidence"]
    assert bench.stored() == []


def test_a_flipped_byte_in_a_compressed_archive_is_damage(bench: Workbench, shop15: str) -> None:
    sql(shop15, "CREATE TABLE noise AS SELECT md5(g::text) AS a FROM generate_series(1, 20000) g")
    dump = bytearray(by_hand(bench, shop15, "-Fc"))
    dump[len(dump) // 2] ^= 4
    with pytest.raises(ArtefactDamaged):
        bench.adopt(bytes(dump))
    assert bench.stored() == []


@pytest.mark.parametrize("removed", ["toc.dat", "one table"])
def test_a_folder_that_lacks_a_file_is_damaged(bench: Workbench, shop15: str, tmp_path: Path, removed: str) -> None:
    whole = folder_as_tar(bench, shop15, tmp_path, prefix="d")
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(whole)) as old, tarfile.open(fileobj=packed, mode="w") as new:
        names = [name for name in old.getnames() if name.endswith((".dat", ".gz"))]
        gone = next(name for name in names if name.endswith("toc.dat") == (removed == "toc.dat"))
        for member in old.getmembers():
            if member.name != gone:
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
    with pytest.raises(ArtefactDamaged):
        bench.adopt(packed.getvalue())
    assert bench.stored() == []


HOSTILE = {
    "a psql command that runs a program": rb"\! touch /tmp/flexdb-was-here",
    "a psql command inside a statement": rb"SELECT 1 \g |cat",
    "other quoting": rb"SET standard_conforming_strings = off;",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_script_that_pg_dump_would_not_write_is_refused(bench: Workbench, shop15: str, what: str) -> None:
    dump = by_hand(bench, shop15, "-Fp")
    before, mark, after = dump.partition(b"SET client_encoding")
    with pytest.raises(InvalidDump):
        bench.adopt(before + HOSTILE[what] + b"\n" + mark + after)
    assert bench.stored() == []


@pytest.mark.parametrize("name", ["../../evil.dat", "d/e/1.dat", "d/notes.txt"])
def test_a_tar_with_members_that_pg_dump_does_not_write_is_refused(
    bench: Workbench, shop15: str, tmp_path: Path, name: str
) -> None:
    packed = io.BytesIO(folder_as_tar(bench, shop15, tmp_path, prefix="d"))
    with tarfile.open(fileobj=packed, mode="a") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InvalidDump):
        bench.adopt(packed.getvalue())
    assert bench.stored() == [] and not (tmp_path / "evil.dat").exists()


def test_a_dump_of_the_whole_server_is_refused_with_a_hint(bench: Workbench) -> None:
    with pytest.raises(InvalidDump) as refused:
        bench.adopt(b"--\n-- PostgreSQL database cluster dump\n--\n")
    assert "pg_dump" in refused.value.hint


@pytest.mark.parametrize("head", [b"", b"SQLite format 3\0", b"\x6d\xe2\x99\x81", b"-- MySQL dump 10.13", b"x" * 70000])
def test_what_pg_dump_did_not_make_is_not_recognised(bench: Workbench, head: bytes) -> None:
    assert bench.engine.recognise(head) is None


def test_a_script_with_options_that_speak_of_the_database_goes_where_it_is_told(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    """--create and --clean name the database that was dumped: it must not be touched."""
    dump = by_hand(bench, shop15, "-Fp", "--create", "--clean")
    assert b"DROP DATABASE" in dump and b"\\connect" in dump
    artefact = bench.adopt(dump)
    before = facts(shop15)
    target = fresh_database(postgres15_url, create=False)
    bench.restore(artefact, target)
    assert facts(target) == before
    clean = bench.adopt(by_hand(bench, shop15, "-Fp", "--clean"))
    again = fresh_database(postgres15_url)
    bench.restore(clean, again)
    assert facts(again)[:4] == before[:4]


def test_rows_as_inserts_are_restored_but_not_counted(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.adopt(by_hand(bench, shop15, "-Fp", "--inserts"))
    assert artefact.manifest.counts == "none"
    assert all(item.rows is None for item in artefact.manifest.objects if item.kind == "table")
    target = fresh_database(postgres15_url)
    before = facts(shop15)
    bench.restore(artefact, target)
    assert facts(target) == before


def test_a_script_of_chosen_tables_brings_their_schema(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    sql(shop15, 'ALTER TABLE "odd ""schema"."Tab le; drop $1 *" DROP COLUMN customer')
    for how in ("-Fp", "-Fc"):
        artefact = bench.adopt(by_hand(bench, shop15, how, "--schema-only", '--table="odd ""schema".*'))
        assert artefact.manifest.options["content"] == "schema"
        bench.prove(artefact, shop15)
        target = fresh_database(postgres15_url)
        bench.restore(artefact, target)
        assert sql(target, 'SELECT count(*) FROM "odd ""schema"."Tab le; drop $1 *"') == [(0,)]


@pytest.mark.parametrize("how", ["-Fp", "-Fc"])
def test_a_dump_that_shows_to_be_a_part_is_known_as_one(
    bench: Workbench, postgres15_url: str, fresh_database: FreshDatabase, how: str
) -> None:
    url = fresh_database(postgres15_url)
    sql(url, "CREATE TABLE people (id int PRIMARY KEY); CREATE SCHEMA shop")
    sql(url, "CREATE TABLE orders (id int, who int REFERENCES people); CREATE TABLE shop.goods (id int)")
    sql(url, "CREATE TABLE odd (id int, up int UNIQUE REFERENCES odd (up))")

    def seen(*arguments: str) -> bool | None:
        manifest = bench.adopt(by_hand(bench, url, how, *arguments)).manifest
        said = {"adopted": {}, "whole": True}  # as the adoption handler adds it
        return manifest.model_copy(update={"options": said | manifest.options}).whole

    assert seen() is True
    assert seen("--table=orders", "--table=people", "--table=odd") is True, "nothing tells"
    for part in ("--table=orders", "--table=shop.goods", "--exclude-table=people", "--schema-only", "--data-only"):
        assert seen(part) is False, part


def test_parts_of_an_archive_are_restored_and_of_a_script_refused(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    target = fresh_database(postgres15_url, create=False)
    archive, script = bench.adopt(by_hand(bench, shop15, "-Fc")), bench.adopt(by_hand(bench, shop15, "-Fp"))
    bench.restore(archive, target, include=("settings_as_rows",))
    assert sql(target, "SELECT count(*) FROM settings_as_rows") == [(3,)]
    options = RestoreOptions(include=("settings_as_rows",))
    for attempt in (
        lambda: bench.restore(script, fresh_database(postgres15_url), include=("settings_as_rows",)),
        lambda: bench.engine.plan(script, bench.target(shop15), options, bench.run()),
    ):
        with pytest.raises(UnsupportedOperation, match="plain dump"):
            attempt()


def test_a_script_whose_roles_are_missing_leaves_owners_out(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    dump = by_hand(bench, shop15, "-Fp").replace(b"OWNER TO postgres", b'OWNER TO "nobody; here"')
    artefact = bench.adopt(
        dump.replace(b"SET default_table_access", b'GRANT ALL ON SCHEMA public TO "me 2";\nSET default_table_access')
    )
    assert artefact.manifest.options["roles"] == ["me 2", "nobody; here"]
    target = fresh_database(postgres15_url, create=False)
    restored = bench.restore(artefact, target)
    assert "nobody; here" in restored.notes[0]
    assert facts(target)[:4] == facts(shop15)[:4]


def test_a_script_that_fails_halfway_leaves_the_target_as_it_was(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    dump = by_hand(bench, shop15, "-Fp")
    broken = dump.replace(b"ADD CONSTRAINT", b"ADD CONSTRAINED", 1)
    artefact = bench.adopt(broken)
    empty, full = fresh_database(postgres15_url), fresh_database(postgres15_url)
    sql(full, "CREATE TABLE mine AS SELECT 7 AS a")
    with pytest.raises(ToolFailed, match="syntax error"):
        bench.restore(artefact, empty)
    assert sql(empty, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]
    with pytest.raises(ToolFailed):
        bench.restore(artefact, full, mode="replace")
    assert sql(full, "SELECT a FROM mine") == [(7,)]
    with pytest.raises(ArtefactDamaged):
        bench.engine.rehearse(artefact, bench.target(shop15), bench.run())
    assert sql(postgres15_url, f"SELECT 1 FROM pg_database WHERE datname ~ 'flexdb_.*{bench.job_id}'") == []


@pytest.mark.parametrize("how", ["-Fc", "-Fp", "-Ft"])
def test_a_cancel_ends_every_stage_of_an_adoption(bench: Workbench, shop15: str, how: str) -> None:
    sql(shop15, "CREATE TABLE noise AS SELECT md5(g::text) AS a FROM generate_series(1, 100000) g")
    dump = by_hand(bench, shop15, how)
    run = bench.run()

    class Slow(io.BytesIO):
        """Asks for a stop in the middle of being read."""

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > len(dump) // 2:
                run.stop.request(StopReason.CANCEL)
            return super().read(min(size or -1, 1 << 16))

    with pytest.raises(Stopped):
        bench.adopt(Slow(dump), run)
    assert bench.stored() == [] and list(run.workspace.iterdir()) == []


def test_a_cancel_ends_the_restore_of_a_script(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    sql(shop15, "CREATE TABLE noise AS SELECT md5(g::text) AS a FROM generate_series(1, 300000) g")
    artefact = bench.adopt(by_hand(bench, shop15, "-Fp"))
    for create in (True, False):
        run = bench.run()

        def cancel(progress: Progress) -> None:
            if progress.stage == "restoring":
                run.stop.request(StopReason.CANCEL)  # noqa: B023  called within this turn of the loop only

        run.listener = cancel
        target = fresh_database(postgres15_url, create=create)
        with pytest.raises(Stopped):
            bench.restore(artefact, target, run)
        if create:
            assert sql(target, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]
    assert sql(postgres15_url, f"SELECT 1 FROM pg_database WHERE datname ~ 'flexdb_.*{bench.job_id}'") == []


def test_damage_of_an_adopted_script_is_found_at_level_two(bench: Workbench, shop15: str) -> None:
    artefact = bench.adopt(by_hand(bench, shop15, "-Fp"), compression="none")
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    path.write_bytes(path.read_bytes().replace(b"name 500\t", b"name 501\t"))
    for attempt in (
        lambda: bench.engine.parse(artefact, bench.run()),
        lambda: bench.restore(artefact, shop15, mode="replace"),
    ):
        with pytest.raises(FlexError) as damaged:
            attempt()
        assert isinstance(damaged.value, ArtefactDamaged)
    assert sql(shop15, "SELECT count(*) FROM customers") == [(1000,)]

"""Writing and reading artefacts: sizes, digests, frames, and what is left of them when something fails."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engines.artefacts.compression import zstd
from engines.artefacts.manifest import MANIFEST_NAME, Manifest, StoredFile, Verification
from engines.artefacts.reading import Artefact, read_manifest
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.errors import ArtefactDamaged, ObjectMissing
from engines.run import Run
from engines.storage.local import LocalStore

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore("main", tmp_path / "storage")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("job", 1, tmp_path)


def pieces() -> Iterator[bytes]:
    """A few MiB as a pipe hands them out, with runs that compress and runs that do not."""
    for number in range(300):
        yield os.urandom(7_000) + bytes([number % 256]) * 13_000


def write(store: LocalStore, compression: str, *content: bytes) -> tuple[Artefact, StoredFile]:
    out = ArtefactWriter(store, "shop/1", Compression.parse(compression))
    with out.file("shop.dump", "pg_dump-custom") as sink:
        for piece in content:
            sink.write(piece)
    return Artefact(store, "shop/1", manifest_of(*out.files)), out.files[0]


def manifest_of(*files: StoredFile) -> Manifest:
    now = datetime.now(UTC)
    return Manifest(
        backup_id="1",
        job_id="job",
        event_id="event",
        connection="shop",
        engine="postgres",
        database="shop",
        server_version="15",
        flexdb_version="0",
        started_at=now,
        ended_at=now,
        seconds=0,
        consistency="",
        counts="none",
        objects=(),
        files=files,
        verification=Verification(level=0, at=now),
    )


@pytest.mark.parametrize("text", ["zstd", "zstd:1", "zstd:7", "none"])
def test_what_is_written_is_read_and_described(store: LocalStore, run: Run, text: str) -> None:
    content = list(pieces())
    whole = b"".join(content)
    artefact, file = write(store, text, *content)
    stored = store.get(f"shop/1/{file.name}")
    assert file.name == ("shop.dump" if text == "none" else "shop.dump.zst")
    assert (file.raw_bytes, file.raw_sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert (file.bytes, file.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    with artefact.open_raw(file, run) as source:
        read = list(iter(lambda: source.read(50_000), b""))
    assert b"".join(read) == whole
    assert max(map(len, read)) <= 50_000
    assert all(item.ok for item in artefact.check(run))


def test_a_buffer_may_be_used_again_right_after_it_was_written(store: LocalStore, run: Run) -> None:
    buffer = bytearray(700_000)
    out = ArtefactWriter(store, "shop/1", Compression.parse("none"))
    with out.file("x", "pg_dump-custom") as sink:
        for number in range(6):
            buffer[:] = bytes([number]) * len(buffer)
            sink.write(memoryview(buffer))
    expected = b"".join(bytes([number]) * len(buffer) for number in range(6))
    assert store.get("shop/1/x") == expected
    assert out.files[0].raw_sha256 == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("text", ["zstd", "none"])
def test_an_empty_file_is_written_and_read(store: LocalStore, run: Run, text: str) -> None:
    artefact, file = write(store, text)
    with artefact.open_raw(file, run) as source:
        assert source.read() == b""


def test_the_frame_carries_a_checksum_and_the_zstd_program_reads_it(store: LocalStore) -> None:
    content = b"".join(pieces())
    _, file = write(store, "zstd", content)
    stored = store.get(f"shop/1/{file.name}")
    assert stored[4] & 0b100, "RFC 8878, 3.1.1.1.1: the content checksum flag"
    assert zstd.decompress(stored) == content
    if program := shutil.which("zstd"):
        done = subprocess.run([program, "-dcq"], input=stored, capture_output=True, check=True, timeout=60)
        assert done.stdout == content


@pytest.mark.parametrize("text", ["", "gzip", "zstd:0", "zstd:20", "zstd:", "zstd:1 ", "ZSTD", "zstd:01", "none:1"])
def test_other_compressions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="zstd"):
        Compression.parse(text)


class _OwnError(Exception):
    pass


def fail_halfway(out: ArtefactWriter) -> None:
    with out.file("second", "pg_dump-custom") as sink:
        sink.write(os.urandom(3 * MIB))
        raise _OwnError


def test_a_file_left_by_an_exception_does_not_appear_and_discard_takes_the_others(store: LocalStore) -> None:
    out = ArtefactWriter(store, "shop/1", Compression())
    with out.file("first", "pg_dump-custom") as sink:
        sink.write(b"x")
    with pytest.raises(_OwnError):
        fail_halfway(out)
    assert [file.name for file in out.files] == ["first.zst"]
    assert [found.key for found in store.list()] == ["shop/1/first.zst"]
    out.discard()
    out.discard()
    assert list(store.list()) == []
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("text", ["zstd", "none"])
def test_every_single_flipped_byte_and_every_cut_is_found(store: LocalStore, run: Run, text: str) -> None:
    artefact, file = write(store, text, b"some content that is worth its bytes " * 3)
    path = store.local_path(f"shop/1/{file.name}")
    assert path is not None
    whole = path.read_bytes()
    bad = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    bad += [whole[:at] for at in range(len(whole))] + [whole + b"\0", whole + whole]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(ArtefactDamaged) as damaged:
            artefact.stage(file, run.workspace, run)
        assert any(not item["ok"] for item in damaged.value.details["evidence"])
        with pytest.raises(ArtefactDamaged):
            artefact.check(run)
    assert not (run.workspace / "shop.dump").exists()


def test_a_small_file_that_unpacks_to_very_much_is_read_in_small_pieces(store: LocalStore, run: Run) -> None:
    artefact, file = write(store, "zstd", *(bytes(MIB) for _ in range(64)))
    assert file.bytes < 100_000
    with artefact.open_raw(file, run) as source:
        assert all(len(piece) <= 10_000 for piece in iter(lambda: source.read(10_000), b""))


def test_a_staged_file_is_private_and_a_taken_name_is_left_alone(store: LocalStore, run: Run) -> None:
    artefact, file = write(store, "zstd", b"content")
    path = artefact.stage(file, run.workspace, run)
    assert path.name == "shop.dump"
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"mine")
    with pytest.raises(Exception, match="cannot be written"):
        artefact.stage(file, run.workspace, run)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"manifest_version": 2}'])
def test_a_manifest_that_cannot_be_read_is_damage(store: LocalStore, content: bytes) -> None:
    store.put(f"shop/1/{MANIFEST_NAME}", content)
    with pytest.raises(ArtefactDamaged):
        read_manifest(store, "shop/1")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_a_manifest_that_names_files_outside_its_folder_is_damage(store: LocalStore, name: str) -> None:
    _, file = write(store, "none", b"x")
    bad = manifest_of(file.model_copy(update={"name": name}))
    store.put(f"shop/1/{MANIFEST_NAME}", bad.to_bytes())
    with pytest.raises(ArtefactDamaged):
        read_manifest(store, "shop/1")


def test_a_manifest_that_is_not_there_is_missing(store: LocalStore) -> None:
    with pytest.raises(ObjectMissing):
        read_manifest(store, "shop/1")


@pytest.mark.parametrize("name", ["é" * 31, "漢" * 64, "a/../b", "..", ".hidden"])
def test_the_files_of_any_database_can_be_stored_and_keep_its_name(store: LocalStore, name: str) -> None:
    out = ArtefactWriter(store, "shop/1", Compression.parse("zstd"))
    for database in (name, name + "2"):
        with out.part(database).file("dump.globals.sql", "mysqldump-sql") as sink:
            sink.write(b"of " + database.encode())
    assert [file.database for file in out.all_files] == [name, name + "2"]
    assert len({file.name for file in out.all_files}) == 2
    assert len(list(store.list("shop/1/"))) == 2

"""mongodump's formats, read and written without a server; every way an archive can be damaged."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import bson
import pytest

from engines.mongodb import metadata
from engines.mongodb.adopt import recognise
from engines.mongodb.archive import END, MAGIC, ArchiveReader, ArchiveWriter, Prelude
from engines.mongodb.directory import DirectoryReader, file_name
from engines.mongodb.documents import DocumentStream, Fingerprint, Malformed, count_documents, split
from engines.mongodb.metadata import Collection

DUMPS = Path(__file__).parents[1] / "data" / "mongodump"


def archive(batch: int = 10) -> bytes:
    """Two collections whose blocks interleave, an empty one and a view."""
    out = io.BytesIO()
    writer = ArchiveWriter(out)
    items = [Collection("shop", name, "collection", {}, (), "", name) for name in ("one", "two", "none")]
    writer.begin(Prelude("8.0.0", "test", (*items, Collection("shop", "seen", "view", {"viewOn": "one"}))), 2)
    for start in range(0, 40, batch):
        for name in ("one", "two"):
            documents = b"".join(bson.encode({"_id": n, "in": name}) for n in range(start, start + batch))
            writer.block(("shop", name), documents)
    for name in ("one", "two", "none", "seen"):
        writer.end(("shop", name))
    return out.getvalue()


def walked(data: bytes) -> dict[str, int]:
    counts: dict[str, int] = {}
    for block in ArchiveReader(io.BytesIO(data).read).blocks():
        counts[block.name[1]] = counts.get(block.name[1], 0) + block.number
    return counts


def pieces(data: bytes) -> list[bytes]:
    """Its documents and terminators."""
    found, at = [data[:4]], 4
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little", signed=True)
        size = 4 if size == -1 else size
        found.append(data[at : at + size])
        at += size
    return found


def blocks(data: bytes) -> list[bytes]:
    """The prelude, then each block with its terminator."""
    found, open_block = [], b""
    for piece in pieces(data):
        open_block += piece
        if piece == END:
            found.append(open_block)
            open_block = b""
    return found


def test_what_was_written_is_read() -> None:
    assert walked(archive()) == {"one": 40, "two": 40, "none": 0, "seen": 0}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_it_does_not_matter_how_the_stream_is_cut_into_reads(chunk: int) -> None:
    data = io.BytesIO(archive())
    counts: dict[str, int] = {}
    for block in ArchiveReader(lambda _: data.read(chunk)).blocks():
        counts[block.name[1]] = counts.get(block.name[1], 0) + block.number
    assert counts == {"one": 40, "two": 40, "none": 0, "seen": 0}


def test_an_archive_cut_anywhere_is_found() -> None:
    data = archive()
    for end in range(len(data)):
        with pytest.raises(Malformed):
            walked(data[:end])


def test_a_flipped_byte_of_any_document_is_found() -> None:
    data = archive(2)
    start = len(blocks(data)[0])
    for at in range(start, len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x01
        if bytes(changed) == data:
            continue
        with pytest.raises(Malformed):
            walked(bytes(changed))


def _swapped(parts: list[bytes], one: int, other: int) -> list[bytes]:
    parts = list(parts)
    parts[one], parts[other] = parts[other], parts[one]
    return parts


BLOCK_DAMAGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a block missing": lambda parts: parts[:1] + parts[2:],
    "the last block missing": lambda parts: parts[:-1],
    "a block twice": lambda parts: [*parts[:2], *parts[1:]],
    "two blocks of one collection swapped": lambda parts: _swapped(parts, 1, 3),
    "a block after its collection's end": lambda parts: [*parts, parts[1]],
    "an end before the documents": lambda parts: _swapped(parts, 1, -4),
    "the prelude missing": lambda parts: parts[1:],
    "something behind it": lambda parts: [*parts, b"\0"],
    "documents in another collection's block": lambda parts: [parts[0], _renamed(parts[1]), *parts[2:]],
    "a block of a collection that is not listed": lambda parts: [parts[0], _renamed(parts[1], "new"), *parts[1:]],
    "an end that is no block": lambda parts: [*parts[:-1], parts[-1][:-4]],
}


def _renamed(block: bytes, name: str = "two") -> bytes:
    size = int.from_bytes(block[:4], "little")
    header = bson.decode(block[:size]) | {"collection": name}
    return bson.encode(header) + block[size:]


@pytest.mark.parametrize("damage", BLOCK_DAMAGES)
def test_damaged_blocks_are_found(damage: str) -> None:
    with pytest.raises(Malformed):
        walked(b"".join(BLOCK_DAMAGES[damage](blocks(archive()))))


def test_blocks_of_different_collections_may_come_in_any_order() -> None:
    parts = blocks(archive())
    assert walked(b"".join(_swapped(parts, 1, 2))) == walked(archive())


def test_swapped_documents_are_found() -> None:
    found = pieces(archive())
    first = next(number for number, piece in enumerate(found) if b"_id" in piece)
    with pytest.raises(Malformed):
        walked(b"".join(_swapped(found, first, first + 1)))


@pytest.mark.parametrize("size", [-2, 0, 4, (1 << 31) - 1])
def test_lengths_that_no_document_has_are_refused_without_reading_on(size: int) -> None:
    data = MAGIC + size.to_bytes(4, "little", signed=True) + b"x" * 100
    with pytest.raises(Malformed):
        walked(data)


def test_random_bytes_are_no_archive() -> None:
    noise = random.Random(5)
    for _ in range(300):
        with pytest.raises(Malformed):
            walked(MAGIC + noise.randbytes(noise.randrange(400)))


def test_a_real_archive_of_mongodump_is_read_and_its_checksums_agree() -> None:
    assert walked((DUMPS / "shop.archive").read_bytes()) == {
        "customers": 500,
        "odd name/é%": 200,
        "empty": 0,
        "rich": 0,
    }


def test_metadata_are_written_as_mongodump_writes_them() -> None:
    """Down to the byte, for every collection of a real dump."""
    found = ArchiveReader(io.BytesIO((DUMPS / "shop.archive").read_bytes()).read)
    for item in found.prelude.collections:
        name = file_name(item.name)
        text = (DUMPS / "directory" / "shop" / f"{name}.metadata.json").read_text()
        assert item.as_json() == text


def test_operators_in_a_validator_are_not_taken_for_values() -> None:
    rule = {"name": {"$regex": "^a", "$options": "i"}, "age": {"$type": "int"}, "$expr": {"$eq": ["$a", 1]}}
    item = Collection("shop", "people", "collection", {"validator": rule}, (), "", "people")
    assert metadata.read(item.as_json(), "shop", "people").options == {"validator": rule}


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"options": 1}', '{"indexes": {}}', '{"type": "heap"}'])
def test_metadata_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        metadata.read(text, "shop", "people")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("plain", "plain"),
        ("odd name/é%", "odd+name%2F%C3%A9%25"),
        ("a.b_c-d~e", "a.b_c-d~e"),
        ("x" * 238, "x" * 238),
        ("ü" * 60, "%C3%BC" * 34 + "%C3%" + "%24"),
    ],
)
def test_files_are_named_as_mongodump_names_them(name: str, file: str) -> None:
    assert file_name(name).startswith(file)
    assert len(file_name(name)) <= 238


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(mode="w", fileobj=out) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def read_directory(data: bytes) -> tuple[Prelude, dict[str, int]]:
    reader = DirectoryReader(lambda: io.BytesIO(data).read)
    counts: dict[str, int] = {}
    for block in reader.blocks():
        counts[block.name[1]] = counts.get(block.name[1], 0) + block.number
    return reader.prelude, counts


def directory_files(*, gzipped: bool = False) -> dict[str, bytes]:
    found = {}
    for path in sorted((DUMPS / "directory").rglob("*.*")):
        name = f"dump/{path.relative_to(DUMPS / 'directory')}"
        data = path.read_bytes()
        found[f"{name}.gz" if gzipped else name] = gzip.compress(data) if gzipped else data
    return found


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_real_directory_of_mongodump_is_read(gzipped: bool) -> None:
    prelude, counts = read_directory(tar_of(directory_files(gzipped=gzipped)))
    assert counts == {"customers": 500, "odd name/é%": 200, "empty": 0}
    assert prelude.server_version == "8.2.11"
    assert {item.name: item.kind for item in prelude.collections}["rich"] == "view"
    assert {item.database for item in prelude.collections} == {"shop"}


def directory_damages() -> Iterator[tuple[str, dict[str, bytes]]]:
    files = directory_files()
    documents = "dump/shop/customers.bson"
    yield "documents missing", {name: data for name, data in files.items() if name != documents}
    yield "documents cut", files | {documents: files[documents][:-1]}
    yield "documents cut in a length", files | {documents: files[documents] + b"\x10\0"}
    yield "metadata damaged", files | {"dump/shop/customers.metadata.json": b"{"}
    yield "something else", {"hello.txt": b"hello"}
    gzipped = directory_files(gzipped=True)
    name = f"{documents}.gz"
    yield "gzip cut", gzipped | {name: gzipped[name][:-9]}
    flipped = bytearray(gzipped[name])
    flipped[len(flipped) // 2] ^= 4
    yield "gzip flipped", gzipped | {name: bytes(flipped)}


@pytest.mark.parametrize(("what", "files"), tuple(directory_damages()))
def test_a_damaged_directory_is_found(what: str, files: dict[str, bytes]) -> None:
    with pytest.raises(Malformed):
        read_directory(tar_of(files))


def test_a_tar_stream_cut_anywhere_is_found() -> None:
    """Between two members as well, where `tarfile` takes the cut for the end."""
    data = tar_of(directory_files())
    whole = len(data.rstrip(b"\0"))
    for end in (*range(0, whole, tarfile.BLOCKSIZE), 600, whole // 2, whole - 1):
        with pytest.raises(Malformed):
            read_directory(data[:end])


def test_dumps_are_recognised_by_their_beginning() -> None:
    assert recognise((DUMPS / "shop.archive").read_bytes()[: 1 << 16]) == "mongodump-archive"
    assert recognise(tar_of(directory_files())[: 1 << 16]) == "mongodump-directory-tar"
    for other in (b"", b"PGDMP", b"SQLite format 3\0", tar_of({"toc.dat": b"PGDMP"}), tar_of({"a.txt": b"x"})):
        assert recognise(other) is None


def test_documents_are_counted_by_their_lengths() -> None:
    data = b"".join(bson.encode({"n": n}) for n in range(5))
    assert count_documents(data) == 5 == len(list(split(data)))
    assert count_documents(b"") == 0
    for damaged in (data[:-1], data + b"\0", b"\0" + data, data[3:]):
        with pytest.raises(Malformed):
            count_documents(damaged)


def test_a_fingerprint_is_of_the_documents_whatever_their_order() -> None:
    documents = [bson.encode({"n": n}) for n in range(5)]
    one, other, less, double = Fingerprint(), Fingerprint(), Fingerprint(), Fingerprint()
    one.add(b"".join(documents))
    for document in reversed(documents):
        other.add(document)
    less.add(b"".join(documents[1:]))
    double.add(b"".join([*documents[1:], documents[1]]))
    assert one.hexdigest() == other.hexdigest()
    assert len({one.hexdigest(), less.hexdigest(), double.hexdigest()}) == 3


def test_memory_holds_no_more_than_a_read_and_a_document() -> None:
    document = bson.encode({"data": b"x" * 1000})
    stream = DocumentStream(io.BytesIO(document * 10_000).read, chunk=1 << 16)
    longest = 0
    while not stream.at_end():
        found, _ = stream.run()
        longest = max(longest, len(found))
    assert longest <= (1 << 16) + len(document)

"""Taking in dumps that mongodump made: copied as they are, all of them walked on the way."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

import bson
from bson import CodecOptions, DatetimeConversion
from bson.errors import BSONError

from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import damaged
from engines.artefacts.writing import ArtefactWriter, Sink
from engines.base import Dump, Source, Tool
from engines.errors import InvalidDump
from engines.mongodb import archive, directory, stored
from engines.mongodb.archive import ArchiveReader, Name, Prelude, described
from engines.mongodb.directory import DirectoryReader
from engines.mongodb.documents import DocumentStream, Malformed, split
from engines.mongodb.dump import by_hand
from engines.mongodb.metadata import Collection
from engines.run import Run

NAMES = {archive.FORMAT: "mongodump.archive", directory.FORMAT: "mongodump.tar"}
LENIENT: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, unicode_decode_error_handler="ignore"
)
"""Text that is not UTF-8 and times before year 1 are found in databases, and are no damage."""
CONSISTENCY = "Made by mongodump outside FlexDB: what moment it shows is known to whoever made it."


def recognise(head: bytes) -> str | None:
    """The format of a dump that begins so."""
    if head.startswith(archive.MAGIC):
        return archive.FORMAT
    try:
        with tarfile.open(mode="r|", fileobj=io.BytesIO(head)) as tar:
            for member in tar:
                name = member.name.removesuffix(".gz")
                if name.endswith((directory.DOCUMENTS, directory.METADATA)):
                    return directory.FORMAT
    except tarfile.TarError:  # no tar, or none whose first members are all in the head
        return None
    return None


def adopt(source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
    """Raises `ArtefactDamaged` for a dump that is not whole, `InvalidDump` for one without a user's collection."""
    with out.file(NAMES[format], format) as sink:
        copied = _Copied(source, sink, run)
        try:
            prelude, counts = _walk_archive(copied) if format == archive.FORMAT else _walk_directory(copied)
        except Malformed as error:
            seen = Evidence(level=2, check=format, object=NAMES[format], expected="whole", found=str(error), ok=False)
            raise damaged(f"The dump is damaged: {error}.", seen) from error
        items = stored.user_collections(prelude)
        if not items:
            raise InvalidDump("The dump holds no collection of a user's database.")
    return _described(prelude, items, counts, out)


class _Copied:
    """The source's bytes, each of them written into the artefact as it is read."""

    def __init__(self, source: Source, sink: Sink, run: Run) -> None:
        self._source, self._sink, self._run = source, sink, run

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._sink.write(data)
        self._run.progress("adopting", self._sink.raw_bytes)
        return data


def _walk_archive(copied: _Copied) -> tuple[Prelude, dict[Name, int]]:
    reader = ArchiveReader(copied.read)
    find = described(reader.prelude.collections)
    counts: dict[Name, int] = {}
    for block in reader.blocks():
        item = find(block.name)
        if item is not None:
            name = (item.database, item.name)
            counts[name] = counts.get(name, 0) + block.number
    return reader.prelude, counts


def _walk_directory(copied: _Copied) -> tuple[Prelude, dict[Name, int]]:
    reader = DirectoryReader(lambda: copied.read, _decoded)
    find = described(reader.prelude.collections)
    counts: dict[Name, int] = {}
    for name, number in reader.counts.items():
        item = find(name)
        if item is not None:
            counts[(item.database, item.name)] = number
    for item in stored.user_collections(reader.prelude):
        if item.kind == "collection" and (item.database, item.name) not in counts:
            raise Malformed(f"the documents of {item.name!r} are missing")
    return reader.prelude, counts


def _decoded(read: Callable[[int], bytes], path: str) -> int:
    """This layout has no checksum: decoding each document is the most that can be looked at. Their number."""
    stream, total = DocumentStream(read), 0
    while not stream.at_end():
        documents, number = stream.run()
        if not number:
            raise Malformed(f"{path} holds something that is no document")
        for document in split(documents):
            try:
                bson.decode(document, LENIENT)
            except (BSONError, ValueError, OverflowError) as error:
                raise Malformed(f"document {total + 1} of {path} is not readable") from error
            total += 1
    return total


def _described(prelude: Prelude, items: list[Collection], counts: dict[Name, int], out: ArtefactWriter) -> Dump:
    names = stored.databases(prelude)
    objects = tuple(
        ObjectCount(
            name=item.name,
            kind=item.kind,
            rows=None if item.kind == "view" else counts.get((item.database, item.name), 0),
            database=item.database if len(names) > 1 else None,
        )
        for item in items
    )
    taken = {(item.database, item.name) for item in items}
    others = [f"{item.database}.{item.name}" for item in prelude.collections if (item.database, item.name) not in taken]
    return Dump(
        server_version=prelude.server_version or "unknown",
        objects=objects,
        counts="exact",
        consistency=CONSISTENCY,
        restore_by_hand=by_hand(out, names[0] if len(names) == 1 else "*", globals_too=False),
        tool=Tool("mongodump", prelude.tool_version or "unknown"),
        options={"dumped_databases": list(names), "not_restored": others},
    )

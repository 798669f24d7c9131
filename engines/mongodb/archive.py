"""mongodump's archive: several collections in one stream, each ended by the CRC-64 of its documents.

https://github.com/mongodb/mongo-tools/blob/master/common/archive/spec.md, and `prelude.go`, `multiplexer.go` and
`parser.go` beside it. A magic number; a header and one document per collection, ended by a terminator; then blocks,
each a namespace's header, documents and a terminator. Blocks of different collections may interleave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import bson
from bson.errors import BSONError
from bson.int64 import Int64
from fastcrc import crc64

from engines.mongodb import metadata
from engines.mongodb.documents import DocumentStream, Malformed
from engines.mongodb.metadata import BUCKETS, Collection

FORMAT = "mongodump-archive"
MAGIC = bytes.fromhex("6de29981")
END = b"\xff\xff\xff\xff"
VERSION = "0.1"
Name = tuple[str, str]
"""Database and collection; the oplog has no database."""


class Out(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Prelude:
    """What a dump says of itself before its documents."""

    server_version: str
    tool_version: str
    collections: tuple[Collection, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Documents of one collection that follow each other, or its end."""

    name: Name
    documents: bytes = b""
    number: int = 0
    last: bool = False


class ArchiveWriter:
    """Writes blocks as they come. `crcs` holds the CRC-64 of every collection begun."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self.crcs: dict[Name, int] = {}

    def begin(self, prelude: Prelude, concurrent: int) -> bytes:
        """The prelude, which is also what comes back. `concurrent`: how many collections are open at once at most,
        which a reader must be ready for."""
        header = {
            "concurrent_collections": concurrent,
            "version": VERSION,
            "server_version": prelude.server_version,
            "tool_version": prelude.tool_version,
        }
        described = [bson.encode(header), *(bson.encode(_described(item)) for item in prelude.collections)]
        data = b"".join([MAGIC, *described, END])
        self._out.write(data)
        return data

    def block(self, name: Name, documents: bytes) -> None:
        """Whole documents of one collection."""
        self._out.write(_header(name, last=False, crc=0) + documents + END)
        self.crcs[name] = crc64.xz(documents, self.crcs.get(name, 0))

    def end(self, name: Name) -> None:
        if name not in self.crcs:  # as mongodump does, a collection is opened before it is closed
            self.block(name, b"")
        self._out.write(_header(name, last=True, crc=self.crcs[name]) + END)


def _described(item: Collection) -> dict[str, Any]:
    text = "" if item.name.startswith("$") else item.as_json()
    kind = metadata.WRITTEN[item.kind]
    return {"db": item.database, "collection": item.name, "metadata": text, "size": 0, "type": kind}


def _header(name: Name, *, last: bool, crc: int) -> bytes:
    signed = crc - (1 << 64) if crc >= 1 << 63 else crc
    return bson.encode({"db": name[0], "collection": name[1], "EOF": last, "CRC": Int64(signed)})


class ArchiveReader:
    """Reads an archive to its end, checking all it says of itself; raises `Malformed`."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._stream = DocumentStream(read)
        self.prelude = self._prelude()
        self._waiting = {name for item in self.prelude.collections if (name := _expected(item))}
        self._time_series = {
            (item.database, item.name) for item in self.prelude.collections if item.kind == "time-series"
        }

    def _prelude(self) -> Prelude:
        if self._stream.take(len(MAGIC)) != MAGIC:
            raise Malformed("it does not begin as an archive does")
        header = _decoded(self._stream.document())
        collections = []
        while (data := self._stream.document()) is not None:
            found = _decoded(data)
            if not found.get("collection"):
                raise Malformed("it lists a collection without a name")
            item = metadata.read(
                str(found.get("metadata") or ""),
                str(found.get("db") or ""),
                str(found["collection"]),
                str(found.get("type") or ""),
            )
            collections.append(item)
        return Prelude(str(header.get("server_version", "")), str(header.get("tool_version", "")), tuple(collections))

    def blocks(self) -> Iterator[Block]:
        """Every block; what a collection held is proven when its last one has come."""
        crcs: dict[Name, int] = {}
        ended: set[Name] = set()
        while not self._stream.at_end():
            name, last, crc = _parsed_header(self._stream.document())
            if name in ended:
                raise Malformed(f"more of {name[1]!r} follows its end")
            if not self._is_listed(name):
                raise Malformed(f"it holds a collection {name[1]!r} that it does not list")
            if crc and not last:
                raise Malformed(f"a block of {name[1]!r} has no proper header")
            if last:
                _refuse_wrong_crc(name, crc, crcs.pop(name, 0))
                ended.add(name)
            while True:
                documents, number = self._stream.run()
                if not number:
                    break
                if last:
                    raise Malformed(f"documents follow the end of {name[1]!r}")
                crcs[name] = crc64.xz(documents, crcs.get(name, 0))
                yield Block(name, documents, number)
            if self._stream.at_end() or self._stream.document() is not None:
                raise Malformed("it ends within a block")
            if last:
                yield Block(name, last=True)
        self._refuse_unfinished(crcs, ended)

    def _is_listed(self, name: Name) -> bool:
        database, collection = name
        if not database or name in self._waiting or name in self._time_series:
            return True
        return collection.startswith(BUCKETS) and (database, collection.removeprefix(BUCKETS)) in self._time_series

    def _refuse_unfinished(self, crcs: dict[Name, int], ended: set[Name]) -> None:
        missing = sorted((self._waiting - ended) | set(crcs))
        for database, name in self._time_series:
            if not {(database, name), (database, BUCKETS + name)} & ended:
                missing.append((database, name))
        if missing:
            raise Malformed(f"it ends before all of {missing[0][1]!r} has come")


def _expected(item: Collection) -> Name | None:
    return None if item.kind == "time-series" else (item.database, item.name)


def _decoded(data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise Malformed("a header is missing")
    try:
        return bson.decode(data)
    except (BSONError, UnicodeDecodeError, ValueError) as error:
        raise Malformed("a header is not readable") from error


def _parsed_header(data: bytes | None) -> tuple[Name, bool, int]:
    found = _decoded(data)
    try:
        database, name, last, crc = found["db"], found["collection"], found["EOF"], int(found["CRC"])
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed("a block has no proper header") from error
    if not (isinstance(database, str) and isinstance(name, str) and name and isinstance(last, bool)):
        raise Malformed("a block has no proper header")
    return (database, name), last, crc & 0xFFFF_FFFF_FFFF_FFFF


def _refuse_wrong_crc(name: Name, told: int, found: int) -> None:
    if told != found:
        raise Malformed(f"CRC-64 of {name[1]!r} should be {told:016x}, found {found:016x}")


def described(collections: Sequence[Collection]) -> Callable[[Name], Collection | None]:
    """Finds the collection a block belongs to: time-series keep their documents under another name."""
    by_name = {(item.database, item.name): item for item in collections}

    def find(name: Name) -> Collection | None:
        database, collection = name
        return by_name.get(name) or by_name.get((database, collection.removeprefix(BUCKETS)))

    return find

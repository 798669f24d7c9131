"""mongodump's directory layout, as one tar stream: names, metadata and documents per collection.

https://github.com/mongodb/mongo-tools/blob/master/common/util/namespaces.go (names of files), `mongodump/prepare.go`:
`DATABASE/COLLECTION.bson` holds documents and nothing else, `COLLECTION.metadata.json` what the collection is;
`prelude.json` says which server; with --gzip each of them ends in `.gz`. There is no checksum.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, cast
from urllib.parse import quote_plus, unquote_plus

from engines.mongodb import metadata
from engines.mongodb.archive import Block, Name, Prelude
from engines.mongodb.documents import DocumentStream, Malformed
from engines.mongodb.metadata import BUCKETS, Collection

FORMAT = "mongodump-directory-tar"
LONGEST_FILE = 238
KEPT_OF_LONG = 208
PRELUDE = "prelude.json"
DOCUMENTS = ".bson"
METADATA = ".metadata.json"
OPLOG = "oplog"
NO_TAR = "it is not a whole tar stream"
LONGEST_METADATA = 64 << 20


def file_name(collection: str) -> str:
    """The name of its files without the ending, as mongodump escapes it."""
    escaped = quote_plus(collection, safe="")
    if len(escaped) <= LONGEST_FILE:
        return escaped
    # The name's own digest is part of the format; nothing is protected by it.
    digest = hashlib.sha1(collection.encode(), usedforsecurity=False).digest()
    return f"{escaped[:KEPT_OF_LONG]}%24{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


class DirectoryReader:
    """Reads such a tar stream; `prelude` reads it to its end, `blocks` wants it once more from the start.

    Metadata may follow the documents they belong to, so they have to be known before. With `walk`, which takes the
    reading function of each file of documents and tells their number, the first reading is all that is needed, and
    `counts` says what was found. Raises `Malformed`.
    """

    def __init__(
        self,
        open_again: Callable[[], Callable[[int], bytes]],
        walk: Callable[[Callable[[int], bytes], str], int] | None = None,
    ) -> None:
        self._open = open_again
        self._walk = walk
        self.counts: dict[Name, int] = {}
        self.prelude, self._names = self._look()

    def _look(self) -> tuple[Prelude, dict[str, Name]]:
        versions: dict[str, Any] = {}
        texts: dict[str, bytes] = {}
        with_documents: dict[str, int] = {}
        for path, read in self._members():
            if path.endswith(METADATA):
                texts[path.removesuffix(METADATA)] = _whole(read, path)
            elif path.rpartition("/")[2] == PRELUDE:
                versions = _versions(_whole(read, path))
            elif path.endswith(DOCUMENTS):
                number = self._walk(read, path) if self._walk is not None else 0
                with_documents[path.removesuffix(DOCUMENTS)] = number
        found, names = _listed(texts, list(with_documents))
        self.counts = {names[path]: number for path, number in with_documents.items()}
        if not found:
            raise Malformed("it holds no collection as mongodump writes them")
        server, tool = str(versions.get("ServerVersion", "")), str(versions.get("ToolVersion", ""))
        return Prelude(server, tool, tuple(found)), names

    def blocks(self) -> Iterator[Block]:
        """Every collection's documents, one collection after the other."""
        seen = set()
        for path, read in self._members():
            if not path.endswith(DOCUMENTS):
                continue
            name = self._names[path.removesuffix(DOCUMENTS)]
            seen.add(name)
            stream = DocumentStream(read)
            while not stream.at_end():
                documents, number = stream.run()
                if not number:
                    raise Malformed(f"{path} holds something that is no document")
                yield Block(name, documents, number)
            yield Block(name, last=True)
        for item in self.prelude.collections:
            if item.data_in and not item.name.startswith("$") and (item.database, item.data_in) not in seen:
                raise Malformed(f"the documents of {item.name!r} are missing")

    def _members(self) -> Iterator[tuple[str, Callable[[int], bytes]]]:
        """Every regular file, by its path without `.gz`, and how to read it."""
        source = _Source(self._open())
        try:
            with tarfile.open(mode="r|", fileobj=cast(IO[bytes], source), bufsize=1 << 20) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is None:
                        continue
                    path = str(PurePosixPath(member.name)).removeprefix("/")
                    plain = path.removesuffix(".gz")
                    read = _translated(content)
                    yield plain, (read if plain == path else _Inflating(read, path).read)
        except tarfile.TarError as error:
            raise Malformed(NO_TAR) from error
        source.drain()


def _translated(content: IO[bytes]) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        try:
            return content.read(size)
        except tarfile.TarError as error:
            raise Malformed(NO_TAR) from error

    return read


class _Source:
    """What `tarfile` reads from; its own errors for those of the artefact pass it untouched."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._from = read
        self._held = b""
        self._end = b""
        self._size = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes but at the end: `tarfile` takes less for the end."""
        parts, have = [self._held], len(self._held)
        while have < size:
            data = self._more()
            if not data:
                break
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self._held = whole[size:]
        return whole[:size]

    def drain(self) -> None:
        """Read what follows the tar's end: the artefact's digests are checked at the very end of it.

        `tarfile` takes a stream that was cut for one that has ended; a whole one ends in two blocks of zeros.
        """
        while self._more():
            continue
        if self._size % tarfile.BLOCKSIZE or self._end != bytes(2 * tarfile.BLOCKSIZE):
            raise Malformed(NO_TAR)

    def _more(self) -> bytes:
        data = self._from(1 << 20)
        self._size += len(data)
        self._end = (self._end + data[-2 * tarfile.BLOCKSIZE :])[-2 * tarfile.BLOCKSIZE :]
        return data


class _Inflating:
    """gzip as it is read, output bounded; raises `Malformed` for damage and for a stream cut short."""

    def __init__(self, read: Callable[[int], bytes], path: str) -> None:
        self._read, self._path = read, path
        self._inflate = zlib.decompressobj(wbits=31)

    def read(self, size: int = 1 << 20) -> bytes:
        try:
            while not self._inflate.eof:
                data = self._inflate.unconsumed_tail or self._read(1 << 16)
                if not data:
                    raise Malformed(f"{self._path} is cut short")
                found = self._inflate.decompress(data, size)
                if found:
                    return found
        except zlib.error as error:
            raise Malformed(f"{self._path} is not whole gzip data") from error
        return b""


def _whole(read: Callable[[int], bytes], path: str) -> bytes:
    parts, have = [], 0
    while data := read(1 << 20):
        parts.append(data)
        have += len(data)
        if have > LONGEST_METADATA:
            raise Malformed(f"{path} is too long for what it is")
    return b"".join(parts)


def _versions(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Malformed(f"{PRELUDE} is not readable") from error
    return found if isinstance(found, dict) else {}


def _listed(texts: dict[str, bytes], with_documents: list[str]) -> tuple[list[Collection], dict[str, Name]]:
    """The collections, and which one each file of documents belongs to."""
    found: dict[Name, Collection] = {}
    names: dict[str, Name] = {}
    for path, data in sorted(texts.items()):
        database, file = _place(path)
        try:
            item = metadata.read(data.decode(), database, unquote_plus(file))
        except UnicodeDecodeError as error:
            raise Malformed(f"{path}{METADATA} is not UTF-8") from error
        buckets = _beside(path, BUCKETS + item.name)
        if item.kind == "time-series" and buckets in with_documents:
            item = _stored_in(item, BUCKETS + item.name)
            names[buckets] = (database, item.data_in)
        found[(database, item.name)] = item
        names.setdefault(path, (database, item.data_in or item.name))
    for path in with_documents:
        database, file = _place(path)
        name = names.setdefault(path, (database, unquote_plus(file)))
        if database and path not in texts and not name[1].startswith(BUCKETS):
            found.setdefault(name, Collection(database, name[1], "collection", {}, (), "", name[1]))
    return list(found.values()), names


def _stored_in(item: Collection, name: str) -> Collection:
    return Collection(item.database, item.name, item.kind, item.options, item.indexes, item.uuid, name)


def _beside(path: str, collection: str) -> str:
    folder = path.rpartition("/")[0]
    return f"{folder}/{file_name(collection)}" if folder else file_name(collection)


def _place(path: str) -> tuple[str, str]:
    """Database and file: the folder a file lies in is the database, wherever in the tree that is."""
    folder, _, file = path.rpartition("/")
    if file == OPLOG and folder.count("/") == 0 and not folder:
        return "", OPLOG
    return folder.rpartition("/")[2], file

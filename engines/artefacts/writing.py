"""Writing an artefact: raw bytes are hashed, compressed, hashed again and stored, in bounded memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from engines.artefacts.compression import Compression, zstd
from engines.artefacts.hashing import Sha256Thread
from engines.artefacts.manifest import StoredFile
from engines.storage.base import ObjectWriter, Store

__all__ = ["ArtefactWriter", "Compression", "Sink"]

BLOCK_BYTES = 1 << 20
"""Pipes hand out 10 to 64 KiB at a time; hashing beside compressing wants bigger blocks."""
LONGEST_PREFIX = 150
"""Of the encoded name of a database; the rest of a key is for a digest and the name of the file itself."""
BLOCKS = 2
"""Used in turn: while one is hashed the next is filled. `Sha256Thread.update` waits for the one before."""


class Sink:
    """Takes the raw bytes of one file of an artefact."""

    def __init__(self, out: ObjectWriter, compression: Compression, *, staged: bool = False) -> None:
        self._out = out
        self._compressor = compression.compressor(staged=staged) if compression.method == "zstd" else None
        self._raw_hash = Sha256Thread()
        self._stored_hash = hashlib.sha256()
        self._blocks = [memoryview(bytearray(BLOCK_BYTES)) for _ in range(BLOCKS)]
        self._filled = 0
        """Bytes of the first block."""
        self.raw_bytes = 0
        self.stored_bytes = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take all of `data` (a buffer may be used again afterwards); raises what the store raises."""
        rest = memoryview(data).cast("B")
        length = len(rest)
        while rest:
            part = rest[: BLOCK_BYTES - self._filled]
            self._blocks[0][self._filled : self._filled + len(part)] = part
            self._took(len(part))
            rest = rest[len(part) :]
        return length

    def fill(self, readinto: Callable[[memoryview], int]) -> int:
        """Have `readinto` put bytes where they are needed, which saves a copy; how many it was, none at its end."""
        count = readinto(self._blocks[0][self._filled :])
        self._took(count)
        return count

    def _took(self, count: int) -> None:
        self.raw_bytes += count
        self._filled += count
        if self._filled == BLOCK_BYTES:
            self._pass_on()

    def finish(self) -> None:
        """End the frame; nothing may be written afterwards."""
        self._pass_on()
        if self._compressor is not None:
            self._store(self._compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME))

    def close(self) -> None:
        """End the helper thread; called in every case."""
        self._raw_hash.close()

    def digests(self) -> dict[str, Any]:
        """Sizes and digests as `StoredFile` names them, after `finish`."""
        return {
            "raw_bytes": self.raw_bytes,
            "raw_sha256": self._raw_hash.hexdigest(),
            "bytes": self.stored_bytes,
            "sha256": self._raw_hash.hexdigest() if self._compressor is None else self._stored_hash.hexdigest(),
        }

    def _pass_on(self) -> None:
        block = self._blocks[0][: self._filled]
        self._filled = 0
        self._blocks.append(self._blocks.pop(0))
        if not block:
            return
        self._raw_hash.update(block)
        self._store(bytes(block) if self._compressor is None else self._compressor.compress(block))

    def _store(self, data: bytes) -> None:
        if not data:
            return
        if self._compressor is not None:  # uncompressed, raw and stored bytes are the same
            self._stored_hash.update(data)
        self.stored_bytes += len(data)
        self._out.write(data)


class ArtefactWriter:
    """Writes the files of one artefact into `folder` of a store; the manifest is not its business."""

    def __init__(self, store: Store, folder: str, compression: Compression, database: str | None = None) -> None:
        """`database`: the one these files are of, where the artefact holds several."""
        self.folder = folder
        self.database = database
        self.files: list[StoredFile] = []
        """What was written so far, in order."""
        self._store = store
        self._compression = compression
        self._names: list[str] = []
        self._parts: list[ArtefactWriter] = []

    def part(self, database: str) -> ArtefactWriter:
        """Writes the files of one database among several into this artefact, under names that begin with its own."""
        part = ArtefactWriter(self._store, self.folder, self._compression, database)
        self._parts.append(part)
        return part

    @property
    def all_files(self) -> tuple[StoredFile, ...]:
        """What was written so far, that of the parts included."""
        return (*self.files, *(file for part in self._parts for file in part.all_files))

    @contextmanager
    def file(self, name: str, format: str, *, staged: bool = False) -> Iterator[Sink]:
        """Write one file; stored as `name`, or `name.zst` when compressed.

        Left by an exception nothing appears. `format` is one of those `StoredFile.format` lists. `staged`: its bytes
        lie ready on disk, so that compressing them may take all processors.
        """
        stored_name = self._prefix + name + self._compression.suffix
        self._names.append(stored_name)
        with self._store.writing(f"{self.folder}/{stored_name}") as out:
            sink = Sink(out, self._compression, staged=staged)
            try:
                yield sink
                sink.finish()
                digests = sink.digests()
            finally:
                sink.close()
        self.files.append(
            StoredFile(
                name=stored_name,
                format=format,
                database=self.database,
                compression=self._compression.method,
                **digests,
            )
        )

    @property
    def _prefix(self) -> str:
        """Percent-encoded, so that any database's name is part of a file's name: none is hidden, none too long."""
        if self.database is None:
            return ""
        name = re.sub(r"^\.", "%2E", quote(self.database, safe=""))
        if len(name) > LONGEST_PREFIX:
            name = f"{name[:LONGEST_PREFIX]}~{hashlib.sha256(self.database.encode()).hexdigest()[:16]}"
        return f"{name}."

    def discard(self) -> None:
        """Delete everything written; what is missing already is no error. A second call does no harm."""
        for part in self._parts:
            part.discard()
        self.files.clear()
        for name in self._names:
            self._store.delete(f"{self.folder}/{name}")

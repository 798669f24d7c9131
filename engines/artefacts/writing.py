"""Writing an artefact: raw bytes are hashed, compressed, hashed again and stored, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engines.artefacts.compression import Compression, zstd
from engines.artefacts.hashing import Sha256Thread
from engines.artefacts.manifest import StoredFile
from engines.storage.base import ObjectWriter, Store

__all__ = ["ArtefactWriter", "Compression", "Sink"]

BLOCK_BYTES = 1 << 20
"""Pipes hand out 10 to 64 KiB at a time; hashing beside compressing wants bigger blocks."""


class Sink:
    """Takes the raw bytes of one file of an artefact."""

    def __init__(self, out: ObjectWriter, compression: Compression) -> None:
        self._out = out
        self._compressor = compression.compressor() if compression.method == "zstd" else None
        self._raw_hash = Sha256Thread()
        self._stored_hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.raw_bytes = 0
        self.stored_bytes = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take all of `data` (a buffer may be used again afterwards); raises what the store raises."""
        block = bytes(data)
        self.raw_bytes += len(block)
        self._waiting.append(block)
        self._waiting_bytes += len(block)
        if self._waiting_bytes >= BLOCK_BYTES:
            self._pass_on()
        return len(block)

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
        block = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if not block:
            return
        self._raw_hash.update(block)
        self._store(block if self._compressor is None else self._compressor.compress(block))

    def _store(self, data: bytes) -> None:
        if not data:
            return
        if self._compressor is not None:  # uncompressed, raw and stored bytes are the same
            self._stored_hash.update(data)
        self.stored_bytes += len(data)
        self._out.write(data)


class ArtefactWriter:
    """Writes the files of one artefact into `folder` of a store; the manifest is not its business."""

    def __init__(self, store: Store, folder: str, compression: Compression) -> None:
        self.folder = folder
        self.files: list[StoredFile] = []
        """What was written so far, in order."""
        self._store = store
        self._compression = compression
        self._names: list[str] = []

    @contextmanager
    def file(self, name: str, format: str) -> Iterator[Sink]:
        """Write one file; stored as `name`, or `name.zst` when compressed.

        Left by an exception nothing appears. `format` is one of those `StoredFile.format` lists.
        """
        stored_name = name + self._compression.suffix
        self._names.append(stored_name)
        with self._store.writing(f"{self.folder}/{stored_name}") as out:
            sink = Sink(out, self._compression)
            try:
                yield sink
                sink.finish()
                digests = sink.digests()
            finally:
                sink.close()
        self.files.append(StoredFile(name=stored_name, format=format, compression=self._compression.method, **digests))

    def discard(self) -> None:
        """Delete everything written; what is missing already is no error. A second call does no harm."""
        self.files.clear()
        for name in self._names:
            self._store.delete(f"{self.folder}/{name}")

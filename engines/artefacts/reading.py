"""Reading an artefact back: nothing of it is believed before its sizes and digests have been seen."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from engines.artefacts.compression import zstd
from engines.artefacts.hashing import Sha256Thread
from engines.artefacts.manifest import MANIFEST_NAME, Evidence, Manifest, StoredFile
from engines.errors import ArtefactDamaged, ObjectMissing, StorageFailed, StorageFull
from engines.run import Run
from engines.storage.base import Store

STORED_CHUNK = 128 * 1024
"""Compressed bytes fed at a time; small, because they may hold a thousand times as much."""
RAW_CHUNK = 1 << 20


def damaged(message: str, *evidence: Evidence) -> ArtefactDamaged:
    """The error for bytes that are not what was written, with what was seen."""
    return ArtefactDamaged(message, details={"evidence": [item.model_dump(mode="json") for item in evidence]})


def proven(file: StoredFile) -> tuple[Evidence, ...]:
    """What was seen of a file once `open_raw` was read to its end, or `stage` returned."""
    stored, raw = (file.bytes, file.sha256), (file.raw_bytes, file.raw_sha256)
    return (*_compared(1, file.name, "stored", stored, stored), *_compared(2, file.name, "raw", raw, raw))


def read_manifest(store: Store, folder: str) -> Manifest:
    """The manifest in `folder`; raises `ObjectMissing`, or `ArtefactDamaged` when it cannot be read."""
    data = store.get(f"{folder}/{MANIFEST_NAME}")
    seen = Evidence(level=0, check="manifest", object=MANIFEST_NAME, found="unreadable", ok=False)
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise damaged(f"The manifest of {folder} cannot be read.", seen) from error
    names = [file.name for file in manifest.files]
    if not names or any("/" in name or "\\" in name or name in {"", ".", ".."} for name in names):
        raise damaged(f"The manifest of {folder} names no files, or files outside its folder.", seen)
    return manifest


class RawSource:
    """The raw bytes of one stored file, decompressed as they are asked for.

    Sizes, digests and the end of the frame are checked when the end is reached, before `read` answers
    `b""`; whoever stops earlier has checked nothing.
    """

    def __init__(self, stored: BinaryIO, file: StoredFile, run: Run, stage: str) -> None:
        self._stored, self._file, self._run, self._stage = stored, file, run, stage
        self._decompressor = zstd.ZstdDecompressor() if file.compression == "zstd" else None
        self._stored_hash = hashlib.sha256()
        self._raw_hash = Sha256Thread()
        self._stored_bytes = self._raw_bytes = 0
        self._at_end = False

    def read(self, size: int = RAW_CHUNK, /) -> bytes:
        """At most `size` (above zero) raw bytes, `b""` at the end; raises `ArtefactDamaged`."""
        if size < 1:
            raise ValueError("size is at least 1: a whole artefact does not fit into memory")
        if self._at_end:
            return b""
        self._run.progress(self._stage, self._stored_bytes, self._file.bytes)
        data = self._pull(size) if self._decompressor is None else self._inflate(self._decompressor, size)
        if data:
            self._raw_bytes += len(data)
            self._raw_hash.update(data)
        else:
            self._check()
            self._at_end = True
        return data

    def close(self) -> None:
        self._raw_hash.close()

    def _pull(self, size: int) -> bytes:
        try:
            data = self._stored.read(size)
        except OSError as error:
            raise StorageFailed(f"{self._file.name} cannot be read: {error.strerror}.") from error
        self._stored_bytes += len(data)
        self._stored_hash.update(data)
        return data

    def _inflate(self, decompressor: zstd.ZstdDecompressor, size: int) -> bytes:
        try:
            while not decompressor.eof:
                data = self._pull(STORED_CHUNK) if decompressor.needs_input else b""
                if decompressor.needs_input and not data:
                    return b""
                raw = decompressor.decompress(data, size)
                if raw:
                    return raw
        except zstd.ZstdError as error:
            seen = Evidence(
                level=2,
                check="zstd frame",
                object=self._file.name,
                expected="whole",
                found="corrupt",
                ok=False,
            )
            raise damaged(f"{self._file.name} is damaged: its compressed data is corrupt.", seen) from error
        while self._pull(STORED_CHUNK):  # what follows the frame belongs to the digest, and is found by it
            self._run.stop.check()
        return b""

    def _check(self) -> None:
        name, file = self._file.name, self._file
        evidence = [
            *_compared(
                1,
                name,
                "stored",
                (file.bytes, file.sha256),
                (self._stored_bytes, self._stored_hash.hexdigest()),
            ),
            *self._frame(),
            *_compared(
                2,
                name,
                "raw",
                (file.raw_bytes, file.raw_sha256),
                (self._raw_bytes, self._raw_hash.hexdigest()),
            ),
        ]
        wrong = [item for item in evidence if not item.ok]
        if wrong:
            raise damaged(f"{name} is damaged: {_first(wrong)}.", *evidence)

    def _frame(self) -> list[Evidence]:
        if self._decompressor is None:
            return []
        found = "whole" if self._decompressor.eof else "cut short"
        if self._decompressor.unused_data:
            found = "followed by other data"
        return [
            Evidence(
                level=2,
                check="zstd frame",
                object=self._file.name,
                expected="whole",
                found=found,
                ok=found == "whole",
            )
        ]


class Artefact:
    """A stored artefact, as its manifest describes it."""

    def __init__(self, store: Store, folder: str, manifest: Manifest) -> None:
        self.store = store
        self.folder = folder
        self.manifest = manifest

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases of a backup that holds several, in the order they were backed up; none for any other."""
        return tuple(dict.fromkeys(file.database for file in self.manifest.files if file.database is not None))

    def of(self, database: str) -> Artefact:
        """One database of a backup that holds several, as an artefact of its own; raises `ObjectMissing`."""
        if database not in self.databases:
            raise ObjectMissing(
                f"The backup {self.manifest.backup_id} holds no database {database!r}.",
                hint=f"It holds: {', '.join(self.databases) or 'one database only'}.",
            )
        manifest = self.manifest
        part = manifest.model_copy(
            update={
                "database": database,
                "objects": tuple(item for item in manifest.objects if item.database == database),
                "files": tuple(file for file in manifest.files if file.database == database),
                "options": manifest.options.get("databases", {}).get(database, {}),
            }
        )
        return Artefact(self.store, self.folder, part)

    def file(self, format: str) -> StoredFile:
        """The first file of that format; raises `ArtefactDamaged` when the manifest lists none."""
        for file in self.manifest.files:
            if file.format == format:
                return file
        seen = Evidence(level=0, check="file listed", expected=format, found="none", ok=False)
        raise damaged(f"The manifest of {self.folder} lists no file of format {format}.", seen)

    def check(self, run: Run) -> tuple[Evidence, ...]:
        """Level 1: read every stored byte again and compare sizes and SHA-256 with the manifest.

        Raises `ArtefactDamaged` after all files were looked at, `ObjectMissing` for one that is gone.
        """
        evidence: list[Evidence] = []
        total = self.manifest.bytes
        before = 0
        for file in self.manifest.files:
            evidence += self._check_file(file, before, total, run)
            before += file.bytes
        wrong = [item for item in evidence if not item.ok]
        if wrong:
            raise damaged(f"{wrong[0].object} is damaged: {_first(wrong)}.", *evidence)
        return tuple(evidence)

    @contextmanager
    def open_raw(self, file: StoredFile, run: Run, stage: str = "reading") -> Iterator[RawSource]:
        """Give the raw bytes of one file, checked at their end; progress counts stored bytes as `stage`.

        Raises `ObjectMissing`, `ArtefactDamaged`, `StorageFailed`.
        """
        with self._open(file) as stored:
            source = RawSource(stored, file, run, stage)
            try:
                yield source
            finally:
                source.close()

    def stage(self, file: StoredFile, folder: Path, run: Run, name: str | None = None) -> Path:
        """Unpack one file, wholly checked, into `folder` with mode 0600; its path.

        Named `name`, else as stored without `.zst`. The path must be free. Nothing stays behind on failure;
        raises `StorageFull` when there is no room. Not synced to disk.
        """
        path = folder / (name or file.name.removesuffix(".zst"))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _staging_failed(path, error) from error
        try:
            with os.fdopen(descriptor, "wb", buffering=0), self.open_raw(file, run, "staging") as source:
                while data := source.read():
                    _write_all(descriptor, data, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def stored_path(self, file: StoredFile) -> Path | None:
        """The stored file where the store has it on disk; of uncompressed files it is the raw one too."""
        return self.store.local_path(self._key(file))

    def _key(self, file: StoredFile) -> str:
        return f"{self.folder}/{file.name}"

    def _open(self, file: StoredFile) -> BinaryIO:
        try:
            return self.store.open(self._key(file))
        except ObjectMissing as error:
            seen = Evidence(level=1, check="stored", object=file.name, expected=file.bytes, found="missing", ok=False)
            error.details.setdefault("evidence", [seen.model_dump(mode="json")])
            raise

    def _check_file(self, file: StoredFile, before: int, total: int, run: Run) -> list[Evidence]:
        digest, size = hashlib.sha256(), 0
        with self._open(file) as stored:
            while data := _read(stored, file):
                digest.update(data)
                size += len(data)
                run.progress("checking", before + size, total)
        return _compared(1, file.name, "stored", (file.bytes, file.sha256), (size, digest.hexdigest()))


def _read(stored: BinaryIO, file: StoredFile) -> bytes:
    try:
        return stored.read(RAW_CHUNK)
    except OSError as error:
        raise StorageFailed(f"{file.name} cannot be read: {error.strerror}.") from error


def _compared(level: int, name: str, which: str, expected: tuple[int, str], found: tuple[int, str]) -> list[Evidence]:
    checks = (f"{which} bytes", f"{which} sha256")
    return [
        Evidence(level=level, check=check, object=name, expected=wanted, found=seen, ok=wanted == seen)
        for check, wanted, seen in zip(checks, expected, found, strict=True)
    ]


def _first(wrong: list[Evidence]) -> str:
    expected, found = (str(value)[:12] for value in (wrong[0].expected, wrong[0].found))
    return f"{wrong[0].check} should be {expected}, found {found}"


def _write_all(descriptor: int, data: bytes, path: Path) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise _staging_failed(path, error) from error


def _staging_failed(path: Path, error: OSError) -> StorageFailed:
    """Staging uses a work folder, not the store; full and forbidden mean the same to the caller."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StorageFull(f"No space left in {path.parent} to unpack {path.name}.")
    return StorageFailed(f"{path} cannot be written: {error.strerror}.", hint="Check the work folder.")

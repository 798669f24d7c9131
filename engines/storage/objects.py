"""Objects in S3, Google Cloud Storage or Azure, through obstore."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, cast

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from engines.errors import ObjectMissing, StorageFailed
from engines.storage.base import Store, StoredObject
from engines.storage.keys import key_parts, new_key_parts

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]  # 3.12; only read by the type checker

    from obstore import ReadableFile, WritableFile
    from obstore.store import ObjectStore as Remote

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 3
"""Memory is about parts times size. S3 takes 10,000 parts, so that an object may have 156 GiB."""
MOST_PARTS = 10_000
READ_BYTES = 4 << 20
"""Read in ranges, not in one request: a slow consumer would run into the request's time limit."""

_STATUS = re.compile(r"status code: (\d{3})")


class ObjectStore(Store):
    """Large objects go up in parts; what is left by an exception is aborted.

    A killed process may leave an upload without its end, which stores keep, invisible, and bill: give the
    bucket a lifecycle rule that aborts incomplete multipart uploads.
    """

    def __init__(self, name: str, url: str, remote: Remote, part_bytes: int = PART_BYTES) -> None:
        self.name = name
        self.url = url
        self._remote = remote
        self._part_bytes = part_bytes

    @contextmanager
    def writing(self, key: str) -> Iterator[ObjectPartsWriter]:
        new_key_parts(key)
        with self._translating(key):
            upload = obstore.open_writer(self._remote, key, buffer_size=self._part_bytes, max_concurrency=PARTS_AT_ONCE)
        writer = ObjectPartsWriter(self, upload, key, MOST_PARTS * self._part_bytes)
        try:
            yield writer
        except BaseException as error:
            with suppress(BaseError, OSError):  # the attempt's own error matters more
                upload.__exit__(type(error), error, error.__traceback__)
            raise
        try:
            with self._translating(key):
                upload.close()
        except StorageFailed:
            with suppress(StorageFailed):  # whether it appeared is unknown now
                self.delete(key)
            raise

    def open(self, key: str) -> BinaryIO:
        key_parts(key)
        with self._translating(key):
            found = obstore.open_reader(self._remote, key, buffer_size=READ_BYTES)
        return cast(BinaryIO, io.BufferedReader(_Reader(self, found, key), buffer_size=1 << 20))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Stores list whole folders only; what does not begin with `prefix` is left out here."""
        folder = prefix.rpartition("/")[0]
        with self._translating(prefix):
            for batch in obstore.list(self._remote, prefix=folder or None):
                for found in batch:
                    if found["path"].startswith(prefix):
                        yield StoredObject(found["path"], found["size"], found["last_modified"])

    def delete(self, key: str) -> None:
        key_parts(key)
        with suppress(ObjectMissing), self._translating(key):
            obstore.delete(self._remote, key)

    def size(self, key: str) -> int:
        key_parts(key)
        with self._translating(key):
            return obstore.head(self._remote, key)["size"]

    @contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        """Errors of obstore quote whole requests, signatures and all: their text stays in the cause."""
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(f"{key} is not in the store {self.name!r}.") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StorageFailed(
                f"The store {self.name!r} does not let {key} be used{_status(error)}.",
                hint="Check the credentials of the store and what they may do.",
            ) from error
        except (BaseError, OSError, ValueError) as error:
            raise StorageFailed(f"The store {self.name!r} failed with {key}{_status(error)}.") from error


class ObjectPartsWriter:
    """Passes bytes to an upload, up to what the store can hold."""

    def __init__(self, store: ObjectStore, upload: WritableFile, key: str, room: int) -> None:
        self._store, self._upload, self._key, self._room = store, upload, key, room

    def write(self, data: bytes, /) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise StorageFailed(
                f"{self._key} is larger than the store takes in parts of this size.",
                hint="Set `part_mib` in the store's URL to more than 16.",
            )
        with self._store._translating(self._key):  # noqa: SLF001  one door for errors, in the same module
            self._upload.write(data)


class _Reader(io.RawIOBase):
    """obstore's reader as Python's own kind, with translated errors."""

    def __init__(self, store: ObjectStore, found: ReadableFile, key: str) -> None:
        self._store, self._found, self._key = store, found, key

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        with self._store._translating(self._key):  # noqa: SLF001  one door for errors, in the same module
            data = self._found.read(len(view))
        view[: len(data)] = data
        return len(data)


def _status(error: Exception) -> str:
    found = _STATUS.search(str(error))
    return f" (status {found[1]})" if found else f" ({type(error).__name__})"

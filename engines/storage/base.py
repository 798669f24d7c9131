"""Where artefacts are kept: one small interface over a local folder and object stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    bytes: int
    modified: datetime


class ObjectWriter(Protocol):
    """Takes the bytes of one object; it appears, whole and durable, only when the context ends well."""

    def write(self, data: bytes, /) -> None: ...


class Store(ABC):
    """Objects under keys like `shop/BACKUP_ID/shop.dump.zst`.

    Keys are relative, `/`-separated, never hold `..` or empty parts (`ValueError`). Problems raise
    `StorageFull`, `ObjectMissing` or `StorageFailed`.
    """

    name: str
    url: str
    """Without credentials."""

    @abstractmethod
    def writing(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Write one object. Left by an exception, nothing appears under the key and nothing is left behind."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Read one object from its start; raises `ObjectMissing`."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, unfinished writes left out."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove one object; a missing one is no error."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of one object; raises `ObjectMissing`."""

    def put(self, key: str, data: bytes) -> None:
        """Write a small object at once."""
        with self.writing(key) as out:
            out.write(data)

    def get(self, key: str) -> bytes:
        """Read a small object at once; raises `ObjectMissing`."""
        with self.open(key) as source:
            return source.read()

    def free_bytes(self) -> int | None:
        """Room left, None where the store does not know."""
        return None

    def local_path(self, key: str) -> Path | None:
        """The file behind an object, where there is one."""
        return None

    def unfinished(self) -> Iterator[StoredObject]:
        """What interrupted writes left behind, for the sweep."""
        return iter(())

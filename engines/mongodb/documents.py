"""BSON documents as bytes, never decoded: counting them, cutting a stream into whole ones.

https://bsonspec.org/spec.html: a document is its length as int32, little-endian, its elements, and a zero byte.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator

LENGTH = struct.Struct("<i").unpack_from
SHORTEST = 5
LONGEST = 16 * 1024 * 1024 + 16 * 1024
"""Servers keep 16 KiB above the 16 MiB of a user's document for their own use."""
TERMINATOR = -1
HASH_BYTES = 16
HASH_MASK = (1 << (8 * HASH_BYTES)) - 1


class Malformed(Exception):
    """Bytes that are not what their format says; the message says what, in a few words."""


def count_documents(block: bytes) -> int:
    """How many whole documents; raises `Malformed` when they do not fill `block` to its end."""
    at, number, end = 0, 0, len(block)
    while at < end:
        if end - at < SHORTEST:
            raise Malformed("a document is cut short")
        (size,) = LENGTH(block, at)
        if not SHORTEST <= size <= LONGEST:
            raise Malformed(f"a document cannot have {size} bytes")
        at += size
        number += 1
    if at != end or (end and block[-1]):
        raise Malformed("a document is cut short")
    return number


def split(block: bytes) -> Iterator[bytes]:
    """Each document of a block that `count_documents` has passed."""
    at, end = 0, len(block)
    while at < end:
        (size,) = LENGTH(block, at)
        yield block[at : at + size]
        at += size


class Fingerprint:
    """Number of documents and a hash over all of them that does not depend on their order."""

    def __init__(self) -> None:
        self.number = 0
        self._sum = 0

    def add(self, block: bytes) -> None:
        total = 0
        for document in split(block):
            total += int.from_bytes(hashlib.blake2b(document, digest_size=HASH_BYTES).digest(), "little")
            self.number += 1
        self._sum = (self._sum + total) & HASH_MASK

    def hexdigest(self) -> str:
        return f"{self._sum:0{2 * HASH_BYTES}x}"


class DocumentStream:
    """A stream of documents and terminators (`ff ff ff ff`), cut into whole ones; memory holds one document at most.

    Raises `Malformed`.
    """

    def __init__(self, read: Callable[[int], bytes], chunk: int = 1 << 20) -> None:
        self._read = read
        self._chunk = chunk
        self._buffer = b""
        self._at = 0

    def at_end(self) -> bool:
        return not self._has(1)

    def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        if not self._has(size):
            raise Malformed("it ends too early")
        data = self._buffer[self._at : self._at + size]
        self._at += size
        return data

    def document(self) -> bytes | None:
        """The next document, None for a terminator."""
        size = self._size()
        if size == TERMINATOR:
            self._at += 4
            return None
        data = self.take(size)
        if data[-1]:
            raise Malformed("a document does not end in a zero byte")
        return data

    def run(self) -> tuple[bytes, int]:
        """Some documents that follow each other, and their number; nothing where a terminator or the end comes next."""
        if self.at_end() or self._size() == TERMINATOR:
            return b"", 0
        first = self._size()
        if not self._has(first):
            raise Malformed("it ends within a document")
        buffer, start = self._buffer, self._at
        at, number, end = start, 0, len(buffer)
        while end - at >= 4:
            (size,) = LENGTH(buffer, at)
            if size == TERMINATOR or at + size > end:
                break
            if not SHORTEST <= size <= LONGEST:
                raise Malformed(f"a document cannot have {size} bytes")
            at += size
            number += 1
            if buffer[at - 1]:
                raise Malformed("a document does not end in a zero byte")
        self._at = at
        return buffer[start:at], number

    def _size(self) -> int:
        if not self._has(4):
            raise Malformed("it ends where a document or a terminator belongs")
        size = int(LENGTH(self._buffer, self._at)[0])
        if size != TERMINATOR and not SHORTEST <= size <= LONGEST:
            raise Malformed(f"a document cannot have {size} bytes")
        return size

    def _has(self, size: int) -> bool:
        """See that so many bytes are in the buffer; False when the stream ends before."""
        if len(self._buffer) - self._at >= size:
            return True
        parts, have = [self._buffer[self._at :]], len(self._buffer) - self._at
        self._at = 0
        while have < size:
            data = self._read(self._chunk)
            if not data:
                break
            parts.append(data)
            have += len(data)
        self._buffer = b"".join(parts)
        return have >= size

"""Reading a file that came from elsewhere: hashed as it came, the gzip or zstd around it taken off on the way."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from engines.artefacts.compression import zstd
from engines.artefacts.hashing import Sha256Thread
from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import damaged
from engines.errors import ArtefactDamaged, StorageFailed
from engines.run import Run

PACKED_CHUNK = 128 * 1024
"""Compressed bytes fed at a time; small, because they may hold a thousand times as much."""
RAW_CHUNK = 1 << 20
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
MOST_WRAPPINGS = 2
ADOPTING = "adopting"
"""The stage that progress counts the file's own bytes as."""
BROKEN_HINT = "Look whether it was whole where it was made, then upload it again; or make the dump again."


class Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes:
        """At most `size` bytes, none at the end."""
        ...


class AsItCame:
    """The bytes of a stored file, counted and hashed; progress counts them."""

    def __init__(self, stored: BinaryIO, name: str, total: int, run: Run) -> None:
        self._stored, self._name, self._total, self._run = stored, name, total, run
        self._hash = Sha256Thread()
        self.bytes = 0

    def read(self, size: int = RAW_CHUNK, /) -> bytes:
        """Raises `StorageFailed`, and `Stopped` when asked to stop."""
        self._run.progress(ADOPTING, self.bytes, self._total)
        try:
            data = self._stored.read(size)
        except OSError as error:
            raise StorageFailed(f"{self._name} cannot be read: {error.strerror}.") from error
        self.bytes += len(data)
        self._hash.update(data)
        return data

    def sha256(self) -> str:
        """Of what was read so far, in hex."""
        return self._hash.hexdigest()

    def close(self) -> None:
        self._hash.close()


class Unwrapped:
    """A stream whose beginning can be looked at before it is read."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._ahead = b""

    def head(self, size: int) -> bytes:
        """The next `size` bytes, fewer only when the stream is shorter; they are read again afterwards."""
        while len(self._ahead) < size:
            data = self._source.read(size - len(self._ahead))
            if not data:
                break
            self._ahead += data
        return self._ahead[:size]

    def read(self, size: int = RAW_CHUNK, /) -> bytes:
        """At most `size` (above zero) bytes, `b""` at the end; raises `ArtefactDamaged`, `StorageFailed`."""
        if size < 1:
            raise ValueError("size is at least 1: a whole dump does not fit into memory")
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._source.read(size)


def unwrapped(source: Readable, name: str) -> Unwrapped:
    """The plain bytes of `source`: gzip (RFC 1952, any number of members) and zstd (RFC 8878, any number of frames)
    around it are taken off, at most two layers of them.

    Reading raises `ArtefactDamaged` for what is cut short, corrupt or followed by something else.
    """
    found = Unwrapped(source)
    for _ in range(MOST_WRAPPINGS):
        beginning = found.head(len(ZSTD))
        if beginning.startswith(GZIP):
            found = Unwrapped(_Unpacked(found, name, "gzip", _Gzip))
        elif beginning.startswith(ZSTD):
            found = Unwrapped(_Unpacked(found, name, "zstd", _Zstd))
        else:
            break
    return found


class _Piece(Protocol):
    """One gzip member, or one zstd frame."""

    begins: bytes
    padding: bytes
    """What may fill up the file between pieces and after the last."""

    @property
    def eof(self) -> bool: ...
    @property
    def hungry(self) -> bool:
        """It wants input; while it does not, feed it nothing and take what it gives."""
        ...

    @property
    def rest(self) -> bytes:
        """What came after its end."""
        ...

    def unpack(self, data: bytes, size: int) -> bytes: ...


class _Gzip:
    begins, padding = GZIP, b"\0"

    def __init__(self) -> None:
        self._press = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._press.eof

    @property
    def hungry(self) -> bool:
        return not self._press.unconsumed_tail

    @property
    def rest(self) -> bytes:
        return self._press.unused_data

    def unpack(self, data: bytes, size: int) -> bytes:
        return self._press.decompress(self._press.unconsumed_tail + data, size)


class _Zstd:
    begins, padding = b"", b""

    def __init__(self) -> None:
        self._press = zstd.ZstdDecompressor()

    @property
    def eof(self) -> bool:
        return self._press.eof

    @property
    def hungry(self) -> bool:
        return self._press.needs_input

    @property
    def rest(self) -> bytes:
        return self._press.unused_data

    def unpack(self, data: bytes, size: int) -> bytes:
        return self._press.decompress(data, size)


class _Unpacked:
    """Pieces of one compression, one after the other, as one stream."""

    def __init__(self, packed: Readable, name: str, kind: str, make: Callable[[], _Piece]) -> None:
        self._packed, self._name, self._kind, self._make = packed, name, kind, make
        self._piece: _Piece | None = make()
        self._waiting = b""

    def read(self, size: int = RAW_CHUNK, /) -> bytes:
        while self._piece is not None:
            if self._piece.eof:
                self._piece = self._next(self._piece)
                continue
            raw, fed = self._unpack(self._piece, size)
            if raw:
                return raw
            if not fed and self._piece.hungry and not self._piece.eof:
                raise self._broken("cut short")
        return b""

    def _unpack(self, piece: _Piece, size: int) -> tuple[bytes, bool]:
        """What came out, and whether anything went in."""
        data = self._take() if piece.hungry else b""
        try:
            return piece.unpack(data, size), bool(data)
        except (zlib.error, zstd.ZstdError) as error:
            raise self._broken("corrupt") from error

    def _take(self) -> bytes:
        data, self._waiting = self._waiting or self._packed.read(PACKED_CHUNK), b""
        return data

    def _next(self, ended: _Piece) -> _Piece | None:
        """The piece that follows, None at the end of the file."""
        rest = ended.rest.lstrip(ended.padding) if ended.padding else ended.rest
        while len(rest) < len(ended.begins) or not rest:
            more = self._packed.read(PACKED_CHUNK)
            if not more:
                break
            rest = (rest + more).lstrip(ended.padding) if ended.padding else rest + more
        if not rest:
            return None
        if not rest.startswith(ended.begins):
            raise self._broken("followed by other data")
        self._waiting = rest
        return self._make()

    def _broken(self, found: str) -> ArtefactDamaged:
        seen = Evidence(level=2, check=self._kind, object=self._name, expected="whole", found=found, ok=False)
        error = damaged(f"{self._name} is not whole: its {self._kind} data is {found}.", seen)
        error.hint = BROKEN_HINT
        return error

"""Undoes the Content-Encoding of an answer piece by piece, so that a small answer cannot fill the memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from engines.artefacts.compression import zstd

ACCEPTED = "gzip, deflate, zstd"
"""For the header Accept-Encoding."""
PIECE = 256 * 1024
_WINDOW_LOG = 23
"""The window of zstd over HTTP has at most 8 MiB (RFC 9659)."""


class NotUnpackable(Exception):
    """The answer is not what its Content-Encoding says; the text names the encoding only."""


class Unpacker(Protocol):
    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What comes of it, in pieces of at most `PIECE` bytes. Raises `NotUnpackable`. To be read to its end."""
        ...

    def finish(self) -> None:
        """Raises `NotUnpackable` when the packed data ended early."""
        ...


def unpacker(encoding: str | None) -> Unpacker:
    """For the value of a Content-Encoding header. Raises `NotUnpackable` for one that was not asked for."""
    name = (encoding or "identity").strip().lower()
    if name in ("", "identity"):
        return _Plain()
    if name in ("gzip", "x-gzip"):
        return _Zlib("gzip", zlib.MAX_WBITS | 16)
    if name == "deflate":
        return _Zlib("deflate", zlib.MAX_WBITS)
    if name == "zstd":
        return _Zstd()
    raise NotUnpackable(f"it is packed in a way that was not asked for ({_word(name)})")


def _word(name: str) -> str:
    return name if len(name) <= 20 and name.isascii() and name.isprintable() else "an unknown Content-Encoding"


class _Plain:
    def unpack(self, data: bytes) -> Iterator[bytes]:
        if data:
            yield data

    def finish(self) -> None:
        return


class _Zlib:
    """gzip with one or several members, zlib, and the bare deflate that some servers send in its place."""

    def __init__(self, name: str, wbits: int) -> None:
        self._name = name
        self._wbits = wbits
        self._member = zlib.decompressobj(wbits)
        self._head: bytes | None = b""
        """What came before it was clear which format this is; None afterwards."""

    def unpack(self, data: bytes) -> Iterator[bytes]:
        if self._head is not None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return
            self._head = None
            if self._name == "deflate" and not _is_zlib(data):
                self._member = zlib.decompressobj(-zlib.MAX_WBITS)
        yield from self._members(data)

    def _members(self, data: bytes) -> Iterator[bytes]:
        more = False
        while data or more:
            if self._member.eof:
                if self._name != "gzip" or not data.strip(b"\0"):  # padding after the last member
                    return
                self._member = zlib.decompressobj(self._wbits)
            try:
                piece = self._member.decompress(data, PIECE)
            except zlib.error as error:
                raise NotUnpackable(f"its {self._name} data is damaged") from error
            data = self._member.unconsumed_tail or self._member.unused_data
            more = len(piece) == PIECE  # something may be held back although all input was taken
            if piece:
                yield piece

    def finish(self) -> None:
        if self._head or (self._head is None and not self._member.eof):
            raise NotUnpackable(f"its {self._name} data ends too early")


def _is_zlib(data: bytes) -> bool:
    """Whether it begins with a zlib header (RFC 1950)."""
    return data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0


class _Zstd:
    def __init__(self) -> None:
        self._frame = self._fresh()
        self._begun = False

    @staticmethod
    def _fresh() -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})

    def unpack(self, data: bytes) -> Iterator[bytes]:
        while data or (self._begun and not self._frame.eof and not self._frame.needs_input):
            if self._frame.eof:
                self._frame = self._fresh()
            try:
                piece = self._frame.decompress(data, PIECE)
            except zstd.ZstdError as error:
                raise NotUnpackable("its zstd data is damaged") from error
            self._begun = True
            data = self._frame.unused_data if self._frame.eof else b""
            if piece:
                yield piece

    def finish(self) -> None:
        if self._begun and not self._frame.eof:
            raise NotUnpackable("its zstd data ends too early")

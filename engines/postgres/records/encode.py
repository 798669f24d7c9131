r"""Rows as the bytes that COPY reads.

msgspec writes rows as JSON, in C and several times faster than Python joins strings. A line of JSON values is CSV with
`"` around text, `\` before `"` and `\` in it, and `null` outside of quotes; only the escapes of control characters
are JSON's alone, and are turned back into the characters. Where a block has neither escapes nor bare values, three
replacements more make it COPY's own text format, which the server reads a quarter faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from engines.records.fields import Row


class Format(StrEnum):
    """As COPY's options say it."""

    TEXT = "FORMAT text, ENCODING 'UTF8'"
    CSV = r"""FORMAT csv, NULL 'null', QUOTE '"', ESCAPE '\', ENCODING 'UTF8'"""


ROWS_AT_ONCE = 250
"""Few, so that the server has something to do early."""
CSV_BLOCKS = 4
"""A block that must be CSV makes so many of it: a change of the format is a COPY more."""
_encoder = msgspec.json.Encoder(decimal_format="string")
_SHORT = ((rb"\n", b"\n"), (rb"\t", b"\t"), (rb"\r", b"\r"), (rb"\b", b"\b"), (rb"\f", b"\f"))
_LONG = re.compile(rb"\\u00([01][0-9a-fA-F])")
_NUL = rb"\u0000"


class UnsendableError(ValueError):
    """Text with U+0000, or with half of a surrogate pair."""


def encoded(rows: Sequence[Row], mark: int, *, csv: bool = False) -> tuple[Format, bytes]:
    """Lines for COPY, `mark` as a further column of each; at least one row. Raises `UnsendableError`.

    `csv`: in this format even where the other one would do.
    """
    try:
        lines = _encoder.encode_lines(rows)
    except UnicodeEncodeError as error:
        raise UnsendableError from error
    if not csv and b"\\" not in lines and (text := _as_text(lines, rows, mark)) is not None:
        return Format.TEXT, text
    # between two rows there is a line feed, which is always escaped inside of text
    end = b",%d\n" % mark
    return Format.CSV, _unescaped(lines[1:-2].replace(b"]\n[", end) + end)


def _as_text(lines: bytes, rows: Sequence[Row], mark: int) -> bytes | None:
    """None when there are values without quotes. Without a backslash, every quote begins or ends a value."""
    if b"null" in lines:
        if lines.count(b"null") != sum(row.count(None) for row in rows):
            return None  # the word is part of a text, too
        lines = lines.replace(b"null", rb'"\N"')
    if lines.count(b'"') != 2 * len(rows) * len(rows[0]):
        return None
    end = b"\t%d\n" % mark
    # First the ends of lines, then from left to right: so each match takes the quote that begins the next value with
    # it, and a value such as `,` between quotes is never taken for a border.
    return lines[2:-3].replace(b'"]\n["', end).replace(b'","', b"\t") + end


def _unescaped(lines: bytes) -> bytes:
    if b"\\" not in lines:
        return lines
    hidden = lines.replace(rb"\\", b"\0")  # a byte that JSON never holds; every backslash left begins an escape
    if _NUL in hidden:
        raise UnsendableError
    if hidden.count(b"\\") == hidden.count(rb"\""):
        return lines
    for escape, character in _SHORT:
        hidden = hidden.replace(escape, character)
    hidden = _LONG.sub(lambda found: bytes([int(found[1], 16)]), hidden)
    return hidden.replace(b"\0", rb"\\")


class Stream:
    """What COPY reads, encoded while the server works on what it has. Rows that cannot be sent are left out.

    One COPY reads to the next change of `format`, which is None when there is nothing more.
    """

    def __init__(self, rows: Sequence[Row], positions: Sequence[int] | None, mark: int) -> None:
        """`positions`: of the rows to send, all of them when None."""
        self._rows = rows
        self._positions = range(len(rows)) if positions is None else positions
        self._all = positions is None
        self._mark = mark
        self._csv = 0
        """Blocks that are to be CSV."""
        self._blocks = self._encode()
        self.unsendable: list[int] = []
        """Positions of rows that were left out, so far."""
        self.sent = self.bytes = 0
        self.format: Format | None = None
        self._next = b""
        self._step()
        self._reading: Format | None = self.format

    def read(self, size: int = -1) -> bytes:
        """The next block, whatever its size; empty where this COPY ends."""
        if self.format is not self._reading:
            self._reading = self.format
            return b""
        block = self._next
        self._step()
        return block

    def readline(self, size: int = -1) -> bytes:
        """Never called; the driver's types ask for it."""
        return self.read(size)

    def blocks(self) -> Iterator[tuple[Format, bytes]]:
        """All that is left, for those who send it themselves."""
        while self.format is not None:
            block = self.format, self._next
            self._step()
            yield block

    def _step(self) -> None:
        following = next(self._blocks, None)
        if following is None:
            self.format, self._next = None, b""
        else:
            self.format, self._next = following
            self.bytes += len(self._next)

    def _encode(self) -> Iterator[tuple[Format, bytes]]:
        for start in range(0, len(self._positions), ROWS_AT_ONCE):
            positions = self._positions[start : start + ROWS_AT_ONCE]
            rows = self._rows[start : start + ROWS_AT_ONCE] if self._all else [self._rows[one] for one in positions]
            try:
                block = encoded(rows, self._mark, csv=self._csv > 0)
            except UnsendableError:
                yield from self._one_by_one(positions)
            else:
                self._csv = self._csv - 1 if self._csv else CSV_BLOCKS - 1 if block[0] is Format.CSV else 0
                self.sent += len(rows)
                yield block

    def _one_by_one(self, positions: Sequence[int]) -> Iterator[tuple[Format, bytes]]:
        for position in positions:
            try:
                block = encoded([self._rows[position]], self._mark)
            except UnsendableError:
                self.unsendable.append(position)
            else:
                self.sent += 1
                yield block

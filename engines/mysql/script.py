"""Reading what mysqldump and mariadb-dump write: statement by statement, rows counted at the speed of the stream.

Inside the strings of their INSERTs these programs write line ends, quotes and NUL as backslash escapes. So all that
matters of a row is found by byte searches which the interpreter does in C: escapes are taken out, what is left is
cut at the quotes, and the parts outside them are looked at. MariaDB's program writes every row on a line of its own;
while dumping, these lines are counted and nothing else, which is several times as fast again. Reading a stored dump
back always takes the exact way, so the two are held against each other at level 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

LONGEST_HEAD = 1 << 20
"""Of an INSERT up to its VALUES: a table has at most 4096 columns with names of 64 characters."""
MOST_TRIES = 64
"""Semicolons looked at one by one, before rows full of them are searched in another way."""
LONGEST_STATEMENT = 64 << 20
"""Of everything but an INSERT; view and routine texts are far from it."""

_NAME = rb"`((?:[^`]|``)*)`"
_HEAD = re.compile(
    rb"(?:INSERT|REPLACE)\s+(?:LOW_PRIORITY\s+|DELAYED\s+|IGNORE\s+)*INTO\s+"
    + _NAME
    + rb"\s*(?:\((?:\s*`(?:[^`]|``)*`\s*,?)*\)\s*)?VALUES\s*",
    re.IGNORECASE,
)
_DELIMITER_LINE = re.compile(rb"DELIMITER\s+(\S+)[ \t\r]*\n", re.IGNORECASE)
_SANDBOX = b"\\- enable the sandbox mode"
_TOKEN = re.compile(
    rb"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`(?:[^`]|``)*`|/\*M?!|/\*.*?\*/|--[ \t\r\n][^\n]*\n|#[^\n]*\n"
    rb"|(?P<end>;)|(?P<open>['\"`]|/\*|--|#)",
    re.DOTALL,
)
_ODD = re.compile(rb"[\"`#\\]|--|/\*")
"""What stands outside the strings of no row, and would make strings end elsewhere."""
_STRING_OR_END = re.compile(rb"\\.|'|;", re.DOTALL)


class UnreadableScriptError(Exception):
    """The text is not one of these programs' scripts, or not a whole one; says why."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A part of an INSERT statement: its head, or some of its rows."""

    raw: bytes
    table: str
    count: int
    begins: bool
    ends: bool
    plain: bool = True
    """False when brackets stand where rows have none, so that they cannot be counted by them."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Any other statement, whole."""

    raw: bytes
    """As in the script, with its delimiter and line end."""
    text: bytes
    """Without those."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Comment lines, empty lines, and lines meant for the client program (`DELIMITER`)."""

    raw: bytes

    @property
    def sandbox(self) -> bool:
        """The line by which newer MariaDB programs lock the client; others do not understand it."""
        return _SANDBOX in self.raw


Piece = Rows | Statement | Remark


def name_of(written: bytes) -> str:
    """A name as written between backquotes."""
    return written.replace(b"``", b"`").decode(errors="surrogateescape")


class Scanner:
    """Takes a script in blocks of any size and gives its pieces, whose `raw` bytes together are the script."""

    END: ClassVar[bytes] = b";\n"

    def __init__(self, *, quick: bool = False) -> None:
        """`quick` believes that a line end in an INSERT ends a row, where its head says that rows have lines."""
        self._quick, self._by_lines = quick, False
        self._buffer = b""
        self._delimiter = b";"
        self._table: str | None = None
        """Of the INSERT we are in."""
        self._in_string = False
        self._last = b" "
        """The last byte outside a string: brackets of rows follow a comma, a blank or the head."""

    def feed(self, data: bytes) -> Iterator[Piece]:
        self._buffer = self._buffer + data if self._buffer else data
        while (piece := self._part_of_insert() if self._table is not None else self._next(final=False)) is not None:
            yield piece

    def finish(self) -> Iterator[Piece]:
        """What is left at the end of the script; raises `UnreadableScriptError` when a statement is cut."""
        if self._table is not None and self._buffer.endswith(b";"):
            self._buffer += b"\n"
        while self._buffer:
            piece = self._part_of_insert() if self._table is not None else self._next(final=True)
            if piece is None:
                break
            yield piece
        if self._table is not None:
            raise UnreadableScriptError(f"the rows of table {self._table!r} are cut")
        if self._buffer.strip():
            raise UnreadableScriptError("a statement is cut")

    def _part_by_lines(self) -> Rows | None:
        buffer = self._buffer
        found = _end_of_rows(buffer)
        stop = found + 3 if found >= 0 else len(buffer) - 2  # the end must not be cut in two
        if stop <= 0:
            return None
        segment, self._buffer = buffer[:stop], buffer[stop:]
        table = self._table or ""
        if found >= 0:
            self._table = None
        return Rows(segment, table, segment.count(b"\n"), begins=False, ends=found >= 0)

    def _part_of_insert(self) -> Rows | None:
        if self._by_lines:
            return self._part_by_lines()
        buffer = self._buffer
        found = buffer.find(self.END)
        ends = found >= 0
        stop = found + 2 if ends else _before_half_escape(buffer)
        if stop == 0:
            return None
        segment = buffer if stop == len(buffer) else buffer[:stop]
        outside, in_string = self._outside(segment)
        if b";" in (outside[:-2] if ends and not in_string else outside):  # `;\r\n`, or the end of the file
            stop = self._exact_end(segment)
            segment = segment[:stop]
            outside, in_string = self._outside(segment)
            ends = True
        self._buffer = buffer[stop:]
        return self._rows(segment, outside, in_string, ends=ends and not in_string)

    def _outside(self, segment: bytes) -> tuple[bytes, bool]:
        """What stands outside strings, each of them as one quote, and whether the segment ends inside one."""
        if b"\\" in segment:
            segment = segment.replace(b"\\\\", b"").replace(b"\\'", b"")
        parts = segment.split(b"'")
        return b"'".join(parts[self._in_string :: 2]), self._in_string ^ (len(parts) % 2 == 0)

    def _exact_end(self, segment: bytes) -> int:
        """Just behind the first `;` outside a string, and the line end that follows it."""
        inside = self._in_string
        for match in _STRING_OR_END.finditer(segment):
            if match[0] == b"'":
                inside = not inside
            elif match[0] == b";" and not inside:
                rest = segment[match.end() : match.end() + 2]
                return match.end() + (2 if rest == b"\r\n" else 1 if rest[:1] == b"\n" else 0)
        raise AssertionError("there was one outside")

    def _rows(self, segment: bytes, outside: bytes, in_string: bool, *, ends: bool) -> Rows:
        table = self._table or ""
        count = outside.count(b"(")
        usual = outside.count(b",(") + outside.count(b"\n(") + outside.count(b" (")
        if outside[:1] == b"(" and self._last in b", \n\r":
            usual += 1
        self._last = outside[-1:] or self._last
        self._in_string = in_string
        if ends:
            self._table, self._in_string = None, False
        return Rows(segment, table, count, begins=False, ends=ends, plain=count == usual and not _ODD.search(outside))

    def _next(self, *, final: bool) -> Piece | None:
        """The next piece outside an INSERT; None when more of the script is needed for it."""
        buffer = self._buffer
        if not buffer:
            return None
        start = len(buffer) - len(buffer.lstrip())
        if start:
            return self._take(Remark(buffer[:start]))
        if buffer.startswith((b"--", b"#", b"/*M!999999\\-", b"/*!999999\\-")):
            return self._line(final)
        if buffer[:9].upper() == b"DELIMITER":
            return self._delimiter_line(final)
        if self._delimiter != b";":
            return self._delimited(final)
        if buffer[:6].upper() in {b"INSERT", b"REPLAC"} and (head := self._head(final)) is not False:
            return head
        return self._general(final)

    def _take(self, piece: Piece) -> Piece:
        self._buffer = self._buffer[len(piece.raw) :]
        return piece

    def _line(self, final: bool) -> Piece | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return self._take(Remark(self._buffer)) if final else None
        return self._take(Remark(self._buffer[: end + 1]))

    def _delimiter_line(self, final: bool) -> Piece | None:
        match = _DELIMITER_LINE.match(self._buffer + b"\n" if final else self._buffer)
        if match is None:
            if not final and b"\n" not in self._buffer:
                return None
            raise UnreadableScriptError("a DELIMITER line cannot be read")
        self._delimiter = match[1]
        return self._take(Remark(self._buffer[: match.end()]))

    def _delimited(self, final: bool) -> Piece | None:
        """Bodies of routines and the like hold any text; their delimiter ends a line."""
        end = self._buffer.find(self._delimiter + b"\n")
        size = len(self._delimiter)
        if end < 0:
            end = self._buffer.find(self._delimiter + b"\r\n")
            size += 1
        if end < 0:
            self._refuse_endless()
            if final and self._buffer.endswith(self._delimiter):
                end, size = len(self._buffer) - len(self._delimiter), size - 2
            else:
                return None
        return self._take(Statement(self._buffer[: end + size + 1], self._buffer[:end]))

    def _head(self, final: bool) -> Piece | Literal[False] | None:
        """The head of an INSERT; False when it is one of a kind these programs do not write."""
        match = _HEAD.match(self._buffer)
        if match is None or match.end() == len(self._buffer):
            return None if not final and len(self._buffer) < LONGEST_HEAD else False
        self._table, self._last = name_of(match[1]), b" "
        self._by_lines = self._quick and match[0].endswith(b"VALUES\n")
        piece = Rows(self._buffer[: match.end()], self._table, 0, begins=True, ends=False)
        return self._take(piece)

    def _general(self, final: bool) -> Piece | None:
        for match in _TOKEN.finditer(self._buffer):
            if match["open"]:
                break
            if match["end"]:
                end = match.end()
                if not final and len(self._buffer) == end:
                    return None  # its line end is still to come
                line_end = re.compile(rb"[ \t]*\r?\n").match(self._buffer, end)
                return self._take(
                    Statement(self._buffer[: line_end.end() if line_end else end], self._buffer[: end - 1])
                )
        self._refuse_endless()
        return None

    def _refuse_endless(self) -> None:
        if len(self._buffer) > LONGEST_STATEMENT:
            raise UnreadableScriptError("a statement without an end")


def _end_of_rows(buffer: bytes) -> int:
    """Where `);` and a line end stand, -1 for nowhere. One rare byte is found far faster than three of them."""
    found = buffer.find(b";")
    for _ in range(MOST_TRIES):
        if found < 0 or buffer[found - 1 : found + 2] == b");\n":
            return found - 1 if found >= 0 else -1
        found = buffer.find(b";", found + 1)
    return buffer.find(b");\n", max(found - 1, 0)) if found >= 0 else -1


def _before_half_escape(buffer: bytes) -> int:
    """How much of the buffer may be looked at: an escape must not be cut in two, nor a `;` from its line end."""
    stop = len(buffer)
    if buffer.endswith(b";"):
        return stop - 1
    backslashes = stop - len(buffer.rstrip(b"\\"))
    return stop - (backslashes % 2)

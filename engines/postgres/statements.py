"""Taking a plain dump apart: into statements, the rows between them, and psql's own commands.

Follows how psql reads a script (`src/fe_utils/psqlscan.l`), with `standard_conforming_strings` on, as pg_dump
sets it. Works on a stream: only the statement being read is in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

LONGEST_STATEMENT = 256 << 20
"""A row as one INSERT is the longest that pg_dump writes; without a limit a hostile file fills the memory."""

_TOKEN = re.compile(
    rb"'|\"|--|/\*|[();\\]"
    rb"|\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$"
    rb"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*"
)
_UNFINISHED = re.compile(rb"(?:[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*|\$[A-Za-z0-9_\x80-\xff]*|-|/)\Z")
"""What may go on in the next block: a word, a dollar quote's tag, the first half of a comment's beginning."""
_LONGEST_WORD = 1 << 10
_FROM_STDIN = re.compile(rb"\s*COPY\s.*\sFROM\s+stdin\b", re.IGNORECASE | re.DOTALL)
_BLANK = re.compile(rb"\s*")
_ROUTINE = re.compile(r"create (or replace )?(function|procedure)\b")
_BEGIN = re.compile(rb"(?<![A-Za-z0-9_$\x80-\xff])begin\s+atomic\Z", re.IGNORECASE)
_E_STRING_END = re.compile(rb"\\[\s\S]|'")
_E_PREFIX = re.compile(rb"(?<![A-Za-z0-9_$\x80-\xff])[eE]\Z")
_LINE_END = re.compile(rb"[\r\n]")
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
_ROWS_END = b"\\."

Kind = Literal["statement", "rows", "command", "comment"]


class UnreadableScriptError(ValueError):
    """The bytes are no script that pg_dump writes, or not all of one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a script: a `statement` to its semicolon, some `rows` of a COPY, a `command` of psql, a `comment`."""

    kind: Kind
    text: bytes
    rows: int = 0
    """Rows: how many lines these are."""
    line: int = 0
    """Of the script, where it begins; the first is 1."""


def pieces(blocks: Iterable[bytes]) -> Iterator[Piece]:
    """The parts of a script in order; raises `UnreadableScriptError`, at the end too when it was cut."""
    splitter = _Splitter()
    for block in blocks:
        yield from splitter.take(block)
    yield from splitter.end()


class _Splitter:
    def __init__(self) -> None:
        self._text = bytearray()
        self._at = 0
        """How far the statement at the beginning of `_text` was looked at."""
        self._in_rows = self._final = False
        self._stuck = False
        """Whether a line must be whole before it can be told what it is."""
        self._quote = b""
        """What the text at `_at` is inside of: a quote's or comment's beginning, nothing otherwise."""
        self._comments = 0
        self._line = 1
        self._begin_statement()

    def _begin_statement(self) -> None:
        self._depth = self._ended_at = 0
        self._body = False
        self._words: list[str] = []
        self._begun = False

    def take(self, block: bytes) -> Iterator[Piece]:
        self._text += block
        while (piece := self._next()) is not None:
            yield piece
        if len(self._text) > LONGEST_STATEMENT:
            raise UnreadableScriptError("a statement is longer than any that pg_dump writes")

    def end(self) -> Iterator[Piece]:
        self._final = True
        yield from self.take(b"")
        if self._in_rows or self._text.strip():
            raise UnreadableScriptError("it ends inside " + ("a table's rows" if self._in_rows else "a statement"))

    def _next(self) -> Piece | None:
        """The next part, None when more bytes are needed."""
        return self._next_rows() if self._in_rows else self._next_statement()

    def _cut(self, kind: Kind, end: int, rows: int = 0) -> Piece:
        piece = Piece(kind, bytes(self._text[:end]), rows, self._line)
        self._line += rows or piece.text.count(b"\n")
        del self._text[:end]
        self._at = 0
        return piece

    def _next_rows(self) -> Piece | None:
        """Whole lines up to the one that ends them, which is dropped."""
        if self._text.startswith(_ROWS_END + b"\n"):
            self._in_rows = False
            return Piece("rows", b"", line=self._cut("rows", len(_ROWS_END) + 1).line)
        end = self._text.find(b"\n" + _ROWS_END + b"\n")
        end = end + 1 if end >= 0 else self._text.rfind(b"\n") + 1
        return self._cut("rows", end, self._text.count(b"\n", 0, end)) if end else None

    def _next_statement(self) -> Piece | None:
        if not self._begun:
            self._skip_blank()
        while True:
            if self._quote:
                if not self._leave_quote():
                    return None
                if not self._begun:  # a comment between statements
                    return self._cut("comment", self._at)
                continue
            found = _TOKEN.search(self._text, self._at)
            if found is None or (found.end() == len(self._text) and self._may_go_on(found.group())):
                self._wait()
                return None
            piece = self._token(found.group(), found.end())
            if piece is not None or self._stuck:
                return piece

    def _skip_blank(self) -> None:
        blank = _BLANK.match(self._text)
        end = blank.end() if blank else 0
        self._line += self._text.count(b"\n", 0, end)
        del self._text[:end]

    def _may_go_on(self, token: bytes) -> bool:
        return not self._final and (token[0:1] == b"_" or token[0:1].isalpha() or token[0] >= 0x80)

    def _wait(self) -> None:
        """Nothing more to find here: go on after it, but for what may be the beginning of something."""
        tail = _UNFINISHED.search(self._text, max(self._at, len(self._text) - _LONGEST_WORD))
        self._at = tail.start() if tail and not self._final else len(self._text)
        self._begun = self._begun or (not self._text[: self._at].isspace() and self._at > 0)

    def _token(self, token: bytes, end: int) -> Piece | None:
        self._stuck = False
        if token == b"\\":
            return self._command(end)
        if token in (b"--", b"/*"):
            self._begun = self._begun or bool(self._text[: end - 2].strip())
            self._quote, self._comments, self._at = token, 1, end
            return None
        self._begun, self._at = True, end
        if token == b";":
            return self._statement_end(end)
        if token in (b"(", b")"):
            self._depth += 1 if token == b"(" else -1
        elif token in (b"'", b'"') or token.startswith(b"$"):
            before = bytes(self._text[max(end - 3, 0) : end - 1])
            escaped = token == b"'" and _E_PREFIX.search(before) is not None
            self._quote = b"E'" if escaped else token
        else:
            self._word(token, end)
        return None

    def _word(self, token: bytes, end: int) -> None:
        """SQL functions may have bodies without quotes, whose semicolons end nothing before the one behind END.

        That END stands where a statement would begin, and no statement begins so; any other, and CASE, say nothing,
        because both may also be the name of a column.
        """
        word = token.decode(errors="replace").lower()
        if len(self._words) < 4:
            self._words.append(word)
        if self._depth or not _ROUTINE.match(" ".join(self._words)):
            return
        if not self._body and word == "atomic":
            self._body = _BEGIN.search(self._text, max(0, end - _LONGEST_WORD), end) is not None
            self._ended_at = end
        elif self._body and word == "end":
            self._body = bool(self._text[self._ended_at : end - len(token)].strip())

    def _statement_end(self, end: int) -> Piece | None:
        if self._body:
            self._ended_at = end
        if self._depth > 0 or self._body:
            return None
        if _FROM_STDIN.match(self._text, 0, end):
            line = self._text.find(b"\n", end)
            if line < 0:
                self._at, self._stuck = end - 1, True
                return None
            self._in_rows, end = True, line + 1
        self._begin_statement()
        return self._cut("statement", end)

    def _command(self, end: int) -> Piece | None:
        """psql's own commands could run programs: they may stand alone only, and whoever reads decides."""
        if self._begun or self._text[: end - 1].strip():
            raise UnreadableScriptError("it holds a psql command inside a statement")
        line = self._text.find(b"\n", end)
        if line < 0 and not self._final:
            self._at, self._stuck = end - 1, True
            return None
        return self._cut("command", line + 1 if line >= 0 else len(self._text))

    def _leave_quote(self) -> bool:
        """Move behind the end of the quote or comment; False when it is not here yet."""
        if self._quote == b"--":
            end = _LINE_END.search(self._text, self._at)
            return self._found(end.start() if end else -1, 1, ends_at_end=True)
        if self._quote == b"/*":
            return self._leave_comment()
        if self._quote == b"E'":
            return self._leave_escaped()
        return self._found(self._text.find(self._quote, self._at), len(self._quote), keep=len(self._quote) - 1)

    def _found(self, at: int, length: int, *, keep: int = 0, ends_at_end: bool = False) -> bool:
        if at < 0:
            self._at = max(self._at, len(self._text) - keep)
            if not (ends_at_end and self._final):
                return False
        else:
            self._at = at + length
        self._quote = b""
        return True

    def _leave_comment(self) -> bool:
        while found := _COMMENT_EDGE.search(self._text, self._at):
            self._at = found.end()
            self._comments += 1 if found.group() == b"/*" else -1
            if not self._comments:
                self._quote = b""
                return True
        self._at = max(self._at, len(self._text) - 1)
        return False

    def _leave_escaped(self) -> bool:
        while found := _E_STRING_END.search(self._text, self._at):
            if found.group() == b"'":
                if found.end() == len(self._text) and not self._final:
                    return False  # a second quote would mean that it goes on
                if self._text[found.end() : found.end() + 1] != b"'":
                    return self._found(found.start(), 1)
                self._at = found.end() + 1
            else:
                self._at = found.end()
        if not self._text.endswith(b"\\"):
            self._at = len(self._text)
        return False

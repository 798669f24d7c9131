"""Taking an SQL text apart into its statements, however it comes in pieces and however long they are."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

LONGEST = 1_000_000_000
"""Bytes of one statement; SQLite itself takes no longer ones (`SQLITE_MAX_SQL_LENGTH`)."""
_OPENING = re.compile(rb"""['"`\[;]|--|/\*""")
_CLOSING = {b"'": b"'", b'"': b'"', b"`": b"`", b"[": b"]", b"--": b"\n", b"/*": b"*/"}
_GAP = re.compile(rb"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_TRIGGER = re.compile(rb"CREATE\s+(?:TEMP\s+|TEMPORARY\s+)?TRIGGER\b", re.IGNORECASE)
_WORD = re.compile(rb"\w+")


class Statements:
    """Fed with pieces, gives whole statements without what stands before them; `rest` is what no `;` has ended.

    A `;` inside quotes, comments or a trigger's body ends nothing, by the rules of `sqlite3_complete`.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._at = 0
        """Up to here it is known that no statement ends."""
        self._closing: bytes | None = None
        """What ends the quotes or the comment that `_at` is in."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Raises `ValueError` for a statement that SQLite would not take for its length."""
        self._text += piece
        while (end := self._end()) is not None:
            statement = bytes(self._text[:end])
            plain = statement[gap_before(statement) :]
            if _TRIGGER.match(plain) and not _complete(plain):
                continue
            del self._text[:end]
            self._at = 0
            if plain != b";":
                yield plain
        if len(self._text) > LONGEST:
            raise ValueError("a statement is longer than SQLite takes")

    @property
    def rest(self) -> bytes:
        """What follows the last statement, without white space and comments."""
        return bytes(self._text[gap_before(self._text) :])

    def _end(self) -> int | None:
        """Behind the next `;` that may end a statement; None when more text is needed."""
        while True:
            if self._closing is not None:
                found = self._text.find(self._closing, self._at)
                if found < 0:
                    self._at = max(self._at, len(self._text) - len(self._closing) + 1)
                    return None
                self._at = found + len(self._closing)
                self._closing = None
            opening = _OPENING.search(self._text, self._at)
            if opening is None:
                self._at = max(self._at, len(self._text) - 1)  # half of `--` or `/*` may have come
                return None
            self._at = opening.end()
            if opening[0] == b";":
                return self._at
            self._closing = _CLOSING[bytes(opening[0])]


def gap_before(text: bytes | bytearray) -> int:
    """Length of the white space and comments a text begins with."""
    match = _GAP.match(text)
    return match.end() if match else 0


def first_word(statement: bytes) -> str:
    match = _WORD.match(statement)
    return match[0].decode().upper() if match else ""


def _complete(statement: bytes) -> bool:
    return sqlite3.complete_statement(statement.decode("utf-8", "replace"))

"""Carrying out an SQL dump into a new database: every statement is looked at before SQLite sees it."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import damaged
from engines.base import Source
from engines.errors import ArtefactDamaged, InvalidDump, StorageFull
from engines.run import Run
from engines.sqlite import cutting
from engines.sqlite.connection import connect, error_name
from engines.sqlite.guarding import guard_dump
from engines.sqlite.statements import Statements, first_word

CHUNK = 1 << 18
HEAD = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:PRAGMA foreign_keys\s*=\s*OFF;\s*)?BEGIN TRANSACTION;", re.IGNORECASE)
"""How `sqlite3 FILE .dump` begins (shell.c, `dump_callback`), and Python's `iterdump`, which has no PRAGMA."""
ALLOWED = frozenset({"PRAGMA", "BEGIN", "CREATE", "INSERT", "REPLACE", "DELETE", "ANALYZE", "REINDEX", "COMMIT", "END"})
_STRING = re.compile(r"'(?:[^']|'')*'")
_DELETING = re.compile(r'DELETE FROM "?sqlite_(?:sequence|stat\d)"?;', re.IGNORECASE)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|\+([0-9A-Fa-f]{6})|([0-9A-Fa-f]{4})|\\)")
_CACHE_KIB = 16_000


class Script:
    """Fed with the dump's bytes, builds the database at `path`, which must be free; use `close` in every case."""

    def __init__(self, path: Path, run: Run) -> None:
        cutting.private_file(path)
        self._path, self._run = path, run
        self._connection = connect(path, "mode=rw", run, 0)
        careless = ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}")
        for pragma in careless:  # what fails is thrown away
            self._connection.execute(f"PRAGMA {pragma}")
        if sqlite3.sqlite_version_info < (3, 50):  # newer programs write control characters with its `unistr`
            self._connection.create_function("unistr", 1, unistr, deterministic=True)
        guard_dump(self._connection)
        self._statements = Statements()
        self._first = True
        self._last = ""
        self._number = 0

    def feed(self, piece: bytes) -> None:
        """Carry out what is whole. Raises `ArtefactDamaged`, `InvalidDump`, `StorageFull`, `Stopped`."""
        if self._first:
            piece = piece.removeprefix(b"\xef\xbb\xbf")
            self._first = not piece
        try:
            for statement in self._statements.feed(piece):
                self._number += 1
                self._carry_out(statement)
        except ValueError as error:
            raise InvalidDump(f"Statement {self._number + 1} of the SQL dump: {error}.") from error

    def finish(self) -> None:
        """Raises `ArtefactDamaged` unless the dump came to its `COMMIT`: only the end says that it is whole."""
        rest = self._statements.rest
        if rest or self._last not in ("COMMIT", "END"):
            told = "ends in the middle of a statement" if rest else "does not end with COMMIT"
            raise _not_whole(f"The SQL dump is cut short: it {told}.", self._last or "nothing")

    def close(self) -> None:
        self._connection.close()

    def _carry_out(self, statement: bytes) -> None:
        word = first_word(statement)
        if word == "ROLLBACK":
            raise _not_whole("The SQL dump met errors while it was made: it ends with ROLLBACK.", "ROLLBACK")
        text = _readable(statement)
        if word not in ALLOWED or (word == "DELETE" and not _DELETING.fullmatch(text)):
            raise InvalidDump(
                f"Statement {self._number} of the SQL dump is a {word or 'fragment'}, which no .dump writes."
            )
        self._last = word
        try:
            self._connection.execute(text)
        except (sqlite3.Error, sqlite3.Warning) as error:
            self._run.stop.check()
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error | sqlite3.Warning) -> Exception:
        name = error_name(error)
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):
            return StorageFull(f"No space left in {self._path.parent} to carry out the SQL dump.")
        if name.startswith("SQLITE_AUTH") or str(error).startswith("not authorized"):
            return InvalidDump(f"Statement {self._number} of the SQL dump wants what no .dump wants: {error}.")
        seen = Evidence(level=2, check="sql script", expected="carried out", found=str(error)[:300], ok=False)
        return damaged(f"Statement {self._number} of the SQL dump fails: {str(error)[:200]}.", seen)


def build(source: Source, path: Path, run: Run) -> None:
    """Carry out the whole dump into a new database at `path`; nothing stays behind on failure."""
    script: Script | None = None
    try:
        script = Script(path, run)
        while data := source.read(CHUNK):
            script.feed(data)
        script.finish()
    except BaseException:
        if script is not None:
            script.close()
        cutting.remove(path)
        raise
    script.close()


def unistr(text: str) -> str:
    """What SQLite's function of that name makes of backslash escapes; see https://www.sqlite.org/lang_corefunc.html."""

    def character(found: re.Match[str]) -> str:
        digits = next((part for part in found.groups() if part), None)
        return "\\" if digits is None else chr(int(digits, 16))

    return _ESCAPE.sub(character, text)


def _readable(statement: bytes) -> str:
    """As text. SQLite keeps any bytes as text, Python passes on UTF-8 only: other literals become casts of BLOBs."""
    try:
        return statement.decode()
    except UnicodeDecodeError:
        text = statement.decode("utf-8", "surrogateescape")
        return _STRING.sub(_as_cast, text)


def _as_cast(literal: re.Match[str]) -> str:
    if literal[0].isascii():
        return literal[0]
    raw = literal[0][1:-1].replace("''", "'").encode("utf-8", "surrogateescape")
    return f"CAST(X'{raw.hex()}' AS TEXT)"


def _not_whole(message: str, found: str) -> ArtefactDamaged:
    return damaged(message, Evidence(level=2, check="sql script", expected="COMMIT", found=found, ok=False))

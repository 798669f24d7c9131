"""What a script holds: its objects and their rows, gathered while it goes by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from engines.artefacts.manifest import ObjectCount
from engines.mysql.script import Piece, Remark, Rows, Scanner, Statement, UnreadableScriptError, name_of

END_MARK = b"-- Dump completed"
HEADS = (b"-- MySQL dump", b"-- MariaDB dump")
CODE = frozenset({"trigger", "procedure", "function", "event", "package", "package body"})
"""Objects that are text to be run, not data."""

_VERSIONED = re.compile(rb"(`(?:[^`]|``)*`)|/\*M?!\d*|\*/")
_KEPT_ELSEWHERE = re.compile(rb"\)\s*ENGINE=(?:MRG_\w+|FEDERATED|CONNECT|OQGRAPH|SPIDER|VP)\b", re.IGNORECASE)
"""Engines that only show rows of other tables: the dump programs leave those rows out, as a restore has them."""
_NAMED = rb"(?:`(?P<schema>(?:[^`]|``)*)`\s*\.\s*)?(?:`(?P<name>(?:[^`]|``)*)`|(?P<plain>[^\s(`]+))"
_CREATE = re.compile(
    rb"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:ALGORITHM\s*=\s*\w+\s+)?"
    rb"(?P<definer>DEFINER\s*=\s*(?:`(?:[^`]|``)*`(?:@`(?:[^`]|``)*`)?|\S+)\s+)?(?:SQL\s+SECURITY\s+\w+\s+)?"
    rb"(?:AGGREGATE\s+|TEMPORARY\s+)?"
    rb"(?P<kind>TABLE|VIEW|SEQUENCE|TRIGGER|PROCEDURE|FUNCTION|EVENT|PACKAGE\s+BODY|PACKAGE|DATABASE|SCHEMA)\s+"
    rb"(?:IF\s+NOT\s+EXISTS\s+)?" + _NAMED,
    re.IGNORECASE,
)
_OF_TABLE = re.compile(
    rb"\s*(?:DROP\s+(?:TABLE|VIEW|SEQUENCE)\s+IF\s+EXISTS|LOCK\s+TABLES|ALTER\s+TABLE|CREATE\s+VIEW"
    rb"|(?:DO|SELECT)\s+SETVAL\()\s*`((?:[^`]|``)*)`",
    re.IGNORECASE,
)
_USE = re.compile(rb"\s*USE\s+`((?:[^`]|``)*)`", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    rb"CREATE\s+VIEW\s+`(?:[^`]|``)*`\s+AS\s+SELECT\s+(?:NULL|1)\s+AS\s|CREATE\s+TABLE[^;]*ENGINE=MyISAM\s*\Z"
)

Meaning = Literal["create", "placeholder", "of table", "use", "database", "other"]


@dataclass(frozen=True, slots=True)
class Meant:
    """What a statement is about."""

    meaning: Meaning
    kind: str = ""
    name: str = ""
    definer: str = ""


def plain(text: bytes) -> bytes:
    """Without the brackets of versioned comments; names may look like them."""
    return _VERSIONED.sub(lambda found: found[1] or b"", text)


def meant(statement: Statement) -> Meant:
    """What a statement is about, as far as restoring a part of the script depends on it."""
    text = plain(statement.text[:LOOKED_AT])
    if match := _CREATE.match(text):
        kind = b" ".join(match["kind"].lower().split()).decode()
        name = name_of(match["name"]) if match["name"] is not None else match["plain"].decode(errors="surrogateescape")
        if kind in {"database", "schema"}:
            return Meant("database", kind, name)
        if kind == "view" and _PLACEHOLDER.match(text.lstrip()):
            return Meant("placeholder", "view", name)
        definer = (match["definer"] or b"").decode(errors="surrogateescape").partition("=")[2].strip()
        return Meant("create", kind, name, definer)
    if match := _OF_TABLE.match(text):
        return Meant("of table", "table", name_of(match[1]))
    if match := _USE.match(text):
        return Meant("use", "database", name_of(match[1]))
    return Meant("other")


LOOKED_AT = 4096
"""Bytes of a statement in which its kind and name are found."""


@dataclass(slots=True)
class Contents:
    """Give it every piece of a script in order, then `close` it."""

    rows: dict[str, int] = field(default_factory=dict)
    """Rows of every table, exact by construction: they are those in the script."""
    others: dict[tuple[str, str], None] = field(default_factory=dict)
    """(kind, name) of everything that is not a table, in order."""
    definers: set[str] = field(default_factory=set)
    databases: set[str] = field(default_factory=set)
    """Named by USE and CREATE DATABASE: a script with them restores into those and nowhere else."""
    longest: int = 0
    """Bytes of the longest INSERT; a server refuses what is above its `max_allowed_packet`."""
    head: bytes = b""
    uncounted: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    """Tables whose rows are those of others, and so not in the script."""
    _created: set[str] = field(default_factory=set)
    _mentioned: set[str] = field(default_factory=set)
    _complete: bool = False
    _insert: int = 0
    _looked: bool = False
    digests: dict[tuple[str, str], hashlib._Hash] | None = None
    """Per object over its definition and rows, when asked for."""
    normalised: Callable[[str, bytes], bytes] | None = None
    """What is taken out of a definition of some kind before its digest."""

    def take(self, piece: Piece) -> None:
        if isinstance(piece, Rows):
            self._take_rows(piece)
        elif isinstance(piece, Statement):
            self._complete = False
            self._take_statement(piece)
        else:
            self._take_remark(piece)

    def _take_rows(self, piece: Rows) -> None:
        self._insert = len(piece.raw) + (0 if piece.begins else self._insert)
        self.longest = max(self.longest, self._insert)
        self.rows[piece.table] = self.rows.get(piece.table, 0) + piece.count
        self._complete = False
        if not piece.plain:
            self.uncounted.add(piece.table)
        self._digest(("table", piece.table), piece.raw)

    def _take_statement(self, piece: Statement) -> None:
        found = meant(piece)
        if found.meaning in {"use", "database"}:
            self.databases.add(found.name)
        elif found.meaning == "create":
            if found.kind == "table":
                self.rows.setdefault(found.name, 0)
                self._created.add(found.name)
                if _KEPT_ELSEWHERE.search(piece.text):
                    self.elsewhere.add(found.name)
            else:
                self.others[(found.kind, found.name)] = None
                if found.kind == "view":  # older programs put a table in its place until it can be made
                    self._created.discard(found.name)
                    self.rows.pop(found.name, None)
            if found.definer:
                self.definers.add(found.definer)
            text = piece.text if self.normalised is None else self.normalised(found.kind, piece.text)
            self._digest((found.kind, found.name), text)
        elif found.meaning == "of table" and (b"LOCK TABLES" in piece.text or b"DISABLE KEYS" in piece.text):
            self._mentioned.add(found.name)

    def _take_remark(self, piece: Remark) -> None:
        if piece.raw.startswith(b"--") and not self._looked and not piece.sandbox:
            self.head, self._looked = piece.raw, True
        if piece.raw.startswith(END_MARK):
            self._complete = True

    def _digest(self, key: tuple[str, str], data: bytes) -> None:
        if self.digests is not None:
            self.digests.setdefault(key, hashlib.sha256()).update(data)

    def close(self) -> None:
        """Raises `UnreadableScriptError` unless the script came to the end it was meant to have."""
        if not self._complete:
            raise UnreadableScriptError("it lacks the line `-- Dump completed` that ends a whole dump")

    def _tables(self) -> list[tuple[str, int]]:
        """Those that are defined; in a script without definitions those it fills, be it with nothing."""
        names = self._created or self._mentioned | set(self.rows)
        return [(name, self.rows.get(name, 0)) for name in sorted(names)]

    @property
    def lacks_half(self) -> bool:
        """Whether it makes tables without a word of their rows, or fills tables that it does not make."""
        return bool(self._mentioned or any(self.rows.values())) != bool(self._created - self.elsewhere)

    def objects(self, *, counted: bool = True) -> tuple[ObjectCount, ...]:
        """As the manifest lists them: tables with their rows first, then everything else."""
        unknown = self.uncounted | self.elsewhere
        tables = [
            ObjectCount(name=shown(name), rows=count if counted and name not in unknown else None)
            for name, count in self._tables()
        ]
        return (*tables, *(ObjectCount(name=shown(name), kind=kind) for kind, name in sorted(self.others)))


def shown(name: str) -> str:
    """A name as the manifest can hold it: what is no UTF-8 is written as an escape."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


@dataclass(slots=True)
class Reader:
    """A scanner with the contents it finds."""

    contents: Contents = field(default_factory=Contents)
    _scanner: Scanner = field(default_factory=Scanner)

    @classmethod
    def quick(cls, contents: Contents | None = None) -> Reader:
        """For what a program writes now, or wrote for us and has the right digests; see `Scanner`."""
        return cls(contents or Contents(), Scanner(quick=True))

    def feed(self, data: bytes) -> None:
        for piece in self._scanner.feed(data):
            self.contents.take(piece)

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """The same, handing on every piece."""
        for piece in self._scanner.feed(data):
            self.contents.take(piece)
            yield piece

    def rest(self) -> Iterator[Piece]:
        """What is left at the end; raises `UnreadableScriptError` for a script that is not whole."""
        for piece in self._scanner.finish():
            self.contents.take(piece)
            yield piece
        self.contents.close()

    def finish(self) -> Contents:
        """Raises `UnreadableScriptError` for a script that is not whole."""
        for _ in self.rest():
            pass
        return self.contents

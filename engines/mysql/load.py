"""Running a stored script through the server's own client into a database, wholly or in chosen parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engines.artefacts.manifest import Evidence, StoredFile
from engines.artefacts.reading import Artefact, RawSource, damaged
from engines.command import Command, ToolInput, feeding
from engines.errors import ToolFailed, UnsupportedOperation
from engines.mysql.address import Address
from engines.mysql.allowed import Guard
from engines.mysql.clients import Program
from engines.mysql.contents import CODE, Contents, Meant, Reader, meant
from engines.mysql.dump import FORMAT
from engines.mysql.script import Piece, Remark, Rows, Statement, UnreadableScriptError
from engines.mysql.session import quoted, tools_translated
from engines.run import Run

_ENABLED = re.compile(rb"(\sON\s+COMPLETION\s+(?:NOT\s+)?PRESERVE\s+)ENABLE\b", re.IGNORECASE)
_ENDS = re.compile(
    rb"(?:\sON\s+SCHEDULE\s+AT|\sENDS)\s+'.*\sON\s+COMPLETION\s+NOT\s+PRESERVE\b", re.IGNORECASE | re.DOTALL
)
_DEFINER = re.compile(rb"DEFINER\s*=\s*`(?:[^`]|``)*`(?:@`(?:[^`]|``)*`)?", re.IGNORECASE)
_OF_DATABASE = re.compile(rb"\AALTER DATABASE `(?:[^`]|``)*`")
"""Around code that was made under other defaults; the database that was dumped must not get them."""
JOINED_BYTES = 1 << 16
"""Pieces are small; the client gets them in blocks."""


def dump_file(artefact: Artefact) -> StoredFile:
    """The file that holds the database: the first of its format, users and grants come after it."""
    return artefact.file(FORMAT)


def source_of(artefact: Artefact) -> str:
    """Name of the database the script was made of; of one made by hand, what its head says."""
    return str(artefact.manifest.options.get("source_database") or artefact.manifest.database)


def by_hand(artefact: Artefact) -> bool:
    """Whether the script was taken in, from whomever, and not made by us."""
    return "source_database" in artefact.manifest.options


def unreadable(file: StoredFile, error: UnreadableScriptError) -> Exception:
    """What has the right digests and still is no whole script was already broken when it was stored."""
    seen = Evidence(level=2, check="script is whole", object=file.name, expected="whole", found=str(error), ok=False)
    return damaged(f"{file.name} is not a whole dump: {error}.", seen)


@dataclass(slots=True)
class Changes:
    """What is done to a script on its way into a database."""

    source: str
    """Name of the database it was made of, which stands before the names of sequences in defaults."""
    into: str
    include: frozenset[str] | None = None
    """Only these tables, views and sequences; None for everything."""
    definers: bool = True
    enabled: list[str] = field(default_factory=list)
    """Events that were switched off on the way: they must not run in a database that is not in its place."""
    ending: set[str] = field(default_factory=set)
    """Events that end some day: the server drops one whose day has come, also while it is made."""
    _section: str | None = None

    def made(self, piece: Piece) -> bytes:
        """What of the piece goes to the client."""
        if isinstance(piece, Rows):
            return piece.raw if self._wanted(piece.table) else b""
        if isinstance(piece, Remark):
            return b"" if piece.sandbox else piece.raw
        found = meant(piece)
        self._enter(found)
        return self._statement(piece, found) if self._taken(piece, found) else b""

    def _wanted(self, name: str) -> bool:
        return self.include is None or name in self.include

    def _enter(self, found: Meant) -> None:
        """Triggers stand in the part of the script that belongs to their table."""
        if found.kind in {"table", "view", "sequence"}:
            self._section = found.name
        elif found.kind in CODE and found.kind != "trigger":
            self._section = None

    def _taken(self, piece: Statement, found: Meant) -> bool:
        if piece.text.startswith((b"LOCK TABLES", b"UNLOCK TABLES")):
            return False  # nobody else is on the database, and MariaDB's sequences do not work under locks
        if self.include is None or found.meaning == "other":
            return found.meaning not in {"use", "database"}
        if found.kind == "trigger":
            return self._section is not None and self._wanted(self._section)
        return found.kind in {"table", "view", "sequence"} and self._wanted(found.name)

    def _statement(self, piece: Statement, found: Meant) -> bytes:
        raw = piece.raw
        if found.meaning != "create":
            return _OF_DATABASE.sub(lambda _: b"ALTER DATABASE " + quoted(self.into).encode(), raw)
        if found.kind == "table":
            for function in ("nextval(", "lastval("):
                raw = raw.replace(
                    f"{function}{quoted(self.source)}.".encode(), f"{function}{quoted(self.into)}.".encode()
                )
        if found.kind == "event" and _ENDS.search(raw):
            self.ending.add(found.name)
        if found.kind == "event" and _ENABLED.search(raw):
            self.enabled.append(found.name)
            raw = _ENABLED.sub(rb"\1DISABLE", raw, count=1)
        return _DEFINER.sub(b"", raw, count=1) if found.definer and not self.definers else raw


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the client, into a database that is there and empty."""

    artefact: Artefact
    address: Address
    """Of the database written."""
    program: Program
    run: Run
    changes: Changes
    contents: Contents = field(default_factory=Contents)
    """Gathers what goes by."""

    def carry_out(self) -> Contents:
        """What went by, whole. Raises `ToolFailed` and what it means, `ArtefactDamaged`, `InvalidDump`, `Stopped`."""
        file = dump_file(self.artefact)
        reader = Reader(self.contents) if by_hand(self.artefact) else Reader.quick(self.contents)
        with (
            self.address.options_file(self.run.workspace, mariadb=self.program.mariadb) as options,
            tools_translated(),
            self.artefact.open_raw(file, self.run, "restoring") as source,
            feeding(self._command(options), self.run) as into,
        ):
            try:
                self._feed(source, reader, into)
            except (ToolFailed, UnreadableScriptError) as error:
                while source.read():  # damage, found by the digests at the end, explains both
                    pass
                if isinstance(error, UnreadableScriptError):
                    raise unreadable(file, error) from error
                raise
        return reader.contents

    def _feed(self, source: RawSource, reader: Reader, into: ToolInput) -> None:
        look: Callable[[Iterable[Piece]], Iterable[Piece]] = Guard().looked_at if by_hand(self.artefact) else iter
        while data := source.read():
            self._pass_on(look(reader.pieces(data)), into)
        self._pass_on(look(reader.rest()), into)

    def _pass_on(self, pieces: Iterable[Piece], into: ToolInput) -> None:
        waiting: list[bytes] = []
        size = 0
        for piece in pieces:
            waiting.append(self.changes.made(piece))
            size += len(waiting[-1])
            if size >= JOINED_BYTES:
                into.write(b"".join(waiting))
                waiting, size = [], 0
        if waiting:
            into.write(b"".join(waiting))

    def _command(self, options: Path) -> Command:
        return Command(
            self.program.path,
            (
                *(f"--defaults-file={options}", "--batch", "--binary-mode", "--default-character-set=utf8mb4"),
                *("--local-infile=0", "--max-allowed-packet=1G", f"--database={self.address.database}"),
            ),
            {"HOME": str(self.run.workspace)},
            self.address.secrets,
        )


def refuse_rows_only(artefact: Artefact, kind: Callable[[str], Exception] = UnsupportedOperation) -> None:
    """Raise what `kind` makes for a backup of rows without definitions."""
    if artefact.manifest.options.get("content") == "data":
        raise kind("This backup holds rows without the definitions of their tables.")

"""What a plain dump says of itself: what it makes, how many rows it brings, whom it names, whether it is whole."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from engines.artefacts.manifest import ObjectCount
from engines.base import Content
from engines.postgres.allowed import refuse_foreign
from engines.postgres.catalog import LARGE_OBJECTS
from engines.postgres.statements import Piece, UnreadableScriptError, pieces

HEADER = b"-- PostgreSQL database dump\n"
CLUSTER_HEADER = b"-- PostgreSQL database cluster dump\n"
END = b"-- PostgreSQL database dump complete"
_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_FULL = rf"({_NAME}(?:\.{_NAME})?)"
_MAKES = re.compile(
    rf"CREATE (?:UNLOGGED )?((?:FOREIGN )?TABLE|(?:OR REPLACE )?VIEW|MATERIALIZED VIEW|SEQUENCE) {_FULL}"
)
_IDENTITY = re.compile(rf"ALTER TABLE .*? ADD GENERATED .*?SEQUENCE NAME {_FULL}", re.DOTALL)
_REFERS = re.compile(rf"ALTER TABLE .*? FOREIGN KEY \([^)]*\) REFERENCES {_FULL}\(", re.DOTALL)
_COPY = re.compile(rf"COPY {_FULL}[ (]")
_PARTITIONED = re.compile(r"\nPARTITION BY (RANGE|LIST|HASH) ")
_EXTENSION = re.compile(rf"CREATE EXTENSION (?:IF NOT EXISTS )?({_NAME})")
_SEARCH_PATH = re.compile(rf"SET search_path = ({_NAME})")
_OWNER = re.compile(rf" OWNER TO ({_NAME});\Z")
_SESSION = re.compile(r"SET SESSION AUTHORIZATION (?:DEFAULT|'((?:[^']|'')+)');\Z")
_GRANT = re.compile(
    rf"(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES FOR ROLE ({_NAME})).* (?:TO|FROM) ({_NAME})(?: WITH GRANT OPTION)?;\Z",
    re.DOTALL,
)
_POLICY = re.compile(rf"CREATE POLICY .*? TO ({_NAME}(?:, {_NAME})*)(?: USING| WITH CHECK|;)", re.DOTALL)
_NAMES = re.compile(_NAME)
_SERVER = re.compile(rb"-- Dumped from database version (\S+)")
_TOOL = re.compile(rb"-- Dumped by pg_dump version (\S+)")
_OTHER_QUOTING = re.compile(r"SET standard_conforming_strings = off")
_COMMANDS = re.compile(rb"\\(?:(?:un)?restrict [A-Za-z0-9]+|connect [^`\\:|\n]+)\r?\n?")
"""The only ones of psql's that pg_dump writes; another could run programs where psql runs."""
LOOKED_AT = 1 << 16
"""Bytes of a statement that are looked at: what follows is a value, or a very long definition."""
_NOT_ASCII = bytes(range(0x80, 0x100))
KINDS = {
    "TABLE": "table",
    "FOREIGN TABLE": "foreign table",
    "VIEW": "view",
    "OR REPLACE VIEW": "view",
    "MATERIALIZED VIEW": "materialized view",
    "SEQUENCE": "sequence",
}


@dataclass(slots=True)
class Outline:
    """Grows by `take`, one piece after the other."""

    server_version: str = ""
    tool_version: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """Of every table with a COPY."""
    inserts: bool = False
    """Rows come as INSERT statements, which are not counted."""
    large_objects: int = 0
    roles: set[str] = field(default_factory=set)
    extensions: list[str] = field(default_factory=list)
    schemas: set[str] = field(default_factory=set)
    referred: set[str] = field(default_factory=set)
    """Tables that foreign keys lead to."""
    statements: int = 0
    complete: bool = False
    """Whether the line that ends a dump came, and no statement after it."""
    _schema: str = "public"
    _copied: str = ""

    @classmethod
    def of(cls, blocks: Iterable[bytes]) -> Outline:
        """Of a whole script; raises `UnreadableScriptError`."""
        found = cls()
        for piece in pieces(blocks):
            found.take(piece)
        return found

    def take(self, piece: Piece) -> None:
        """Raises `InvalidDump` and `UnreadableScriptError` for what pg_dump does not write."""
        if piece.kind == "rows":
            self.rows[self._copied] += piece.rows
        elif piece.kind == "comment":
            self._comment(piece.text)
        elif piece.kind == "statement":
            self.statements += 1
            self.complete = False
            refuse_foreign(piece.text, piece.line)
            self._statement(decoded(piece.text))
        elif not _COMMANDS.fullmatch(piece.text):
            raise UnreadableScriptError("it holds a psql command that pg_dump does not write")

    def _comment(self, text: bytes) -> None:
        if text.rstrip() == END:
            self.complete = True
        if not self.server_version and (found := _SERVER.match(text)):
            self.server_version = found.group(1).decode(errors="replace")
        if not self.tool_version and (found := _TOOL.match(text)):
            self.tool_version = found.group(1).decode(errors="replace")

    def _statement(self, text: str) -> None:
        if text.startswith("INSERT INTO "):
            self.inserts = True
        elif found := _COPY.match(text):
            self._copied = self._full(found.group(1))
            self.rows.setdefault(self._copied, 0)
        elif found := _MAKES.match(text):
            kind = KINDS[found.group(1)]
            partitioned = kind == "table" and _PARTITIONED.search(text)
            self.kinds.setdefault(self._full(found.group(2)), "partitioned table" if partitioned else kind)
        elif text.startswith("SELECT pg_catalog.lo_create("):
            self.large_objects += 1
        elif found := _IDENTITY.match(text):
            self.kinds[self._full(found.group(1))] = "sequence"
        elif found := _REFERS.match(text):
            self.referred.add(self._full(found.group(1)))
        else:
            self._setting(text)
            self._people(text)

    def _setting(self, text: str) -> None:
        if found := _SEARCH_PATH.match(text):  # as pg_dump wrote it before 2018, and names without a schema
            self._schema = plain_name(found.group(1))
        elif found := _EXTENSION.match(text):
            self.extensions.append(plain_name(found.group(1)))
        elif text.startswith("CREATE SCHEMA "):
            self.schemas.add(plain_name(text.removeprefix("CREATE SCHEMA ").rstrip(";")))
        elif _OTHER_QUOTING.match(text):
            raise UnreadableScriptError("it was made with standard_conforming_strings off")

    def _people(self, text: str) -> None:
        named = [*_OWNER.findall(text)]
        if found := _GRANT.match(text):
            named += [name for name in found.groups() if name]
        if found := _POLICY.match(text):
            named += _NAMES.findall(found.group(1))
        if (found := _SESSION.match(text)) and found.group(1):
            named.append(found.group(1).replace("''", "'"))
        self.roles |= {plain_name(name) for name in named} - {"PUBLIC", "public"}

    def _full(self, text: str) -> str:
        """A name as manifests write it: without quotes, with its schema."""
        names = [plain_name(name) for name in _NAMES.findall(text)]
        return ".".join(names if len(names) > 1 else [self._schema, *names])

    @property
    def content(self) -> Content:
        """`data` when rows come for tables that are not made; `schema` when tables come without any rows."""
        if (self.rows or self.inserts) and not self.kinds and not self.extensions:
            return "data"
        tables = any(kind == "table" for kind in self.kinds.values())
        return "schema" if tables and not self.rows and not self.inserts and not self.large_objects else "all"

    def objects(self) -> tuple[ObjectCount, ...]:
        """Everything it makes or fills; rows of tables, unless they come as INSERTs."""
        kinds = dict.fromkeys(self.rows, "table") | self.kinds
        listed = [
            ObjectCount(name=name, kind=kind, rows=self._rows(name) if kind == "table" else None)
            for name, kind in sorted(kinds.items())
        ]
        if self.large_objects:
            listed.append(LARGE_OBJECTS.model_copy(update={"rows": self.large_objects}))
        return tuple(listed)

    def _rows(self, name: str) -> int | None:
        return None if self.inserts else self.rows.get(name, 0)

    @property
    def missing_schemas(self) -> list[str]:
        """Schemas it puts something into without making them: a dump of chosen tables."""
        used = {name.partition(".")[0] for name in self.kinds}
        return sorted(used - self.schemas - {"public"})

    @property
    def missing_tables(self) -> list[str]:
        """Tables its foreign keys lead to and it does not make: a dump of chosen tables, unless they are an
        extension's, which no dump makes."""
        return [] if self.extensions else sorted(self.referred - set(self.kinds))


def decoded(statement: bytes) -> str:
    """The beginning of a statement as text, whatever the dump's encoding is."""
    head = statement
    if len(statement) > LOOKED_AT:  # not cut inside a character
        head = statement[:LOOKED_AT].rstrip(_NOT_ASCII) + b" ... " + statement[-256:].lstrip(_NOT_ASCII)
    try:
        return head.decode().strip()
    except UnicodeDecodeError:
        return head.decode("latin-1").strip()


def plain_name(quoted: str) -> str:
    return quoted[1:-1].replace('""', '"') if quoted.startswith('"') else quoted

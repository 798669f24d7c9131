"""The table of contents at the head of a pg_dump archive, and which of its entries a partial restore needs.

Format: `ReadHead` and `ReadToc` of PostgreSQL's `src/bin/pg_dump/pg_backup_archiver.c`, archive versions
1.12 to 1.16 (pg_dump 9 to 18).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from engines.postgres.catalog import matches, no_match

MAGIC = b"PGDMP"
OLDEST, NEWEST = (1, 12), (1, 16)
CUSTOM = 1
LONGEST_TEXT = 64 << 20
RELATIONS = frozenset({"TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE", "FOREIGN TABLE"})
ALWAYS = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH"})
ATTACHED = frozenset(
    {
        *("TABLE DATA", "SEQUENCE SET", "SEQUENCE OWNED BY", "MATERIALIZED VIEW DATA", "DEFAULT"),
        *("CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT", "INDEX", "INDEX ATTACH", "TABLE ATTACH"),
        *("TRIGGER", "RULE", "POLICY", "ROW SECURITY", "STATISTICS", "STATISTICS DATA", "COMMENT", "ACL"),
        *("SECURITY LABEL", "SEQUENCE"),
    }
)
"""Entries that come along with what they depend on, once all of that is wanted."""
OWN_PARTS = frozenset({"CONSTRAINT", "INDEX", *RELATIONS})
"""What an attached entry never pulls in: a foreign key does not drag the other table along."""


class UnreadableTocError(ValueError):
    """The bytes are no archive head this module knows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: `kind` as pg_restore lists it (`TABLE`, `TABLE DATA`, `INDEX` …)."""

    number: int
    kind: str
    schema: str
    name: str
    owner: str
    needs: tuple[int, ...]
    makes_public: bool = False
    """Whether it makes the schema `public`, which every new database has."""


def read_toc(source: BinaryIO) -> list[Entry]:
    """All entries in archive order, from a stream at the start of an archive; raises `UnreadableTocError`."""
    reader = _Reader(source)
    reader.head()
    return [reader.entry() for _ in range(reader.number())]


def archive_version(head: bytes) -> tuple[int, int]:
    """Archive version from the first seven bytes; raises `UnreadableTocError`."""
    if len(head) < len(MAGIC) + 2 or not head.startswith(MAGIC):
        raise UnreadableTocError("not a pg_dump archive")
    return head[len(MAGIC)], head[len(MAGIC) + 1]


class _Reader:
    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._int_bytes = self._offset_bytes = self._format = 0
        self._version = (0, 0)

    def head(self) -> None:
        head = self._bytes(11)
        self._version = archive_version(head)
        self._int_bytes, self._offset_bytes, self._format = head[8:]
        if not OLDEST <= self._version <= NEWEST:
            raise UnreadableTocError("archive version {}.{} is not known".format(*self._version))
        if self._version >= (1, 15):
            self._bytes(1)  # compression algorithm
        else:
            self.number()  # compression level
        for _ in range(7):  # second, minute, hour, day, month, year, daylight saving
            self.number()
        for _ in range(3):  # database, server version, pg_dump version
            self.text()

    def entry(self) -> Entry:
        number = self.number()
        self.number()  # whether it has data
        self.text(), self.text()  # catalogue and object id
        name, kind = self.text() or "", self.text() or ""
        self.number()  # section
        definition = self.text() or ""
        self.text(), self.text()  # drop and copy statement
        schema = self.text() or ""
        self.text()  # tablespace
        if self._version >= (1, 14):
            self.text()  # table access method
        if self._version >= (1, 16):
            self.number()  # relkind
        owner = self.text() or ""
        self.text()  # with OIDs, long gone
        needs = tuple(self._needs())
        if self._format == CUSTOM:
            self._bytes(1 + self._offset_bytes)  # where its data begins
        else:
            self.text()  # the file of its data
        makes_public = (kind, name) == ("SCHEMA", "public") and definition.startswith("CREATE SCHEMA ")
        return Entry(number, kind, schema, name, owner, needs, makes_public)

    def _needs(self) -> Iterator[int]:
        while (text := self.text()) is not None:
            yield int(text)

    def number(self) -> int:
        data = self._bytes(1 + self._int_bytes)
        value = int.from_bytes(data[1:], "little")
        return -value if data[0] else value

    def text(self) -> str | None:
        length = self.number()
        if length < 0:
            return None
        if length > LONGEST_TEXT:
            raise UnreadableTocError("a text of impossible length")
        return self._bytes(length).decode(errors="surrogateescape")

    def _bytes(self, count: int) -> bytes:
        data = self._source.read(count)
        if len(data) != count:
            raise UnreadableTocError("the archive ends inside its table of contents")
        return data


def partial(entries: Sequence[Entry], patterns: Iterable[str], where: str) -> list[Entry]:
    """The entries that restore the relations `patterns` mean, whole and usable, in archive order.

    That is: the relations with data, indexes, constraints and so on; partitions of partitioned ones; what
    their definitions depend on; foreign keys only between tables that both come along. Raises
    `TargetMissing` for a pattern that means none.
    """
    by_number = {entry.number: entry for entry in entries}
    wanted: set[int] = set()
    for pattern in patterns:
        hit = {e.number for e in entries if e.kind in RELATIONS and matches(pattern, e.schema, e.name)}
        if not hit:
            raise no_match(pattern, where)
        wanted |= hit
    wanted = _with_partitions(entries, by_number, wanted)
    wanted = _with_needs(by_number, wanted, lambda _: True)
    wanted = _with_attached(entries, by_number, wanted)
    schemas = {by_number[number].schema for number in wanted}
    return [
        entry
        for entry in entries
        if entry.number in wanted or entry.kind in ALWAYS or (entry.kind == "SCHEMA" and entry.name in schemas)
    ]


def _with_partitions(entries: Sequence[Entry], by_number: dict[int, Entry], wanted: set[int]) -> set[int]:
    """A `TABLE ATTACH` entry depends on both tables and is named like the partition."""
    pairs = []
    for entry in entries:
        if entry.kind == "TABLE ATTACH":
            tables = [by_number[need] for need in entry.needs if need in by_number]
            child = {t.number for t in tables if (t.schema, t.name) == (entry.schema, entry.name)}
            pairs.append(({t.number for t in tables} - child, child))
    reached = set(wanted)
    while more := {number for parents, child in pairs if parents & reached for number in child - reached}:
        reached |= more
    return reached


def _with_needs(by_number: dict[int, Entry], start: Iterable[int], take: Callable[[Entry], bool]) -> set[int]:
    reached, waiting = set(start), list(start)
    while waiting:
        for need in by_number[waiting.pop()].needs:
            if need in by_number and need not in reached and take(by_number[need]):
                reached.add(need)
                waiting.append(need)
    return reached


def _with_attached(entries: Sequence[Entry], by_number: dict[int, Entry], wanted: set[int]) -> set[int]:
    """Add what hangs on the wanted entries, until nothing more does."""
    reached = set(wanted)
    grown = True
    while grown:
        grown = False
        for entry in entries:
            if entry.number not in reached and entry.kind in ATTACHED and _hangs_on(entry, by_number, reached):
                reached |= _with_needs(by_number, {entry.number}, lambda need: need.kind not in OWN_PARTS)
                grown = True
    return reached


def _hangs_on(entry: Entry, by_number: dict[int, Entry], reached: set[int]) -> bool:
    needs = [by_number[need] for need in entry.needs if need in by_number]
    own = [need for need in needs if need.kind in OWN_PARTS]
    if not own:  # a comment on a function, say: comes along when all it speaks of does
        return bool(needs) and all(need.number in reached for need in needs)
    return all(need.number in reached for need in own)

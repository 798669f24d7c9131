"""What the server's catalogue says of a database: its tables, code and structure. No I/O but queries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pymysql

from engines.artefacts.manifest import ObjectCount
from engines.errors import TargetMissing
from engines.mysql.clients import Release
from engines.mysql.session import Session, number_of, quoted, rows

KINDS = {"BASE TABLE": "table", "SYSTEM VERSIONED": "table", "VIEW": "view", "SEQUENCE": "sequence"}
TRANSACTIONAL = frozenset({"innodb", "rocksdb", "tokudb", "ndbcluster", "ndb", "sequence"})
COUNTS_PER_QUERY = 50
_NOT_TO_BE_SEEN = frozenset({1109, 1142, 1146, 1227})
"""No such table in the catalogue, or no PROCESS privilege for it."""


def _load(path: Path) -> dict[str, str]:
    """The named queries of a file: each begins with `-- name: NAME`."""
    found = {}
    for part in path.read_text(encoding="utf-8").split("-- name: ")[1:]:
        name, _, text = part.partition("\n")
        found[name.strip()] = text.strip().removesuffix(";")
    return found


QUERIES = _load(Path(__file__).with_name("queries.sql"))
STRUCTURE = sorted(name for name in QUERIES if name.startswith("structure_"))


@dataclass(frozen=True, slots=True)
class Server:
    version: str
    max_packet: int
    """Bytes of the longest statement it takes."""
    size: int
    """Bytes of the database's tables and indexes, about."""
    release: Release


@dataclass(frozen=True, slots=True)
class Charset:
    """How a database was made; kept in the manifest so that a restore makes an equal one."""

    name: str
    collation: str

    @classmethod
    def of(cls, opened: Session, database: str) -> Charset | None:
        """None when there is no such database."""
        found = rows(opened, QUERIES["database"], (database,))
        return cls(*found[0]) if found else None

    @classmethod
    def recorded(cls, options: dict[str, Any]) -> Charset | None:
        found = options.get("database")
        return cls(**found) if isinstance(found, dict) and set(found) == set(cls.__slots__) else None


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    type: str
    engine: str
    estimate: int | None
    data_bytes: int
    bytes: int

    @property
    def kind(self) -> str:
        return KINDS.get(self.type, "table")

    @property
    def transactional(self) -> bool:
        return self.kind == "view" or self.engine.lower() in TRANSACTIONAL


def server(opened: Session, database: str) -> Server:
    version, packet, _, size = rows(opened, QUERIES["server"], (database,))[0]
    return Server(str(version), int(packet), int(size), Release.read(str(version)))


def size_on_disk(opened: Session, database: str) -> int:
    """Bytes of InnoDB's files; 0 where this user may not see them. Statistics lag behind what was just written."""
    folder = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter == "_") else f"@{ord(letter):04x}"
        for letter in database
    )
    for table in ("innodb_sys_tablespaces", "innodb_tablespaces"):  # MariaDB's name, MySQL's name
        try:
            return int(rows(opened, QUERIES["files"].replace("TABLESPACES", table), (f"{folder}/",) * 2)[0][0])
        except pymysql.Error as error:
            if number_of(error) not in _NOT_TO_BE_SEEN:
                raise
    return 0


def tables(opened: Session, database: str) -> list[Table]:
    """Every table, view and sequence, by name."""
    return [
        Table(name, kind, engine or "", None if estimate is None else int(estimate), int(data), int(total))
        for name, kind, engine, estimate, data, total in rows(opened, QUERIES["tables"], (database,))
    ]


def code(opened: Session, database: str) -> list[tuple[str, str]]:
    """Kind and name of every trigger, routine and event."""
    return [(kind, name) for kind, name in rows(opened, QUERIES["code"], (database,) * 6)]


def matches(pattern: str, database: str, name: str) -> bool:
    """`table` or `database.table`, with `*`, `?` and `[…]`; a name written as it is always matches."""
    full = f"{database}.{name}"
    return pattern in {name, full} or fnmatchcase(name, pattern) or ("." in pattern and fnmatchcase(full, pattern))


def select(names: Iterable[str], patterns: Iterable[str], database: str, where: str) -> set[str]:
    """The names that patterns mean. Raises `TargetMissing` for a pattern that means none."""
    known, chosen = list(names), set()
    for pattern in patterns:
        hit = {name for name in known if matches(pattern, database, name)}
        if not hit:
            raise TargetMissing(
                f"Nothing in {where} matches the pattern {pattern!r}.",
                hint="Patterns are `table` or `database.table`, with * and ?; see what there is with an inspection.",
            )
        chosen |= hit
    return chosen


def count_rows(
    opened: Session, database: str, names: Sequence[str], step: Callable[[int, int], None]
) -> dict[str, int]:
    """Rows of every table, counted; `step(done, of)` is called between queries."""
    counts: dict[str, int] = {}
    for start in range(0, len(names), COUNTS_PER_QUERY):
        step(start, len(names))
        some = names[start : start + COUNTS_PER_QUERY]
        query = " UNION ALL ".join(
            f"SELECT {number}, COUNT(*) FROM {quoted(database)}.{quoted(name)}"  # noqa: S608  names are quoted
            for number, name in enumerate(some)
        )
        counts.update((some[int(number)], int(count)) for number, count in rows(opened, query))
    step(len(names), len(names))
    return counts


def objects(opened: Session, database: str, step: Callable[[int, int], None]) -> tuple[ObjectCount, ...]:
    """What is in a database, as a manifest lists it, tables counted."""
    found = tables(opened, database)
    counts = count_rows(opened, database, [item.name for item in found if item.kind == "table"], step)
    listed = [ObjectCount(name=item.name, kind=item.kind, rows=counts.get(item.name)) for item in found]
    listed.sort(key=lambda item: item.kind != "table")
    return (*listed, *(ObjectCount(name=name, kind=kind) for kind, name in sorted(code(opened, database))))


def fingerprint(opened: Session, database: str) -> str:
    """SHA-256 over the structure; equal structures give equal fingerprints in any database of any name."""
    digest = hashlib.sha256()
    own = f"{quoted(database)}."
    for name in STRUCTURE:
        lines = sorted(
            "\x1f".join(str(value).replace(own, "") for value in row) for row in _structure(opened, name, database)
        )
        digest.update("\x1e".join([name, *lines]).encode())
    return digest.hexdigest()


def _structure(opened: Session, name: str, database: str) -> list[Any]:
    return rows(opened, QUERIES[name], (database,))

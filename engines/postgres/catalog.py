"""What the system catalogs say of a database: its relations, settings and roles. No I/O but queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.artefacts.manifest import ObjectCount
from engines.errors import TargetMissing
from engines.postgres.connection import rows

KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "S": "sequence",
    "f": "foreign table",
}
COUNTED = "r"
"""Relkinds whose rows are in a dump: ordinary tables, partitions among them.

A partitioned table keeps its rows in its partitions. A materialized view's rows are not dumped but made
anew by REFRESH, and may then be others. A foreign table's rows belong to somebody else.
"""
LARGE_OBJECTS = ObjectCount(name="pg_largeobject", kind="large objects")
COUNTS_PER_QUERY = 50


def load_queries(path: Path) -> dict[str, str]:
    """The named queries of a file: each begins with `-- name: NAME`."""
    found = {}
    for part in path.read_text(encoding="utf-8").split("-- name: ")[1:]:
        name, _, text = part.partition("\n")
        found[name.strip()] = text.strip().removesuffix(";")
    return found


QUERIES = load_queries(Path(__file__).with_name("queries.sql"))


@dataclass(frozen=True, slots=True)
class Server:
    """What a session learns of the server and the database it is on."""

    version: str
    major: int
    size: int
    superuser: bool
    tls: bool
    """Whether this very session is encrypted."""


@dataclass(frozen=True, slots=True)
class Relation:
    oid: int
    schema: str
    name: str
    relkind: str
    bytes: int
    partition_of: tuple[int, ...]
    owned_by: int | None
    """For a sequence: the table whose column it serves."""
    of_extension: bool
    condition: str | None
    """For an extension's configuration table: which of its rows are the user's (`WHERE …`, or empty)."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def kind(self) -> str:
        return KINDS[self.relkind]

    @property
    def counted(self) -> bool:
        return self.relkind in COUNTED


def server(connection: Connection) -> Server:
    version, major, size, superuser = rows(connection, QUERIES["server"])[0]
    return Server(version.split()[0], major, size, superuser, bool(connection.info.ssl_in_use))


def relations(connection: Connection, *, sized: bool = False) -> list[Relation]:
    """Every relation a dump of this database may hold, by name; their bytes are 0 unless `sized`."""
    return [
        Relation(oid, schema, name, relkind, size, tuple(parents), owner, extension, condition)
        for oid, schema, name, relkind, size, parents, owner, extension, condition in rows(
            connection, QUERIES["relations"], {"sized": sized}
        )
    ]


def matches(pattern: str, schema: str, name: str) -> bool:
    """`schema.table` or `table`, with `*`, `?` and `[…]`; a name written as it is always matches."""
    full = f"{schema}.{name}"
    return pattern in {name, full} or fnmatchcase(full, pattern) or ("." not in pattern and fnmatchcase(name, pattern))


def select(found: Sequence[Relation], patterns: Iterable[str], where: str) -> list[Relation]:
    """The relations that patterns mean, partitions of partitioned tables with them.

    Raises `TargetMissing` for a pattern that means none: a typing error must not lead to an empty backup.
    """
    chosen: set[int] = set()
    for pattern in patterns:
        hit = {item.oid for item in found if matches(pattern, item.schema, item.name)}
        if not hit:
            raise no_match(pattern, where)
        chosen |= hit
    closed = _closed(found, chosen, lambda item: item.partition_of)
    return [item for item in found if item.oid in closed]


def no_match(pattern: str, where: str) -> TargetMissing:
    return TargetMissing(
        f"Nothing in {where} matches the pattern {pattern!r}.",
        hint="Patterns are `schema.table`, `schema.*` or `table`; see what there is with an inspection.",
    )


def _closed(found: Sequence[Relation], start: set[int], parents: Callable[[Relation], Iterable[int]]) -> set[int]:
    reached = set(start)
    grown = True
    while grown:
        more = {item.oid for item in found if item.oid not in reached and reached.intersection(parents(item))}
        reached |= more
        grown = bool(more)
    return reached


def owned_sequences(found: Sequence[Relation], tables: Iterable[Relation]) -> list[Relation]:
    """Sequences that serve a column of one of the tables."""
    owners = {table.oid for table in tables}
    return [item for item in found if item.owned_by in owners]


def identifier(relation: Relation) -> sql.Identifier:
    return sql.Identifier(relation.schema, relation.name)


def count_query(some: Sequence[tuple[int, Relation]]) -> sql.Composed:
    """One query that counts several tables: rows of (number given, count)."""
    parts = [
        sql.SQL("SELECT {}, count(*) FROM ONLY {} {}").format(
            sql.Literal(number), identifier(relation), sql.SQL(relation.condition or "")
        )
        for number, relation in some
    ]
    return sql.SQL(" UNION ALL ").join(parts)


def count_rows(connection: Connection, found: Sequence[Relation], step: Callable[[int, int], None]) -> dict[int, int]:
    """Rows of every counted relation by its oid; `step(done, of)` is called between queries."""
    wanted = [(item.oid, item) for item in found if item.counted]
    counts: dict[int, int] = {}
    for start in range(0, len(wanted), COUNTS_PER_QUERY):
        step(start, len(wanted))
        counts.update(rows(connection, count_query(wanted[start : start + COUNTS_PER_QUERY])))
    step(len(wanted), len(wanted))
    return counts


def objects(found: Sequence[Relation], counts: dict[int, int], large_objects: int) -> tuple[ObjectCount, ...]:
    """Relations as the manifest lists them."""
    listed = [
        ObjectCount(name=item.full_name, kind=item.kind, rows=counts.get(item.oid) if item.counted else None)
        for item in found
    ]
    if large_objects:
        listed.append(LARGE_OBJECTS.model_copy(update={"rows": large_objects}))
    return tuple(listed)


def one(connection: Connection, name: str) -> Any:
    """The single value a named query gives."""
    return rows(connection, QUERIES[name])[0][0]

"""Rows without definitions: whether a database has the tables for them, and has them empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.artefacts.manifest import ObjectCount
from engines.errors import TargetMissing, TargetNotEmpty, UnsupportedOperation
from engines.postgres import catalog
from engines.postgres.catalog import COUNTS_PER_QUERY, LARGE_OBJECTS, Relation, identifier
from engines.postgres.connection import rows
from engines.postgres.toc import Entry

HINT = "Restore a backup of the definitions first (content `schema`), then this one into the same database."


def refuse_replace(mode: str) -> None:
    if mode == "replace":
        raise UnsupportedOperation(
            "A backup of rows only cannot take the place of a database: it has no tables.",
            hint=f"{HINT} Use mode `create`.",
        )


def refuse_absent(database: str) -> TargetMissing:
    return TargetMissing(f"The backup holds rows only, and there is no database {database!r} with tables.", hint=HINT)


def refuse_unfit(opened: Connection, wanted: Sequence[ObjectCount], database: str) -> None:
    """Raise unless every table the rows are for is there (`TargetMissing`) without rows (`TargetNotEmpty`).

    Never beside rows that are there: which of both are meant is not ours to guess, and keys would collide.
    """
    there = {item.full_name: item for item in catalog.relations(opened)}
    tables = [item.name for item in wanted if item.kind == "table"]
    missing = [name for name in tables if name not in there]
    if missing:
        raise TargetMissing(
            f"The backup holds rows only, and database {database!r} has no table {missing[0]}"
            + (f", nor {len(missing) - 1} more." if len(missing) > 1 else "."),
            hint=HINT,
        )
    full = _with_rows(opened, [there[name] for name in tables])
    if any(item.kind == LARGE_OBJECTS.kind for item in wanted) and int(catalog.one(opened, "large_object_count")):
        full.append("large objects")
    if full:
        raise TargetNotEmpty(
            f"Database {database!r} has rows already where the backup's are to go: {full[0]}"
            + (" and more." if len(full) > 1 else "."),
            hint="Empty the tables (TRUNCATE), or restore into a database that has only the definitions.",
            details={"objects": full[:20]},
        )


def _with_rows(opened: Connection, tables: Sequence[Relation]) -> list[str]:
    full: list[str] = []
    for start in range(0, len(tables), COUNTS_PER_QUERY):
        parts = [
            sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM ONLY {} {})").format(
                sql.Literal(item.full_name), identifier(item), sql.SQL(item.condition or "")
            )
            for item in tables[start : start + COUNTS_PER_QUERY]
        ]
        full += [name for (name,) in rows(opened, sql.SQL(" UNION ALL ").join(parts))]
    return full


def chosen(entries: Iterable[Entry], opened: Connection, patterns: Iterable[str], database: str) -> list[Entry]:
    """The entries with the rows of the tables `patterns` mean, and the values of their sequences.

    What belongs together is known by the target: the archive has no definitions. Raises `TargetMissing`.
    """
    found = catalog.relations(opened)
    taken = catalog.select(found, patterns, f"database {database!r}")
    names = {(item.schema, item.name) for item in (*taken, *catalog.owned_sequences(found, taken))}
    return [entry for entry in entries if (entry.schema, entry.name) in names]

"""Brings a ledger's schema up to date: numbered SQL files, each applied once, in one transaction of its own.

The same number means the same change in every dialect.

`migrations/<dialect>/NNNN_name.sql` holds the files; the table `schema_migrations` says which were applied.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from service.ledger.records import LedgerUnavailable

if TYPE_CHECKING:  # an SQLite ledger does without
    import psycopg2.extensions


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str


def known(dialect: str) -> list[Migration]:
    """This version's migrations for `sqlite` or `postgres`, in order."""
    folder = resources.files("service.ledger").joinpath("migrations", dialect)
    found = []
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def missing(dialect: str, applied: Sequence[int]) -> list[Migration]:
    """Those still to be applied. Raises `LedgerUnavailable` for a schema of a later version."""
    migrations = known(dialect)
    newest = max((migration.number for migration in migrations), default=0)
    beyond = max(applied, default=0)
    if beyond > newest:
        raise LedgerUnavailable(
            f"The ledger has schema {beyond}, this version knows {newest}: start the newer version of FlexDB."
        )
    return [migration for migration in migrations if migration.number not in set(applied)]


def statements(script: str) -> Iterator[str]:
    """The single statements of a script, triggers in one piece."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError(f"a migration ends in the middle of a statement: {statement.strip()[:80]}")


def migrate_sqlite(connection: sqlite3.Connection, now: float) -> None:
    """Apply what is missing. `connection` must not manage transactions itself (`isolation_level=None`)."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations"
        " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at REAL NOT NULL)"
    )
    applied = [number for (number,) in connection.execute("SELECT number FROM schema_migrations")]
    for migration in missing("sqlite", applied):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(migration.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?)", (migration.number, migration.name, now)
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


_ONE_AT_A_TIME = 0x666C_6578_6462
"""Key of the advisory lock under which processes that start together take turns."""


def migrate_postgres(connection: psycopg2.extensions.connection) -> None:
    """Apply what is missing, one process at a time. `connection` is in autocommit mode, its search path the schema.

    The schema may have been made by an administrator for a user who may not make one.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SET statement_timeout = 0; SET lock_timeout = 0; SELECT pg_advisory_lock(%s)", (_ONE_AT_A_TIME,)
        )
        cursor.execute("SELECT current_setting('search_path')")
        schema = _first(cursor.fetchone())
        cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (schema,))
        if _first(cursor.fetchone()) == 0:
            cursor.execute(f'CREATE SCHEMA "{schema}"')
        cursor.execute(
            "SELECT has_schema_privilege(%s, 'USAGE') AND has_schema_privilege(%s, 'CREATE')", (schema, schema)
        )
        if not _first(cursor.fetchone()):
            raise LedgerUnavailable(f"GRANT USAGE, CREATE ON SCHEMA {schema} to the ledger's user: it may not use it.")
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at DOUBLE PRECISION NOT NULL)"
        )
        cursor.execute("SELECT number FROM schema_migrations")
        for migration in missing("postgres", [number for (number,) in cursor.fetchall()]):
            _apply_to_postgres(connection, migration)
        cursor.execute("SELECT pg_advisory_unlock(%s)", (_ONE_AT_A_TIME,))


def _first(row: tuple[object, ...] | None) -> object:
    return row[0] if row is not None else None


def _apply_to_postgres(connection: psycopg2.extensions.connection, migration: Migration) -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute(migration.sql)
            cursor.execute(
                "INSERT INTO schema_migrations VALUES (%s, %s, extract(epoch FROM clock_timestamp()))",
                (migration.number, migration.name),
            )
            cursor.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK")
            raise

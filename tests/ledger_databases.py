"""A migrated PostgreSQL database for tests of ledgers that take turns in it: emptied between two of them."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection, cursor

from service.ledger.migrations import migrate_postgres
from service.ledger.postgres_session import SCHEMA, connect
from tests.servers import with_database

LEAVE_MILLISECONDS = 10_000
KEPT = "schema_migrations"

OTHERS_LEAVE = """
SELECT count(pg_terminate_backend(pid, %s)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
SHAPE = """
WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)')
SELECT json_build_array(
  (SELECT json_agg(array[nspname::text, nspacl::text] ORDER BY 1) FROM pg_namespace WHERE oid IN (TABLE ours)),
  (SELECT json_agg(array[oid::regclass::text, relkind::text, reloptions::text, relacl::text, relowner::text]
          ORDER BY oid) FROM pg_class WHERE relnamespace IN (TABLE ours)),
  (SELECT json_agg(array[attrelid::text, attname::text, atttypid::text, attnotnull::text, attisdropped::text]
          ORDER BY attrelid, attnum) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace IN (TABLE ours) AND attnum > 0),
  (SELECT json_agg(array[conrelid::text, pg_get_constraintdef(oid)] ORDER BY oid) FROM pg_constraint
    WHERE connamespace IN (TABLE ours)),
  (SELECT json_agg(array[pg_get_triggerdef(oid), tgenabled::text] ORDER BY oid) FROM pg_trigger),
  (SELECT json_agg(array[oid::text, md5(prosrc), proacl::text] ORDER BY oid) FROM pg_proc
    WHERE pronamespace IN (TABLE ours)),
  (SELECT json_agg(array[setrole::text, setconfig::text] ORDER BY setrole) FROM pg_db_role_setting
    JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()),
  (SELECT json_agg(array[datacl::text, datdba::text, datconnlimit::text]) FROM pg_database
    WHERE datname = current_database()),
  (SELECT json_agg(migrations.number ORDER BY 1) FROM flexdb.schema_migrations AS migrations)
)::text
"""
"""All a test could have changed but rows: tables, columns, triggers, settings of the database, migrations."""


class LedgerDatabase:
    """One database on one server, lent to one test after the other.

    Making and dropping a database costs a test more than all it does. What a test finds is what it would find in a
    database made for it: no session of another, no row but those of the migrations, every sequence at its start.
    A database whose tables or settings were changed is dropped, and the next test gets another.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._name: str | None = None
        self._shape = ""
        self._seeds: dict[str, list[tuple[Any, ...]]] = {}

    def lend(self) -> str:
        """URL of the migrated database without a row."""
        if self._name is None:
            self._name = f"flexdbtest_{secrets.token_hex(6)}"
            self._administer("CREATE DATABASE {} TEMPLATE template0")
            with closing(connect(self._url, "flexdb tests")) as opened:
                migrate_postgres(opened)
            with closing(psycopg2.connect(self._url)) as opened, opened.cursor() as rows:
                self._shape = _shape(rows)
                self._seeds = {table: found for table in _tables(rows) if (found := _all(rows, table))}
        return self._url

    def take_back(self) -> None:
        try:
            with closing(psycopg2.connect(self._url)) as opened:
                opened.autocommit = True
                same = self._empty(opened)
        except psycopg2.Error:  # dropped by the test, or read only
            same = False
        if not same:
            self.drop()

    def drop(self) -> None:
        if self._name is not None:
            self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            self._name = None

    def _empty(self, opened: connection) -> bool:
        """False when it is no longer what was made."""
        with opened.cursor() as rows:
            rows.execute(OTHERS_LEAVE, (LEAVE_MILLISECONDS,))
            if _shape(rows) != self._shape:
                return False
            tables = [sql.Identifier(SCHEMA, table) for table in _tables(rows)]
            rows.execute(
                sql.SQL(";").join(
                    (
                        sql.SQL("SET session_replication_role = replica"),  # the history refuses to be deleted
                        *(sql.SQL("DELETE FROM {}").format(table) for table in tables),
                        sql.SQL(
                            "SELECT setval(format('%I.%I', schemaname, sequencename), start_value, false)"
                            " FROM pg_sequences"
                        ),
                    )
                )
            )
            for table, found in self._seeds.items():
                places = sql.SQL(",").join([sql.Placeholder()] * len(found[0]))
                statement = sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(SCHEMA, table), places)
                rows.executemany(statement, found)
        return True

    @property
    def _url(self) -> str:
        assert self._name is not None
        return with_database(self._server, self._name)

    def _administer(self, statement: str) -> None:
        assert self._name is not None
        with closing(psycopg2.connect(self._server)) as opened:
            opened.autocommit = True
            opened.cursor().execute(sql.SQL(statement).format(sql.Identifier(self._name)))


def _shape(rows: cursor) -> str:
    rows.execute(SHAPE)
    found = rows.fetchone()
    return str(found[0]) if found else ""


def _tables(rows: cursor) -> list[str]:
    rows.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (SCHEMA,))
    return [table for (table,) in rows.fetchall() if table != KEPT]


def _all(rows: cursor, table: str) -> list[tuple[Any, ...]]:
    rows.execute(sql.SQL("TABLE {}").format(sql.Identifier(SCHEMA, table)))
    return [tuple(row) for row in rows.fetchall()]

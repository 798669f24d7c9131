"""A look at a PostgreSQL that is to hold a ledger, without making or changing anything there."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import connection

from service.ledger.postgres_address import shown
from service.ledger.postgres_session import SCHEMA, connect, reason
from service.ledger.records import LedgerUnavailable

MUST_BE_ON = ("fsync", "full_page_writes")
"""Settings of a server without which accepted does not mean on disk."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found; `schema` is the newest migration, None where no ledger was ever opened."""

    place: str
    version: str
    database: str
    user: str
    schema: int | None
    may_create: bool
    loose: tuple[str, ...]
    """Those of `MUST_BE_ON` that are off."""


def look(url: str) -> Look:
    """Raises `LedgerUnavailable`, whose text holds no secret, and `InvalidLedgerURL`."""
    try:
        with closing(connect(url, "flexdb doctor")) as opened:
            return _look(opened, shown(url))
    except psycopg2.Error as error:
        raise LedgerUnavailable(f"{shown(url)}: {reason(error)}") from error


def _look(opened: connection, place: str) -> Look:
    with opened.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('server_version'), current_database(), current_user,"
            " has_database_privilege(current_database(), 'CREATE'), to_regclass(%s) IS NOT NULL",
            (f"{SCHEMA}.schema_migrations",),
        )
        ((version, database, user, may_create, is_there),) = cursor.fetchall()
        schema = None
        if is_there:
            cursor.execute("SELECT max(number) FROM schema_migrations")
            ((schema,),) = cursor.fetchall()
    return Look(place, version, database, user, schema, may_create, loose_settings(opened))


def loose_settings(opened: connection) -> tuple[str, ...]:
    """What the server was told not to sync."""
    with opened.cursor() as cursor:
        cursor.execute("SELECT name FROM unnest(%s) AS name WHERE current_setting(name) = 'off'", (list(MUST_BE_ON),))
        return tuple(name for (name,) in cursor.fetchall())

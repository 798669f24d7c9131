"""What PostgreSQL's errors mean for tables of records."""

from __future__ import annotations

import re

import psycopg2

from engines.command import redact
from engines.errors import CollectionMismatch, FlexError, RecordRefused
from engines.postgres.connection import Address, translated
from engines.postgres.records.naming import UNFIT
from engines.records.fields import Table

UNIQUE = "23505"
NO_PARENT = "23503"
NO_TEXT = "it holds U+0000, or half of a surrogate pair, which the database does not take"
_NOT_AS_DECLARED = frozenset({"42P01", "42703", "3F000", "42804", "42883", "42P10", "42809", "42846"})
"""Table, column or schema is not there, or of a type that cannot be compared with what we send."""
_REFUSING_CLASSES = ("22", "23", "44")
_REFUSING = frozenset({"P0001", "54000", "428C9"})
"""A trigger's RAISE, an index row that is too long, a column that is always computed."""
_COLLIDING = frozenset({"40001", "40P01"})
_UNFIT = re.compile(rf'"{UNFIT}(\w+)=([^"]{{1,60}})"')
_LOST_CLASSES = ("57P", "08")


def refused(error: psycopg2.Error) -> bool:
    """Whether the database did not take the very values it was given."""
    code = error.pgcode or ""
    return code.startswith(_REFUSING_CLASSES) or code in _REFUSING


def collided(error: psycopg2.Error) -> bool:
    """Whether somebody else was in between, so that the same transaction may go well now."""
    return error.pgcode in _COLLIDING


def lost(error: psycopg2.Error) -> bool:
    """Whether the connection is what failed: the server restarted, or ended the session."""
    if error.pgcode:
        return error.pgcode.startswith(_LOST_CLASSES)
    return isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))


def reason(error: psycopg2.Error, address: Address) -> str:
    """The server's sentence; without its DETAIL, which repeats rows."""
    text = error.diag.message_primary or str(error).partition("\n")[0]
    return redact(" ".join(text.split()), address.secrets)[:500]


def unsendable(error: ValueError) -> bool:
    """Whether the driver itself could not write a value down."""
    return isinstance(error, UnicodeEncodeError) or "NUL" in str(error)


def of_text() -> FlexError:
    """For what is `unsendable`: the driver's own words may repeat the value."""
    return RecordRefused(f"The database does not take the record: {NO_TEXT}.")


def of_records(error: psycopg2.Error, address: Address, table: Table) -> FlexError:
    """One of `engines.errors`, to be raised from the driver's."""
    if unfit := _UNFIT.search(error.diag.message_primary or ""):
        return CollectionMismatch(
            f"The column {unfit[1]!r} of {table.name!r} holds {unfit[2]}, which no record can have.",
            hint="Correct it in the table, or leave the field out of the collection.",
            details={"field": unfit[1]},
        )
    if error.pgcode in _NOT_AS_DECLARED:
        return CollectionMismatch(f"The table {table.name!r} is not what it should be: {reason(error, address)}.")
    if refused(error):
        return RecordRefused(f"The database does not take the record: {reason(error, address)}.")
    return translated(error, address)

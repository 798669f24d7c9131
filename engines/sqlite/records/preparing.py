"""Making a table of records, or adding the columns it lacks."""

from __future__ import annotations

import sqlite3
from typing import Any

from engines.records.base import Prepared
from engines.records.fields import Field, Table
from engines.sqlite.records import shape as shapes
from engines.sqlite.records.columns import own_type, storage
from engines.sqlite.records.sessions import Sessions
from engines.sqlite.records.shape import Shape, mismatch
from engines.sqlite.structure import quoted


def prepare(sessions: Sessions, table: Table, seconds: float, *, change: bool) -> Prepared:
    """See `RecordTable.prepare`. The user's file is locked only when there is something to do."""
    with sessions.transaction("BEGIN", seconds) as session:
        found = shapes.look(session.connection, table)
        planned = _planned(session.connection, table, found)
    if not change or not (planned.created or planned.added):
        return planned
    with sessions.transaction("BEGIN IMMEDIATE", seconds) as session:
        found = shapes.look(session.connection, table)  # somebody may have been quicker
        planned = _planned(session.connection, table, found)
        if found is None:
            session.connection.execute(_creation(table))
        else:
            for field in found.missing:
                session.connection.execute(_addition(session.connection, table, field))
    return planned


def _planned(connection: sqlite3.Connection, table: Table, found: Shape | None) -> Prepared:
    """What would be done; raises `CollectionMismatch` for what cannot."""
    if found is None:
        return Prepared(created=True)
    problems = list(found.problems)
    bare = [field.name for field in found.missing if field.required and field.default is None]
    if bare and not problems and _has_rows(connection, found):
        names = ", ".join(repr(name) for name in bare)
        problems.append(f"The columns {names} are required and have no default, and there are rows already.")
    if problems:
        raise mismatch(table, problems)
    return Prepared(added=tuple(field.name for field in found.missing), notes=found.notes)


def _has_rows(connection: sqlite3.Connection, found: Shape) -> bool:
    return bool(connection.execute(f"SELECT EXISTS (SELECT 1 FROM {found.sql})").fetchone()[0])  # noqa: S608  quoted


def _creation(table: Table) -> str:
    columns = ", ".join(_definition(table, field) for field in table.fields)
    return f"CREATE TABLE main.{quoted(table.name)} ({columns})"


def _definition(table: Table, field: Field) -> str:
    text = f"{quoted(field.name)} {own_type(field)}"
    if field.name == table.key:
        return text + " NOT NULL PRIMARY KEY" + (" AUTOINCREMENT" if table.generated else "")
    return text + (" NOT NULL" if field.required else "")


def _addition(connection: sqlite3.Connection, table: Table, field: Field) -> str:
    text = f"ALTER TABLE main.{quoted(table.name)} ADD COLUMN {quoted(field.name)} {own_type(field)}"
    if field.required:
        text += " NOT NULL"
    if field.default is not None:
        text += f" DEFAULT {_literal(connection, field)}"
    return text


def _literal(connection: sqlite3.Connection, field: Field) -> Any:
    """A definition takes no parameters; SQLite itself writes the value as it must be read."""
    encode = storage(field, own_type(field)).encode
    value = encode(field.default) if encode else field.default
    return connection.execute("SELECT quote(?)", (value,)).fetchone()[0]

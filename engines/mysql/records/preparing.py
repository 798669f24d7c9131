"""Making a table, or looking whether one fits and adding what it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import pymysql

from engines.errors import CollectionMismatch, TargetBusy
from engines.mysql.records.definition import add_statement, create_statement
from engines.mysql.records.shape import NARROW, Column, binary_collation, columns_of, indexes_of_key, problem
from engines.mysql.session import Session, execute, quoted, rows
from engines.records.base import Prepared
from engines.records.fields import Field, Table

LOCK_SECONDS = 20
CANNOT = frozenset({1005, 1068, 1074, 1101, 1118, 1170, 1071})
"""The definition is not one the server can have: row or key too long, and the like."""


def prepare(opened: Session, table: Table, *, change: bool) -> Prepared:
    """As `RecordTable.prepare`. Each change is one statement, so a second run completes what a dead one left."""
    if not change:
        return _found(opened, table, change=False)
    with _alone(opened, table):
        return _found(opened, table, change=True)


@contextmanager
def _alone(opened: Session, table: Table) -> Iterator[None]:
    """One at a time; the server frees the lock when the session ends, however it does."""
    database = str(rows(opened, "SELECT DATABASE()")[0][0])
    name = "flexdb/" + hashlib.sha256(f"{database}/{table.name}".encode()).hexdigest()[:40]
    if rows(opened, "SELECT GET_LOCK(%s, %s)", (name, LOCK_SECONDS))[0][0] != 1:
        raise TargetBusy(f"Somebody else is making or changing the table {table.name!r}.")
    try:
        yield
    finally:
        rows(opened, "SELECT RELEASE_LOCK(%s)", (name,))


def _found(opened: Session, table: Table, *, change: bool) -> Prepared:
    found = columns_of(opened, table.name)
    if found is None:
        if change:
            _run(opened, create_statement(table, binary_collation(opened)), table)
        return Prepared(created=True)
    _check_table(opened, table)
    notes = _check_columns(table, found)
    _check_key(opened, table, found)
    lacking = [field for field in table.fields if field.name.lower() not in found]
    if lacking:
        _add(opened, table, lacking, change=change)
    return Prepared(added=tuple(field.name for field in lacking), notes=tuple(notes))


def _check_table(opened: Session, table: Table) -> None:
    query = (
        "SELECT TABLE_NAME, TABLE_TYPE, ENGINE FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
    )
    found = rows(opened, query, (table.name,))
    kind, engine = next((row[1:] for row in found if row[0] == table.name), found[0][1:] if found else ("", ""))
    if kind not in {"BASE TABLE", "SYSTEM VERSIONED"}:
        raise CollectionMismatch(f"{table.name!r} is no table but a {str(kind).lower()}.")
    if str(engine).lower() != "innodb":
        raise CollectionMismatch(
            f"The table {table.name!r} is kept by {engine}, which has no transactions.",
            hint=f"ALTER TABLE {quoted(table.name)} ENGINE = InnoDB.",
        )


def _check_columns(table: Table, found: dict[str, Column]) -> list[str]:
    """What differs without harm. Raises `CollectionMismatch` with everything that does harm."""
    wrong, notes = [], []
    named = {field.name.lower() for field in table.fields}
    for field in table.fields:
        column = found.get(field.name.lower())
        if column is None:
            continue
        reason = problem(field, column, is_key=field.name == table.key)
        if reason is not None:
            wrong.append(f"The column {field.name!r} {reason}, which does not fit {_called(field)}.")
        else:
            notes += _differences(table, field, column)
    for name, column in found.items():
        if name in named:
            continue
        if column.fills_itself:
            notes.append(f"No field names the column {column.name!r}; it is left as it is.")
        else:
            wrong.append(f"No field names the column {column.name!r}, which takes no NULL and has no default.")
    if wrong:
        raise CollectionMismatch(f"Table {table.name!r}: {' '.join(wrong)}")
    return notes


def _called(field: Field) -> str:
    size = f" of {field.max_length} characters" if field.max_length else ""
    digits = f"({field.precision},{field.scale or 0})" if field.precision else ""
    return f"a field of kind {field.kind}{digits}{size}"


def _differences(table: Table, field: Field, column: Column) -> list[str]:
    notes = []
    if field.name != table.key and field.required and column.nullable:
        notes.append(f"The column {column.name!r} takes NULL although its field is required.")
    if field.name != table.key and not field.required and not column.nullable:
        notes.append(f"The column {column.name!r} takes no NULL: records without a value are refused.")
    if field.kind == "integer" and column.type in NARROW:
        notes.append(f"The column {column.name!r} is {column.type}: larger numbers are refused.")
    if field.kind in {"text", "json"} and column.collation and not column.collation.startswith("utf8mb4_"):
        notes.append(f"The column {column.name!r} has not every character: texts with others are refused.")
    return notes


def _check_key(opened: Session, table: Table, found: dict[str, Column]) -> None:
    column = found.get(table.key.lower())
    if column is None:
        raise CollectionMismatch(f"The table {table.name!r} has no column {table.key!r}, which is the key.")
    if not indexes_of_key(opened, table):
        raise CollectionMismatch(
            f"The key {table.key!r} of table {table.name!r} is not unique: it has no unique index of its own.",
            hint=f"CREATE UNIQUE INDEX {table.key}_key ON {table.name} ({table.key}), or name another key.",
        )
    if column.nullable:
        raise CollectionMismatch(f"The key {table.key!r} of table {table.name!r} takes NULL.")
    if table.generated and "auto_increment" not in column.extra:
        raise CollectionMismatch(f"The database gives no keys for {table.name!r}: {table.key!r} has no AUTO_INCREMENT.")


def _add(opened: Session, table: Table, lacking: list[Field], *, change: bool) -> None:
    """Raises `CollectionMismatch` for a required one without default while there are rows.

    The server would fill such a column with zeros and empty texts, so nobody may add a row in between.
    """
    strict = [field.name for field in lacking if field.required and field.default is None]
    if not change:
        _refuse_rows(opened, table, strict)
        return
    statement = add_statement(table, lacking, binary_collation(opened))
    if not strict:
        _run(opened, statement, table)
        return
    execute(opened, f"LOCK TABLES {quoted(table.name)} WRITE")
    try:
        _refuse_rows(opened, table, strict)
        _run(opened, statement, table)
    finally:
        execute(opened, "UNLOCK TABLES")


def _refuse_rows(opened: Session, table: Table, strict: list[str]) -> None:
    if strict and rows(opened, f"SELECT 1 FROM {quoted(table.name)} LIMIT 1"):  # noqa: S608  the name is quoted
        raise CollectionMismatch(
            f"Table {table.name!r} has rows, so the required column {strict[0]!r} cannot be added without a default.",
            hint="Give the field a default, or do not require it.",
        )


def _run(opened: Session, statement: str, table: Table) -> None:
    try:
        execute(opened, statement)
    except pymysql.Error as error:
        if error.args and error.args[0] in CANNOT:
            raise CollectionMismatch(
                f"The server cannot have the table {table.name!r} with these fields: {error.args[-1]}",
                hint="Declare fewer fields, or shorter texts.",
            ) from error
        raise

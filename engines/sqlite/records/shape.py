"""A table as it is in the file, held against the fields it shall have."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from engines.errors import CollectionMismatch
from engines.records.fields import Field, Row, Table
from engines.sqlite.records.columns import Storage, Unfit, own_type, storage
from engines.sqlite.structure import quoted

MOST_COLUMNS = 1000
"""SQLite takes 2,000 unless built otherwise; every value is a parameter at least once."""
KEY_KINDS = ("text", "integer", "date", "timestamp")


def refused(table: Table) -> dict[str, str]:
    """What of a table SQLite cannot have, by field; `""` for the table."""
    found = {}
    if "." in table.name:
        found[""] = "A SQLite file has no schemas; name the table without a dot."
    elif table.name.lower().startswith("sqlite_"):
        found[""] = "SQLite keeps names that begin with sqlite_ for itself."
    elif len(table.fields) > MOST_COLUMNS:
        found[""] = f"More than {MOST_COLUMNS} fields."
    seen: set[str] = set()
    for one in table.fields:
        if one.name.lower() in seen:
            found[one.name] = "SQLite does not tell names apart that differ by case only."
        seen.add(one.name.lower())
    key = table.field(table.key)
    if key.kind not in KEY_KINDS:
        found[table.key] = f"A key is one of the kinds {', '.join(KEY_KINDS)}."
    return found


@dataclass(frozen=True, slots=True)
class Column:
    """One field's column: `sql` is its quoted name."""

    field: Field
    sql: str
    storage: Storage
    takes_null: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """`columns` has one for each field, in their order; what is missing or unfit stands as it would be made."""

    table: Table
    columns: tuple[Column, ...]
    missing: tuple[Field, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers_rows: bool = False
    """The key is SQLite's own number of a row, given by SQLite to a record that brings none."""
    encoders: tuple[tuple[int, Callable[[Any], Any]], ...] = ()
    decoders: tuple[tuple[int, Callable[[Any], Any]], ...] = ()

    @property
    def sql(self) -> str:
        return f"main.{quoted(self.table.name)}"

    @property
    def key(self) -> Column:
        return self.columns[self.table.key_position]

    @property
    def key_sql(self) -> str:
        """To be compared with a key; the column itself might take large and small letters for the same."""
        return self.key.sql + (" COLLATE BINARY" if self.key.field.kind != "integer" else "")

    @property
    def names(self) -> str:
        return ", ".join(column.sql for column in self.columns)

    def encoded(self, row: Row) -> list[Any]:
        stored = list(row)
        for position, encode in self.encoders:
            if stored[position] is not None:
                stored[position] = encode(stored[position])
        return stored

    def encoded_key(self, key: Any) -> Any:
        encode = self.key.storage.encode
        return key if encode is None or key is None else encode(key)

    def decoded(self, stored: tuple[Any, ...]) -> Row:
        """Raises `CollectionMismatch` for what is no value of its field."""
        row = list(stored)
        for position, decode in self.decoders:
            if row[position] is not None:
                try:
                    row[position] = decode(row[position])
                except Unfit as why:
                    raise self._misfit(position, why) from why
        return tuple(row)

    def _misfit(self, position: int, why: Unfit) -> CollectionMismatch:
        name = self.columns[position].field.name
        return CollectionMismatch(f"The column {name!r} of {self.table.name} {why}.", details={"field": name})

    def checked(self) -> Shape:
        """Itself; raises `CollectionMismatch` unless records can be read and written."""
        lacking = [f"The column {one.name!r} is not there." for one in self.missing]
        if self.problems or lacking:
            raise mismatch(self.table, [*self.problems, *lacking])
        return self


def mismatch(table: Table, problems: list[str]) -> CollectionMismatch:
    return CollectionMismatch(f"The table {table.name} does not fit: {' '.join(problems)}")


def absent(table: Table) -> CollectionMismatch:
    return CollectionMismatch(
        f"There is no table {table.name}.", hint="Declare the collection again: that makes its table."
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A row of `PRAGMA table_xinfo`."""

    name: str
    declared: str
    not_null: bool
    default: str | None
    in_key: int
    computed: bool


def made(table: Table) -> Shape:
    """As the table would be made."""
    columns = tuple(
        Column(one, quoted(one.name), storage(one, own_type(one)), not one.required) for one in table.fields
    )
    return _with_coders(Shape(table, columns))


def look(connection: sqlite3.Connection, table: Table) -> Shape | None:
    """The table as it is now, None when there is none. Looks within the transaction that the connection is in."""
    kind = connection.execute(
        "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE", (table.name,)
    ).fetchone()
    if kind is None:
        return None
    if kind[0] != "table":
        return Shape(table, made(table).columns, problems=(f"It is a {kind[0]}, not a table.",))
    utf8 = connection.execute("PRAGMA main.encoding").fetchone()[0] == "UTF-8"
    found = [
        _Found(name, declared or "", bool(not_null), default, in_key, hidden in (2, 3))
        for name, declared, not_null, default, in_key, hidden in connection.execute(
            "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?, 'main')", (table.name,)
        )
    ]
    by_name = {one.name.lower(): one for one in found}
    columns, missing, problems = [], [], []
    notes = [] if utf8 else ["The file is in UTF-16, where SQLite makes U+FFFD of U+FFFE and U+FFFF."]
    for one in table.fields:
        there = by_name.pop(one.name.lower(), None)
        if there is None:
            missing.append(one)
            columns.append(Column(one, quoted(one.name), storage(one, own_type(one)), not one.required))
            continue
        try:
            column = Column(one, quoted(there.name), storage(one, there.declared, utf8=utf8), not there.not_null)
        except Unfit as why:
            problems.append(f"The column {one.name!r} {why}.")
            columns.append(Column(one, quoted(one.name), storage(one, own_type(one)), not one.required))
            continue
        columns.append(column)
        problems += _problems(there)
        notes += _notes(table, column, there)
    for other in by_name.values():
        _judge_other(other, found, problems, notes)
    numbers = _numbers_rows(connection, table, found, without_rowid=bool(kind[1]))
    problems += _key_problems(connection, table, missing, numbers=numbers)
    return _with_coders(
        Shape(table, tuple(columns), tuple(missing), tuple(problems), tuple(notes), numbers_rows=numbers)
    )


def _with_coders(shape: Shape) -> Shape:
    encoders = tuple((n, one.storage.encode) for n, one in enumerate(shape.columns) if one.storage.encode)
    decoders = tuple((n, one.storage.decode) for n, one in enumerate(shape.columns) if one.storage.decode)
    return replace(shape, encoders=encoders, decoders=decoders)


def _problems(there: _Found) -> list[str]:
    return [f"The column {there.name!r} is computed by the database."] if there.computed else []


def _notes(table: Table, column: Column, there: _Found) -> list[str]:
    notes = [f"The column {there.name!r} {column.storage.note}."] if column.storage.note else []
    if column.field.name == table.key:
        return notes
    if column.field.required and not there.not_null:
        notes.append(f"The column {there.name!r} takes NULL although its field is required.")
    if not column.field.required and there.not_null:
        notes.append(f"The column {there.name!r} takes no NULL although its field is not required.")
    return notes


def _judge_other(other: _Found, found: list[_Found], problems: list[str], notes: list[str]) -> None:
    """A column that no field names must be able to do without a value."""
    sole_key = other.in_key == 1 and not any(one.in_key > 1 for one in found)
    given = other.computed or other.default is not None or (sole_key and other.declared.upper() == "INTEGER")
    if other.not_null and not given:
        problems.append(f"The column {other.name!r} takes no NULL, has no default, and no field names it.")
    else:
        notes.append(f"The column {other.name!r} is named by no field.")


def _numbers_rows(connection: sqlite3.Connection, table: Table, found: list[_Found], *, without_rowid: bool) -> bool:
    """Whether the key is an alias of the rowid: its declared type is INTEGER to the letter, and it has no index."""
    keys = [one for one in found if one.in_key]
    if without_rowid or len(keys) != 1 or keys[0].name.lower() != table.key.lower():
        return False
    if keys[0].declared.upper() != "INTEGER":
        return False
    own = "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?, 'main') WHERE origin = 'pk')"
    return not connection.execute(own, (table.name,)).fetchone()[0]


_UNIQUE = """
SELECT EXISTS (
    SELECT 1 FROM pragma_index_list(?1, 'main') AS i
    WHERE i."unique" AND NOT i.partial
      AND (SELECT count(*) FROM pragma_index_xinfo(i.name, 'main') WHERE key) = 1
      AND (SELECT count(*) FROM pragma_index_xinfo(i.name, 'main')
           WHERE key AND name = ?2 COLLATE NOCASE AND coll = 'BINARY') = 1
)
"""


def _key_problems(connection: sqlite3.Connection, table: Table, missing: list[Field], *, numbers: bool) -> list[str]:
    if any(one.name == table.key for one in missing):
        return [f"The key {table.key!r} has no column."]
    if table.generated and not numbers:
        return [f"The key {table.key!r} is not INTEGER PRIMARY KEY, so SQLite gives it no values."]
    if numbers or connection.execute(_UNIQUE, (table.name, table.key)).fetchone()[0]:
        return []
    return [f"The key {table.key!r} has no unique index of its own that tells all texts apart."]

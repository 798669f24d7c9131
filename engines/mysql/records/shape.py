"""The columns a table really has, and how its fields are compared in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pymysql

from engines.errors import CollectionMismatch, UnsupportedOperation
from engines.mysql.session import Session, number_of, quoted, rows
from engines.records.fields import Field, Table

COLLATIONS = ("utf8mb4_nopad_bin", "utf8mb4_0900_bin")
"""MariaDB's and MySQL's order by code points in which trailing spaces count."""
NO_SUCH_TABLE = 1146

_TYPE = re.compile(r"^(?P<name>[a-z]+)(?:\((?P<sizes>[\d, ]+)\))?(?P<rest>.*)$", re.DOTALL)
_TEXT_BYTES = {"tinytext": 255, "text": 65_535, "mediumtext": 16_777_215, "longtext": 4_294_967_295}
_TYPES = {"float": {"double"}, "boolean": {"tinyint"}, "date": {"date"}, "json": {"longtext", "json"}}
NARROW = frozenset({"tinyint", "smallint", "mediumint", "int"})


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    """The type's name alone, in lower case."""
    sizes: tuple[int, ...]
    unsigned: bool
    collation: str | None
    nullable: bool
    has_default: bool
    extra: str
    """`auto_increment`, `STORED GENERATED` …, in lower case."""

    @classmethod
    def read(cls, row: Sequence[Any]) -> Column:
        """From a row of SHOW FULL COLUMNS."""
        name, type, collation, null, _, default, extra = row[:7]
        parts = _TYPE.match(str(type).lower())
        sizes = tuple(int(one) for one in ((parts and parts["sizes"]) or "").split(",") if one.strip())
        return cls(
            name=str(name),
            type=parts["name"] if parts else str(type),
            sizes=sizes,
            unsigned=bool(parts and "unsigned" in parts["rest"]),
            collation=collation,
            nullable=null == "YES",
            has_default=default is not None,
            extra=str(extra).lower(),
        )

    @property
    def calculated(self) -> bool:
        """MySQL says `DEFAULT_GENERATED` of a default, which is nothing of the kind."""
        return any(word in self.extra for word in ("virtual generated", "stored generated", "persistent"))

    @property
    def fills_itself(self) -> bool:
        return self.nullable or self.has_default or "auto_increment" in self.extra or self.calculated

    @property
    def longest(self) -> int | None:
        """Characters it takes; for the TEXT types bytes. None: it is no text."""
        return self.sizes[0] if self.type == "varchar" and self.sizes else _TEXT_BYTES.get(self.type)

    @property
    def counts_bytes(self) -> bool:
        return self.type in _TEXT_BYTES


@dataclass(frozen=True, slots=True)
class Shape:
    """One column for each field of a table, in their order."""

    table: Table
    columns: tuple[Column, ...]
    collation: str
    """The server's order by code points."""

    def operand(self, position: int, alias: str = "") -> str:
        """A column as it is compared and ordered."""
        column, name = self.columns[position], alias + quoted(self.columns[position].name)
        if column.collation is None or column.collation in COLLATIONS or self.table.fields[position].kind != "text":
            return name
        if not column.collation.startswith("utf8mb4_"):
            name = f"CONVERT({name} USING utf8mb4)"
        return f"{name} COLLATE {self.collation}"

    def gives_key(self, position: int) -> bool:
        return self.table.generated and position == self.table.key_position

    def equal(self, position: int, other: str, alias: str = "") -> str:
        """That a column has a value, so that an index on it can be used."""
        exact = f"{self.operand(position, alias)} = {other}"
        if not self.is_loose(position):
            return exact
        mine = other if other == "%s" else f"{other} COLLATE {self.columns[position].collation}"
        return f"{alias}{quoted(self.columns[position].name)} = {mine} AND {exact}"

    def among(self, position: int, others: Sequence[str]) -> str:
        """As `equal`, for one of several parameters, all of which are wanted `times_asked` times."""
        marks = ", ".join(others)
        exact = f"{self.operand(position)} IN ({marks})"
        return f"{quoted(self.columns[position].name)} IN ({marks}) AND {exact}" if self.is_loose(position) else exact

    def times_asked(self, position: int) -> int:
        """How often the parameters of `equal` and `among` are wanted."""
        return 2 if self.is_loose(position) else 1

    def is_loose(self, position: int) -> bool:
        """Whether the column's own order finds more than ours does, by an index that ours cannot use."""
        collation = self.columns[position].collation or ""
        of_text = self.table.fields[position].kind == "text"
        return of_text and collation.startswith("utf8mb4_") and collation not in COLLATIONS


def binary_collation(opened: Session) -> str:
    """Raises `UnsupportedOperation` for a server that has none."""
    wanted = ", ".join(f"'{name}'" for name in COLLATIONS)
    query = "SELECT COLLATION_NAME FROM information_schema.COLLATIONS WHERE COLLATION_NAME IN (" + wanted + ")"  # noqa: S608  names are quoted, values are parameters
    found = {str(name) for (name,) in rows(opened, query)}
    for name in COLLATIONS:
        if name in found:
            return name
    raise UnsupportedOperation(
        "This server cannot order texts by their characters with trailing spaces.",
        hint="Collections need MariaDB from 10.3 or MySQL from 8.0.17 on.",
    )


def columns_of(opened: Session, name: str) -> dict[str, Column] | None:
    """By name in lower case, in the table's order; None where there is no such table."""
    try:
        found = rows(opened, f"SHOW FULL COLUMNS FROM {quoted(name)}")
    except pymysql.Error as error:
        if number_of(error) == NO_SUCH_TABLE:
            return None
        raise
    return {column.name.lower(): column for column in map(Column.read, found)}


def indexes_of_key(opened: Session, table: Table) -> set[str]:
    """Names of the unique indexes that are on the key, all of it, and on nothing else."""
    indexes: dict[str, list[tuple[str, bool]]] = {}
    for row in rows(opened, f"SHOW INDEX FROM {quoted(table.name)}"):
        unique, name, part, prefix = not row[1], str(row[2]), str(row[4] or ""), row[7]
        indexes.setdefault(name, []).append((part.lower(), unique and prefix is None))
    return {name for name, parts in indexes.items() if parts == [(table.key.lower(), True)]}


def shape_of(opened: Session, table: Table) -> Shape:
    """Raises `CollectionMismatch` where the table, or a column of a field, is missing."""
    found = columns_of(opened, table.name)
    if found is None:
        raise missing_table(table)
    lacking = [name for name in table.names if name.lower() not in found]
    if lacking:
        raise CollectionMismatch(f"The table {table.name!r} has no column {lacking[0]!r}.")
    columns = tuple(found[name.lower()] for name in table.names)
    return Shape(table, columns, binary_collation(opened))


def expect_fitting(shape: Shape) -> None:
    """Raises `CollectionMismatch` where somebody has narrowed a column since it was prepared: the server would round
    decimals without a word."""
    for field, column in zip(shape.table.fields, shape.columns, strict=True):
        reason = problem(field, column, is_key=field.name == shape.table.key)
        if reason is not None:
            raise CollectionMismatch(f"Table {shape.table.name!r}: the column {field.name!r} {reason}.")


def missing_table(table: Table) -> CollectionMismatch:
    return CollectionMismatch(
        f"There is no table {table.name!r}.", hint="Declare the collection again, which makes its table."
    )


def problem(field: Field, column: Column, *, is_key: bool = False) -> str | None:
    """Why a column cannot hold a field; None: it can. A key of any length is one as long as an index takes it."""
    if column.calculated:
        return "is calculated by the database"
    if field.kind in _TYPES:
        return None if column.type in _TYPES[field.kind] else _other(column)
    if is_key and field.kind == "text" and field.max_length is None and column.type == "varchar":
        return None
    fits = {"text": _text, "integer": _integer, "decimal": _decimal, "timestamp": _timestamp}
    return fits[field.kind](field, column)


def _other(column: Column) -> str:
    sizes = f"({','.join(map(str, column.sizes))})" if column.sizes else ""
    return f"has the type {column.type}{sizes}{' unsigned' if column.unsigned else ''}"


def _text(field: Field, column: Column) -> str | None:
    if column.longest is None:
        return _other(column)
    if field.max_length is None:
        return None if column.type == "longtext" else f"{_other(column)}, too narrow for texts of any length"
    if column.longest < field.max_length * (4 if column.counts_bytes else 1):
        return f"{_other(column)}, too narrow for {field.max_length} characters"
    return None


def _integer(_: Field, column: Column) -> str | None:
    if column.type == "bigint" and not column.unsigned:
        return None
    return None if column.type in NARROW and column.sizes != (1,) else _other(column)


def _decimal(field: Field, column: Column) -> str | None:
    if column.type != "decimal" or len(column.sizes) != 2:
        return _other(column)
    if field.precision is None:
        return None
    precision, scale = column.sizes
    wanted = field.scale or 0
    if scale < wanted or precision - scale < field.precision - wanted:
        return f"{_other(column)}, too narrow for ({field.precision},{wanted})"
    return None


def _timestamp(_: Field, column: Column) -> str | None:
    if column.type not in {"datetime", "timestamp"}:
        return _other(column)
    return None if column.sizes == (6,) else f"{_other(column)}, which rounds to less than microseconds"

"""How tables, columns and values of records are written in PostgreSQL's SQL."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg2 import sql
from psycopg2.sql import SQL, Composable, Identifier

from engines.records.fields import Field, Kind, Table

DEFAULT_SCHEMA = "public"
_C = SQL(' COLLATE pg_catalog."C"')
UNFIT = "flexdb:"
"""In the message of an error: then follow a column's name, `=` and what it holds."""
_BETWEEN_DATES = "{0} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'"
_BETWEEN_MOMENTS = "{0} BETWEEN TIMESTAMPTZ '0001-01-01 00:00:00+00' AND TIMESTAMPTZ '9999-12-31 23:59:59.999999+00'"
_CASTS: dict[Kind, str] = {
    "text": "text",
    "integer": "bigint",
    "decimal": "numeric",
    "float": "double precision",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp with time zone",
    "json": "jsonb",
}


def split(name: str) -> tuple[str, str]:
    """Schema and name of a table."""
    schema, _, bare = name.rpartition(".")
    return schema or DEFAULT_SCHEMA, bare


def table_name(table: Table) -> Identifier:
    return Identifier(*split(table.name))


def column_type(field: Field) -> Composable:
    """The type of a column that we make."""
    match field.kind:
        case "text":
            length = f"varchar({int(field.max_length)})" if field.max_length is not None else "text"
            return SQL(length) + _C
        case "decimal" if field.precision is not None:
            return SQL(f"numeric({int(field.precision)},{int(field.scale or 0)})")
        case kind:
            return SQL(_CASTS[kind])


def column(field: Field, of: str | None = None) -> Composable:
    return Identifier(of, field.name) if of else Identifier(field.name)


def columns(fields: Iterable[Field], of: str | None = None) -> Composable:
    return SQL(", ").join([column(field, of) for field in fields])


def comparable(field: Field, of: str | None = None) -> Composable:
    """A column as it is compared and ordered: text by code points, whatever the column's own collation says."""
    named = column(field, of)
    if field.kind == "text":
        return named + _C
    if field.kind == "json":
        return named + SQL("::jsonb")
    return named


def parameter(field: Field) -> Composable:
    """The place of one value of the field among a statement's parameters."""
    return SQL(f"CAST(%s AS {_CASTS[field.kind]})")  # `::` would bind before the sign of the smallest integer


def parameters(field: Field) -> Composable:
    """The place of a list of values."""
    return SQL(f"CAST(%s AS {_CASTS[field.kind]}[])")


def shown(field: Field, of: str | None = None) -> Composable:
    """A column as it is read: of the kind's own type, and a decimal with the field's scale where that loses nothing.

    What no record can hold, NaN, infinity and years that are none of 1 to 9999, ends the statement with an error whose
    message has `UNFIT`: the driver would make other values of it, or nothing that we understand.
    """
    named = column(field, of)
    match field.kind:
        case "json":
            return named + SQL("::text")
        case "timestamp":
            return _finite(field, named + SQL("::timestamptz"), _BETWEEN_MOMENTS)
        case "date":
            return _finite(field, named, _BETWEEN_DATES)
        case "float":
            return _finite(field, named, "{0} - {0} = 0")
        case "decimal":
            shown = named
            if field.scale is not None:
                rounded = SQL("round({}, {})").format(named, sql.Literal(field.scale))
                shown = SQL("CASE WHEN {rounded} = {named} THEN {rounded} ELSE {named} END").format(
                    rounded=rounded, named=named
                )
            return _finite(field, named, "{0} - {0} = 0", shown)
        case _:
            return named


def _finite(field: Field, named: Composable, holds: str, shown: Composable | None = None) -> Composable:
    return SQL("CASE WHEN {} THEN {} ELSE CAST({} || CAST({} AS text) AS {}) END").format(
        SQL(holds).format(named), shown or named, sql.Literal(f"{UNFIT}{field.name}="), named, SQL(_CASTS[field.kind])
    )


def all_shown(table: Table, of: str | None = None) -> Composable:
    return SQL(", ").join([shown(field, of) for field in table.fields])

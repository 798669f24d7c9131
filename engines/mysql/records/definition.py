"""Which column of a table holds which field: types as they are written, and what cannot be had."""

from __future__ import annotations

from collections import Counter
from datetime import UTC
from typing import Any

from engines.mysql.session import literal, quoted
from engines.records.fields import LARGEST_PRECISION, Field, Table, Value

LONGEST_KEY = 768
"""Characters of four bytes in an index of InnoDB. https://mariadb.com/kb/en/innodb-limitations/"""
USUAL_KEY = 255
LONGEST_VARCHAR = 4096
"""Longer texts are LONGTEXT: the columns of a row, those texts aside, have 65,535 bytes together."""
ROW_BYTES = 60_000
LARGEST_DIGITS, LARGEST_SCALE = 65, 30
"""Of DECIMAL on every server. https://dev.mysql.com/doc/refman/8.4/en/precision-math-decimal-characteristics.html"""
LONGEST_TABLE_NAME = 64
MOST_COLUMNS = 1000

_PLAIN = {
    "integer": "BIGINT",
    "float": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "DATETIME(6)",
}


def refused(table: Table) -> dict[str, str]:
    """What of a table cannot be had here, as `RecordEngine.refuse_table` says it."""
    found: dict[str, str] = {}
    if "." in table.name:
        found[""] = "A table of MySQL or MariaDB has no schema before its name."
    elif len(table.name) > LONGEST_TABLE_NAME:
        found[""] = f"A table's name has at most {LONGEST_TABLE_NAME} characters here."
    elif len(table.fields) > MOST_COLUMNS:
        found[""] = f"A table has at most {MOST_COLUMNS} columns here."
    twice = {name for name, times in Counter(name.lower() for name in table.names).items() if times > 1}
    for field in table.fields:
        reason = _refused_field(field, is_key=field.name == table.key, generated=table.generated)
        if field.name.lower() in twice:
            reason = "Another column has this name but for upper and lower case, which are the same here."
        if reason:
            found[field.name] = reason
    return found


def _refused_field(field: Field, *, is_key: bool, generated: bool) -> str | None:
    if field.precision is not None and not _fits(field):
        return f"A decimal has at most {LARGEST_PRECISION} digits, {LARGEST_SCALE} of them behind the point."
    if not is_key:
        return None
    if field.kind in {"json", "float"}:
        return f"A key is no {field.kind} here."
    if field.kind == "text" and (field.max_length or 0) > LONGEST_KEY:
        return f"A key of text has at most {LONGEST_KEY} characters here."
    if generated and field.kind != "integer":
        return "A key that the database gives is an integer."
    return None


def _fits(field: Field) -> bool:
    precision, scale = field.precision or 0, field.scale or 0
    return 0 < precision <= LARGEST_PRECISION and 0 <= scale <= min(precision, LARGEST_SCALE)


def column_type(field: Field, *, is_key: bool = False, long: bool = False) -> str:
    """The type, without character set. `long`: a text goes into LONGTEXT however short it is.

    JSON is text: the JSON of MySQL rounds numbers beyond 64 bits, and MariaDB's check takes 32 levels and no more.
    """
    if field.kind == "text" and is_key:
        return f"VARCHAR({field.max_length or USUAL_KEY})"
    if field.kind == "text" and field.max_length and field.max_length <= LONGEST_VARCHAR and not long:
        return f"VARCHAR({field.max_length})"
    if field.kind in {"text", "json"}:
        return "LONGTEXT"
    if field.kind == "decimal":
        precision, scale = digits(field)
        return f"DECIMAL({precision},{scale})"
    return _PLAIN[field.kind]


def digits(field: Field) -> tuple[int, int]:
    """Precision and scale of the column of a decimal; without its own the widest there is, exact for what fits."""
    if field.precision is None:
        return LARGEST_DIGITS, LARGEST_SCALE
    return field.precision, field.scale or 0


def create_statement(table: Table, collation: str) -> str:
    """One statement, so that there is all of the table or nothing of it."""
    long = _too_wide(table)
    parts = [_column(table, field, long=field.name in long, default=False) for field in table.fields]
    parts.append(f"PRIMARY KEY ({quoted(table.key)})")
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(table.name)} ({', '.join(parts)})"
        f" ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {collation}"
    )


def add_statement(table: Table, fields: list[Field], collation: str) -> str:
    """All columns by one statement, for the same reason."""
    added = []
    for field in fields:
        charset = f" CHARACTER SET utf8mb4 COLLATE {collation}" if field.kind in {"text", "json"} else ""
        added.append(f"ADD COLUMN {_column(table, field, long=False, default=True, charset=charset)}")
    return f"ALTER TABLE {quoted(table.name)} {', '.join(added)}"


def _too_wide(table: Table) -> set[str]:
    """Texts that must be LONGTEXT so that the row is not too long: the longest first."""
    texts = [field for field in table.fields if field.kind == "text" and field.name != table.key and field.max_length]
    short = sorted((field for field in texts if (field.max_length or 0) <= LONGEST_VARCHAR), key=_width)
    room, found = ROW_BYTES - 4 * LONGEST_KEY - 40 * len(table.fields), set()
    for field in short:
        room -= _width(field)
        if room < 0:
            found.add(field.name)
    return found


def _width(field: Field) -> int:
    return 4 * (field.max_length or 0)


def _column(table: Table, field: Field, *, long: bool, default: bool, charset: str = "") -> str:
    is_key = field.name == table.key
    words = [quoted(field.name), column_type(field, is_key=is_key, long=long) + charset]
    words.append("NOT NULL" if field.required or is_key else "NULL")
    if default and field.default is not None:
        words.append(f"DEFAULT {_written(field.default)}")
    if is_key and table.generated:
        words.append("AUTO_INCREMENT")
    return " ".join(words)


def _written(value: Value) -> str:
    """A default as SQL; in brackets, as MySQL wants it for long texts."""
    return f"({_constant(value)})"


def _constant(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}" if "e" in repr(value) else f"{value!r}e0"
    if hasattr(value, "as_tuple"):
        return f"{value:f}"
    if hasattr(value, "hour"):
        value = value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    return literal(str(value))

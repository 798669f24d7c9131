"""What the rows of a table are, in one digest that does not depend on where they lie in the file."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Callable
from typing import Any

from engines.run import Run
from engines.sqlite import structure
from engines.sqlite.selection import Selection


def digests(connection: sqlite3.Connection, names: tuple[str, ...], run: Run) -> dict[str, str]:
    """SHA-256 per table over its rows in the order of its key, types of values included.

    `NOT INDEXED` makes SQLite walk the table itself, so the order is the rowid's, or the primary key's.
    """
    given = connection.text_factory
    connection.text_factory = bytearray  # text need not be UTF-8, and must not look like a BLOB
    try:
        found = {}
        for done, name in enumerate(names):
            run.progress("digesting", done, len(names), unit="tables")
            found[name] = _digest(connection, name)
        return found
    finally:
        connection.text_factory = given


def names(connection: sqlite3.Connection, selection: Selection) -> tuple[str, ...]:
    """The selected tables that have rows of their own, shadow tables of selected virtual ones among them.

    SQLite's own rule for a shadow table: the virtual table's name is what stands before the last underscore.
    """
    kept = {table.name for table in selection.kept}
    rows = connection.execute(
        "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    )
    return tuple(name for name, kind in rows if (name if kind == "table" else name.rpartition("_")[0]) in kept)


def _digest(connection: sqlite3.Connection, name: str) -> str:
    digest = hashlib.sha256()
    # SQLite has no parameters for names; doubling the quotes is its own rule for quoting them
    rows = connection.execute(f"SELECT * FROM main.{structure.quoted(name)} NOT INDEXED")  # noqa: S608  it is quoted
    for row in rows:
        for value in row:
            _ENCODED[type(value)](digest.update, value)
        digest.update(b"\n")
    return digest.hexdigest()


def _text(update: Callable[[Any], None], value: bytearray) -> None:
    update(b"t%d:" % len(value))
    update(value)


def _blob(update: Callable[[Any], None], value: bytes) -> None:
    update(b"b%d:" % len(value))
    update(value)


_ENCODED: dict[type, Callable[[Callable[[Any], None], Any], None]] = {
    bytearray: _text,
    bytes: _blob,
    int: lambda update, value: update(b"i%d;" % value),
    float: lambda update, value: update(struct.pack(">cd", b"f", value)),
    type(None): lambda update, _value: update(b"n"),
}

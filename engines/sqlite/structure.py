"""What is in a SQLite database: tables with their rows and bytes, and a fingerprint of the structure."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engines.artefacts.manifest import ObjectCount
from engines.base import TableInfo
from engines.run import Run

_GAP = r"(?: \s | --[^\n]* | /\*.*?(?:\*/|\Z) )"
_TOKENS = re.compile(
    rf"""(?P<kept>'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
      | {_GAP}*(?P<mark>[(),;=]){_GAP}*
      | (?P<gap>{_GAP}+)
      | (?P<word>\w+)""",
    re.VERBOSE | re.DOTALL,
)
_NAME = r"""(?:"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*'|[^\s"'`\[(]+)"""
_MODULE = re.compile(
    rf"CREATE\s+VIRTUAL\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{_NAME}(?:\s*\.\s*{_NAME})?\s*USING\s+(\w+)", re.IGNORECASE
)
_WITHOUT_MODULE = ("no such module", "no such tokenizer", "unknown tokenizer")


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    kind: str
    """`table`, `virtual` or `view`."""


def tables(connection: sqlite3.Connection) -> list[Table]:
    """The user's tables and views by name, without SQLite's own and the shadow tables of virtual ones.

    `PRAGMA table_list` came with SQLite 3.37.
    """
    rows = connection.execute(
        "SELECT name, type FROM pragma_table_list"
        " WHERE schema = 'main' AND type IN ('table', 'virtual', 'view')"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    )
    return [Table(name, kind) for name, kind in rows]


def size_bytes(connection: sqlite3.Connection) -> int:
    """Of the whole database as this connection sees it, what is still in the WAL included."""
    pages, page_size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(page_size)


def has_user_objects(connection: sqlite3.Connection) -> bool:
    """Whether anything was ever made in it that is still there."""
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\')"
    return bool(connection.execute(query).fetchone()[0])


def counted(connection: sqlite3.Connection, run: Run, *, count: bool = True) -> tuple[ObjectCount, ...]:
    """Every table with its rows (None when `count` is off, or its module is not in this SQLite)."""
    found = [table for table in tables(connection) if table.kind != "view"]
    counts = []
    for done, table in enumerate(found):
        run.progress("counting", done, len(found), unit="tables")
        rows = rows_of(connection, table.name) if count else None
        counts.append(ObjectCount(name=table.name, kind=table.kind, rows=rows))
    return tuple(counts)


def rows_of(connection: sqlite3.Connection, table: str) -> int | None:
    """Exact; None for a virtual table whose module this SQLite does not have."""
    try:
        # SQLite has no parameters for names; doubling the quotes is its own rule for quoting them
        query = "SELECT count(*) FROM main." + quoted(table)  # noqa: S608  the name is quoted
        return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError as error:
        if str(error).startswith(_WITHOUT_MODULE):
            return None
        raise


def in_wal_mode(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def lacks_module(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a virtual table cannot be opened here, because its module or tokenizer is not in this SQLite."""
    try:
        connection.execute(f"SELECT 1 FROM main.{quoted(table)} LIMIT 0")  # noqa: S608  the name is quoted
    except sqlite3.OperationalError as error:
        return str(error).startswith(_WITHOUT_MODULE)
    return False


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there is a table of exactly that name, SQLite's own among them."""
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)"
    return bool(connection.execute(query, (name,)).fetchone()[0])


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sizes(connection: sqlite3.Connection) -> dict[str, int] | None:
    """Bytes per table, its indexes included; None where SQLite was built without `dbstat`."""
    query = (
        "SELECT coalesce(s.tbl_name, d.name), sum(d.pgsize) FROM dbstat AS d"
        " LEFT JOIN sqlite_schema AS s ON s.name = d.name GROUP BY 1"
    )
    try:
        return dict(connection.execute(query).fetchall())
    except sqlite3.OperationalError as error:
        if "no such table: dbstat" in str(error):
            return None
        raise


def table_infos(connection: sqlite3.Connection, run: Run) -> tuple[TableInfo, ...]:
    known = sizes(connection)
    found = tables(connection)
    infos = []
    for done, table in enumerate(found):
        run.progress("inspecting", done, len(found), unit="tables")
        rows = None if table.kind == "view" else rows_of(connection, table.name)
        size = None if known is None or table.kind != "table" else known.get(table.name)
        infos.append(TableInfo(table.name, table.kind, rows, rows is not None, size))
    return tuple(infos)


def fingerprint(connection: sqlite3.Connection) -> str:
    """SHA-256 over all definitions, whatever their order, white space, comments and the case of words."""
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    lines = sorted(repr((kind, name, table, normalised(sql or ""))) for kind, name, table, sql in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def described(connection: sqlite3.Connection) -> dict[str, Any]:
    """What the manifest keeps of the structure: its fingerprint, the views, and the modules its virtual tables need."""
    virtual = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND rootpage = 0 AND sql NOT NULL")
    modules = {match[1].lower() for (sql,) in virtual if (match := _MODULE.match(sql))}
    return {
        "structure": fingerprint(connection),
        "views": [table.name for table in tables(connection) if table.kind == "view"],
        "modules": sorted(modules),
    }


def lacking(connection: sqlite3.Connection, modules: Iterable[str]) -> list[str]:
    """Those of the modules that this SQLite does not have."""
    known = {str(name).lower() for (name,) in connection.execute("SELECT name FROM pragma_module_list")}
    return sorted(set(modules) - known)


def normalised(sql: str) -> str:
    """A definition without what has no meaning in it."""

    def plain(match: re.Match[str]) -> str:
        if match["gap"]:
            return " "
        return match["kept"] or match["mark"] or match["word"].lower()

    return _TOKENS.sub(plain, sql).strip()

"""What statements of strangers may do: an SQL dump that is carried out, a question that is asked of a restored copy."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
MAKING = READING | {
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_CREATE_VTABLE,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,  # CREATE does it to the schema table
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_ANALYZE,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_TRANSACTION,
}
FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
"""They reach beyond the database: into files, or into this process."""
ASKED_PRAGMAS = frozenset(
    {
        *("application_id", "auto_vacuum", "collation_list", "compile_options", "encoding", "foreign_key_check"),
        *("foreign_key_list", "freelist_count", "index_info", "index_list", "index_xinfo", "integrity_check"),
        *("page_count", "page_size", "quick_check", "schema_version", "table_info", "table_list", "table_xinfo"),
        "user_version",
    }
)
DUMPED_PRAGMAS = frozenset({"foreign_keys", "writable_schema", "user_version", "application_id", "encoding"})
"""`.dump` writes the first two; people who keep their dumps by hand add the others."""

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]


def guard_questions(connection: sqlite3.Connection) -> None:
    """Only reading, and of nothing but this database."""
    connection.execute("PRAGMA query_only = ON")
    _harden(connection)
    with_value = ASKED_PRAGMAS - {"application_id", "auto_vacuum", "encoding", "page_size", "schema_version"}
    with_value -= {"user_version"}

    def may(action: int, first: str | None, second: str | None, _database: str | None, _by: str | None) -> int:
        if action == sqlite3.SQLITE_PRAGMA:
            allowed = (first or "").lower() in (ASKED_PRAGMAS if second is None else with_value)
        elif action == sqlite3.SQLITE_UPDATE:  # a table-valued function is declared by it; nothing can be written here
            allowed = first in ("sqlite_master", "sqlite_schema")
        else:
            allowed = action in READING or _harmless_function(action, second)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    connection.set_authorizer(may)


def guard_dump(connection: sqlite3.Connection) -> None:
    """Only what builds a database, and nothing outside it."""
    _harden(connection)

    def may(action: int, first: str | None, second: str | None, database: str | None, _by: str | None) -> int:
        if database == "temp":
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA:
            allowed = (first or "").lower() in DUMPED_PRAGMAS
        else:
            allowed = action in MAKING or _harmless_function(action, second)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    connection.set_authorizer(may)


def _harden(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


def _harmless_function(action: int, name: str | None) -> bool:
    return action == sqlite3.SQLITE_FUNCTION and (name or "").lower() not in FORBIDDEN_FUNCTIONS

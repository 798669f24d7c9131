"""SQLite: a database that is one file, beside the journal or the WAL that belong to it."""

from engines.sqlite.engine import SQLiteEngine

__all__ = ["SQLiteEngine"]

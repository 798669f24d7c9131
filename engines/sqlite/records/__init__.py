"""Tables of records in SQLite files: exact values in a database whose columns have no strict types."""

from engines.sqlite.records.shape import refused
from engines.sqlite.records.table import SQLiteTable

__all__ = ["SQLiteTable", "refused"]

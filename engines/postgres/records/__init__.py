"""Tables of records in PostgreSQL."""

from __future__ import annotations

from engines.postgres.records.definition import refuse
from engines.postgres.records.table import PostgresTable

__all__ = ["PostgresTable", "refuse"]

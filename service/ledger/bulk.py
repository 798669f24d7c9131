"""Inserts many rows in few statements: each one gives the interpreter lock away and must wait for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any


class BulkInsert:
    """An `INSERT … VALUES (?, …)` for any number of rows."""

    SIZES = (256, 64, 16, 4, 1)
    """Rows in one statement. A few fixed sizes, so that prepared statements are found again."""

    def __init__(self, statement: str) -> None:
        head, values, group = statement.rpartition("VALUES")
        self._texts = {size: head + values + ",".join([group] * size) for size in self.SIZES}

    def run(self, db: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """How many rows were inserted (`OR IGNORE` may pass over some)."""
        inserted = begin = 0
        left = len(rows)
        for size in self.SIZES:
            while left >= size:
                part = rows[begin : begin + size]
                inserted += db.execute(self._texts[size], tuple(chain.from_iterable(part))).rowcount
                begin, left = begin + size, left - size
        return inserted

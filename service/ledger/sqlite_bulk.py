"""Inserts many rows in few statements: each one gives the interpreter lock away and must wait for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from service.ledger.queries import ROW_OF_VALUES


class BulkInsert:
    """An `INSERT … VALUES (?, …)` for any number of rows."""

    MOST = 256
    SMALL = 64
    """Rows in one statement: `MOST`, a multiple of `SMALL`, or what is left below that. So there are few texts,
    whose prepared statements are found again."""

    def __init__(self, statement: str) -> None:
        found = ROW_OF_VALUES.search(statement)
        if found is None:
            raise ValueError("a bulk insert has one row of VALUES with ? in it")
        head, tail = statement[: found.start(1)], statement[found.end(1) :]
        sizes = [*range(1, self.SMALL), *range(self.SMALL, self.MOST + 1, self.SMALL)]
        self._texts = {size: head + ",".join([found[1]] * size) + tail for size in sizes}

    def run(self, db: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """How many rows were inserted (`DO NOTHING` may pass over some)."""
        inserted = begin = 0
        while left := len(rows) - begin:
            size = min(left - left % self.SMALL or left, self.MOST)
            values = tuple(chain.from_iterable(rows[begin : begin + size]))
            inserted += db.execute(self._texts[size], values).rowcount
            begin += size
        return inserted

"""A small shop in SQLite, so that the first event has something to back up."""

from __future__ import annotations

import sqlite3
from pathlib import Path

SCHEMA = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES people,
    cents INTEGER NOT NULL CHECK (cents >= 0)
);
"""
PEOPLE = ("Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Alan", "Radia")


def make_sample_shop(path: Path) -> None:
    """Make the database at `path`, whole or not at all; one that exists is left as it is."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    connection = sqlite3.connect(fresh)
    try:
        connection.executescript(SCHEMA)
        connection.executemany(
            "INSERT INTO people (name, email) VALUES (?, ?)",
            [(name, f"{name.lower()}@example.org") for name in PEOPLE],
        )
        connection.executemany(
            "INSERT INTO orders (customer_id, cents) VALUES (?, ?)",
            [(number % len(PEOPLE) + 1, number * 125) for number in range(100)],
        )
        connection.commit()
    finally:
        connection.close()
    fresh.rename(path)

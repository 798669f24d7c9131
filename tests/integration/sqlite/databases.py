"""SQLite databases with all that SQLite can hold, and a look at all of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from engines.base import Target
from engines.run import StopReason, StopToken
from tests.contracts.engine_cases import SQLiteCase

RICH = """
CREATE TABLE pairs (a text, b text, value text, PRIMARY KEY (a, b)) WITHOUT ROWID;
INSERT INTO pairs VALUES ('a', 'b', 'c'), ('d', 'e', 'f');
CREATE TABLE strictly (id integer PRIMARY KEY, amount real) STRICT;
INSERT INTO strictly VALUES (1, 1.5);
CREATE TABLE sides (a integer, b integer, area integer GENERATED ALWAYS AS (a * b) STORED, half AS (a / 2));
INSERT INTO sides (a, b) VALUES (2, 3), (4, 5), (6, 7);
CREATE INDEX by_area ON sides (area) WHERE area > 10;
CREATE TABLE counted (id integer PRIMARY KEY AUTOINCREMENT, t text);
INSERT INTO counted (t) VALUES ('x'), ('y');
CREATE VIRTUAL TABLE letters USING fts5 (subject, body);
INSERT INTO letters VALUES ('hello', 'a quick brown fox'), ('bye', 'lazy dog');
CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1, y0, y1);
INSERT INTO boxes VALUES (1, 0, 1, 0, 1);
CREATE TABLE "quote""d ' name; DROP TABLE pairs" (x); INSERT INTO "quote""d ' name; DROP TABLE pairs" VALUES (1);
CREATE TABLE "таблица" (x); INSERT INTO "таблица" VALUES (1), (2);
CREATE VIEW v AS SELECT a FROM pairs;
CREATE TRIGGER noted AFTER INSERT ON pairs BEGIN INSERT INTO counted (t) VALUES (new.a); END;
CREATE TABLE parents (id integer PRIMARY KEY);
CREATE TABLE children (parent integer REFERENCES parents (id)); INSERT INTO children VALUES (77);
PRAGMA user_version = 42; PRAGMA application_id = 7;
ANALYZE;
"""
MORE = """
CREATE TABLE words (w text COLLATE NOCASE, n integer, b blob);
INSERT INTO words VALUES ('Äpfel', NULL, x'00ff'), ('a;b''c', 9223372036854775807, NULL);
INSERT INTO words VALUES ('two' || char(10) || 'lines', 1e300, x'');
INSERT INTO words VALUES (CAST(x'fffe41' AS text), -1.5, zeroblob(3));
CREATE INDEX by_lower ON words (lower(w), n DESC);
CREATE UNIQUE INDEX by_nocase ON words (w COLLATE RTRIM) WHERE n IS NOT NULL;
CREATE TABLE "with space" ("a b" text, "select" integer DEFAULT (1 + 1), CHECK ("select" > 0));
INSERT INTO "with space" ("a b") VALUES ('x;'), ('--y'), ('/*z');
CREATE VIRTUAL TABLE bare USING fts5 (body, content='');
INSERT INTO bare (rowid, body) VALUES (5, 'without its text');
CREATE TABLE documents (id integer PRIMARY KEY, body text);
INSERT INTO documents VALUES (1, 'a text that is indexed beside'), (7, 'another');
CREATE VIRTUAL TABLE beside USING fts5 (body, content='documents', content_rowid='id');
INSERT INTO beside (beside) VALUES ('rebuild');
CREATE TRIGGER changed AFTER UPDATE ON documents WHEN new.id > 0 BEGIN
  INSERT INTO beside (beside, rowid, body) VALUES ('delete', old.id, old.body); -- END;
  UPDATE words SET n = CASE WHEN n > 1 THEN 1 ELSE 2 END;
END;
CREATE TABLE unkeyed (x); INSERT INTO unkeyed (rowid, x) VALUES (3, 'c'), (900, 'd');
DELETE FROM unkeyed WHERE rowid = 3;
"""
PRAGMAS = ("page_size", "encoding", "auto_vacuum", "user_version", "application_id", "journal_mode")


def rich(case: SQLiteCase, *pragmas: str, more: bool = True) -> Target:
    """A database with everything in it, made after the pragmas."""
    target = case.absent()
    with closing(sqlite3.connect(target.database)) as connection:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(RICH + (MORE if more else ""))
        connection.commit()
    return target


def query(target: Target, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(target.database)) as connection:
        connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        return connection.execute(statement, values).fetchall()


def content(target: Target) -> dict[str, tuple[object, object]]:
    """Every definition and every row, shadow tables and SQLite's own included."""
    found: dict[str, tuple[object, object]] = {}
    for kind, name, sql in query(target, "SELECT type, name, sql FROM sqlite_schema"):
        quoted = '"' + str(name).replace('"', '""') + '"'
        found[str(name)] = (sql, query(target, f"SELECT * FROM {quoted}") if kind == "table" else None)
    return found


class StopAfterLooks(StopToken):
    """Asks for a stop when it has been looked at so often: amid a statement, whatever the machine's speed."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks

    @property
    def reason(self) -> StopReason | None:
        self._left -= 1
        if self._left == 0:
            self.request(StopReason.CANCEL)
        return super().reason


def settings(target: Target) -> dict[str, object]:
    """What belongs to the database beside its objects."""
    return {name: query(target, f"PRAGMA {name}")[0][0] for name in PRAGMAS}

"""Triggers, views, routines and events: read as text, dropped, and made again somewhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pymysql
from pymysql.charset import charset_by_name

from engines.errors import AccessDenied
from engines.mysql import catalog
from engines.mysql.session import Session, execute, literal, quoted, rows

ORDER = ("package", "package body", "function", "procedure", "view", "trigger", "event")
"""The order in which code is made: views call functions; what only runs later comes last."""
_SWITCHED_OFF = re.compile(r"(\sON\s+COMPLETION\s+(?:NOT\s+)?PRESERVE\s+)DISABLE\b", re.IGNORECASE)
_SHOWN = {
    "trigger": ("SHOW CREATE TRIGGER", 1, 2, 3, 4, None),
    "procedure": ("SHOW CREATE PROCEDURE", 1, 2, 3, 4, None),
    "function": ("SHOW CREATE FUNCTION", 1, 2, 3, 4, None),
    "package": ("SHOW CREATE PACKAGE", 1, 2, 3, 4, None),
    "package body": ("SHOW CREATE PACKAGE BODY", 1, 2, 3, 4, None),
    "view": ("SHOW CREATE VIEW", None, 1, 2, 3, None),
    "event": ("SHOW CREATE EVENT", 1, 3, 4, 5, 2),
}
"""Statement, then where it shows sql_mode, text, character set, collation and time zone."""


@dataclass(frozen=True, slots=True)
class Code:
    """A view, trigger, routine or event: its text, and the session settings it was written under."""

    kind: str
    name: str
    mode: str
    text: str
    charset: str
    collation: str
    zone: str


def read_code(opened: Session, database: str, enabled: Iterable[str] = ()) -> list[Code]:
    """Everything in a database that RENAME TABLE cannot move, in the order in which it can be made again.

    `enabled` are events that were switched off on the way in, and are to be on again. Raises `AccessDenied` for
    code whose text this user may not see.
    """
    execute(opened, f"USE {quoted(database)}")  # names of this database are then shown without it
    found = [_read(opened, kind, name) for kind, name in _there(opened, database)]
    on = set(enabled)
    found = [_switched_on(item) if item.kind == "event" and item.name in on else item for item in found]
    return sorted(found, key=lambda item: ORDER.index(item.kind))


def _read(opened: Session, kind: str, name: str) -> Code:
    statement, mode, text, charset, collation, zone = _SHOWN[kind]
    row = rows(opened, f"{statement} {quoted(name)}")[0]
    if row[text] is None:
        raise AccessDenied(
            f"This user may not see the text of the {kind} {name!r}, so it could not be put back.",
            hint="Grant SHOW_ROUTINE (MySQL) or SELECT on mysql.proc (MariaDB).",
        )
    settings = ["" if place is None else str(row[place]) for place in (mode, text, charset, collation, zone)]
    return Code(kind, name, *settings)


def _switched_on(item: Code) -> Code:
    return replace(item, text=_SWITCHED_OFF.sub(r"\1ENABLE", item.text, count=1))


def _there(opened: Session, database: str) -> list[tuple[str, str]]:
    views = [("view", item.name) for item in catalog.tables(opened, database) if item.kind == "view"]
    return [*views, *catalog.code(opened, database)]


def drop_code(opened: Session, database: str, only: Iterable[Code] | None = None) -> None:
    """All of it, or what is named as `only` names it.

    Triggers first: dropping one waits for the readers of its table, and then nothing else is gone yet.
    """
    meant = None if only is None else {(item.kind, item.name) for item in only}
    for kind, name in sorted(_there(opened, database), key=lambda item: item[0] != "trigger"):
        if meant is None or (kind, name) in meant:
            execute(opened, f"DROP {kind} IF EXISTS {quoted(database)}.{quoted(name)}")


def put_back_code(opened: Session, database: str, code: list[Code]) -> None:
    """Make what is missing; what is there was never dropped."""
    there = set(_there(opened, database))
    make_code(opened, database, [item for item in code if (item.kind, item.name) not in there])


def make_code(opened: Session, database: str, code: list[Code]) -> None:
    """Make all of it; a view may need another one first, so those that fail are tried again after the others."""
    execute(opened, f"USE {quoted(database)}")
    waiting = code
    while waiting:
        failed: list[tuple[Code, pymysql.Error]] = []
        for item in waiting:
            try:
                _make(opened, item)
            except pymysql.Error as error:
                if item.kind != "view":
                    raise
                failed.append((item, error))
        if len(failed) == len(waiting):
            raise failed[0][1]
        waiting = [item for item, _ in failed]


def _make(opened: Session, item: Code) -> None:
    """In the character set it was written in: what the server keeps of it are those bytes."""
    charset, text = _encoded(item)
    zone = f", SESSION time_zone = {literal(item.zone)}" if item.zone else ""
    execute(
        opened,
        f"SET SESSION character_set_client = {charset}, SESSION collation_connection = {literal(item.collation)}"
        f"{zone}, SESSION sql_mode = {literal(item.mode)}",
    )
    try:
        opened.query(text)
    finally:
        execute(opened, "SET NAMES utf8mb4")
        execute(opened, "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'")


def _encoded(item: Code) -> tuple[str, bytes]:
    try:
        return item.charset, item.text.encode(charset_by_name(item.charset).encoding)
    except (KeyError, UnicodeEncodeError):
        return "utf8mb4", item.text.encode()

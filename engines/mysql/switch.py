"""Putting a finished database into the place of another, so that a crash at any moment can be mended.

Tables change places in one RENAME TABLE. Triggers, views, routines and events cannot be renamed: they are dropped
and made anew. What has to be made, and what was there before, is written down first, in one row of a table in the
database `flexdb_old_JOB`; whoever finds that (the next attempt, the sweep) goes on, or puts things back.

MySQL 8 and MariaDB from 10.6 carry out a RENAME TABLE wholly or not at all even when the server dies meanwhile;
older servers do so only as long as they live.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import pymysql

from engines.errors import TargetNotEmpty, UnsupportedOperation
from engines.mysql import catalog, databases
from engines.mysql.catalog import QUERIES, Charset
from engines.mysql.code import Code, drop_code, make_code, put_back_code, read_code
from engines.mysql.session import Session, execute, number_of, quoted, rows

JOURNAL = "flexdb_journal"
_EXISTS = 1007


@dataclass(frozen=True, slots=True)
class Plan:
    """What a switch does, as its journal keeps it."""

    job_id: str
    target: str
    made: bool
    """Whether the target did not exist before."""
    tables: list[str]
    """Of the new database, sequences among them."""
    had: list[str]
    """Of the target, before."""
    code: list[Code]
    had_code: list[Code]
    session: int = 0
    """Its number: a statement of it may still wait in the server when its program has long been killed."""

    @property
    def new(self) -> str:
        return databases.new_name(self.job_id)

    @property
    def old(self) -> str:
        return databases.old_name(self.job_id)

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Plan:
        found = json.loads(text)
        for name in ("code", "had_code"):
            found[name] = [Code(**item) for item in found[name]]
        return cls(**found)


def _movable(opened: Session, database: str) -> list[str]:
    return [item.name for item in catalog.tables(opened, database) if item.kind != "view"]


def plan(opened: Session, job_id: str, target: str, enabled: Iterable[str]) -> Plan:
    """What a switch would do; looks only. Raises `UnsupportedOperation` for what cannot be replaced."""
    new, there = databases.new_name(job_id), databases.exists(opened, target)
    if there:
        _refuse_references(opened, target)
    return Plan(
        job_id=job_id,
        target=target,
        made=not there,
        tables=_movable(opened, new),
        had=_movable(opened, target) if there else [],
        code=read_code(opened, new, enabled),
        had_code=read_code(opened, target) if there else [],
    )


def _refuse_references(opened: Session, target: str) -> None:
    found = rows(opened, QUERIES["foreign_references"], (target, target))
    if found:
        raise UnsupportedOperation(
            f"Table {found[0][1]!r} of database {found[0][0]!r} has a foreign key into {target!r}: "
            "it would follow the tables that are replaced.",
            hint="Drop that foreign key first, or restore into another database with `into`.",
        )


def carry_out(opened: Session, what: Plan, charset: Charset | None) -> str | None:
    """The whole switch; a note when the database had to be made with other rules.

    After an exception `settle` says what became of it.
    """
    _write_down(opened, replace(what, session=rows(opened, "SELECT CONNECTION_ID()")[0][0]))
    note = None
    if what.made:
        try:
            note = databases.create(opened, what.target, charset)
        except pymysql.Error as error:
            if number_of(error) == _EXISTS:
                execute(opened, f"DROP DATABASE {quoted(what.old)}")  # nothing was done that the journal could tell
                raise TargetNotEmpty(f"A database {what.target!r} was made by somebody else meanwhile.") from error
            raise
    drop_code(opened, what.new)
    drop_code(opened, what.target)
    _rename(opened, what)
    _go_on(opened, what)
    return note


def _write_down(opened: Session, what: Plan) -> None:
    execute(opened, f"CREATE DATABASE {quoted(what.old)} CHARACTER SET utf8mb4")
    journal = f"{quoted(what.old)}.{quoted(JOURNAL)}"
    execute(opened, f"CREATE TABLE {journal} (plan LONGTEXT NOT NULL) ENGINE=InnoDB")
    execute(opened, f"INSERT INTO {journal} VALUES (%s)", (what.as_text(),))  # noqa: S608  names of ours, quoted


def _rename(opened: Session, what: Plan) -> None:
    pairs = [(what.target, what.old, name) for name in what.had] + [
        (what.new, what.target, name) for name in what.tables
    ]
    if pairs:
        moves = (f"{quoted(here)}.{quoted(name)} TO {quoted(there)}.{quoted(name)}" for here, there, name in pairs)
        execute(opened, f"RENAME TABLE {', '.join(moves)}")


def _go_on(opened: Session, what: Plan) -> None:
    """Everything after the tables have changed places; may be done twice, and the second time when the database has
    been in use for a while: what others have made in it since stays."""
    drop_code(opened, what.target, (*what.code, *what.had_code))
    _point_to_own_sequences(opened, what)
    make_code(opened, what.target, what.code)
    databases.mark(opened, what.target, what.job_id)
    _forget(opened, what)


def _forget(opened: Session, what: Plan) -> None:
    """The journal goes last: as long as it is there, somebody will see to the rest."""
    execute(opened, "SET SESSION foreign_key_checks = 0")
    for name in (what.new, what.old):
        execute(opened, f"DROP DATABASE IF EXISTS {quoted(name)}")


def _point_to_own_sequences(opened: Session, what: Plan) -> None:
    """A default that takes from a sequence keeps the name of the database in which it was made.

    All those of a table at once: it cannot be altered as long as one of them names a database that has no sequence.
    """
    there = re.compile(rf"\b((?:next|last)val\(){re.escape(quoted(what.new))}\.")
    changes: dict[str, list[str]] = {}
    for table, column, default in rows(opened, QUERIES["sequence_defaults"], (what.target,)):
        mended, number = there.subn(lambda found: f"{found[1]}{quoted(what.target)}.", default)
        if number:
            changes.setdefault(table, []).append(f"ALTER COLUMN {quoted(column)} SET DEFAULT {mended}")
    for table, altered in changes.items():
        execute(opened, f"ALTER TABLE {quoted(what.target)}.{quoted(table)} {', '.join(altered)}")


def settle(opened: Session, job_id: str) -> Plan | None:
    """Bring what an earlier attempt of a job left of its switch to a good end.

    Where the tables had changed places the switch is finished: its plan. Else the target gets back what had been
    taken from it, and everything of that attempt goes: None. A database of that name that is not a switch's stays.
    """
    old = databases.old_name(job_id)
    if not databases.exists(opened, old):
        return None
    what = _found(opened, old)
    if what is None:
        if not _movable(opened, old) or _movable(opened, old) == [JOURNAL]:
            execute(opened, f"DROP DATABASE {quoted(old)}")  # died while it was being made: nothing was touched yet
        return None
    databases.end_session(opened, what.session, (what.target, what.new, what.old))
    if _changed_places(opened, what):
        _go_on(opened, what)
        return what
    _put_back(opened, what)
    return None


def _found(opened: Session, old: str) -> Plan | None:
    if JOURNAL not in _movable(opened, old):
        return None
    found = rows(opened, f"SELECT plan FROM {quoted(old)}.{quoted(JOURNAL)}")  # noqa: S608  names of ours, quoted
    return Plan.read(found[0][0]) if found else None


def _changed_places(opened: Session, what: Plan) -> bool:
    if not databases.exists(opened, what.target):
        return False
    moved_away = set(_movable(opened, what.old)) - {JOURNAL}
    if what.tables:
        there = set(_movable(opened, what.target))
        still_new = set(_movable(opened, what.new))
        return set(what.tables) <= there and not still_new.intersection(what.tables)
    return bool(moved_away) or not what.had


def _put_back(opened: Session, what: Plan) -> None:
    if databases.exists(opened, what.target):
        put_back_code(opened, what.target, what.had_code)
        if what.made and not _movable(opened, what.target):
            execute(opened, f"DROP DATABASE {quoted(what.target)}")
    if set(_movable(opened, what.old)) <= {JOURNAL}:  # never while it holds what is nowhere else
        _forget(opened, what)

"""Making and dropping whole databases, and the names FlexDB gives to those of its own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import pymysql

from engines.errors import AccessDenied, TargetBusy
from engines.mysql.address import Address
from engines.mysql.catalog import QUERIES, Charset
from engines.mysql.clients import Release
from engines.mysql.session import Session, execute, literal, number_of, quoted, rows, session
from engines.run import Run

PREFIX = re.compile(r"^flexdb_(scratch|new|old)_(.+)$")
SERVERS_OWN = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
UNKNOWN_CHARSET = frozenset({1115, 1253, 1273})
SEEN_GONE_SECONDS = 15.0
_GONE = 1094
"""`KILL` of a session that has ended."""


def scratch_name(job_id: str) -> str:
    return f"flexdb_scratch_{job_id}"


def new_name(job_id: str) -> str:
    return f"flexdb_new_{job_id}"


def old_name(job_id: str) -> str:
    return f"flexdb_old_{job_id}"


def exists(opened: Session, database: str) -> bool:
    return bool(rows(opened, QUERIES["database"], (database,)))


def create(opened: Session, database: str, charset: Charset | None) -> str | None:
    """Make an empty database like the recorded one; a note when it had to differ.

    Raises `AccessDenied` with the grant that is missing.
    """
    statement = f"CREATE DATABASE {quoted(database)}"
    name, collation = (charset.name, charset.collation) if charset else ("utf8mb4", "")
    wanted = [f" CHARACTER SET {_word(name)} COLLATE {_word(collation)}"] if charset else []
    for number, clause in enumerate((*wanted, f" CHARACTER SET {_word(name)}", " CHARACTER SET utf8mb4")):
        try:
            execute(opened, statement + clause)
        except pymysql.Error as error:
            if number_of(error) == 1044:
                raise AccessDenied(
                    f"This user may not make the database {database!r}: {error.args[-1]}",
                    hint="GRANT ALL PRIVILEGES ON `flexdb\\_%`.* TO the user: restores and rehearsals build there.",
                ) from error
            if number_of(error) not in UNKNOWN_CHARSET:
                raise
            continue
        return (
            f"The database was made with other rules: {name} {collation} is not known here."
            if number and charset
            else None
        )
    return None


def _word(name: str) -> str:
    """A character set or collation: they cannot be quoted, and come from a file that somebody may have changed."""
    return re.sub(r"\W", "", name, flags=re.ASCII)


def mark(opened: Session, database: str, job_id: str) -> None:
    """Say in the database's comment which job restored it, where the server has such comments (MariaDB from 10.5).

    An attempt that died right after its switch, before it could say so, is then known by the next one.
    """
    if _has_comments(opened) and _is_free(_comment(opened, database)):
        execute(opened, f"ALTER DATABASE {quoted(database)} COMMENT {literal(_made_by(job_id))}")


def made_by(opened: Session, database: str, job_id: str) -> bool:
    """Whether an earlier attempt of this job restored the database; what it holds came whole."""
    return _has_comments(opened) and _comment(opened, database) == _made_by(job_id)


def _comment(opened: Session, database: str) -> str:
    found = rows(opened, QUERIES["comment"], (database,))
    return str(found[0][0] or "") if found else ""


def _is_free(comment: str) -> bool:
    """Nobody's, or one of ours from before."""
    return not comment or comment.startswith(_made_by(""))


def _has_comments(opened: Session) -> bool:
    release = Release.read(str(rows(opened, "SELECT VERSION()")[0][0]))
    return release.mariadb and release.number >= (10, 5)


def _made_by(job_id: str) -> str:
    return f"Restored by FlexDB, job {job_id}"


def drop(address: Address, database: str, run: Run | None) -> bool:
    """Drop a database, ending the sessions on it; False when there was none."""
    name = run.application_name if run else "flexdb"
    with session(address, name, seconds=0, stop=run.stop if run else None) as opened:
        there = exists(opened, database)
        if there:
            end_sessions_on(opened, database)
            execute(opened, "SET SESSION foreign_key_checks = 0")
            execute(opened, f"DROP DATABASE IF EXISTS {quoted(database)}")
        return there


def end_sessions_on(opened: Session, database: str) -> int:
    """End whoever is on the database, as far as we may see and end them; how many there were.

    A client program that was killed leaves its statement running in the server.
    """
    found = rows(opened, QUERIES["sessions_on"], (database,))
    for (number,) in found:
        _kill(opened, number)
    return len(found)


def _kill(opened: Session, number: int) -> None:
    try:
        execute(opened, f"KILL {int(number)}")
    except pymysql.Error as error:
        if number_of(error) not in {_GONE, 1095}:  # ended meanwhile, or somebody else's
            raise


def end_session(opened: Session, number: int, names: tuple[str, str, str]) -> None:
    """End one session, if it is this user's and on one of these databases, and see it gone; raises `TargetBusy`."""
    deadline = time.monotonic() + SEEN_GONE_SECONDS
    while rows(opened, QUERIES["session_of_ours"], (number, *names)):
        _kill(opened, number)
        if time.monotonic() > deadline:
            raise TargetBusy("A session of an earlier attempt is still there.")
        threading.Event().wait(0.05)


def end_and_see_gone(opened: Session, database: str, run: Run) -> None:
    """Raises `TargetBusy` when somebody stays on the database."""
    deadline = time.monotonic() + SEEN_GONE_SECONDS
    while left := end_sessions_on(opened, database):
        if time.monotonic() > deadline:
            raise TargetBusy(f"{left} session(s) of an earlier attempt are still there.")
        run.stop.check()
        threading.Event().wait(0.05)


def of_dead_jobs(opened: Session, is_dead: Callable[[str], bool]) -> list[tuple[str, str, str]]:
    """(name, what it is, job) of databases of ours whose job is over; what a switch moved away comes first."""
    found = []
    for (name,) in rows(opened, QUERIES["databases"]):
        match = PREFIX.match(name)
        if match is not None and is_dead(match[2]):
            found.append((name, match[1], match[2]))
    return sorted(found, key=lambda item: item[1] != "old")

"""Making, switching and dropping whole databases, and the names FlexDB gives to those of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.errors import AccessDenied, TargetBusy, TargetNotEmpty
from engines.postgres.catalog import QUERIES
from engines.postgres.connection import Address, execute, rows
from engines.postgres.sessions import ending_sessions, maintenance
from engines.run import Run

PREFIX = re.compile(r"^flexdb_(scratch|new|old)_(.+)$")
_WAS = re.compile(r"^flexdb: was (.+)$", re.DOTALL)
SWITCH_TRIES = 3
TEMPLATES = frozenset({"template0", "template1"})


def scratch_name(job_id: str) -> str:
    return f"flexdb_scratch_{job_id}"


def new_name(job_id: str) -> str:
    return f"flexdb_new_{job_id}"


def old_name(job_id: str) -> str:
    return f"flexdb_old_{job_id}"


@dataclass(frozen=True, slots=True)
class Locale:
    """How a database was made; kept in the manifest so that a restore makes an equal one."""

    encoding: str
    collate: str
    ctype: str
    provider: str
    """`c` libc, `i` ICU, `b` builtin."""
    locale: str | None

    @classmethod
    def of(cls, connection: Connection) -> Locale:
        return cls(*rows(connection, QUERIES["locale"])[0])

    @classmethod
    def recorded(cls, options: dict[str, Any]) -> Locale | None:
        found = options.get("database")
        return cls(**found) if isinstance(found, dict) and set(found) == set(cls.__slots__) else None

    def as_options(self) -> dict[str, Any]:
        return {"database": asdict(self)}

    def clauses(self) -> sql.Composable:
        """The end of a CREATE DATABASE statement."""
        parts = [
            sql.SQL("ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
                sql.Literal(self.encoding), sql.Literal(self.collate), sql.Literal(self.ctype)
            )
        ]
        if self.provider == "i":
            parts.append(sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(self.locale)))
        if self.provider == "b":
            parts.append(sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(self.locale)))
        return sql.SQL(" ").join(parts)


def of_users(address: Address, run: Run) -> tuple[str, ...]:
    """Every database of the server but templates and those that FlexDB makes for its own jobs."""
    with maintenance(address, run) as opened:
        found = [name for (name,) in rows(opened, QUERIES["databases"])]
    return tuple(name for name in found if name not in TEMPLATES and not PREFIX.match(name))


def exists(address: Address, database: str, run: Run) -> bool:
    with maintenance(address, run) as opened:
        return bool(rows(opened, QUERIES["database_exists"], (database,))[0][0])


def create(address: Address, database: str, locale: Locale | None, run: Run) -> str | None:
    """Make an empty database from `template0`, like the recorded one; a note when it had to differ.

    A server that lacks the locale (another system, another build) gets the encoding with its own sorting,
    or plain `C` where the encoding does not go with that.
    """
    with maintenance(address, run, seconds=600) as opened:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ").format(sql.Identifier(database))
        if locale is None:
            execute(opened, statement)
            return None
        encoding = sql.SQL("ENCODING {}").format(sql.Literal(locale.encoding))
        plain = sql.SQL("{} LC_COLLATE 'C' LC_CTYPE 'C'").format(encoding)
        for number, clauses in enumerate((locale.clauses(), encoding, plain)):
            try:
                execute(opened, statement + clauses)
            except _LOCALE_ERRORS as error:
                refused = error
                continue
            except errors.InsufficientPrivilege as error:
                raise AccessDenied(
                    "Making a database needs the CREATEDB privilege, which this user lacks.",
                    hint="Grant it (ALTER ROLE … CREATEDB), or use mode `create` and an empty database.",
                ) from error
            sorting = f"sorting {locale.locale or locale.collate} is not known to this server"
            return f"The database was made with other sorting rules: {sorting}." if number else None
        raise refused


_LOCALE_ERRORS = (
    errors.WrongObjectType,
    errors.InvalidParameterValue,
    errors.FeatureNotSupported,
    errors.UndefinedObject,
    errors.SyntaxError,
    errors.InvalidObjectDefinition,
)


def drop(address: Address, database: str, run: Run | None) -> None:
    """Drop a database, ending the sessions on it; a missing one is no error."""
    with maintenance(address, run, seconds=600) as opened:
        _drop(opened, database)


def _drop(opened: Connection, database: str) -> None:
    execute(opened, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def publish(address: Address, built: str, final: str, run: Run) -> None:
    """Give a finished database its name; raises `TargetNotEmpty` when somebody took the name meanwhile.

    Its comment says which job made it: an attempt that died right after this finds its work done.
    """
    with ending_sessions(address, built, run), maintenance(address, run) as opened:
        execute(opened, _comment(built, _made_by(run.job_id)))
        try:
            execute(opened, _rename(built, final))
        except errors.DuplicateDatabase as error:
            raise TargetNotEmpty(f"A database {final!r} was made by somebody else meanwhile.") from error


def mark(address: Address, database: str, run: Run) -> bool:
    """Say in an empty database's comment which job fills it, before it does so in one transaction.

    False when the comment is somebody else's, or not ours to write: then a crash right after that
    transaction makes the next attempt find a database that is not empty.
    """
    with maintenance(address, run) as opened:
        comment = rows(opened, QUERIES["database_comment"], (database,))
        if not comment or comment[0][0] not in (None, _made_by(run.job_id)):
            return False
        try:
            execute(opened, _comment(database, _made_by(run.job_id)))
        except errors.InsufficientPrivilege:
            return False
        return True


def unmark(address: Address, database: str) -> None:
    """The database stayed empty after all."""
    with maintenance(address, None) as opened:
        execute(opened, _comment(database, None))


def made_by(address: Address, database: str, run: Run) -> bool:
    """Whether an earlier attempt of this job made or marked the database; what it holds came whole."""
    with maintenance(address, run) as opened:
        found = rows(opened, QUERIES["database_comment"], (database,))
    return bool(found) and found[0][0] == _made_by(run.job_id)


def _made_by(job_id: str) -> str:
    return f"Restored by FlexDB, job {job_id}"


def switch(address: Address, built: str, final: str, moved_away: str, run: Run) -> None:
    """Put a finished database in the place of `final`, which becomes `moved_away`, both in one transaction.

    The new one takes over owner, grants, settings and comment. Sessions on the old one are ended.
    """
    with maintenance(address, run) as opened:
        properties = _properties(opened, final, built)
        for number in range(SWITCH_TRIES):
            try:
                with ending_sessions(address, final, run), ending_sessions(address, built, run):
                    _rename_both(opened, built, final, moved_away, properties)
            except TargetBusy:  # somebody connected between two looks
                if number == SWITCH_TRIES - 1:
                    raise
            else:
                return


def _rename_both(opened: Connection, built: str, final: str, moved_away: str, properties: list[sql.Composable]) -> None:
    with opened.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            for statement in properties:
                cursor.execute(statement)
            cursor.execute(_rename(final, moved_away))
            cursor.execute(_rename(built, final))
            cursor.execute(_comment(moved_away, f"flexdb: was {final}"))
            cursor.execute("COMMIT")
        except psycopg2.Error:
            if not opened.closed:
                cursor.execute("ROLLBACK")
            raise


def _rename(old: str, new: str) -> sql.Composable:
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))


def _comment(database: str, text: str | None) -> sql.Composable:
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), sql.Literal(text))


def _properties(opened: Connection, source: str, into: str) -> list[sql.Composable]:
    """Statements that give one database what belongs to another itself and is in no dump."""
    owner, limit, comment, grants, granted, settings = rows(opened, QUERIES["database_properties"], (source,))[0]
    name = sql.Identifier(into)
    statements: list[sql.Composable] = [
        sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(owner)),
        sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, sql.Literal(limit)),
        _comment(into, comment),
    ]
    if granted:
        statements.append(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    for grantee, privilege, grantable in grants:
        role = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        grant = sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(privilege), name, role)
        statements.append(grant + option)
    for role_name, values in settings:
        statements += [_setting(into, role_name, value) for value in values]
    return statements


_LISTS = frozenset({"search_path", "session_preload_libraries", "local_preload_libraries", "temp_tablespaces"})
"""Settings whose value is a list of names, kept by the server already quoted."""


def _setting(database: str, role: str | None, value: str) -> sql.Composable:
    name, _, text = value.partition("=")
    who = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(database)) if role else None
    where = who or sql.SQL("DATABASE {}").format(sql.Identifier(database))
    shown = sql.SQL(text) if name in _LISTS and text else sql.Literal(text)
    return sql.SQL("ALTER {} SET {} TO {}").format(
        where, sql.SQL(".").join(map(sql.Identifier, name.split("."))), shown
    )


def sweep(address: Address, is_dead: Callable[[str], bool]) -> list[str]:
    """Drop databases of ours whose job `is_dead` knows to be over; names of what went.

    One that a switch moved away is the only copy as long as nothing bears its old name: it gets it back.
    """
    gone = []
    with maintenance(address, None, seconds=600) as opened:
        names = {name for (name,) in rows(opened, "SELECT datname FROM pg_database")}
        for name, comment in rows(opened, QUERIES["ours"]):
            found = PREFIX.match(name)
            if found is None or not is_dead(found.group(2)):
                continue
            was = _WAS.match(comment or "")
            if found.group(1) == "old" and was is None:
                continue  # not moved away by a switch of ours: nothing we may touch
            if found.group(1) == "old" and was is not None and was.group(1) not in names:
                execute(opened, _rename(name, was.group(1)))
                continue
            _drop(opened, name)
            gone.append(name)
    return gone

"""Making a smaller database of a whole one: some of its tables only, or its definitions without rows."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from engines.errors import FlexError, Stopped, StorageFailed, StorageFull, UnsupportedOperation
from engines.run import Run
from engines.sqlite import structure
from engines.sqlite.connection import STEPS_BETWEEN_LOOKS, connect, error_name
from engines.sqlite.names import SIDE_FILES
from engines.sqlite.selection import Selection

PROBE = "flexdb_probe"
KEPT_PRAGMAS = ("page_size", "encoding", "auto_vacuum", "user_version", "application_id")
"""What belongs to a database beside its objects; the journal mode follows at the end."""


@dataclass(frozen=True, slots=True)
class _Broken:
    kind: str
    name: str


def private_file(path: Path) -> None:
    """Make an empty file of mode 0600 under a free name; raises `StorageFull` or `StorageFailed`."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        raise kind(f"{path} cannot be made: {error.strerror}.", hint="Check the folder.") from error


def reduce(whole: Path, new: Path, selection: Selection, run: Run) -> tuple[str, ...]:
    """Write into `new` what stays of the private copy `whole`, which is spoiled by it.

    Names of the views and triggers that went although they were chosen: they read what is left out. `new` holds
    nothing of what was dropped, not even in free pages. Raises `Stopped`, `StorageFull`, `ToolFailed`.
    """
    with _full_disk(new), closing(connect(whole, "mode=rw", run, 0)) as connection:
        wal = _throwaway(connection)
        connection.execute("BEGIN")
        before = {*_unreadable(connection), *_broken(connection)}
        _drop(connection, selection, run)
        gone = _gone_with_them(connection, before)
        connection.execute("COMMIT")
        private_file(new)
        _vacuum(connection, new, run)
    if wal:
        _in_wal_mode(new, run)
    remove(whole)
    return tuple(sorted(f"{item.kind} {item.name}" for item in gone))


def definitions(source: sqlite3.Connection, new: Path, selection: Selection, run: Run) -> tuple[str, ...]:
    """Write into `new` the definitions of what was selected, made anew in the order they were made.

    As `reduce` answers. Raises `UnsupportedOperation` where the SQLite here cannot make one of them.
    """
    wal = structure.in_wal_mode(source)
    names = {table.name for table in selection.kept}
    found = [row for row in _made_by_users(source) if _wanted(row, names)]
    private_file(new)
    with _full_disk(new), closing(connect(new, "mode=rw", run, 0)) as connection:
        for name in KEPT_PRAGMAS:
            value = source.execute(f"PRAGMA {name}").fetchone()[0]
            connection.execute(f"PRAGMA {name} = '{value}'" if name == "encoding" else f"PRAGMA {name} = {value}")
        _throwaway(connection)
        connection.execute("BEGIN")
        for done, (kind, name, _table, definition) in enumerate(found):
            run.progress("defining", done, len(found), unit="objects")
            _define(connection, f"{kind} {name}", definition)
        gone = _gone_with_them(connection, set()) if selection.dropped else []
        connection.execute("COMMIT")
    if wal:
        _in_wal_mode(new, run)
    return tuple(sorted(f"{item.kind} {item.name}" for item in gone))


def remove(path: Path) -> None:
    """A database with the files beside it; what is missing is no error."""
    for suffix in ("", *SIDE_FILES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _throwaway(connection: sqlite3.Connection) -> bool:
    """Work without any care for crashes: the file is thrown away then. Whether it was in WAL mode."""
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA secure_delete = OFF")  # nothing of this file is kept but what VACUUM copies
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # a WAL then needs no shared memory
    wal = structure.in_wal_mode(connection)
    if wal:
        connection.execute("PRAGMA journal_mode = DELETE")  # on disk: in memory it could grow with the database
    return wal


def _drop(connection: sqlite3.Connection, selection: Selection, run: Run) -> None:
    # views first, virtual tables before what may be their content
    order = {"view": 0, "virtual": 1, "table": 2}
    going = sorted(selection.dropped, key=lambda table: order[table.kind])
    for done, table in enumerate(going):
        run.progress("dropping", done, len(going), unit="tables")
        if table.kind == "virtual" and structure.lacks_module(connection, table.name):
            _forget(connection, table.name)
        else:
            _drop_object(connection, "view" if table.kind == "view" else "table", table.name)
    if structure.has_table(connection, "sqlite_sequence"):
        connection.execute("DELETE FROM sqlite_sequence WHERE name NOT IN (SELECT name FROM sqlite_schema)")


def _drop_object(connection: sqlite3.Connection, kind: str, name: str) -> None:
    connection.execute(f"DROP {kind} main.{structure.quoted(name)}")


def _forget(connection: sqlite3.Connection, name: str) -> None:
    """Drop a virtual table whose module is not here: its rows, if any, lie in tables of their own that stay."""
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("DELETE FROM sqlite_schema WHERE type = 'table' AND name = ? AND rootpage = 0", (name,))
    connection.execute("PRAGMA writable_schema = RESET")


def _gone_with_them(connection: sqlite3.Connection, before: set[_Broken]) -> list[_Broken]:
    """Drop what cannot be read without what was dropped; what was broken `before` stays as it was."""
    gone = []
    for look in (_unreadable, _broken):
        for item in look(connection):
            if item not in before:
                _drop_object(connection, item.kind, item.name)
                gone.append(item)
    return gone


def _unreadable(connection: sqlite3.Connection) -> list[_Broken]:
    """Virtual tables whose rows are another table's that is not there, as full-text indexes with `content=` have it."""
    found = []
    for table in structure.tables(connection):
        if table.kind == "virtual":
            try:
                structure.rows_of(connection, table.name)
            except sqlite3.OperationalError as error:
                if error_name(error) != "SQLITE_ERROR":
                    raise
                found.append(_Broken("table", table.name))
    return found


def _broken(connection: sqlite3.Connection) -> list[_Broken]:
    """Views and triggers that name what is not there.

    SQLite itself knows: renaming a table makes it read every definition again, and its error names the first that it
    cannot (`renameTestSchema` in alter.c). What it says of other objects is left alone.
    """
    found: list[_Broken] = []
    connection.execute("SAVEPOINT flexdb_looking")
    try:
        connection.execute(f"CREATE TABLE {PROBE} (x)")
        while culprit := _culprit(connection):
            _drop_object(connection, culprit.kind, culprit.name)
            found.append(culprit)
    finally:
        connection.execute("ROLLBACK TO flexdb_looking")
        connection.execute("RELEASE flexdb_looking")
    return found


def _culprit(connection: sqlite3.Connection) -> _Broken | None:
    try:
        connection.execute(f"ALTER TABLE {PROBE} RENAME TO {PROBE}_2")
    except sqlite3.OperationalError as error:
        said = str(error)
        if not said.startswith("error in "):
            raise
    else:
        connection.execute(f"ALTER TABLE {PROBE}_2 RENAME TO {PROBE}")
        return None
    rows = connection.execute("SELECT type, name FROM sqlite_schema WHERE type IN ('view', 'trigger')").fetchall()
    named = [_Broken(kind, name) for kind, name in rows if said.startswith(f"error in {kind} {name}")]
    return max(named, key=lambda item: len(item.name), default=None)


def _vacuum(connection: sqlite3.Connection, new: Path, run: Run) -> None:
    """`VACUUM INTO` keeps rowids, page size, encoding, user_version and application_id; see vacuum.c."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    connection.set_progress_handler(_telling(run, new, (pages - free) * size), STEPS_BETWEEN_LOOKS)
    connection.execute("VACUUM INTO ?", (str(new),))
    run.stop.check()


def _telling(run: Run, new: Path, total: int) -> Callable[[], bool]:
    def tell() -> bool:
        """Nothing may be raised here: SQLite calls it. What it answers ends the statement."""
        try:
            run.progress("vacuuming", min(new.stat().st_size, total), total)
        except Stopped:
            return True
        return False

    return tell


def _in_wal_mode(path: Path, run: Run) -> None:
    with closing(connect(path, "mode=rw", run, 0)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
    for suffix in SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _made_by_users(source: sqlite3.Connection) -> list[tuple[str, str, str, str]]:
    """Type, name, table and definition; without what SQLite and its modules make by themselves."""
    return source.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND tbl_name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow')"
        " ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, rowid"
    ).fetchall()


def _wanted(row: tuple[str, str, str, str], names: set[str]) -> bool:
    kind, name, table, _definition = row
    return (name if kind in ("table", "view") else table) in names


def _define(connection: sqlite3.Connection, what: str, definition: str) -> None:
    try:
        connection.execute(definition)
    except sqlite3.OperationalError as error:
        if error_name(error) != "SQLITE_ERROR":
            raise
        raise UnsupportedOperation(
            f"The SQLite here cannot make the {what} anew: {error}.",
            hint="Leave it out with `exclude`, or back up with content `all`, which copies it as it is.",
        ) from error


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except FlexError:
        raise
    except sqlite3.Error as error:
        if error_name(error).startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):
            raise StorageFull(f"No space left in {path.parent} for {path.name}.") from error
        raise

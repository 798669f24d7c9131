"""Asking a restored copy what the user asserts of it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path

from engines.artefacts.manifest import Evidence
from engines.assertions import Answer, Assertion, asked_in_sql, judged
from engines.errors import InvalidAssertion
from engines.run import Run
from engines.sqlite import proving
from engines.sqlite.connection import error_name
from engines.sqlite.guarding import guard_questions


def asked(copy: Path, assertions: tuple[Assertion, ...], run: Run) -> tuple[Evidence, ...]:
    """Evidence per assertion; raises `AssertionFailed`, `InvalidAssertion`, `ArtefactDamaged`, `Stopped`."""
    if not assertions:
        return ()
    with proving.dumped(copy, run) as connection:
        guard_questions(connection)
        return judged(assertions, _answering(connection, len(assertions), run))


def _answering(connection: sqlite3.Connection, total: int, run: Run) -> Callable[[Assertion], Answer]:
    done = 0

    def answer(assertion: Assertion) -> Answer:
        nonlocal done
        run.progress("asserting", done, total, unit="assertions")
        done += 1
        return _answered(connection, assertion, run)

    return answer


def _answered(connection: sqlite3.Connection, assertion: Assertion, run: Run) -> Answer:
    question = asked_in_sql(assertion)
    try:
        cursor = connection.execute(question)
        row = cursor.fetchone()
    except (sqlite3.Error, sqlite3.Warning) as error:
        run.stop.check()  # the statement was ended because of the stop
        if error_name(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")):
            raise
        raise InvalidAssertion(f"SQLite does not take the assertion {assertion.name!r}: {error}.") from error
    except ValueError as error:  # a NUL character, or half of a surrogate pair
        raise InvalidAssertion(f"The assertion {assertion.name!r} is no text that SQLite reads.") from error
    if cursor.description is None:
        raise InvalidAssertion(f"The assertion {assertion.name!r} asks nothing.")
    return None if row is None else _plain(row[0], assertion)


def _plain(value: object, assertion: Assertion) -> Answer:
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else repr(value)
    if isinstance(value, bytes):
        raise InvalidAssertion(f"The assertion {assertion.name!r} gives a BLOB.", hint="Ask for its hex() or length().")
    assert value is None or isinstance(value, int | str)  # noqa: S101  SQLite has no other types
    return value

"""Asking a restored database what its user says must be true of it."""

from __future__ import annotations

import re
from contextlib import suppress

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.artefacts.manifest import Evidence
from engines.assertions import Answer, Assertion, asked_in_sql, judged
from engines.errors import InvalidAssertion
from engines.postgres.allowed import without_strings
from engines.postgres.connection import Address, execute, session
from engines.postgres.statements import UnreadableScriptError, pieces
from engines.run import Run

_ITS_FAULT = ("0A", "21", "22", "25001", "25006", "2F", "34", "38", "39", "42", "P0")
"""SQLSTATE, or its beginning, of what the question itself is to blame for; 25001 and 25006 are attempts to write."""
_REACHES_OUT = re.compile(
    r"\b(?:pg_(?:terminate|cancel)_backend|pg_reload_conf|pg_rotate_logfile\w*|pg_switch_(?:wal|xlog)|pg_promote"
    r"|pg_(?:create|drop|copy|sync)_\w+|pg_(?:replication|logical|wal_replay|backup)_\w+|pg_(?:start|stop)_backup"
    r"|pg_read_\w*file|pg_ls_\w+|pg_stat_file|pg_file_\w+|pg_execute_\w+|pg_notify|lo_(?:im|ex)port\w*|dblink\w*"
    r"|set_config|query_to_xml\w*|ts_stat)\W*?\(|U&\"",
    re.IGNORECASE,
)
"""Functions that work outside of the transaction: on files, other sessions or the server, or by SQL in a string. Only
a net: what a superuser may call is more than any list; see the user manual."""


def asked(assertions: tuple[Assertion, ...], address: Address, run: Run) -> tuple[Evidence, ...]:
    """Evidence per assertion; raises `AssertionFailed`, `InvalidAssertion`, `Stopped`."""
    if not assertions:
        return ()
    with session(address, run.application_name, seconds=0, stop=run.stop) as opened:
        execute(opened, "RESET search_path")  # as the user's own sessions have it
        done = 0

        def ask(assertion: Assertion) -> Answer:
            nonlocal done
            run.progress("asking", done, len(assertions), "assertions")
            done += 1
            return _answer(opened, assertion)

        return judged(assertions, ask)


def _answer(opened: Connection, assertion: Assertion) -> Answer:
    """The first column of the first row, read in a transaction that cannot write.

    Through a cursor: only a query can be one, so COPY … TO PROGRAM and the like are refused by the server.
    """
    question = _single(assertion)
    execute(opened, "BEGIN TRANSACTION READ ONLY")
    try:
        execute(opened, f"DECLARE flexdb_question NO SCROLL CURSOR FOR {question}")
        with opened.cursor() as cursor:
            cursor.execute("FETCH 1 FROM flexdb_question")
            row = cursor.fetchone()
    except psycopg2.Error as error:
        if str(error.pgcode).startswith(_ITS_FAULT):
            words = " ".join(str(error).split())[:500]
            raise InvalidAssertion(f"The assertion {assertion.name!r} cannot be asked: {words}") from error
        raise  # as the session translates it: canceled, lost …
    finally:
        with suppress(psycopg2.Error):  # a session that broke has no transaction left
            execute(opened, "ROLLBACK")
    return _plain(row[0]) if row else None


def _single(assertion: Assertion) -> str:
    """The one statement of an assertion: a second one could leave the transaction it is asked in."""
    question = asked_in_sql(assertion)
    try:
        found = [piece for piece in pieces([question.encode(), b"\n;"]) if piece.kind != "comment"]
    except (UnreadableScriptError, UnicodeError) as error:
        raise InvalidAssertion(f"The assertion {assertion.name!r} is not one whole query: {error}.") from error
    statements = [piece for piece in found if piece.text.strip() != b";"]
    if len(statements) != 1 or statements[0].kind != "statement":
        raise InvalidAssertion(f"The assertion {assertion.name!r} is not one single query.")
    if found_call := _REACHES_OUT.search(without_strings(statements[0].text).decode()):
        raise InvalidAssertion(f"The assertion {assertion.name!r} may not use {found_call.group().rstrip('( ')}.")
    return statements[0].text.decode().strip().removesuffix(";")


def _plain(value: object) -> Answer:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):  # true and false are 1 and 0, as other databases have them
        return int(value)
    if isinstance(value, memoryview | bytes):
        return bytes(value).hex()
    return str(value)

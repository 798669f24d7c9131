"""Asking a restored database what its user says must be true of it."""

from __future__ import annotations

import re

import pymysql

from engines.assertions import Answer, Assertion, asked_in_sql
from engines.errors import InvalidAssertion
from engines.mysql.address import Address
from engines.mysql.session import database_session, execute, number_of, rows
from engines.run import Run

ASSERTION_SECONDS = 600
_BROKEN_SESSION = frozenset({0, 1040, 1053, 1317, 1927, 1969, 2003, 2006, 2013, 3024})
"""Errors that say nothing of the question that was asked."""
_TOKEN = re.compile(
    r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`(?:[^`]|``)*`|(?P<code>/\*M?!)|/\*.*?\*/"
    r"|--(?=\s|$)[^\n]*|#[^\n]*|(?P<word>[^\W\d]\w*)",
    re.DOTALL,
)
_ASKING = frozenset({"select", "with", "values", "table", "show", "describe", "desc", "explain"})
"""How a question begins. Nearly all else ends the transaction that cannot write: CREATE, DROP, SET, CALL …"""


def asked(assertion: Assertion, address: Address, run: Run) -> Answer:
    """In a transaction that may not write, and that is never committed."""
    question = _question(assertion)
    with database_session(address, run.application_name, seconds=ASSERTION_SECONDS, stop=run.stop) as opened:
        execute(opened, "SET SESSION sql_mode = @@GLOBAL.sql_mode, sql_select_limit = 1")
        execute(opened, "START TRANSACTION READ ONLY")
        try:
            found = rows(opened, question)
        except pymysql.Error as error:
            run.stop.check()
            if number_of(error) in _BROKEN_SESSION:
                raise
            raise InvalidAssertion(f"The assertion {assertion.name!r} cannot be asked: {error.args[-1]}") from error
        return _answer(found, assertion)


def _question(assertion: Assertion) -> str:
    """Raises `InvalidAssertion` for a statement that a transaction that may not write does not hold back."""
    question = asked_in_sql(assertion)
    tokens = list(_TOKEN.finditer(question))
    words = [token["word"].lower() for token in tokens if token["word"]]
    if not words or words[0] not in _ASKING:
        raise InvalidAssertion(f"The assertion {assertion.name!r} is no query; it begins with SELECT or WITH.")
    if "into" in words:  # writes a file of the server
        raise InvalidAssertion(f"The assertion {assertion.name!r} says INTO; its answer goes nowhere else.")
    if any(token["code"] for token in tokens):
        raise InvalidAssertion(f"The assertion {assertion.name!r} has statements hidden in comments.")
    return question


def _answer(found: list[tuple[object, ...]], assertion: Assertion) -> Answer:
    if not found:
        return None
    value = found[0][0]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, int) or value is None else str(value)

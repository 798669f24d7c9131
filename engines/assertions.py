"""What users say must be true of a restored backup: a question, and the answer it must have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from engines.artefacts.manifest import Evidence
from engines.errors import AssertionFailed, UnsupportedOperation

Answer = int | str | None
SHOWN_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Assertion:
    """Either `sql`, whose first column of its first row is the answer, or a count of a `collection`'s documents that
    match `filter`. At least one of the three expectations is given."""

    name: str
    sql: str | None = None
    collection: str | None = None
    filter: dict[str, Any] | None = None
    equals: Answer = None
    at_least: int | None = None
    at_most: int | None = None

    def expected(self) -> str:
        parts = [] if self.equals is None else [f"= {self.equals}"]
        parts += [] if self.at_least is None else [f">= {self.at_least}"]
        parts += [] if self.at_most is None else [f"<= {self.at_most}"]
        return " and ".join(parts)

    def holds(self, found: Answer) -> bool:
        if self.equals is not None and not _same(found, self.equals):
            return False
        if self.at_least is None and self.at_most is None:
            return True
        number = _number(found)
        return (
            number is not None
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
        )


def _same(found: Answer, wanted: int | str) -> bool:
    """A number is the same however its database writes it: 100 is 100.00."""
    return str(found) == str(wanted) or (isinstance(wanted, int) and _number(found) == wanted)


def _number(found: Answer) -> Decimal | None:
    """Exact, unlike a float: an answer may have more digits than that."""
    try:
        number = None if found is None else Decimal(found)
    except InvalidOperation:
        return None
    return None if number is None or number.is_nan() else number


def _shown(found: Answer) -> Answer:
    """Events stay small, whatever a question brings."""
    long = isinstance(found, str) and len(found) > SHOWN_CHARACTERS
    return f"{str(found)[:SHOWN_CHARACTERS]}…" if long else found


def judged(assertions: Sequence[Assertion], ask: Callable[[Assertion], Answer]) -> tuple[Evidence, ...]:
    """Evidence per assertion, when all hold; raises `AssertionFailed` after all were asked.

    `ask` answers one; it raises `InvalidAssertion` for a question the database does not understand.
    """
    evidence = []
    for assertion in assertions:
        found = ask(assertion)
        evidence.append(
            Evidence(
                level=3,
                check="assertion",
                object=assertion.name,
                expected=assertion.expected(),
                found=_shown(found),
                ok=assertion.holds(found),
            )
        )
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        raise AssertionFailed(
            f"{len(wrong)} of {len(evidence)} assertion(s) do not hold; {wrong[0].object}: "
            f"expected {wrong[0].expected}, found {wrong[0].found}.",
            details={"evidence": [item.model_dump(mode="json", exclude_none=True) for item in evidence]},
        )
    return tuple(evidence)


def asked_in_sql(assertion: Assertion) -> str:
    """The question for an engine that speaks SQL; raises `UnsupportedOperation` for one about a collection."""
    if assertion.sql is None:
        raise UnsupportedOperation(
            f"The assertion {assertion.name!r} asks about a collection; this database is asked in SQL.",
            hint="Write the assertion with `sql`.",
        )
    return assertion.sql

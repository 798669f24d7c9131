"""What users assert of a restored copy, asked of every engine."""

from __future__ import annotations

from typing import Any

import pytest

from engines.artefacts.manifest import Evidence
from engines.artefacts.reading import Artefact
from engines.assertions import Answer, Assertion, judged
from engines.base import Target
from engines.errors import AssertionFailed, InvalidAssertion, UnsupportedOperation, VerificationImpossible
from tests.contracts.engine_cases import ROWS, Bench, EngineCase


def orders(case: EngineCase, equals: Answer = None, at_least: int | None = None) -> Assertion:
    """How many orders of customer 3 there are: 13."""
    if case.kind == "mongodb":
        return Assertion("orders", collection="orders", filter={"customer": 3}, equals=equals, at_least=at_least)
    sql = "SELECT count(*) FROM orders WHERE customer = 3"
    return Assertion("orders", sql=sql, equals=equals, at_least=at_least)


def senseless(case: EngineCase) -> Assertion:
    if case.kind == "mongodb":
        return Assertion("senseless", collection="orders", filter={"$nothing": 1}, equals=1)
    return Assertion("senseless", sql="SELECT nothing FROM nowhere", equals=1)


def of_another_kind(case: EngineCase) -> Assertion:
    if case.kind == "mongodb":
        return Assertion("other", sql="SELECT 1", equals=1)
    return Assertion("other", collection="orders", at_least=1)


def asked(
    case: EngineCase, bench: Bench, artefact: Artefact, scratch: Target, *assertions: Assertion
) -> list[Evidence]:
    try:
        evidence = case.engine.rehearse(artefact, scratch, bench.run(), assertions)
    finally:
        assert case.leftovers(scratch) == [], "the scratch database is dropped in every case"
    return [item for item in evidence if item.check == "assertion"]


def test_assertions_that_hold_are_evidence_of_level_three(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    seen = asked(case, bench, bench.back_up(case, target), target, orders(case, equals=13), orders(case, at_least=10))
    assert [(item.level, item.object, item.found, item.ok) for item in seen] == [(3, "orders", 13, True)] * 2
    assert case.rows(target) == ROWS


def test_the_copy_is_asked_and_not_the_database_it_was_made_of(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    case.clear(target, "orders")
    assert asked(case, bench, artefact, target, orders(case, equals=13))[0].ok


def test_an_assertion_that_does_not_hold_fails_with_what_was_found(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    with pytest.raises(AssertionFailed) as failed:
        asked(case, bench, artefact, target, orders(case, equals=14), orders(case, equals=13))
    found = [(item["found"], item["ok"]) for item in failed.value.details["evidence"] if item["check"] == "assertion"]
    assert found == [(13, False), (13, True)]
    assert not failed.value.retryable


def test_a_question_that_the_database_does_not_understand_is_an_invalid_assertion(
    case: EngineCase, bench: Bench
) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    with pytest.raises(InvalidAssertion):
        asked(case, bench, artefact, target, senseless(case))


def test_a_question_of_another_kind_of_database_is_refused(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    with pytest.raises((UnsupportedOperation, VerificationImpossible)) as refused:
        asked(case, bench, artefact, target, of_another_kind(case))
    assert "'other'" in refused.value.message


@pytest.mark.parametrize(
    ("found", "expected", "holds"),
    [
        ("100.00", {"equals": 100}, True),
        ("100.0", {"equals": 100}, True),
        ("100.50", {"equals": 100}, False),
        ("1.50", {"equals": "1.50"}, True),
        ("100.00", {"equals": "100"}, False),
        (9007199254740993, {"at_least": 9007199254740993}, True),
        ("9007199254740993", {"at_most": 9007199254740992}, False),
        ("NaN", {"at_least": 0}, False),
        ("inf", {"at_least": 0}, True),
        ("ten", {"at_most": 10}, False),
        (None, {"equals": 0}, False),
    ],
)
def test_numbers_are_compared_as_numbers_however_they_are_written(
    found: Answer, expected: dict[str, Any], holds: bool
) -> None:
    assert Assertion("x", sql="SELECT 1", **expected).holds(found) is holds


def test_a_long_answer_is_judged_whole_and_shown_in_part() -> None:
    whole = "x" * 100_000
    (seen,) = judged([Assertion("x", sql="SELECT x", equals=whole)], lambda _: whole)
    assert len(str(seen.found)) < 1000
    with pytest.raises(AssertionFailed) as failed:
        judged([Assertion("x", sql="SELECT x", equals=1)], lambda _: whole)
    assert len(failed.value.message) < 1000
    assert len(str(failed.value.details)) < 2000

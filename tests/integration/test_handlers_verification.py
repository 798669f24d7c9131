"""Assertions: what users say must be true of a restored backup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.errors import AssertionFailed, InvalidAssertion, UnknownBackup
from handlers.verification import VerificationRequest
from tests.integration.handler_world import HandlerWorld, shown

COUNT = "SELECT count(*) FROM orders"


@pytest.fixture
def world(tmp_path: Path) -> HandlerWorld:
    return HandlerWorld(tmp_path)


def verified(world: HandlerWorld, *assertions: dict[str, Any]) -> dict[str, Any]:
    backup_id = world.backed_up()
    world.in_shop("DELETE FROM orders")  # the backup is asked, not the database
    return shown(world.ask("verification", backup_id=backup_id, level=3, assertions=list(assertions)))


def test_assertions_that_hold_are_evidence(world: HandlerWorld) -> None:
    found = verified(
        world,
        {"name": "all orders", "sql": COUNT, "equals": 100},
        {"sql": COUNT, "at_least": 99, "at_most": 101},
        {"name": "the first", "sql": "SELECT name FROM people ORDER BY id LIMIT 1", "equals": "Ada"},
    )
    asked = [item for item in found["evidence"] if item["check"] == "assertion"]
    assert [(item["object"], item["expected"], item["found"], item["ok"]) for item in asked] == [
        ("all orders", "= 100", 100, True),
        (COUNT, ">= 99 and <= 101", 100, True),
        ("the first", "= Ada", "Ada", True),
    ]


def test_an_assertion_that_does_not_hold_fails_with_what_was_found_and_blames_not_the_backup(
    world: HandlerWorld,
) -> None:
    with pytest.raises(AssertionFailed) as failed:
        verified(world, {"name": "good", "sql": COUNT, "equals": 100}, {"name": "bad", "sql": COUNT, "at_least": 101})
    shown_evidence = [(item["object"], item["ok"], item["found"]) for item in failed.value.details["evidence"]]
    assert shown_evidence == [("good", True, 100), ("bad", False, 100)]
    assert failed.value.code == "assertion_failed"
    assert not failed.value.retryable
    (entry,) = world.catalogue.entries.values()
    assert not entry.damaged


@pytest.mark.parametrize("sql", ["SELECT nothing FROM nowhere", "DROP TABLE orders", "not sql", "SELECT 1; SELECT 2"])
def test_a_question_that_is_none_is_an_invalid_assertion(world: HandlerWorld, sql: str) -> None:
    with pytest.raises(InvalidAssertion):
        verified(world, {"sql": sql, "equals": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": 2, "assertions": [{"sql": COUNT, "equals": 1}]},
        {"level": 3, "assertions": [{"sql": COUNT}]},
        {"level": 3, "assertions": [{"equals": 1}]},
        {"level": 3, "assertions": [{"sql": COUNT, "collection": "orders", "equals": 1}]},
        {"level": 3, "assertions": [{"sql": COUNT, "filter": {}, "equals": 1}]},
        {"level": 3, "assertions": [{"sql": COUNT, "equals": 1, "more": 2}]},
    ],
)
def test_half_an_assertion_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VerificationRequest.model_validate({"backup_id": "b"} | wrong)


def test_a_filter_means_whole_backups_before_parts(world: HandlerWorld) -> None:
    older, whole = world.backed_up(), world.backed_up()
    part = world.backed_up(include=["orders"], labels={"of": "orders"})

    def proven(**wanted: Any) -> list[str]:
        done = shown(world.ask("verification", filter={"connection": "shop"} | wanted, level=1))
        return [backup["backup_id"] for backup in done["backups"]]

    assert proven() == [whole]
    assert proven(limit=5) == proven(whole=True, limit=5) == [whole, older]
    assert proven(whole=False) == proven(labels={"of": "orders"}) == [part]


def test_a_filter_that_only_parts_match_says_so(world: HandlerWorld) -> None:
    part = world.backed_up(content="schema")
    with pytest.raises(UnknownBackup, match=f"is whole. The newest, {part}, holds only a part"):
        world.ask("verification", filter={"connection": "shop", "whole": True}, level=1)
    with pytest.raises(UnknownBackup, match="matches the labels and level asked for"):
        world.ask("verification", filter={"labels": {"no": "such"}}, level=1)

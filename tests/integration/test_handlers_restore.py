"""What a restore does beside restoring: the plan, the safety backup, the database that is kept for a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.errors import ArtefactDamaged, ObjectMissing, Stopped, TargetNotEmpty, UnknownBackup
from engines.run import StopReason
from handlers.base import Published
from handlers.restore import RestoreRequest
from tests.integration.handler_world import HandlerWorld, shown

ORDERS = "SELECT count(*) FROM orders"


@pytest.fixture
def world(tmp_path: Path) -> HandlerWorld:
    return HandlerWorld(tmp_path)


# ---------------------------------------------------------------- plan


def test_a_plan_says_what_would_be_created_replaced_and_removed(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    world.in_shop("DROP TABLE orders")
    world.in_shop("CREATE TABLE later (id INTEGER)")
    plan = shown(world.ask("restore", backup_id=backup_id, connection="shop", mode="plan"))
    assert plan["changes"] == {"created": ["orders"], "replaced": ["people"], "removed": ["later"]}
    assert [item["name"] for item in plan["present"]] == ["later", "people"]
    assert (plan["target_exists"], plan["would_refuse"], plan["rows"]) == (True, "target_not_empty", 108)
    assert world.in_shop("SELECT name FROM sqlite_schema WHERE type = 'table'") == [("people",), ("later",)]


def test_a_plan_for_a_database_that_is_not_there_refuses_nothing(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    plan = shown(world.ask("restore", backup_id=backup_id, connection="shop", into="copy.sqlite", mode="plan"))
    assert (plan["target_exists"], plan["present"], plan["would_refuse"]) == (False, None, None)
    assert plan["changes"]["created"] == ["orders", "people"]
    assert not (world.shop.parent / "copy.sqlite").exists()


# ---------------------------------------------------------------- safety backup


def test_replace_first_backs_up_what_it_replaces_and_that_restores_it(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    world.in_shop("DELETE FROM orders WHERE id > 10")
    done = world.ask("restore", backup_id=backup_id, connection="shop", mode="replace")
    assert world.in_shop(ORDERS) == [(100,)]
    safety_id = shown(done)["safety_backup_id"]
    safety = world.catalogue.backup(safety_id)
    assert safety.level == 2
    assert safety.manifest.labels == {"safety": "true", "before": backup_id}
    again = shown(world.ask("restore", backup_id=safety_id, connection="shop", into="former.sqlite"))
    assert world.in_shop(ORDERS, Path(again["database"])) == [(10,)]


def test_replace_takes_no_safety_backup_when_told_not_to_or_of_nothing(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    told = world.ask("restore", backup_id=backup_id, connection="shop", mode="replace", safety_backup=False)
    absent = world.ask("restore", backup_id=backup_id, connection="shop", mode="replace", into="copy.sqlite")
    for outcome in (told, absent):
        assert shown(outcome)["safety_backup_id"] is None
        assert outcome.changes == ()
    assert len(world.stored_folders()) == 1


def test_a_replace_that_fails_leaves_the_target_and_no_safety_backup(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    world.in_shop("DELETE FROM orders")
    world.damage(backup_id)
    before = world.stored_folders()
    with pytest.raises(ArtefactDamaged) as damaged:
        world.ask("restore", backup_id=backup_id, connection="shop", mode="replace")
    assert damaged.value.details["backup_id"] == backup_id
    assert world.in_shop(ORDERS) == [(0,)]
    assert world.stored_folders() == before


def test_a_replace_canceled_before_the_switch_leaves_the_target_and_no_safety_backup(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    world.in_shop("DELETE FROM orders")
    before = world.stored_folders()
    calls = 0

    def canceled() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first look is the safety backup's, the second the switch's
            raise Stopped(StopReason.CANCEL)

    with pytest.raises(Stopped):
        world.ask("restore", world.new_run(confirm=canceled), backup_id=backup_id, connection="shop", mode="replace")
    assert calls == 2
    assert world.in_shop(ORDERS) == [(0,)]
    assert world.stored_folders() == before


def test_a_second_attempt_of_a_replace_keeps_the_first_ones_safety_backup(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    world.in_shop("DELETE FROM orders WHERE id > 10")
    first = world.new_run()
    done = world.ask("restore", first, backup_id=backup_id, connection="shop", mode="replace")
    second = world.new_run(job_id=first.job_id, attempt=2)  # as if the first had died before it could say so
    again = world.ask("restore", second, backup_id=backup_id, connection="shop", mode="replace")
    assert shown(again)["safety_backup_id"] == shown(done)["safety_backup_id"]
    assert world.in_shop(ORDERS) == [(100,)]
    (change,) = again.changes
    assert isinstance(change, Published)
    assert {item.name: item.rows for item in change.entry.manifest.objects}["orders"] == 10


def test_the_safety_backup_of_an_attempt_that_lost_its_lease_stays_whatever_the_next_one_ends_with(
    world: HandlerWorld,
) -> None:
    backup_id = world.backed_up()
    before, calls = world.stored_folders(), 0

    def lost() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # at the switch
            raise Stopped(StopReason.LEASE_LOST)

    first = world.new_run(confirm=lost)
    with pytest.raises(Stopped):
        world.ask("restore", first, backup_id=backup_id, connection="shop", mode="replace")
    (safety,) = world.stored_folders() - before
    world.damage(backup_id)
    second = world.new_run(job_id=first.job_id, attempt=2)
    with pytest.raises(ArtefactDamaged):
        world.ask("restore", second, backup_id=backup_id, connection="shop", mode="replace")
    assert safety in world.stored_folders()


def test_the_safety_backup_is_never_the_latest_backup(world: HandlerWorld) -> None:
    world.backed_up()
    world.in_shop("DELETE FROM orders WHERE id > 10")
    for _ in range(2):
        latest = {"connection": "shop"}
        done = world.ask("restore", latest=latest, connection="shop", mode="replace")
        assert shown(done)["safety_backup_id"]
        assert world.in_shop(ORDERS) == [(100,)]


def test_what_holds_no_table_is_backed_up_before_it_is_replaced(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    world.in_shop("DROP TABLE orders")
    world.in_shop("DROP TABLE people")
    world.in_shop("PRAGMA user_version = 7")
    done = world.ask("restore", backup_id=backup_id, connection="shop", mode="replace")
    former = shown(done)["safety_backup_id"]
    again = shown(world.ask("restore", backup_id=former, connection="shop", into="former.sqlite"))
    assert world.in_shop("PRAGMA user_version", Path(again["database"])) == [(7,)]


# ---------------------------------------------------------------- parts of a database


@pytest.mark.parametrize("part", [{"content": "schema"}, {"include": ["orders"]}, {"exclude": ["people"]}])
@pytest.mark.parametrize("mode", ["plan", "create", "replace"])
def test_latest_is_the_newest_whole_backup_and_says_what_it_passed_over(
    world: HandlerWorld, part: dict[str, Any], mode: str
) -> None:
    whole = world.backed_up()
    newer = world.backed_up(**part)
    into = "copy.sqlite" if mode == "create" else None
    done = shown(world.ask("restore", latest={"connection": "shop"}, connection="shop", mode=mode, into=into))
    assert (done["backup_id"], done["whole"], done["rows"]) == (whole, True, 108)
    assert done["notes"][0] == f"The newest backup, {newer}, holds only a part of the database: not taken."


def test_latest_is_a_part_where_nothing_else_matches_and_says_so(world: HandlerWorld) -> None:
    world.backed_up()
    orders = world.backed_up(include=["orders"], labels={"of": "orders"})
    latest = {"connection": "shop", "labels": {"of": "orders"}}
    done = shown(world.ask("restore", latest=latest, connection="shop", into="copy.sqlite"))
    assert (done["backup_id"], done["whole"]) == (orders, False)
    assert done["notes"] == [f"The backup {orders} holds only a part of the database: none that matches is whole."]


def test_latest_never_replaces_a_database_by_a_part_of_it(world: HandlerWorld) -> None:
    orders = world.backed_up(include=["orders"])
    with pytest.raises(UnknownBackup) as refused:
        world.ask("restore", latest={"connection": "shop"}, connection="shop", mode="replace")
    assert f"is whole. The newest, {orders}, holds only a part of the database." in refused.value.message
    asked = {"connection": "shop", "whole": False}
    done = shown(world.ask("restore", latest=asked, connection="shop", mode="replace"))
    assert (done["backup_id"], done["whole"], done["notes"]) == (orders, False, [])


def test_latest_is_whole_or_refused_where_whole_is_asked_for(world: HandlerWorld) -> None:
    part = world.backed_up(content="schema")
    with pytest.raises(UnknownBackup, match=f"is whole. The newest, {part}, holds only a part"):
        world.ask("restore", latest={"connection": "shop", "whole": True}, connection="shop", into="copy.sqlite")


def test_a_part_that_is_named_is_restored(world: HandlerWorld) -> None:
    world.backed_up()
    schema = world.backed_up(content="schema")
    done = shown(world.ask("restore", backup_id=schema, connection="shop", into="empty.sqlite"))
    assert (done["backup_id"], done["whole"]) == (schema, False)


def test_a_filter_of_whole_that_is_no_truth_value_is_refused() -> None:
    with pytest.raises(ValidationError):
        RestoreRequest.model_validate({"latest": {"connection": "shop", "whole": "yes"}, "connection": "shop"})


# ---------------------------------------------------------------- kept for a time


def test_a_database_kept_for_a_time_is_made_beside_and_its_removal_is_asked_for(world: HandlerWorld) -> None:
    backup_id, run = world.backed_up(), world.new_run()
    outcome = world.ask("restore", run, backup_id=backup_id, connection="shop", keep_seconds=60)
    kept = Path(shown(outcome)["database"])
    assert kept == world.shop.parent / f"flexdb_kept_{run.job_id}"
    assert shown(outcome)["drops_at"].endswith("Z")
    assert world.in_shop(ORDERS, kept) == [(100,)]
    (later,) = outcome.later
    assert (later.operation, later.seconds) == ("removal", 60)
    assert [claim.mode for claim in later.claims] == ["exclusive"]
    removed = world.ask("removal", connection="shop", database=str(kept))  # as the restore named it
    assert shown(removed) == {"database": str(kept), "removed": True}
    assert not kept.exists()
    assert shown(world.ask("removal", **later.data))["removed"] is False


@pytest.mark.parametrize("database", ["shop.sqlite", "../flexdb_kept_x", "flexdb_kept_", "flexdb_kept_X", "x"])
def test_nothing_but_a_kept_database_is_ever_removed(world: HandlerWorld, database: str) -> None:
    with pytest.raises(ValidationError):
        world.ask("removal", connection="shop", database=database)


def test_a_kept_database_of_another_folder_is_not_taken_for_the_one_beside(world: HandlerWorld) -> None:
    assert world.faults("removal", connection="shop", database="/elsewhere/flexdb_kept_x") == ["/database"]


def test_a_name_that_would_be_removed_cannot_be_chosen(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    assert world.faults("restore", backup_id=backup_id, connection="shop", into="flexdb_kept_mine") == ["/into"]
    for clash in ({"into": "copy.sqlite"}, {"mode": "replace"}, {"mode": "plan"}):
        with pytest.raises(ValidationError):
            RestoreRequest.model_validate({"backup_id": "b", "connection": "shop", "keep_seconds": 5} | clash)


# ---------------------------------------------------------------- refusals


def test_a_restore_over_tables_is_refused_before_anything_is_written(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    with pytest.raises(TargetNotEmpty):
        world.ask("restore", backup_id=backup_id, connection="shop")
    assert len(world.stored_folders()) == 1


def test_another_database_than_the_backups_is_refused(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    with pytest.raises(ObjectMissing):
        world.ask("restore", backup_id=backup_id, connection="shop", database="other.sqlite")


def test_a_whole_server_is_refused_where_there_is_none(world: HandlerWorld) -> None:
    assert world.faults("backup", connection="shop", scope="server") == ["/scope"]

"""What preflight finds before a backup and before a restore, and that the operations themselves end early with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engines.errors import TargetMissing
from tests.integration.handler_world import HandlerWorld, shown

Found = Mapping[str, Mapping[str, Any]]


@pytest.fixture
def world(tmp_path: Path) -> HandlerWorld:
    missing = tmp_path / "databases" / "missing.sqlite"
    return HandlerWorld(tmp_path, missing=f"sqlite:///{missing}")


def looked(world: HandlerWorld, **data: Any) -> tuple[dict[str, Any], Found]:
    """The result, and its findings by what was looked at."""
    result = shown(world.ask("preflight", **data))
    return result, {finding["check"]: finding for finding in result["findings"]}


def test_before_a_backup_that_will_succeed_all_is_well(world: HandlerWorld) -> None:
    result, found = looked(world, connection="shop")
    assert (result["ok"], result["about"], result["engine"]) == (True, "backup", "sqlite")
    assert {finding["severity"] for finding in found.values()} == {"ok"}
    assert "there is no backup yet" in found["storage"]["detail"]
    assert world.stored_folders() == set()
    world.backed_up()
    _, found = looked(world, connection="shop")
    assert "the last backup took" in found["storage"]["detail"]


def test_before_a_backup_of_nothing_the_error_is_told_with_its_code_and_its_cure(world: HandlerWorld) -> None:
    result, found = looked(world, connection="missing")
    assert not result["ok"]
    (error,) = [finding for finding in found.values() if finding["severity"] == "error"]
    assert (error["code"], bool(error["hint"])) == ("target_missing", True)
    with pytest.raises(TargetMissing):
        world.ask("backup", connection="missing")


def test_before_a_restore_the_backup_its_files_and_the_target_are_looked_at(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    result, found = looked(world, backup_id=backup_id, connection="shop")
    assert (result["ok"], result["about"]) == (False, "restore")
    assert {finding["code"] for finding in found.values() if finding["severity"] == "error"} == {"target_not_empty"}
    assert found["backup"]["detail"].endswith("was verified to level 2.")
    result, found = looked(world, latest={"connection": "shop"}, connection="shop", into="copy.sqlite")
    assert result["ok"]
    assert found["stored"]["ok"]
    assert not (world.shop.parent / "copy.sqlite").exists()


def test_a_backup_proven_to_a_low_level_only_is_a_warning(world: HandlerWorld) -> None:
    backup_id = world.backed_up(verify=1)
    result, found = looked(world, backup_id=backup_id, connection="shop", into="copy.sqlite")
    assert (result["ok"], found["backup"]["severity"]) == (True, "warning")
    assert "Verify it" in found["backup"]["hint"]


def test_a_stored_file_that_is_gone_or_cut_is_an_error_before_the_restore(world: HandlerWorld) -> None:
    backup_id = world.backed_up()
    entry = world.catalogue.backup(backup_id)
    path = world.store.local_path(f"{entry.folder}/{entry.manifest.files[0].name}")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1])
    _, found = looked(world, backup_id=backup_id, connection="shop", into="copy.sqlite")
    assert found["stored"]["code"] == "artefact_damaged"
    path.unlink()
    _, found = looked(world, backup_id=backup_id, connection="shop", into="copy.sqlite")
    assert found["stored"]["code"] == "artefact_missing"


def test_an_unknown_backup_is_a_finding(world: HandlerWorld) -> None:
    result, found = looked(world, backup_id="no-such", connection="shop")
    assert (result["ok"], found["backup"]["code"]) == (False, "unknown_backup")


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"connection": "shop", "no_such_field": 1}, "/no_such_field"),
        ({"connection": "shop", "verify": 4}, "/verify"),
        ({"connection": "nobody"}, "/connection"),
        ({"connection": "shop", "backup_id": "b", "verify": 2}, "/verify"),
        ({"connection": "shop", "backup_id": "b", "into": "../x"}, "/into"),
    ],
)
def test_what_the_operation_would_refuse_at_the_door_preflight_does_too(
    world: HandlerWorld, data: dict[str, Any], pointer: str
) -> None:
    assert world.faults("preflight", **data) == [pointer]

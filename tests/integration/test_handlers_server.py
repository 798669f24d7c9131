"""A whole server in one backup: every database proven and restored on its own, and what belongs to the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from engines.errors import ArtefactDamaged, AssertionFailed, ObjectMissing, UnsupportedOperation
from tests.integration.handler_world import HandlerWorld, shown
from tests.servers import debian_postgres, own_postgres, with_database

NAMES = ["first shop", "odd/näme%", "second"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of our own: on a shared one others' databases come and go."""
    folder = debian_postgres()
    assert folder is not None
    with own_postgres(folder) as url:
        yield url


def run_on(server: str, database: str, *statements: str | sql.Composable) -> list[Any]:
    with closing(psycopg2.connect(with_database(server, database))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def create(server: str, name: str, rows: int) -> None:
    run_on(server, "postgres", sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    run_on(server, name, f"CREATE TABLE goods AS SELECT generate_series(1, {rows}) AS id")


@pytest.fixture
def world(server: str, tmp_path: Path) -> Iterator[HandlerWorld]:
    for number, name in enumerate(NAMES):
        create(server, name, number + 1)
    run_on(server, "postgres", "CREATE ROLE clerk LOGIN")
    yield HandlerWorld(tmp_path, main=server)
    for name in [name for (name,) in run_on(server, "postgres", "SELECT datname FROM pg_database WHERE oid > 16383")]:
        run_on(server, "postgres", sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    run_on(server, "postgres", "DROP ROLE clerk")


def goods(server: str, database: str) -> list[Any]:
    return run_on(server, database, "SELECT count(*) FROM goods")


def test_a_server_backup_holds_every_database_and_is_proven_on_level_three(world: HandlerWorld) -> None:
    backup_id = world.backed_up("main", scope="server", verify=3)
    manifest = world.catalogue.backup(backup_id).manifest
    rows = {item.database: item.rows for item in manifest.objects if item.name == "public.goods"}
    assert rows == {name: number + 1 for number, name in enumerate(NAMES)}
    assert len([file for file in manifest.files if file.format == "pg_dumpall-sql"]) == 1
    assert len({file.name for file in manifest.files}) == len(manifest.files)
    compared = [item for item in manifest.verification.evidence if item.level == 3 and item.object == "public.goods"]
    assert [item.found for item in compared] == [1, 2, 3]
    assert all("goods" not in line or "psql" in line for line in manifest.restore_by_hand)


def test_one_database_of_a_server_backup_is_restored_under_its_name_or_another(
    world: HandlerWorld, server: str
) -> None:
    backup_id = world.backed_up("main", scope="server")
    run_on(server, "postgres", 'DROP DATABASE "odd/näme%" WITH (FORCE)')
    done = shown(world.ask("restore", backup_id=backup_id, connection="main", database="odd/näme%"))
    assert (done["database"], goods(server, "odd/näme%")) == ("odd/näme%", [(2,)])
    world.ask("restore", backup_id=backup_id, connection="main", database="second", into="copy")
    assert goods(server, "copy") == [(3,)]


def test_which_database_is_meant_has_to_be_said(world: HandlerWorld) -> None:
    backup_id = world.backed_up("main", scope="server", counts="none", verify=1)
    with pytest.raises(UnsupportedOperation) as unclear:
        world.ask("restore", backup_id=backup_id, connection="main", into="copy")
    assert all(name in unclear.value.hint for name in NAMES)
    with pytest.raises(ObjectMissing):
        world.ask("restore", backup_id=backup_id, connection="main", database="third")


def test_assertions_are_asked_of_the_one_database_named(world: HandlerWorld) -> None:
    backup_id = world.backed_up("main", scope="server")
    asked = [{"sql": "SELECT count(*) FROM goods", "equals": 3}]
    given: dict[str, Any] = {"backup_id": backup_id, "level": 3, "assertions": asked}
    found = shown(world.ask("verification", **given, database="second"))
    assert [item["found"] for item in found["evidence"] if item["check"] == "assertion"] == [3]
    with pytest.raises(AssertionFailed):
        world.ask("verification", **given, database="first shop")
    with pytest.raises(UnsupportedOperation):
        world.ask("verification", **given)


def test_damage_in_any_of_the_databases_is_found(world: HandlerWorld) -> None:
    backup_id = world.backed_up("main", scope="server")
    entry = world.catalogue.backup(backup_id)
    for file in entry.manifest.files:
        path = world.store.local_path(f"{entry.folder}/{file.name}")
        assert path is not None
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for level in (1, 2):
            with pytest.raises(ArtefactDamaged):
                world.ask("verification", backup_id=backup_id, level=level)
        path.write_bytes(whole)
    world.ask("verification", backup_id=backup_id, level=2)


def test_rows_alone_cannot_be_asked_for_on_level_three(world: HandlerWorld) -> None:
    assert world.faults("backup", connection="main", content="data", verify=3) == ["/verify"]
    assert world.faults("backup", connection="main", content="data", verify=2) == []


def test_the_maintenance_database_is_held_too_because_users_may_keep_tables_there(
    world: HandlerWorld, server: str
) -> None:
    for name in NAMES:
        run_on(server, "postgres", sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    backup_id = world.backed_up("main", scope="server")
    assert {file.database for file in world.catalogue.backup(backup_id).manifest.files} == {"postgres"}

"""What a backup or restore would fail of is told before, and nothing that it would not fail of."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from engines.artefacts.reading import Artefact
from engines.base import BackupOptions, Finding, RestoreOptions
from engines.errors import AccessDenied, FlexError, Stopped
from engines.postgres import PostgresEngine
from engines.run import StopReason
from tests.conftest import FreshDatabase
from tests.integration.postgres.test_adoption import by_hand
from tests.integration.postgres.test_faults import changed, without
from tests.integration.postgres.workbench import SAMPLE, Workbench, sql


def before_backup(bench: Workbench, url: str, **options: Any) -> tuple[Finding, ...]:
    return bench.engine.preflight_backup(bench.target(url), BackupOptions(**options), bench.run())


def before_restore(bench: Workbench, artefact: Artefact, url: str, **options: Any) -> tuple[Finding, ...]:
    return bench.engine.preflight_restore(artefact, bench.target(url), RestoreOptions(**options), bench.run())


def problems(findings: tuple[Finding, ...]) -> dict[str, type[FlexError]]:
    return {item.check: type(item.problem) for item in findings if item.problem is not None}


def warnings(findings: tuple[Finding, ...]) -> list[str]:
    return [item.check for item in findings if not item.ok and item.problem is None]


@pytest.fixture
def modest(postgres18_url: str) -> Iterator[str]:
    """A role that may log in and nothing else; its name and password."""
    name = f"flexdbtest_{secrets.token_hex(4)}"
    sql(postgres18_url, f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    yield name
    sql(postgres18_url, f"DROP ROLE {name}")


@pytest.fixture
def shop18(postgres18_url: str, fresh_database: FreshDatabase) -> str:
    url = fresh_database(postgres18_url)
    sql(url, SAMPLE)
    return url


def test_a_backup_that_will_work_has_only_good_findings(bench: Workbench, shop: str) -> None:
    wanted: list[dict[str, Any]] = [{}, {"jobs": 2}, {"globals": True}, {"content": "schema"}, {"content": "data"}]
    for options in (*wanted, {"include": ("customers",)}):
        findings = before_backup(bench, shop, **options)
        assert all(item.ok for item in findings), findings
        checks = [item.check for item in findings]
        assert checks[0] == "reachable" and {"client", "patterns", "privileges", "locks", "space"} <= set(checks)
        bench.back_up(shop, **options)


def test_a_server_that_is_away_a_missing_database_and_a_wrong_password_are_problems(
    bench: Workbench, shop18: str, postgres18_url: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop18)
    for url in (
        "postgresql://postgres:hush@127.0.0.1:1/x",
        fresh_database(postgres18_url, create=False),
        changed(shop18, password="wrong"),
    ):
        with pytest.raises(FlexError) as failed:
            bench.back_up(url)
        assert problems(before_backup(bench, url)) == {"reachable": type(failed.value)}
    assert list(problems(before_restore(bench, artefact, changed(shop18, password="wrong")))) == ["reachable"]


@pytest.mark.parametrize(
    ("options", "check"),
    [({"include": ("custmers",)}, "patterns"), ({"exclude": ("custmers",)}, "patterns"), ({"jobs": 2}, "space")],
    ids=str,
)
def test_what_a_backup_ends_with_is_found_before(
    bench: Workbench, shop15: str, options: dict[str, Any], check: str
) -> None:
    tight = Workbench(bench.folder, PostgresEngine(free_bytes=lambda _: 0))
    with pytest.raises(FlexError) as failed:
        tight.back_up(shop15, **options)
    assert problems(before_backup(tight, shop15, **options)) == {check: type(failed.value)}


def test_clients_that_do_not_fit_are_found_both_ways(
    bench: Workbench, shop15: str, shop18: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    old, newer = (Workbench(bench.folder, PostgresEngine(clients=without(*gone))) for gone in ((17, 18), (15,)))
    assert list(problems(before_backup(old, shop18))) == ["client"]
    assert warnings(before_backup(newer, shop15)) == ["client"]
    artefact = newer.back_up(shop15)
    absent = fresh_database(postgres15_url, create=False)
    assert list(problems(before_restore(old, artefact, absent))) == ["client"]
    findings = before_restore(newer, artefact, absent)
    assert problems(findings) == {}
    assert "transaction_timeout" in next(item.detail for item in findings if item.check == "client")
    newer.restore(artefact, absent)


def test_what_the_user_may_not_read_is_found_and_what_it_may_is_not(bench: Workbench, shop18: str, modest: str) -> None:
    theirs = changed(shop18, user=modest, password=modest)

    def agree(check: str | None, **options: Any) -> None:
        """Preflight and backup say the same."""
        found = problems(before_backup(bench, theirs, **options))
        if check is None:
            assert found == {}
            bench.back_up(theirs, **options)
        else:
            assert found == {check: AccessDenied}
            with pytest.raises(FlexError):
                bench.back_up(theirs, **options)

    agree("privileges")
    sql(shop18, f"GRANT SELECT ON TABLE customers, customers_id_seq TO {modest}")
    agree(None, include=("customers",))
    sql(shop18, f"GRANT pg_read_all_data TO {modest}")
    agree("privileges")  # large objects are not among "all data"
    agree(None, include=("public.*",))
    agree(None, content="schema")
    ((number,),) = sql(shop18, "SELECT oid FROM pg_largeobject_metadata")
    sql(shop18, f"GRANT SELECT ON LARGE OBJECT {number} TO PUBLIC")
    agree(None)
    sql(shop18, "ALTER TABLE customers ENABLE ROW LEVEL SECURITY")
    agree("privileges")
    agree(None, exclude=("customers",))
    agree(None, content="schema")
    sql(shop18, f"ALTER ROLE {modest} BYPASSRLS")
    agree(None)
    sql(shop18, f"DROP OWNED BY {modest}; REVOKE pg_read_all_data FROM {modest}")


def test_a_table_that_somebody_holds_is_a_warning(bench: Workbench, shop15: str) -> None:
    with closing(psycopg2.connect(shop15)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        findings = before_backup(bench, shop15)
        assert warnings(findings) == ["locks"] and problems(findings) == {}
        assert "customers" in next(item.detail for item in findings if item.check == "locks")
        assert warnings(before_backup(bench, shop15, exclude=("customers", "odd*.*", "names", "many"))) == []
    assert warnings(before_backup(bench, shop15)) == []


def test_a_restore_that_will_work_has_only_good_findings(
    bench: Workbench, shop: str, server: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop)
    absent, empty = fresh_database(server, create=False), fresh_database(server)
    for url, mode in ((absent, "create"), (empty, "create"), (shop, "replace")):
        findings = before_restore(bench, artefact, url, mode=mode)
        assert all(item.ok for item in findings), findings
        bench.restore(artefact, url, mode=mode)


def test_the_work_of_an_earlier_attempt_is_not_in_its_way(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    artefact, target = bench.back_up(shop15), fresh_database(postgres15_url, create=False)
    bench.restore(artefact, target)
    assert problems(before_restore(bench, artefact, target)) == {}
    assert list(problems(before_restore(Workbench(bench.folder), artefact, target))) == ["target"]


def test_what_a_restore_ends_with_is_found_before(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    artefact, data = bench.back_up(shop15), bench.back_up(shop15, content="data")
    empty, absent = fresh_database(postgres15_url), fresh_database(postgres15_url, create=False)
    cases: list[tuple[Artefact, str, dict[str, Any], str]] = [
        (artefact, shop15, {}, "target"),
        (artefact, absent, {"include": ("custmers",)}, "patterns"),
        (data, shop15, {}, "target"),
        (data, empty, {}, "target"),
        (data, absent, {}, "target"),
        (data, shop15, {"mode": "replace"}, "target"),
    ]
    for stored, url, options, check in cases:
        with pytest.raises(FlexError) as failed:
            bench.restore(stored, url, **options)
        assert problems(before_restore(bench, stored, url, **options)) == {check: type(failed.value)}
    tight = Workbench(bench.folder, PostgresEngine(free_bytes=lambda _: 0))
    assert problems(before_restore(tight, artefact, absent)) == {}
    assert list(problems(before_restore(tight, bench.back_up(shop15, jobs=2), absent))) == ["space"]


def test_a_role_without_createdb_is_told_before_it_tries(
    bench: Workbench, shop18: str, postgres18_url: str, fresh_database: FreshDatabase, modest: str
) -> None:
    artefact = bench.back_up(shop18, include=("settings_as_rows",))
    absent, theirs = fresh_database(postgres18_url, create=False), fresh_database(postgres18_url)
    sql(postgres18_url, f"ALTER DATABASE {bench.target(theirs).database} OWNER TO {modest}")
    try:
        for url, mode in ((absent, "create"), (theirs, "replace"), (shop18, "replace")):
            url = changed(url, user=modest, password=modest)
            assert problems(before_restore(bench, artefact, url, mode=mode)) == {"privileges": AccessDenied}
            with pytest.raises(AccessDenied):
                bench.restore(artefact, url, mode=mode)
        url = changed(theirs, user=modest, password=modest)
        assert problems(before_restore(bench, artefact, url)) == {}
        assert warnings(before_restore(bench, artefact, url)) == ["roles"]
        bench.restore(artefact, url)
    finally:
        sql(postgres18_url, f"ALTER DATABASE {bench.target(theirs).database} OWNER TO postgres")
        sql(theirs, f"REASSIGN OWNED BY {modest} TO postgres; DROP OWNED BY {modest}")


def test_missing_extensions_and_roles_and_an_older_server_are_told(
    bench: Workbench, shop18: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop18)
    options = artefact.manifest.options | {"extensions": ["hstore", "postgis_x"], "roles": ["postgres", "who?"]}
    lacking = Artefact(artefact.store, artefact.folder, artefact.manifest.model_copy(update={"options": options}))
    findings = before_restore(bench, lacking, fresh_database(postgres15_url, create=False))
    assert list(problems(findings)) == ["extensions"]
    assert warnings(findings) == ["version", "roles"]
    message = next(item.detail for item in findings if item.check == "extensions")
    assert "postgis_x" in message and "hstore" not in message
    partial = before_restore(bench, lacking, fresh_database(postgres15_url, create=False), include=("customers",))
    assert problems(partial) == {}


def test_another_encoding_of_an_empty_target_is_a_warning(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.back_up(shop15)
    target = fresh_database(postgres15_url, create=False)
    name = bench.target(target).database
    sql(postgres15_url, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    assert warnings(before_restore(bench, artefact, target)) == ["encoding"]


def test_adopted_dumps_without_an_archive_need_no_client(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    artefact = bench.adopt(by_hand(bench, shop15, "-Fp"))
    findings = before_restore(bench, artefact, fresh_database(postgres15_url, create=False))
    assert all(item.ok for item in findings)


def test_only_a_stop_is_raised(bench: Workbench, shop15: str) -> None:
    run = bench.run()
    run.stop.request(StopReason.CANCEL)
    with pytest.raises(Stopped):
        bench.engine.preflight_backup(bench.target(shop15), BackupOptions(), run)

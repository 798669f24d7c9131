"""Looking at MongoDB: preflight, privileges, assertions, sessions of earlier attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64
from pymongo import MongoClient

from engines.artefacts.reading import Artefact
from engines.assertions import Assertion
from engines.base import BackupOptions, Finding, RestoreOptions, Target
from engines.errors import (
    AccessDenied,
    AssertionFailed,
    InvalidAssertion,
    Stopped,
    UnsupportedOperation,
    VerificationImpossible,
)
from engines.mongodb import MongoEngine
from engines.run import StopReason
from tests.integration.mongodb.workbench import Workbench
from tests.mongodb import own_secantus, with_database


def by_check(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {item.check: item for item in findings}


def before_backup(bench: Workbench, target: Target, **options: Any) -> dict[str, Finding]:
    return by_check(bench.engine.preflight_backup(target, BackupOptions(**options), bench.run()))


def before_restore(bench: Workbench, artefact: Artefact, target: Target, **options: Any) -> dict[str, Finding]:
    return by_check(bench.engine.preflight_restore(artefact, target, RestoreOptions(**options), bench.run()))


def test_a_preflight_of_a_good_backup_finds_no_problem(bench: Workbench) -> None:
    source = bench.filled()
    before = bench.contents(source)
    found = before_backup(bench, source, layout="directory", globals=True, include=("customers",))
    assert {"reachable", "client", "target", "patterns", "privileges", "consistency", "space"} <= set(found)
    assert [item.problem for item in found.values() if item.problem] == []
    assert bench.contents(source) == before
    assert bench.leftovers() == []


def test_a_preflight_of_a_backup_says_what_would_fail(bench: Workbench) -> None:
    source = bench.small()

    def problem(target: Target = source, **options: Any) -> dict[str, str]:
        found = before_backup(bench, target, **options)
        return {check: item.problem.code for check, item in found.items() if item.problem}

    assert problem(bench.target()) == {"target": "target_missing"}
    assert problem(include=("nothing",)) == {"patterns": "target_missing"}
    assert problem(bench.engine.target("shop", bench.server)) == {"reachable": "invalid_target"}
    away = bench.engine.target("shop", "mongodb://127.0.0.1:1/x?serverSelectionTimeoutMS=200")
    assert problem(away) == {"reachable": "target_unavailable"}
    bench.engine = MongoEngine(free_bytes=lambda _: 1)
    assert problem(layout="directory") == {"space": "storage_full"}
    assert problem() == {}


def test_a_preflight_says_plainly_when_there_is_no_common_moment(bench: Workbench) -> None:
    found = before_backup(bench, bench.small())["consistency"]
    assert found.ok == ("No moment common" not in found.detail)
    assert found.problem is None
    assert found.ok or found.hint


def test_a_preflight_of_a_restore_looks_at_the_target(bench: Workbench) -> None:
    artefact, full = bench.back_up(bench.small()), bench.small()
    good = before_restore(bench, artefact, bench.target())
    assert [item.problem for item in good.values() if item.problem] == []
    assert {"reachable", "writable", "version", "patterns", "privileges", "target"} <= set(good)
    refused = before_restore(bench, artefact, full)["target"].problem
    assert refused is not None and refused.code == "target_not_empty"
    assert before_restore(bench, artefact, full, mode="replace")["target"].ok
    unknown = before_restore(bench, artefact, bench.target(), include=("nothing",))["patterns"].problem
    assert unknown is not None and unknown.code == "target_missing"


@pytest.mark.parametrize(("dumped", "ok"), [("4.4.1", True), ("99.0.0", False), ("unknown", True)])
def test_a_restore_into_an_older_version_is_warned_of_and_not_refused(bench: Workbench, dumped: str, ok: bool) -> None:
    artefact = bench.back_up(bench.small())
    older = Artefact(artefact.store, artefact.folder, artefact.manifest.model_copy(update={"server_version": dumped}))
    found = before_restore(bench, older, bench.target())["version"]
    assert (found.ok, found.problem) == (ok, None)


def test_a_preflight_stops_when_asked(bench: Workbench) -> None:
    run = bench.run()
    run.stop.request(StopReason.CANCEL)
    with pytest.raises(Stopped):
        bench.engine.preflight_backup(bench.small(), BackupOptions(), run)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for a login: `reader` may read the database `guarded`, `owner` everything."""
    data: Path = tmp_path_factory.mktemp("guarded")
    with own_secantus("--sync-on-commit", storage=data) as server, MongoClient[dict[str, Any]](server.url) as client:
        client.admin.command("createUser", "owner", pwd="own-word", roles=["root"])
        client.admin.command("createUser", "reader", pwd="read-word", roles=[{"role": "read", "db": "guarded"}])
        client["guarded"]["things"].insert_many([{"_id": n} for n in range(5)])
    with own_secantus("--auth", storage=data) as locked:
        yield locked.url


def logged_in(server: str, name: str, password: str, database: str) -> str:
    url = with_database(server, database).replace("mongodb://", f"mongodb://{name}:{password}@")
    return f"{url}&authSource=admin"


def test_who_may_only_read_can_back_up_and_not_restore(tmp_path: Path, guarded: str) -> None:
    bench = Workbench(tmp_path, logged_in(guarded, "owner", "own-word", "admin"))
    reading = bench.engine.target("shop", logged_in(guarded, "reader", "read-word", "guarded"))
    artefact = bench.back_up(reading)
    assert [item.problem for item in before_backup(bench, reading).values() if item.problem] == []
    denied = before_restore(bench, artefact, reading, mode="replace")["privileges"].problem
    assert isinstance(denied, AccessDenied)
    with pytest.raises(AccessDenied):
        bench.restore(artefact, reading, mode="replace")
    with pytest.raises(VerificationImpossible):
        bench.engine.rehearse(artefact, reading, bench.run())
    owning = bench.engine.target("shop", logged_in(guarded, "owner", "own-word", "copied"))
    assert [item.problem for item in before_restore(bench, artefact, owning).values() if item.problem] == []
    bench.restore(artefact, owning)
    bench.prove(artefact, owning)
    bench.client.close()


def test_a_wrong_password_is_refused_without_being_shown(tmp_path: Path, guarded: str) -> None:
    bench = Workbench(tmp_path, logged_in(guarded, "owner", "own-word", "admin"))
    wrong = bench.engine.target("shop", logged_in(guarded, "reader", "wrong-word", "guarded"))
    with pytest.raises(AccessDenied) as denied:
        bench.back_up(wrong)
    assert "wrong-word" not in f"{denied.value} {denied.value.hint} {denied.value.details}"
    report = bench.engine.check(wrong, bench.run())
    assert report.problem is not None and report.problem["code"] == "access_denied"
    assert by_check(bench.engine.preflight_backup(wrong, BackupOptions(), bench.run()))["privileges"].problem
    bench.client.close()


def test_a_server_that_stands_alone_is_backed_up_and_restored(tmp_path: Path) -> None:
    with own_secantus("--standalone") as server:
        bench = Workbench(tmp_path, server.url)
        source, target = bench.filled(), bench.target()
        artefact = bench.back_up(source, jobs=2)
        assert "stands alone" in artefact.manifest.consistency
        bench.restore(artefact, target)
        assert bench.contents(target) == bench.contents(source)
        bench.prove(artefact, source)
        bench.client.close()


def ask(bench: Workbench, source: Target, *assertions: Assertion) -> list[tuple[str | None, object]]:
    artefact = bench.back_up(source)
    found = bench.engine.rehearse(artefact, source, bench.run(), assertions)
    assert bench.leftovers() == []
    return [(item.object, item.found) for item in found if item.check == "assertion"]


def test_assertions_count_what_a_filter_matches(bench: Workbench) -> None:
    source = bench.target()
    shop = bench.database(source)
    shop["orders"].insert_many([{"_id": n, "cents": Int64(n * 100), "name": f"n{n}"} for n in range(20)])
    found = ask(
        bench,
        source,
        Assertion("all", collection="orders", at_least=20),
        Assertion("dear", collection="orders", filter={"cents": {"$gt": 1500}}, equals=4),
        Assertion("extended", collection="orders", filter={"cents": {"$numberLong": "300"}}, equals=1),
        Assertion("operators", collection="orders", filter={"name": {"$regex": "^n1", "$options": "i"}}, equals=11),
    )
    assert found == [("all", 20), ("dear", 4), ("extended", 1), ("operators", 11)]


def test_an_assertion_that_does_not_hold_fails_with_evidence(bench: Workbench) -> None:
    with pytest.raises(AssertionFailed) as failed:
        ask(bench, bench.small(), Assertion("many", collection="things", at_least=11))
    assert failed.value.details["evidence"][0]["found"] == 10
    assert bench.leftovers() == []


@pytest.mark.parametrize(
    ("assertion", "error"),
    [
        (Assertion("unknown", collection="nothing", equals=0), InvalidAssertion),
        (Assertion("nonsense", collection="things", filter={"$nosuch": 1}, equals=0), InvalidAssertion),
        (Assertion("not a value", collection="things", filter={"_id": {"$oid": "x"}}, equals=0), InvalidAssertion),
        (Assertion("sql", sql="SELECT 1", equals=1), UnsupportedOperation),
    ],
)
def test_questions_that_cannot_be_asked_say_so(bench: Workbench, assertion: Assertion, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(bench, bench.small(), assertion)
    assert bench.leftovers() == []


def test_without_counts_no_rehearsal_is_possible(bench: Workbench) -> None:
    source = bench.small()
    with pytest.raises(VerificationImpossible):
        bench.engine.rehearse(bench.back_up(source, counts="none"), source, bench.run())


def test_nothing_of_an_earlier_attempt_is_not_waited_for(bench: Workbench) -> None:
    bench.engine.end_older_sessions(bench.small(), bench.later_attempt())


def test_a_scratch_database_of_a_dead_job_is_swept_and_one_of_a_living_job_kept(bench: Workbench) -> None:
    target = bench.small()
    for job in ("dead-job-x", "living-job-x"):
        bench.client[f"flexdb_scratch_{job}"]["things"].insert_one({})
        bench.made.append(f"flexdb_scratch_{job}")
    assert bench.engine.remove_leftovers(target, lambda job: job == "dead-job-x") == ["flexdb_scratch_dead-job-x"]
    assert "flexdb_scratch_living-job-x" in bench.client.list_database_names()


def test_inspection_lists_collections_with_the_servers_own_estimates(bench: Workbench) -> None:
    source = bench.filled()
    found = bench.engine.inspect(source, bench.run())
    tables = {item.name: item for item in found.tables}
    assert (tables["customers"].rows, tables["customers"].rows_exact) == (400, False)
    assert (tables["young_ones"].kind, tables["young_ones"].rows) == ("view", None)
    assert tables["weather"].kind == "time-series"
    assert source.database in found.databases

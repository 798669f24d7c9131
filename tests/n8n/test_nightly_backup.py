"""nightly-backup: several databases, each proven, one message."""

from __future__ import annotations

from tests.n8n.conftest import MakePair
from tests.n8n.gate import gate
from tests.n8n.pair import Pair
from tests.n8n.silence import NOTICED_SECONDS, SOON, asked_for, call_instead, silent


def test_every_database_is_backed_up_and_proven_and_the_team_is_told(pair: Pair) -> None:
    done = pair.run(pair.load("nightly-backup"))
    assert done.status == "success", done.error
    told = pair.told_of("Nightly backup: 2 of 2 proven")
    backups = pair.flexdb.get("/backups")["data"]
    assert {backup["connection"] for backup in backups} == {"shop", "crm"}
    assert all(backup["backup_id"] in told and backup["level"] == 2 for backup in backups)
    assert done.times("Wait for the proof") == 2
    assert "All proven" in done.nodes


def test_the_level_asked_for_is_the_one_that_is_proven(pair: Pair) -> None:
    done = pair.run(pair.load("nightly-backup", {"connections": "shop", "verify": 3}))
    assert done.status == "success", done.error
    assert "level 3" in pair.told_of("1 of 1 proven")
    assert [backup["level"] for backup in pair.flexdb.get("/backups")["data"]] == [3]


def test_one_that_fails_is_told_and_does_not_keep_the_others_from_being_saved(pair: Pair) -> None:
    done = pair.run(pair.load("nightly-backup", {"connections": "shop, nobody, crm"}), 90)
    assert done.status == "error"
    assert "2 of 3 proven" in done.error
    assert "✗ nobody: FlexDB did not take the request" in pair.told_of("2 of 3 proven")
    assert {backup["connection"] for backup in pair.flexdb.get("/backups")["data"]} == {"shop", "crm"}


def test_a_job_that_is_never_told_of_is_looked_at_when_the_time_is_up(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_ROLE="intake")  # takes events and runs none
    done = pair.run(pair.load("nightly-backup", {"connections": "shop", "waitHours": 0.0006}))
    assert done.status == "error"
    job_id = pair.flexdb.get("/jobs")["data"][0]["job_id"]
    assert f"the job {job_id} is queued" in pair.told_of("✗ shop", "0 of 1 proven")


def test_flexdb_away_is_told(make_pair: MakePair) -> None:
    pair = make_pair()
    workflow = pair.load("nightly-backup", {"connections": "shop"})
    pair.flexdb.stop()
    done = pair.run(workflow)
    assert done.status == "error"
    assert "✗ shop: FlexDB did not take the request" in pair.told_of("0 of 1 proven")


def test_no_connection_at_all_is_no_success(pair: Pair) -> None:
    done = pair.run(pair.load("nightly-backup", {"connections": " , "}))
    assert done.status == "error", done.nodes


def test_a_late_call_about_another_job_does_not_make_it_wait_for_ever(pair: Pair) -> None:
    with gate(pair.flexdb.port, silent(pair, "backup")) as door:
        settings = {"connections": "shop", "flexdbUrl": door.url, "waitHours": SOON}
        execution_id = pair.n8n.run(pair.load("nightly-backup", settings))
        call_instead(pair, asked_for(door, "backup"), "the job of another night")
        done = pair.n8n.ended(execution_id, NOTICED_SECONDS)
    assert done.status == "error"
    assert done.times("Wait for the proof") == 2
    (job,) = pair.flexdb.get("/jobs")["data"]
    assert f"no callback within {SOON} h, the job {job['job_id']} is succeeded" in pair.told_of("✗ shop", "0 of 1")

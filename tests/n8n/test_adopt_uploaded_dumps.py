"""adopt-uploaded-dumps: uploaded dumps become proven backups by the name they have, all others are told of."""

from __future__ import annotations

import copy
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service_process import until
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, gate
from tests.n8n.pair import SHIPPED, Pair, sqlite_shop
from tests.n8n.process import ENDED, Execution
from tests.n8n.silence import NOTICED_SECONDS, SOON, asked_for, call_instead, callbacks_go_astray, silent

WORKFLOW = "adopt-uploaded-dumps"
SHORT = 0.001
WAITED = 90.0
"""n8n looks once a minute for waits that are over."""
DUMP = b"""PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE orders (id INTEGER PRIMARY KEY);
INSERT INTO orders VALUES(1);
COMMIT;
"""


def upload(pair: Pair, name: str, dump: bytes = DUMP) -> None:
    answer = pair.flexdb.request("PUT", f"/incoming/{name}?replace=true", dump)
    assert answer.status in (200, 201), answer.body


def uploaded(pair: Pair) -> set[str]:
    return {file["path"] for file in pair.flexdb.get("/incoming")["data"]}


def hours_old(pair: Pair, name: str, hours: float) -> None:
    """Let it have been uploaded so long ago."""
    path = pair.flexdb.storage / "_incoming" / name
    then = path.stat().st_mtime - hours * 3600
    os.utime(path, (then, then))


def run_by_schedule(pair: Pair, remind_hour: int) -> Execution:
    """The first run of the schedule's own, which is due every second here."""
    changed = copy.deepcopy(SHIPPED[WORKFLOW])
    (trigger,) = [node for node in changed["nodes"] if node["name"] == "Every hour"]
    trigger["parameters"]["rule"]["interval"][0]["expression"] = "* * * * * *"
    workflow = pair.load(WORKFLOW, {"remindHour": remind_hour}, nodes=changed["nodes"], publish=True)

    def look() -> Execution | None:
        return next((each for each in pair.n8n.executions(workflow) if each.status in ENDED), None)

    found = until(look, pause=0.1)
    pair.n8n.unpublish(workflow)
    return found


def check_failure(done: Execution, told: str, node: str) -> None:
    """The run is red for what the team was told, by way of that node."""
    assert done.status == "error"
    assert node in done.nodes
    assert told in done.error


def test_dumps_are_adopted_by_the_connection_their_name_begins_with(pair: Pair) -> None:
    upload(pair, "shop-2026.sql")
    upload(pair, "crm.sql")
    done = pair.run(pair.load(WORKFLOW))
    assert done.status == "success", done.error
    backups = {backup["connection"]: backup for backup in pair.flexdb.get("/backups")["data"]}
    told = pair.told_of("Uploaded dumps: 2 adopted, 0 failed, 0 left")
    for connection, name in (("shop", "shop-2026.sql"), ("crm", "crm.sql")):
        backup = backups[connection]
        assert f"✓ {name}: now the backup {backup['backup_id']} of {connection}, " in told
        assert (backup["level"], backup["labels"], backup["whole"]) == (2, {"by": "n8n"}, None)
    assert uploaded(pair) == set()


def test_the_longest_name_of_a_connection_wins(make_pair: MakePair, tmp_path: Path) -> None:
    connections = {name: sqlite_shop(tmp_path / "databases", name) for name in ("shop", "shop-eu")}
    pair = make_pair(connections)
    upload(pair, "shop-eu-2026.sql")
    done = pair.run(pair.load(WORKFLOW, {"connections": "shop, shop-eu", "verify": 3, "wholeDumps": True}))
    assert done.status == "success", done.error
    (backup,) = pair.flexdb.get("/backups")["data"]
    assert (backup["connection"], backup["level"], backup["whole"]) == ("shop-eu", 3, True)


def test_what_is_no_dump_is_told_left_and_not_tried_again_until_it_is_uploaded_again(pair: Pair) -> None:
    upload(pair, "shop-notes.txt", b"no dump at all")
    upload(pair, "shop-good.sql")
    workflow = pair.load(WORKFLOW)
    told = (
        "1 adopted, 1 failed, 0 left",
        "✗ shop-notes.txt: invalid_dump, shop-notes.txt is no dump that any engine knows.",
        "✓ shop-good.sql",
    )
    check_failure(pair.run(workflow), pair.told_of(*told), "Not adopted")
    assert uploaded(pair) == {"shop-notes.txt"}
    again = pair.run(workflow)
    assert again.status == "success", again.error
    assert pair.told_of("0 adopted, 0 failed, 1 left", "- shop-notes.txt: not adopted before, invalid_dump")
    assert len(pair.flexdb.get("/jobs?operation=adoption")["data"]) == 2
    upload(pair, "shop-notes.txt")
    assert pair.run(workflow).status == "success"
    assert pair.told_of("1 adopted, 0 failed, 0 left", "✓ shop-notes.txt")
    assert uploaded(pair) == set()


def test_names_that_no_connection_claims_are_told_and_left(pair: Pair) -> None:
    for name in ("shopping.sql", "Shop-1.sql", "shop"):
        upload(pair, name)
    done = pair.run(pair.load(WORKFLOW))
    assert done.status == "success", done.error
    assert "All that were tried are adopted" in done.nodes
    told = pair.told_of("0 adopted, 0 failed, 3 left")
    assert all(f"- {name}: no connection claims this name" in told for name in ("shopping.sql", "Shop-1.sql", "shop"))
    assert pair.flexdb.get("/jobs")["data"] == []
    assert len(uploaded(pair)) == 3


def test_nothing_to_do_is_no_message(pair: Pair) -> None:
    upload(pair, "_ingest-orders.csv")
    done = pair.run(pair.load(WORKFLOW))
    assert done.status == "success", done.error
    assert done.nodes[-1] == "Nothing to do"
    assert pair.told() == []


def test_the_schedule_tells_of_a_new_name_at_once(pair: Pair) -> None:
    upload(pair, "legacy.sql")
    done = run_by_schedule(pair, remind_hour=25)
    assert done.status == "success", done.error
    assert "Tell the team" in done.nodes
    assert pair.told_of("0 adopted, 0 failed, 1 left", "- legacy.sql: no connection claims this name")


def test_the_schedule_does_not_tell_every_hour_of_what_lies_there(pair: Pair) -> None:
    upload(pair, "shop-notes.txt", b"no dump at all")
    upload(pair, "legacy.sql")
    hours_old(pair, "legacy.sql", 2)
    assert pair.run(pair.load(WORKFLOW)).status == "error"
    done = run_by_schedule(pair, remind_hour=25)
    assert done.status == "success", done.error
    assert done.nodes[-1] == "Nothing to do"
    assert len(pair.told()) == 1


def test_the_schedule_tells_of_all_that_lies_there_once_a_day(pair: Pair) -> None:
    upload(pair, "legacy.sql")
    hours_old(pair, "legacy.sql", 48)
    done = run_by_schedule(pair, remind_hour=datetime.now(UTC).hour)
    assert done.status == "success", done.error
    assert pair.told_of("0 adopted, 0 failed, 1 left", "- legacy.sql: no connection claims this name")


@pytest.mark.parametrize("listed", ["/incoming", "/jobs"])
def test_uploads_that_cannot_be_listed_are_a_failure(pair: Pair, listed: str) -> None:
    def refuse(asked: Asked) -> tuple[int, Any] | None:
        return (503, {"detail": "The ledger is away."}) if asked.is_for("GET", listed) else None

    with gate(pair.flexdb.port, refuse) as flexdb:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": flexdb.url}))
    assert done.status == "error"
    assert f"could not be listed at {flexdb.url}: The ledger is away." in done.error


def test_a_request_that_flexdb_does_not_take_is_told(pair: Pair) -> None:
    upload(pair, "nobody-1.sql")
    upload(pair, "shop-1.sql")
    done = pair.run(pair.load(WORKFLOW, {"connections": "nobody, shop"}))
    told = pair.told_of("1 adopted, 1 failed", "✗ nobody-1.sql: FlexDB did not take the request: ", "✓ shop-1.sql")
    check_failure(done, told, "Not taken")
    assert uploaded(pair) == {"nobody-1.sql"}


@pytest.mark.parametrize(("looked_at", "status"), [(True, "succeeded"), (False, "unknown")])
def test_a_callback_that_does_not_come_is_told_with_the_jobs_status(pair: Pair, looked_at: bool, status: str) -> None:
    upload(pair, "shop-1.sql")
    with callbacks_go_astray(pair, looked_at=looked_at) as url:
        done = pair.run(pair.load(WORKFLOW, {"flexdbUrl": url, "waitHours": SHORT}), WAITED)
    told = pair.told_of("✗ shop-1.sql: no callback within 0.001 h", f"is {status}")
    check_failure(done, told, "Not told in time")


def test_a_callback_that_somebody_else_signed_is_not_believed(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_WEBHOOK_SECRET="whsec_c29tZWJvZHkgZWxzZSdzIHNpZ25pbmcga2V5ISE=")
    upload(pair, "shop-1.sql")
    done = pair.run(pair.load(WORKFLOW))
    (job,) = pair.flexdb.get("/jobs?operation=adoption")["data"]
    check_failure(done, pair.told_of("✗ shop-1.sql", "signature is not FlexDB's", job["job_id"]), "Not genuine")


def test_a_late_call_about_another_dump_is_passed_over(pair: Pair) -> None:
    upload(pair, "shop-1.sql")
    with gate(pair.flexdb.port, silent(pair, "adoption")) as door:
        execution_id = pair.n8n.run(pair.load(WORKFLOW, {"flexdbUrl": door.url, "waitHours": SOON}))
        call_instead(pair, asked_for(door, "adoption"), "the job of another dump")
        done = pair.n8n.ended(execution_id, NOTICED_SECONDS)
    check_failure(done, pair.told_of("✗ shop-1.sql: no callback within"), "Not told in time")
    assert done.times("Wait for the proof") == 2

"""backup-before-deployment: the pipeline gets its 200 only for a proven backup, and each failure has its answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.acceptance.service_process import until
from tests.conftest import FreshDatabase
from tests.n8n.conftest import MakePair
from tests.n8n.gate import Asked, Intervention, gate
from tests.n8n.pair import INCOMING_KEY, Pair, sqlite_shop
from tests.n8n.process import Execution, Reply
from tests.n8n.silence import ANOTHER_SECRET, NOTICED_SECONDS, SOON, silent

WORKFLOW = "backup-before-deployment"
PATH = "/webhook/flexdb-before-deployment"
ASKED = {"connection": "shop", "deployment": "shop 1.4.2"}


def deploy(pair: Pair, body: Mapping[str, Any]) -> Reply:
    """What a pipeline does: ask, and wait for the answer."""

    def look() -> Reply | None:
        reply = pair.n8n.request("POST", PATH, dict(body), {"X-API-Key": INCOMING_KEY}, NOTICED_SECONDS)
        return None if reply.status == 404 else reply  # it is not registered yet

    return until(look, 2 * NOTICED_SECONDS, pause=0.1)


def only_execution(pair: Pair, workflow: str) -> Execution:
    """The one the pipeline started, at its end."""
    (found,) = until(lambda: pair.n8n.executions(workflow), pause=0.1)
    return pair.n8n.ended(found.id)


def check_failure(pair: Pair, workflow: str, reply: Reply, *, status: int, code: str, node: str) -> dict[str, Any]:
    """The answer, once it is seen that the run is red at the right place and the team was told the same."""
    assert (reply.status, reply.json["proven"], reply.json["code"]) == (status, False, code)
    told = pair.told_of("Deployment shop 1.4.2 must wait", code)
    ended = only_execution(pair, workflow)
    assert ended.status == "error"
    assert node in ended.nodes
    assert told in ended.error
    answer: dict[str, Any] = reply.json
    return answer


def test_the_pipeline_is_answered_200_when_the_backup_is_proven(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED)
    assert reply.status == 200, reply.body
    (backup,) = pair.flexdb.get("/backups")["data"]
    assert backup["labels"] == {"by": "n8n", "deployment": "shop 1.4.2"}
    proven = reply.json
    assert proven["proven"] is True
    assert {name: proven[name] for name in ("backup_id", "level", "sha256", "bytes")} == {
        name: backup[name] for name in ("backup_id", "level", "sha256", "bytes")
    }
    assert proven["level"] == 2
    assert only_execution(pair, workflow).status == "success"
    assert pair.told() == []


def test_by_hand_the_example_is_backed_up(pair: Pair) -> None:
    done = pair.run(pair.load(WORKFLOW, {"verify": 3}))
    assert done.status == "success", done.error
    (backup,) = pair.flexdb.get("/backups")["data"]
    assert (backup["connection"], backup["level"]) == ("shop", 3)


def test_who_does_not_show_the_key_is_turned_away(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    assert pair.n8n.webhook(PATH, ASKED, {"X-API-Key": "another"}).status == 403
    assert pair.n8n.executions(workflow) == []
    assert pair.flexdb.get("/jobs")["data"] == []


@pytest.mark.parametrize("body", [{"deployment": "shop 1.4.2"}, {"connection": "  "}, {"connection": 7}])
def test_a_request_without_a_connection_is_answered_400(pair: Pair, body: dict[str, Any]) -> None:
    pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, body)
    assert (reply.status, reply.json["proven"], reply.json["code"]) == (400, False, "invalid_request")
    assert pair.flexdb.get("/jobs")["data"] == []


def test_a_connection_flexdb_does_not_know_is_answered_422(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED | {"connection": "nobody"})
    answer = check_failure(pair, workflow, reply, status=422, code="invalid_request", node="FlexDB refuses it")
    assert "nobody" in answer["message"]


def test_what_would_fail_is_answered_409_with_the_findings_and_nothing_is_backed_up(
    make_pair: MakePair, tmp_path: Path
) -> None:
    pair = make_pair({"shop": f"sqlite:///{tmp_path}/gone.sqlite"})
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED)
    answer = check_failure(pair, workflow, reply, status=409, code="preflight_failed", node="It would fail")
    (finding,) = answer["findings"]
    assert finding["check"] == "reachable"
    assert finding["detail"] in answer["message"]
    assert [job["operation"] for job in pair.flexdb.get("/jobs")["data"]] == ["preflight"]


def test_while_flexdb_is_away_the_answer_is_503(pair: Pair) -> None:
    workflow = pair.load(WORKFLOW, publish=True)
    pair.flexdb.kill()
    reply = deploy(pair, ASKED)
    check_failure(pair, workflow, reply, status=503, code="flexdb_unavailable", node="FlexDB did not take it")


def test_a_backup_that_fails_is_answered_502_with_the_reason(make_pair: MakePair, tmp_path: Path) -> None:
    url = sqlite_shop(tmp_path / "databases", orders=20_000)
    pair = make_pair({"shop": url})
    damage(Path(url.removeprefix("sqlite:///")))
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED)
    (job,) = pair.flexdb.get("/jobs?operation=backup")["data"]
    answer = check_failure(pair, workflow, reply, status=502, code=job["error"]["code"], node="It is not proven")
    assert answer["job_id"] == job["job_id"]
    assert answer["hint"] == job["error"]["hint"] != ""
    assert pair.flexdb.get("/backups")["data"] == []


def test_a_backup_that_takes_too_long_is_answered_504_with_the_job(
    make_pair: MakePair, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    """And beside it, as n8n looks at limits once a minute, one whose job cannot even be looked at."""
    url = fresh_database(postgres15_url)
    pair = make_pair({"shop": url})
    workflow = pair.load(WORKFLOW, {"waitHours": SOON}, publish=True)
    with locked_table(url), gate(pair.flexdb.port, without_jobs(pair)) as door:
        blind = pair.n8n.run(pair.load(WORKFLOW, {"waitHours": SOON, "flexdbUrl": door.url}))
        reply = deploy(pair, ASKED)
        answer = check_failure(pair, workflow, reply, status=504, code="not_in_time", node="Not told in time")
        assert pair.flexdb.job(answer["job_id"])["status"] == "running"
        assert "the job is running" in answer["message"]
        done = pair.n8n.ended(blind, NOTICED_SECONDS)
        assert done.status == "error"
        assert "the job is unknown, as FlexDB does not answer" in done.error
        assert done.error in pair.told()
    assert pair.flexdb.ended(answer["job_id"])["status"] == "succeeded"


def test_a_callback_that_somebody_else_signed_is_answered_502(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_WEBHOOK_SECRET=ANOTHER_SECRET)
    workflow = pair.load(WORKFLOW, publish=True)
    reply = deploy(pair, ASKED)
    answer = check_failure(pair, workflow, reply, status=502, code="not_genuine", node="Not genuine")
    assert pair.flexdb.ended(answer["job_id"])["status"] == "succeeded"


def damage(path: Path) -> None:
    """Overwrite pages in the middle: it opens, and cannot be read to its end."""
    size = path.stat().st_size
    assert size > 100_000
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * 16_384)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


@contextmanager
def locked_table(url: str) -> Iterator[None]:
    """A table nobody else can read: pg_dump waits for it."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (id int)")
        connection.commit()
        cursor.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        yield


def without_jobs(pair: Pair) -> Intervention:
    """For a gate: a FlexDB that does not call back, and then does not answer either."""
    backup = silent(pair, "backup")

    def intervene(asked: Asked) -> tuple[int, Any] | None:
        return (503, {}) if asked.is_for("GET", "/jobs/") else backup(asked)

    return intervene

"""The command `flexdb` as a process, against a service of canned answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.conftest import FreshDatabase
from tests.integration.fake_service import (
    BACKUP_ID,
    CANCELED,
    COMPLETED,
    FAILED,
    JOB,
    LETTER,
    MANIFEST,
    PROGRESSED,
    STARTED,
    STORED,
    TOKEN,
    FakeService,
    job,
    serving,
)

FLEXDB = Path(sys.executable).with_name("flexdb")


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandLine:
    """Runs `flexdb` in a folder and an environment of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FLEXDB_")}
        home = folder / "home"
        self.environment = clean | {
            "FLEXDB_URL": url,
            "FLEXDB_TOKEN": TOKEN,
            "FLEXDB_HOME": str(home),
            "COLUMNS": "200",
        }

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            FLEXDB,
            *words,
            cwd=self.folder,
            env=self.environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            preexec_fn=as_from_a_terminal,
        )

    async def __call__(self, *words: str, given: str = "") -> Ended:
        process = await self.start(*words)
        return await ended(process, given)


def as_from_a_terminal() -> None:
    """Ctrl-C is heard: a shell that runs the tests in its background has it ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def ended(process: asyncio.subprocess.Process, given: str = "") -> Ended:
    async with asyncio.timeout(30):
        out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    found = Ended(process.returncode, out.decode(), err.decode())
    assert TOKEN not in found.out + found.err
    assert "Traceback" not in found.err, found.err
    return found


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with serving(FakeService()) as fake:
        yield fake


@pytest.fixture
def flexdb(service: FakeService, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, service.url)


async def test_send_posts_nested_data_and_ends_with_zero_when_the_job_completed(
    flexdb: CommandLine, service: FakeService
) -> None:
    done = await flexdb(
        "send", "restore", "latest.connection=shop", "connection=other", "jobs=4", "--id", "one", "--json"
    )
    assert done.code == 0, done.err
    assert done.json == COMPLETED
    assert service.bodies("/hooks/restore") == [{"latest": {"connection": "shop"}, "connection": "other", "jobs": 4}]
    assert service.headers("/hooks/restore")[0]["Idempotency-Key"] == "one"


async def test_send_shows_progress_on_stderr_and_the_result_on_stdout(flexdb: CommandLine) -> None:
    done = await flexdb("send", "backup", "connection=shop")
    assert "dumping" in done.err
    assert "dumping" not in done.out
    assert done.out.startswith("backup shop completed\n")
    assert f"backup_id\t{BACKUP_ID}" in done.out


@pytest.mark.parametrize(("last", "code"), [(COMPLETED, 0), (FAILED, 1), (CANCELED, 3)])
async def test_the_exit_code_follows_the_terminal_event(
    flexdb: CommandLine, service: FakeService, last: dict[str, Any], code: int
) -> None:
    service.events = [STARTED, last]
    assert (await flexdb("send", "backup", "connection=shop")).code == code


async def test_a_failed_job_says_why_and_what_to_do(flexdb: CommandLine, service: FakeService) -> None:
    service.events = [FAILED]
    done = await flexdb("send", "backup", "connection=shop")
    assert "pg_dump said no [tool_failed]\nAsk it why." in done.err


async def test_send_goes_on_from_the_last_event_when_the_stream_breaks(
    flexdb: CommandLine, service: FakeService
) -> None:
    service.cut_after = 1
    done = await flexdb("send", "backup", "connection=shop", "--json")
    assert done.code == 0
    streams = service.headers(f"/jobs/{JOB}/events")
    assert [headers.get("Last-Event-ID") for headers in streams] == [None, "1"]


async def test_send_asks_for_the_job_where_there_is_no_event_stream(flexdb: CommandLine, service: FakeService) -> None:
    service.has_stream = False
    service.jobs = [job("queued"), job("running"), job("failed", error=FAILED["data"]["error"])]
    done = await flexdb("send", "backup", "connection=shop", "--json")
    assert done.code == 1
    assert done.json["type"] == "backup.failed"
    assert done.json["data"]["error"]["code"] == "tool_failed"


async def test_send_ends_with_four_when_the_time_is_up(flexdb: CommandLine, service: FakeService) -> None:
    service.events, service.open_end = [STARTED, PROGRESSED], True
    service.jobs = [job("running")]
    done = await flexdb("send", "backup", "connection=shop", "--timeout", "0.3", "--json")
    assert done.code == 4
    assert done.json["status"] == "running"
    assert f"flexdb jobs show {JOB}" in done.err


async def test_ctrl_c_says_that_the_job_goes_on_and_how_to_cancel_it(flexdb: CommandLine, service: FakeService) -> None:
    service.events, service.open_end = [STARTED], True
    process = await flexdb.start("send", "backup", "connection=shop")
    async with asyncio.timeout(30):
        await service.asked.wait()
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert done.code == 130
    assert f"flexdb jobs cancel {JOB}" in done.err


async def test_send_without_waiting_prints_the_acceptance(flexdb: CommandLine, service: FakeService) -> None:
    done = await flexdb("send", "backup", "connection=shop", "--no-wait", "--json")
    assert (done.code, done.json["job_id"], done.json["status"]) == (0, JOB, "queued")
    assert not service.headers(f"/jobs/{JOB}/events")


async def test_send_reads_data_from_standard_input_and_adds_fields(flexdb: CommandLine, service: FakeService) -> None:
    given = json.dumps({"connection": "shop", "labels": {"a": "1"}})
    done = await flexdb("send", "backup", "labels.b=two", "--data", "-", given=given)
    assert done.code == 0
    assert service.bodies("/hooks/backup") == [{"connection": "shop", "labels": {"a": "1", "b": "two"}}]


async def test_a_refusal_shows_title_detail_and_every_pointer(flexdb: CommandLine, service: FakeService) -> None:
    errors = [
        {"pointer": "#/connection", "detail": "There is no connection 'nope'."},
        {"pointer": "#/verify", "detail": "At most 3."},
    ]
    body = {
        "title": "Invalid request",
        "code": "invalid_request",
        "detail": "Two fields are wrong.",
        "errors": errors,
    }
    service.problem = (422, body)
    done = await flexdb("send", "backup", "connection=nope", "verify=9")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "flexdb: Invalid request [invalid_request]",
        "Two fields are wrong.",
        "  /connection: There is no connection 'nope'.",
        "  /verify: At most 3.",
    ]


async def test_a_service_that_does_not_run_is_said_with_what_to_do(tmp_path: Path) -> None:
    flexdb = CommandLine(tmp_path, "http://127.0.0.1:1")
    done = await flexdb("jobs")
    assert done.code == 2
    assert "http://127.0.0.1:1 does not answer" in done.err
    assert "flexdb serve" in done.err


async def test_the_token_is_read_from_the_home_folder(flexdb: CommandLine, service: FakeService) -> None:
    del flexdb.environment["FLEXDB_TOKEN"]
    missing = await flexdb("jobs")
    assert missing.code == 2
    assert "FLEXDB_TOKEN" in missing.err
    home = Path(flexdb.environment["FLEXDB_HOME"])
    home.mkdir()
    (home / "token").write_text(TOKEN + "\n")
    assert (await flexdb("jobs")).code == 0


async def test_jobs_are_listed_over_several_pages_up_to_the_limit(flexdb: CommandLine, service: FakeService) -> None:
    service.listed = [job("succeeded", job_id=f"job{number}") for number in range(25)]
    service.page = 10
    done = await flexdb("jobs", "list", "--limit", "22", "--status", "succeeded", "--json")
    assert [item["job_id"] for item in done.json] == [f"job{number}" for number in range(22)]
    assert "status=succeeded" in service.requests[0][1]


async def test_a_list_in_a_pipe_is_separated_by_tabs_and_steers_no_terminal(
    flexdb: CommandLine, service: FakeService
) -> None:
    service.listed = [job("failed", connection="\x1b[31mred\nline", error={"code": "tool_failed", "message": "m"})]
    done = await flexdb("jobs")
    heading, line = done.out.splitlines()
    assert heading.split("\t")[:4] == ["job_id", "operation", "connection", "status"]
    assert line.split("\t")[2] == "\\x1b[31mred\\nline"
    assert line.split("\t")[-1] == "tool_failed"


async def test_jobs_can_be_shown_canceled_and_retried(flexdb: CommandLine, service: FakeService) -> None:
    assert BACKUP_ID in (await flexdb("jobs", "show", JOB)).out
    assert "is canceled" in (await flexdb("jobs", "cancel", JOB)).out
    assert (await flexdb("jobs", "retry", JOB, "--json")).json["job_id"] == JOB
    posted = [path for method, path, _, _ in service.requests if method == "POST"]
    assert posted == [f"/jobs/{JOB}/cancel", f"/jobs/{JOB}/retry"]


async def test_an_id_cannot_leave_its_place_in_the_path(flexdb: CommandLine, service: FakeService) -> None:
    await flexdb("jobs", "show", "../backups/x?y=1")
    assert service.requests[0][1] == "/jobs/..%2Fbackups%2Fx%3Fy=1"


async def test_restore_sends_only_what_was_said(flexdb: CommandLine, service: FakeService) -> None:
    said = ("--database", "orders", "--keep-seconds", "60")
    assert (await flexdb("restore", BACKUP_ID, "--to", "shop", *said)).code == 0
    assert (await flexdb("restore", BACKUP_ID, "--to", "shop", "--mode", "replace", "--no-safety-backup")).code == 0
    assert service.bodies("/hooks/restore") == [
        {"backup_id": BACKUP_ID, "connection": "shop", "mode": "create", "database": "orders", "keep_seconds": 60.0},
        {"backup_id": BACKUP_ID, "connection": "shop", "mode": "replace", "safety_backup": False},
    ]


async def test_preflight_asks_about_a_backup_or_a_restore(flexdb: CommandLine, service: FakeService) -> None:
    assert (await flexdb("preflight", "shop")).code == 0
    assert (await flexdb("preflight", "shop", "--restore", BACKUP_ID, "--into", "copy")).code == 0
    assert (await flexdb("preflight", "shop", "--latest", "other")).code == 0
    assert service.bodies("/hooks/preflight") == [
        {"connection": "shop"},
        {"connection": "shop", "backup_id": BACKUP_ID, "into": "copy"},
        {"connection": "shop", "latest": {"connection": "other"}},
    ]


async def test_restore_and_verify_send_their_events(flexdb: CommandLine, service: FakeService) -> None:
    assert (await flexdb("restore", "--latest", "shop", "--to", "other", "--into", "x", "--mode", "plan")).code == 0
    assert service.bodies("/hooks/restore") == [
        {"latest": {"connection": "shop"}, "connection": "other", "into": "x", "mode": "plan"}
    ]
    assert (await flexdb("verify", BACKUP_ID, "--level", "3")).code == 0
    assert service.bodies("/hooks/verification") == [{"backup_id": BACKUP_ID, "level": 3}]
    both = await flexdb("restore", BACKUP_ID, "--latest", "shop", "--to", "other")
    assert both.code == 2


async def test_a_download_gets_its_name_when_it_matches_the_manifest(flexdb: CommandLine) -> None:
    done = await flexdb("backups", "download", BACKUP_ID, "-o", "mine.zst", "--json")
    assert done.code == 0, done.err
    assert (flexdb.folder / "mine.zst").read_bytes() == STORED
    assert done.json["sha256"] == MANIFEST["files"][0]["sha256"]  # type: ignore[index]  # a table of mixed values
    again = await flexdb("backups", "download", BACKUP_ID, "-o", "mine.zst")
    assert (again.code, "exists" in again.err) == (2, True)


async def test_a_download_with_one_changed_byte_is_thrown_away(flexdb: CommandLine, service: FakeService) -> None:
    service.stored = STORED[:-1] + b"!"
    done = await flexdb("backups", "download", BACKUP_ID)
    assert done.code == 1
    assert "not what was stored" in done.err
    assert [path.name for path in flexdb.folder.iterdir()] == []


async def test_backups_show_tells_how_to_restore_by_hand(flexdb: CommandLine) -> None:
    assert "pg_restore -d DATABASE shop.dump" in (await flexdb("backups", "show", BACKUP_ID)).out


async def test_subscriptions_are_put_listed_and_removed(flexdb: CommandLine, service: FakeService) -> None:
    assert (await flexdb("subscriptions", "put", "n8n", "http://127.0.0.1/x", "--type", "backup.*")).code == 0
    assert service.bodies("/subscriptions/n8n") == [{"url": "http://127.0.0.1/x", "types": ["backup.*"]}]
    assert (await flexdb("subscriptions", "--json")).json[0]["name"] == "n8n"
    assert (await flexdb("subscriptions", "delete", "n8n")).code == 0


async def test_dead_letters_are_listed_and_shown(flexdb: CommandLine, service: FakeService) -> None:
    listed = await flexdb("dead", "--limit", "7")
    assert listed.code == 0, listed.err
    heading, row = listed.out.splitlines()
    assert heading.split("\t")[:3] == ["id", "dead_at", "reason"]
    assert row.split("\t")[0] == LETTER["id"]
    assert "there are more" in listed.err
    assert service.requests[-1][1] == "/dead-letters?limit=7"
    assert (await flexdb("dead", "list", "--json")).json == [LETTER]
    shown = await flexdb("dead", "show", LETTER["id"])
    assert "detail\tThere is no connection 'shop'." in shown.out
    assert shown.out.rstrip().endswith('body:\n{"connection": "shop"}')
    assert (await flexdb("dead", "show", "x", "--json")).json["body_encoding"] == "utf-8"


async def test_a_redrive_is_dry_until_told_to_apply_and_says_how(flexdb: CommandLine, service: FakeService) -> None:
    dry = await flexdb("dead", "redrive", "--reason", "two words", "--limit", "5")
    assert dry.code == 0, dry.err
    assert LETTER["id"] in dry.out
    assert "nothing was sent; to do it: flexdb dead redrive --reason 'two words' --limit 5 --apply" in dry.err
    done = await flexdb("dead", "redrive", "--reason", "two words", "--limit", "5", "--apply")
    assert done.code == 0
    assert "nothing was sent" not in done.err
    asked = {"reason": "two words", "limit": 5}
    assert service.bodies("/dead-letters/redrive") == [asked | {"apply": False}, asked | {"apply": True}]
    await flexdb("dead", "redrive", "a", "b", "--json")
    await flexdb("dead", "redrive", "--all", "--apply", "--json")
    assert service.bodies("/dead-letters/redrive")[2:] == [
        {"ids": ["a", "b"], "apply": False},
        {"all": True, "apply": True},
    ]


async def test_a_redrive_that_leaves_letters_ends_with_one_and_says_why(
    flexdb: CommandLine, service: FakeService
) -> None:
    service.redrive = {"left": [LETTER | {"why": "No queue is bound."}]}
    done = await flexdb("dead", "redrive", "--all", "--apply")
    assert done.code == 1
    assert f"{LETTER['id']}\tNo queue is bound." in done.out
    service.redrive = {"would_redrive": [], "not_found": ["gone"]}
    done = await flexdb("dead", "redrive", "gone")
    assert done.code == 1
    assert "gone: there is no such dead letter" in done.err
    assert "to do it" not in done.err


@pytest.mark.parametrize("words", [(), ("id", "--all"), ("--reason", "x", "--all"), ("id", "--reason", "x")])
async def test_a_redrive_of_nobody_knows_what_is_not_sent(
    flexdb: CommandLine, service: FakeService, words: tuple[str, ...]
) -> None:
    done = await flexdb("dead", "redrive", *words, "--apply")
    assert done.code == 2
    assert "--reason REASON or --all" in done.err
    assert service.bodies("/dead-letters/redrive") == []


async def test_schedules_are_put_with_the_data_of_their_event(flexdb: CommandLine, service: FakeService) -> None:
    words = ("nightly", "backup", "connection=shop", "verify=3", "labels.by=cron", "--cron", "0 3 * * *")
    done = await flexdb("schedules", "put", *words, "--timezone", "Europe/Berlin")
    assert (done.code, done.out) == (0, "nightly asks for backup next at 2025-11-22T02:00:00.000Z\n"), done.err
    data = {"connection": "shop", "verify": 3, "labels": {"by": "cron"}}
    asked = {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "operation": "backup", "data": data, "enabled": True}
    assert service.bodies("/schedules/nightly") == [asked]
    given = json.dumps(data)
    done = await flexdb(
        "schedules", "put", "x", "check", "--cron", "* * * * *", "--data", "-", "--disabled", given=given
    )
    assert (done.code, done.out) == (0, "x is kept, disabled\n"), done.err
    asked = {"cron": "* * * * *", "timezone": "UTC", "operation": "check", "data": data, "enabled": False}
    assert service.bodies("/schedules/x") == [asked]


async def test_a_schedule_without_a_cron_line_is_not_sent(flexdb: CommandLine, service: FakeService) -> None:
    done = await flexdb("schedules", "put", "nightly", "backup", "connection=shop")
    assert (done.code, "--cron" in done.err, service.requests) == (2, True, [])


async def test_schedules_are_listed_shown_and_removed(flexdb: CommandLine, service: FakeService) -> None:
    heading, line = (await flexdb("schedules")).out.splitlines()
    assert heading.startswith("name\tcron\ttimezone\toperation\tenabled\tnext_at")
    assert line.startswith("nightly\t0 3 * * *\tEurope/Berlin\tbackup\tyes\t2025-11-22T02:00:00.000Z\t")
    assert line.endswith(f"\t{JOB}\tinvalid_request")
    assert (await flexdb("schedules", "list", "--json")).json[0]["name"] == "nightly"
    assert "last_refusal\t{" in (await flexdb("schedules", "show", "nightly")).out
    assert (await flexdb("schedules", "show", "nightly", "--json")).json["data"] == {"connection": "shop"}
    done = await flexdb("schedules", "remove", "nightly")
    assert (done.code, done.out) == (0, "nightly is removed\n")
    assert [method for method, _, _, _ in service.requests][-1] == "DELETE"


async def test_a_setting_of_the_wrong_kind_is_said_without_its_value(flexdb: CommandLine) -> None:
    flexdb.environment["FLEXDB_PORT"] = "hush-hush"
    done = await flexdb("jobs")
    assert done.code == 2
    assert "FLEXDB_PORT" in done.err
    assert "hush" not in done.err


async def test_doctor_works_without_a_service_and_shows_no_secret(flexdb: CommandLine) -> None:
    flexdb.environment |= {
        "FLEXDB_URL": "http://127.0.0.1:1",
        "FLEXDB_CONNECTIONS__GONE": "postgresql://u:hush-hush@127.0.0.1:1/x",
        "FLEXDB_CONECTIONS__TYPO": "x",
    }
    done = await flexdb("doctor", "--json")
    assert done.code == 1, done.err
    assert "hush-hush" not in done.out
    found = {(item["area"], item["name"]): item for item in done.json["findings"]}
    assert found["connections", "gone"]["state"] == "fails"
    assert found["connections", "gone"]["mend"]
    assert found["settings", "FLEXDB_CONECTIONS__TYPO"]["state"] == "warning"
    assert found["service", "running"]["state"] == "warning"
    assert found["home", "FLEXDB_HOME"]["state"] == "ok"
    assert done.json["settings"]["FLEXDB_CONNECTIONS__GONE"] == "***"
    assert not Path(flexdb.environment["FLEXDB_HOME"]).exists(), "looking makes nothing"


async def test_doctor_is_content_with_a_running_service_and_a_sqlite_connection(
    flexdb: CommandLine, tmp_path: Path
) -> None:
    import sqlite3

    connection = sqlite3.connect(tmp_path / "shop.sqlite")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    flexdb.environment["FLEXDB_CONNECTIONS__SHOP"] = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    done = await flexdb("doctor", "--json")
    states = {(item["area"], item["name"]): item["state"] for item in done.json["findings"]}
    assert done.code == 0, done.out
    assert states["service", "token"] == states["service", "clock"] == states["connections", "shop"] == "ok"


async def test_doctor_looks_at_the_servers_a_cluster_stands_on(
    flexdb: CommandLine, postgres15_url: str, fresh_database: FreshDatabase, rabbitmq_url: str, amqp_name: str
) -> None:
    ledger = fresh_database(postgres15_url)
    flexdb.environment |= {
        "FLEXDB_LEDGER_URL": ledger,
        "FLEXDB_AMQP_URL": rabbitmq_url,
        "FLEXDB_AMQP_NAME": amqp_name,
    }
    done = await flexdb("doctor", "--json")
    found = {item["name"]: item for item in done.json["findings"] if item["area"] == "servers"}
    with closing(psycopg2.connect(ledger)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW fsync")
        safe = cursor.fetchone() == ("on",)
    assert found["rabbitmq"]["state"] == "ok", found
    assert found["ledger"]["state"] == ("ok" if safe else "warning"), found
    assert ("fsync is off" in found["ledger"]["detail"]) is not safe
    if safe:
        assert "made at the first start" in found["ledger"]["detail"] and "PostgreSQL 15" in found["ledger"]["detail"]
    assert "made at the first start" in found["rabbitmq"]["detail"], "looking declares nothing"


async def test_doctor_says_which_server_of_a_cluster_is_away_without_a_password(flexdb: CommandLine) -> None:
    flexdb.environment |= {
        "FLEXDB_LEDGER_URL": "postgresql://u:hush-hush@127.0.0.1:1/x",
        "FLEXDB_AMQP_URL": "amqp://u:hush-hush@127.0.0.1:1/",
    }
    done = await flexdb("doctor", "--json")
    assert done.code == 1 and "hush-hush" not in done.out + done.err
    found = {item["name"]: item for item in done.json["findings"] if item["area"] == "servers"}
    assert found["ledger"]["state"] == found["rabbitmq"]["state"] == "fails"
    assert all(item["mend"] and "127.0.0.1:1" in item["detail"] for item in found.values())


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "amqp://user:pa/ss@127.0.0.1/", "amqp:"])
async def test_an_address_of_rabbitmq_that_cannot_be_read_is_told_at_start(flexdb: CommandLine, url: str) -> None:
    flexdb.environment["FLEXDB_AMQP_URL"] = url
    done = await flexdb("serve", "--port", "0")
    assert done.code == 1 and "percent-encode" in done.err, done.err
    assert "pa/ss" not in done.err


async def test_help_comes_at_once(flexdb: CommandLine) -> None:
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert (await flexdb("--help")).code == 0
        took.append(time.monotonic() - began)
    assert min(took) < 0.8  # 0.25 on an idle machine; all engines imported would be 1.5

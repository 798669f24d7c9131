"""health-report: databases, backups, failed jobs and what did not arrive in one message; red when one is away."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika

from tests.acceptance.service_process import free_port, until
from tests.n8n.conftest import MakePair
from tests.n8n.pair import Pair, sqlite_shop
from tests.n8n.process import Execution

NAME = "health-report"
ALL_WELL = "✓ all connections can be reached"
Answers = Mapping[str, tuple[int, bytes]]


def test_databases_with_their_sizes_and_newest_backups_are_reported(make_pair: MakePair, tmp_path: Path) -> None:
    pair = make_pair({name: sqlite_shop(tmp_path, name, orders) for name, orders in (("shop", 50), ("crm", 7))})
    backup = pair.flexdb.complete("backup", {"connection": "shop", "verify": 3})["backup_id"]
    for connection in ("shop", "crm"):
        pair.flexdb.complete("backup", {"connection": connection, "content": "schema"})
    fingerprint = pair.flexdb.complete("inspection", {"connection": "shop"})["fingerprint"]
    done = report(pair)
    assert done.status == "success", done.error
    assert "Reported" in done.nodes
    told = pair.told_of("**FlexDB health report**", ALL_WELL)
    crm, shop = (line for line in told.splitlines() if line.startswith("- **"))
    assert shop.startswith("- **shop** (sqlite ")
    assert ", tables: 1, rows: 50, " in shop
    assert f"structure `{fingerprint[:12]}`; newest backup {backup}, 0.0 h old, level 3" in shop
    assert crm.startswith("- **crm** (sqlite ")
    assert ", tables: 1, rows: 7, " in crm
    assert crm.endswith("**no backup that is whole and listed**")
    assert "**Failed jobs**, last 24 h: 0\n" in told
    assert "**Deliveries** that wait for another try: 0\n" in told
    assert "**Deliveries given up**, last 24 h: 0\n" in told
    assert told.endswith("**Dead letters**: none, as there is no RabbitMQ")


def test_it_reports_every_morning(pair: Pair) -> None:
    done = pair.run(pair.load(NAME), trigger="Every morning at 07:00")
    assert done.status == "success", done.error
    assert pair.told_of(ALL_WELL)


def test_a_database_that_is_away_is_reported_with_its_newest_backup_and_the_run_is_red(
    make_pair: MakePair, tmp_path: Path
) -> None:
    connections = {name: sqlite_shop(tmp_path, name) for name in ("crm", "shop", "web")}
    pair = make_pair(connections)
    backup = pair.flexdb.complete("backup", {"connection": "shop"})["backup_id"]
    (tmp_path / "shop.sqlite").unlink()
    done = report(pair)
    assert done.status == "error"
    assert "- **shop**: **cannot be reached**: " in done.error
    told = pair.told_of("✗ 1 of the connections cannot be reached")
    crm, shop, web = (line for line in told.splitlines() if line.startswith("- **"))
    assert f"; newest backup {backup}, 0.0 h old" in shop
    assert "rows: 50" in crm
    assert "rows: 50" in web


def test_failed_jobs_are_reported_and_older_ones_are_not(pair: Pair) -> None:
    job = pair.flexdb.send("restore", {"backup_id": "no-such-backup", "connection": "shop"})
    pair.flexdb.ended(job)
    assert report(pair).status == "success"
    told = pair.told_of("**Failed jobs**, last 24 h: 1")
    assert "\n  - restore of shop: unknown_backup, " in told
    assert f"({job})" in told
    assert report(pair, reportHours=0).status == "success"
    assert pair.told_of("**Failed jobs**, last 0 h: 0\n")


def test_more_failed_jobs_than_one_wants_to_read_are_counted(pair: Pair) -> None:
    for _ in range(12):
        pair.flexdb.ended(pair.flexdb.send("restore", {"backup_id": "no-such-backup", "connection": "shop"}))
    assert report(pair).status == "success"
    told = pair.told_of("**Failed jobs**, last 24 h: 12")
    assert told.count("unknown_backup") == 10
    assert "\n  - and 2 more" in told


def test_deliveries_that_wait_or_were_given_up_are_reported(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_WEBHOOK_SCHEDULE="0.1")
    nobody = f"http://127.0.0.1:{free_port()}"
    pair.flexdb.request("PUT", "/subscriptions/gone", {"url": f"{nobody}/gone", "types": ["backup.completed"]})
    pair.flexdb.complete("backup", {"connection": "shop", "callback_url": f"{nobody}/waits?token=secret"})
    (gone,) = until(lambda: deliveries(pair, "abandoned"))
    until(lambda: [one for one in deliveries(pair, "pending") if one["attempts"]])
    assert report(pair).status == "success"
    told = pair.told_of("**Deliveries** that wait for another try: 1\n", "**Deliveries given up**, last 24 h: 1\n")
    assert f"\n  - backup.completed to {nobody}/waits, tries: " in told
    assert f"\n  - backup.completed to {nobody}/gone: " in told
    assert f"(POST /deliveries/{gone['delivery_id']}/redeliver)" in told
    assert report(pair, reportHours=0).status == "success"
    assert pair.told_of("**Deliveries given up**, last 0 h: 0\n")


def test_dead_letters_are_counted_by_their_reasons(make_pair: MakePair, broker_url: str) -> None:
    name = f"health{uuid4().hex[:12]}"
    pair = make_pair(FLEXDB_AMQP_URL=broker_url, FLEXDB_AMQP_NAME=name)
    until(lambda: pair.flexdb.get("/health").get("rabbitmq") == {"in": True, "out": True}, pause=0.1)
    asyncio.run(publish(broker_url, f"{name}.requests", [b"no json", b"[", b'{"connection": "nobody"}']))
    until(lambda: len(pair.flexdb.get("/dead-letters")["data"]) == 3, pause=0.1)
    assert report(pair).status == "success"
    told = pair.told_of("**Dead letters**: 3")
    assert "\n  - malformed_json: 2" in told
    assert "\n  - invalid_request: 1" in told
    assert "no queue is bound" not in told


def test_a_flexdb_that_is_away_is_told(pair: Pair) -> None:
    pair.flexdb.kill()
    done = report(pair)
    assert done.status == "error"
    assert "could not check its connections" in done.error
    assert f"nothing to report from {pair.flexdb_url}, " in pair.told_of("✗ FlexDB health report")


def test_a_check_that_does_not_end_is_told_with_its_job(pair: Pair) -> None:
    accepted = b'{"job_id": "job-1", "status": "queued"}'
    with in_between(pair, {"/hooks/check": (202, accepted)}) as url:
        done = report(pair, flexdbUrl=url)
    assert done.status == "error"
    assert "the check ended as queued, job job-1" in pair.told_of("nothing to report")


def test_a_flexdb_without_connections_is_reported(pair: Pair) -> None:
    checked = b'{"type": "check.completed", "data": {"reachable": true, "connections": []}}'
    with in_between(pair, {"/hooks/check": (200, checked)}) as url:
        done = report(pair, flexdbUrl=url)
    assert done.status == "success", done.error
    assert "FlexDB has no connections." in pair.told_of("FlexDB health report")


def test_questions_that_fail_do_not_keep_the_others_from_being_reported(pair: Pair) -> None:
    pair.flexdb.ended(pair.flexdb.send("restore", {"backup_id": "no-such-backup", "connection": "shop"}))
    broken = (500, b'{"code": "internal_error"}')
    paths = ("/backups", "/hooks/inspection", "/jobs", "/deliveries", "/dead-letters")
    with in_between(pair, dict.fromkeys(paths, broken)) as url:
        done = report(pair, flexdbUrl=url)
    assert done.status == "success", done.error
    told = pair.told_of("FlexDB health report")
    assert "- **shop**: can be reached, **could not be inspected**: " in told
    assert told.count("**backups could not be listed**: ") == 2
    for what in ("Failed jobs", "Deliveries that wait", "Deliveries given up"):
        assert f"**{what}**: could not be asked\n" in told
    assert told.endswith("**Dead letters**: could not be asked, internal_error")


def test_an_inspection_that_fails_or_does_not_end_is_reported(pair: Pair) -> None:
    failed = b'{"type": "inspection.failed", "data": {"error": {"code": "access_denied", "message": "No."}}}'
    with in_between(pair, {"/hooks/inspection": (200, failed)}) as url:
        assert report(pair, flexdbUrl=url).status == "success"
    assert "**could not be inspected**: access_denied, No.; " in pair.told_of("FlexDB health report")
    with in_between(pair, {"/hooks/inspection": (202, b'{"job_id": "job-1", "status": "running"}')}) as url:
        assert report(pair, flexdbUrl=url).status == "success"
    assert pair.told_of("**could not be inspected**: job job-1 is running; ")


def report(pair: Pair, **settings: Any) -> Execution:
    return pair.run(pair.load(NAME, settings), 90)


def deliveries(pair: Pair, status: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pair.flexdb.get(f"/deliveries?status={status}")["data"]
    return found


async def publish(broker_url: str, exchange: str, bodies: list[bytes]) -> None:
    async with await aio_pika.connect(broker_url) as connection:
        requests = await (await connection.channel()).get_exchange(exchange)
        for body in bodies:
            await requests.publish(aio_pika.Message(body, type="backup.requested"), "backup.requested")


@contextmanager
def in_between(pair: Pair, answers: Answers) -> Iterator[str]:
    """Somebody who hands requests on to FlexDB, but answers those to some paths himself; his URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            own = answers.get(urlsplit(self.path).path)
            status, answer = own or self._handed_on(body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _handed_on(self, body: bytes) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", pair.flexdb.port, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            try:
                return response.status, response.read()
            finally:
                connection.close()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""What nobody foresaw, and whether the service takes work: told in one sentence, never with its insides."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from engines.run import Run
from handlers.base import Handler, Outcome, Request, Result
from service.ledger.base import Ledger
from tests.integration.conftest import OpenDoors
from tests.integration.doors import BATCH, Doors, event
from tests.spine import Trouble


class Exploding(Handler[Request]):
    """Breaks where a handler is not expected to."""

    operation = "explode"
    request_model = Request
    result_model = Result

    def faults(self, request: Request) -> list[Any]:
        raise ZeroDivisionError("postgresql://user:hunter2@db")

    def run(self, request: Request, run: Run) -> Outcome:
        raise NotImplementedError


async def test_the_unforeseen_is_500_without_its_text_and_is_logged(opened: OpenDoors, capsys: Any) -> None:
    doors = await opened(extra={"explode": Exploding()})
    answer = await doors.hook("explode")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "hunter2" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    assert "request_failed" in capsys.readouterr().out


async def test_one_item_that_breaks_the_service_does_not_stop_a_batch(opened: OpenDoors) -> None:
    doors = await opened(extra={"explode": Exploding()})
    items = [event(id="1"), event(id="2", type="explode.requested", data={}), event(id="3")]
    answer = await doors.ask("POST", "/events", items, BATCH)
    assert answer.status == 200
    assert [item["status"] for item in answer.json] == ["queued", 500, "queued"]
    assert answer.json[1]["code"] == "internal_error"
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("path", ["/jobs", "/jobs/x", "/backups", "/deliveries", "/subscriptions", "/metrics"])
async def test_every_door_says_503_while_the_ledger_is_away(opened: OpenDoors, path: str) -> None:
    trouble: list[Trouble] = []

    def wrap(ledger: Ledger) -> Ledger:
        trouble.append(Trouble(ledger))
        return trouble[0].ledger

    doors = await opened(wrap)
    trouble[0].away = True
    answer = await doors.ask("GET", path)
    assert (answer.status, answer.code) == (503, "ledger_unavailable")
    ready = await doors.ask("GET", "/readyz", token=None)
    assert (ready.status, ready.json["reasons"]) == (503, ["the ledger cannot be written"])
    assert (await doors.ask("GET", "/livez", token=None)).status == 200


async def test_a_service_that_drains_is_alive_but_not_ready(opened: OpenDoors) -> None:
    reasons: list[str] = []
    doors = await opened(reasons=reasons)
    assert (await doors.ask("GET", "/readyz", token=None)).json == {"status": "ok", "reasons": []}
    reasons.append("the service is draining")
    assert (await doors.ask("GET", "/readyz", token=None)).json["reasons"] == ["the service is draining"]
    assert (await doors.ask("GET", "/livez", token=None)).status == 200


async def test_health_tells_of_every_connection_by_name(doors: Doors) -> None:
    answer = await doors.ask("GET", "/health")
    states = answer.json["connections"]
    assert (answer.status, answer.json["status"]) == (503, "degraded")
    assert {name: state["reachable"] for name, state in states.items()} == {"gone": False, "odd": False, "shop": True}
    assert states["shop"]["engine"] == "sqlite"
    assert states["odd"]["problem"]["code"] == "invalid_target"


async def test_metrics_count_jobs_and_deliveries(doors: Doors) -> None:
    await doors.accepted()
    answer = await doors.ask("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'flexdb_jobs{status="queued"} 1\n' in answer.text
    assert 'flexdb_deliveries_pending{transport="http"} 0\n' in answer.text
    assert "flexdb_amqp_connected" not in answer.text


async def test_metrics_and_health_tell_webhooks_from_messages(opened: OpenDoors) -> None:
    doors = await opened(rules={"exchange": "flexdb.events"}, amqp=lambda: {"in": True, "out": False})
    await doors.accepted(data={"connection": "shop", "callback_url": "https://example.org/hook"})
    await doors.finished(await doors.claimed())
    health = (await doors.ask("GET", "/health")).json
    assert (health["pending_deliveries"], health["deliveries"]) == (3, {"http": 1, "amqp": 2})
    assert health["rabbitmq"] == {"in": True, "out": False}
    text = (await doors.ask("GET", "/metrics")).text
    assert 'flexdb_deliveries_pending{transport="amqp"} 2\n' in text
    assert 'flexdb_deliveries_pending{transport="http"} 1\n' in text
    assert 'flexdb_amqp_connected{direction="in"} 1\nflexdb_amqp_connected{direction="out"} 0\n' in text


async def test_health_is_silent_about_a_rabbitmq_that_nobody_configured(doors: Doors) -> None:
    assert "rabbitmq" not in (await doors.ask("GET", "/health")).json


async def test_a_refused_request_is_not_logged_as_a_failure(
    doors: Doors, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        await doors.hook("nonsense")
        await doors.ask("GET", "/nowhere")
        await doors.ask("PATCH", "/jobs")
    assert "request_failed" not in capsys.readouterr().out
    assert not caplog.records

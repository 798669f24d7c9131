"""Every code of a refusal at the door, reached by a request a caller may really make."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from service.amqp.dead_letters import DeadLetters
from service.amqp.names import Names
from service.http.problems import CODES
from service.jobs import Status
from tests.integration.dead_letter_world import some_broker, with_dead_letters
from tests.integration.real_service import STRUCTURED, TOKEN, Answer, Running, running, signed

Ask = Callable[[Running], Awaitable[Answer]]
REACHED: dict[str, tuple[int, Ask]] = {}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, max_body_bytes=4096, queue_limit=3, records_connection="shop") as found:
        yield found


def reaches(code: str, status: int) -> Callable[[Ask], Ask]:
    def note(ask: Ask) -> Ask:
        REACHED[code] = status, ask
        return ask

    return note


@reaches("malformed_json", 400)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", b'{"connection": "\xff"}', JSON)


@reaches("invalid_event", 400)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/events", b'{"specversion": "0.3"}', STRUCTURED)


@reaches("invalid_request", 422)
async def _(service: Running) -> Answer:
    return await service.hook("check", {"conection": "shop"})


@reaches("not_authenticated", 401)
async def _(service: Running) -> Answer:
    return await service.ask("GET", "/jobs", token=None)


@reaches("invalid_token", 401)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", {}, signed(b"{}"), token="wrong")


@reaches("missing_signature", 401)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", {}, {"webhook-id": "x"}, token=None)


@reaches("malformed_signature", 401)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", {}, signed(b"{}") | {"webhook-signature": "garbage"}, token=None)


@reaches("stale_signature", 401)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", {}, signed(b"{}", off=-3600), token=None)


@reaches("bad_signature", 401)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", {}, signed(b"{ }"), token=None)


@reaches("operation_not_allowed", 403)
async def _(service: Running) -> Answer:
    data = {"connection": "shop", "backup_id": "x"}
    body = json.dumps(data).encode()
    return await service.ask("POST", "/hooks/restore", body, JSON | signed(body), token=None)


@reaches("unknown_operation", 404)
async def _(service: Running) -> Answer:
    return await service.hook("defragmentation", {})


@reaches("not_found", 404)
async def _(service: Running) -> Answer:
    return await service.ask("GET", "/nothing")


@reaches("job_not_found", 404)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/jobs/nothing/cancel")


@reaches("delivery_not_found", 404)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/deliveries/nothing/redeliver")


@reaches("schedule_not_found", 404)
async def _(service: Running) -> Answer:
    return await service.ask("DELETE", "/schedules/nothing")


@reaches("incoming_not_found", 404)
async def _(service: Running) -> Answer:
    return await service.ask("DELETE", "/incoming/nothing")


@reaches("incoming_exists", 409)
async def _(service: Running) -> Answer:
    assert (await service.ask("PUT", "/incoming/shop.dump", b"x")).status == 201
    return await service.ask("PUT", "/incoming/shop.dump", b"y")


@reaches("subscription_not_found", 404)
async def _(service: Running) -> Answer:
    return await service.ask("DELETE", "/subscriptions/nothing")


@reaches("method_not_allowed", 405)
async def _(service: Running) -> Answer:
    return await service.ask("DELETE", "/jobs")


@reaches("unsupported_media_type", 415)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", b"<connection/>", {"Content-Type": "text/xml"})


@reaches("too_large", 413)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", b" " * 5000, JSON)


@reaches("id_reused", 409)
async def _(service: Running) -> Answer:
    first = await service.accepted("check", {}, Idempotency_Key="k")
    answer = await service.hook("check", {"connection": "shop"}, Idempotency_Key="k")
    assert answer.json["job_id"] == first
    assert answer.json["digest"] != answer.json["accepted_digest"]
    assert len(answer.json["digest"]) == len(answer.json["accepted_digest"]) == 64
    return answer


@reaches("job_ended", 409)
async def _(service: Running) -> Answer:
    job_id = await service.accepted()
    assert (await service.ask("POST", f"/jobs/{job_id}/cancel")).status == 202
    return await service.ask("POST", f"/jobs/{job_id}/cancel")


@reaches("job_not_retryable", 409)
async def _(service: Running) -> Answer:
    return await service.ask("POST", f"/jobs/{await service.accepted()}/retry")


@reaches("queue_full", 429)
async def _(service: Running) -> Answer:
    for _ in range(3):
        await service.accepted()
    answer = await service.hook("check", {})
    assert int(answer.headers["Retry-After"]) > 0
    job = await service.claimed()
    await service.service.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED, result={})
    assert (await service.hook("check", {})).status == 202, "an ended job makes room"
    return answer


@reaches("ledger_unavailable", 503)
async def _(service: Running) -> Answer:
    await service.service.ledger.close()
    for method, path in (("GET", "/jobs"), ("GET", "/backups"), ("GET", "/health"), ("GET", "/metrics")):
        assert (await service.ask(method, path)).code == "ledger_unavailable"
    ready = await service.ask("GET", "/readyz", token=None)
    assert (ready.status, ready.json["reasons"]) == (503, ["the ledger cannot be written"])
    assert (await service.ask("GET", "/livez", token=None)).status == 200
    return await service.hook("check", {})


@reaches("bad_request", 400)
async def _(service: Running) -> Answer:
    return await service.ask("POST", "/hooks/check", b"not gzip", JSON | {"Content-Encoding": "gzip"})


@reaches("rabbitmq_not_configured", 404)
async def _(service: Running) -> Answer:
    return await service.ask("GET", "/dead-letters")


@reaches("rabbitmq_unavailable", 503)
async def _(service: Running) -> Answer:
    nowhere = DeadLetters("amqp://guest:guest@127.0.0.1:1/", Names.of("flexdb"))
    async with with_dead_letters(service, nowhere) as reading:
        return await reading.ask("GET", "/dead-letters")


@reaches("dead_letter_not_found", 404)
async def _(service: Running) -> Answer:
    async with some_broker() as broker, with_dead_letters(service, broker.letters) as reading:
        return await reading.ask("GET", "/dead-letters/nothing")


@reaches("target_busy", 409)
async def _(service: Running) -> Answer:
    first = await service.accepted("backup", {"connection": "shop"})
    answer = await service.hook("backup", {"connection": "shop", "on_conflict": "reject"})
    assert answer.json["job_id"] == first
    return answer


@reaches("unknown_backup", 404)
async def _(service: Running) -> Answer:
    return await service.ask("GET", "/backups/nothing")


@reaches("record_not_found", 404)
async def _(service: Running) -> Answer:
    return await service.ask("GET", "/courses/1")


@reaches("precondition_failed", 412)
async def _(service: Running) -> Answer:
    return await service.ask("PUT", "/courses/1", {"title": "Databases"}, {"If-Match": "*"})


@reaches("collection_fixed", 409)
async def _(service: Running) -> Answer:
    return await service.ask("DELETE", "/collections/courses")


@reaches("unknown_collection", 404)
async def _(service: Running) -> Answer:
    return await service.ask("GET", "/api/nothing")


@reaches("record_exists", 409)
async def _(service: Running) -> Answer:
    assert (await service.ask("POST", "/courses", {"id": 1, "title": "Databases"})).status == 201
    return await service.ask("POST", "/courses", {"id": 1, "title": "Networks"})


@reaches("collection_mismatch", 409)
async def _(service: Running) -> Answer:
    record = {"type": "object", "properties": {"nickname": {"type": "string"}}, "required": ["nickname"]}
    document = {"connection": "shop", "table": "people", "key": "nickname", "schema": record}
    return await service.ask("PUT", "/collections/nicknames", document)  # the sample shop's table is another


def test_every_code_of_the_door_has_a_test() -> None:
    assert CODES.keys() <= REACHED.keys()


@pytest.mark.parametrize("code", REACHED)
async def test_a_caller_can_meet(service: Running, code: str) -> None:
    status, ask = REACHED[code]
    answer = await ask(service)
    assert (answer.status, answer.code) == (status, code), answer.body
    assert TOKEN.encode() not in answer.body
    if status == 401:
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    if status in {429, 503}:
        assert int(answer.headers["Retry-After"]) > 0

"""Names, passwords, bodies and events that make no sense, or look as if they did."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.audit import every_job_has_one_terminal_event, loose_files
from tests.acceptance.scenes import Scene, running, shop
from tests.acceptance.service_process import TOKEN
from tests.acceptance.worlds import PostgresWorld

SIGNING_SECRET = "whsec_aGVyZS1pcy1hLXNlY3JldC1vZi0zMi1ieXRlcy4uLi4="


# ---------------------------------------------------------------- names and passwords


def test_a_connection_name_that_looks_like_a_path_or_an_option_is_refused_at_the_door(
    sqlite_scene: Scene,
) -> None:
    service = sqlite_scene.service
    for name in ("../x", "-Fc", "a/b", "", "SHOP", "shop\x00", "demo"):
        answer = service.hook("backup", {"connection": name})
        assert (answer.status, answer.code) == (422, "invalid_request"), name
        assert answer.json["errors"][0]["pointer"] == "#/connection"
    for into in ("../x", "a/b", "..", "", ".hidden", "shop.sqlite-wal", "x\x00"):
        data = {"connection": "shop", "latest": {"connection": "shop"}, "into": into}
        answer = service.hook("restore", data)
        assert (answer.status, answer.code) == (422, "invalid_request"), into
    assert service.get("/jobs")["data"] == []


ODD_DATABASE = 'a b"; drop'
ODD_PASSWORD = "p/w @:%41 '\"\\$ ż"


@pytest.mark.xdist_group("postgres18")
def test_a_database_and_a_password_with_every_odd_character_are_backed_up_and_restored(
    tmp_path: Path, postgres18_url: str
) -> None:
    world = PostgresWorld(postgres18_url)
    odd = f"{world.name} {ODD_DATABASE}"
    role = f'{world.name} "@:/%'
    try:
        world.fill(50)
        world.make_role(role, ODD_PASSWORD)
        world.rename(odd)
        backed_up_and_restored(tmp_path, world, world.url_of(odd, role, ODD_PASSWORD), odd)
    finally:
        world.close()


def backed_up_and_restored(folder: Path, world: PostgresWorld, url: str, database: str) -> None:
    copy = f'{database} -c "x'
    with running(folder, {"shop": url}) as service:
        made = service.complete("backup", {"connection": "shop", "verify": 3, "globals": True})
        assert (made["database"], made["level"]) == (database, 3)
        service.complete("restore", {"backup_id": made["backup_id"], "connection": "shop", "into": copy, "jobs": 2})
        assert world.contents(copy) == world.contents(database)
        service.complete("restore", {"backup_id": made["backup_id"], "connection": "shop", "mode": "replace"})
        assert world.contents(database) == world.contents(copy)
        every_job_has_one_terminal_event(service)
        assert not loose_files(service)


# ---------------------------------------------------------------- bodies and events that make no sense


def test_a_body_of_100_megabytes_is_413_and_the_service_goes_on(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    block = b" " * (1 << 20)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    for chunked in (False, True):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        length = {} if chunked else {"Content-Length": str(100 << 20)}
        blocks = (block for _ in range(100))
        try:
            connection.request("POST", "/hooks/check", blocks, headers | length, encode_chunked=chunked)
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["code"]) == (413, "too_large"), chunked
        finally:
            connection.close()
    assert service.complete("check", {"connection": "shop"})["reachable"]


def event(**changes: Any) -> bytes:
    made = {"specversion": "1.0", "id": "e-1", "source": "/test", "type": "check.requested", "data": {}}
    made |= changes
    return json.dumps({name: value for name, value in made.items() if value is not None}).encode()


STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BAD_EVENTS: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("/hooks/check", b'{"connection": ', {}, 400, "malformed_json"),
    ("/hooks/check", b'{"connection": "\xff\xfe"}', {}, 400, "malformed_json"),
    ("/hooks/check", b'{"connection": NaN}', {}, 400, "malformed_json"),
    ("/hooks/check", b"[" * 100_000, {}, 400, "malformed_json"),
    ("/hooks/check", b"[]", {}, 422, "invalid_request"),
    ("/hooks/check", b"{}", {"Content-Type": "text/xml"}, 415, "unsupported_media_type"),
    ("/hooks/explode", b"{}", {}, 404, "unknown_operation"),
    ("/hooks/check", b'{"conection": "shop"}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "engine": "x"}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "jobs": 4}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "verify": 9}', {}, 422, "invalid_request"),
    ("/hooks/backup", b'{"connection": "shop", "storage": "file:///etc"}', {}, 422, "invalid_request"),
    (
        "/hooks/backup",
        b'{"connection": "shop", "callback_url": "http://169.254.169.254/"}',
        {},
        422,
        "invalid_request",
    ),
    ("/events", event(specversion="0.3"), STRUCTURED, 400, "invalid_event"),
    ("/events", event(id=None), STRUCTURED, 400, "invalid_event"),
    ("/events", event(source=""), STRUCTURED, 400, "invalid_event"),
    ("/events", event(type="explode.requested"), STRUCTURED, 404, "unknown_operation"),
    ("/events", event(type="check.completed"), STRUCTURED, 404, "unknown_operation"),
    ("/events", event(data="text"), STRUCTURED, 422, "invalid_request"),
    ("/events", b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
]


def test_what_makes_no_sense_is_refused_with_a_stable_code_and_makes_no_job(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    wrong = []
    for path, body, headers, status, code in BAD_EVENTS:
        answer = service.request("POST", path, body, {"Content-Type": "application/json"} | headers)
        assert answer.headers["content-type"].startswith("application/problem+json"), (path, body[:60])
        if (answer.status, answer.code) != (status, code):
            wrong.append((path, body[:60], answer.status, answer.code))
        assert {"type", "title", "status", "code", "detail"} <= set(answer.json)
    assert not wrong
    assert service.get("/jobs")["data"] == []


def test_a_repeated_id_with_another_body_is_409_with_both_digests(sqlite_scene: Scene) -> None:
    service = sqlite_scene.service
    first = service.hook("check", {"connection": "shop"}, key="one")
    again = service.hook("check", {}, key="one")
    assert (again.status, again.code) == (409, "id_reused")
    digest = hashlib.sha256(b'["check",{"connection":"shop"}]').hexdigest()
    other = hashlib.sha256(b'["check",{}]').hexdigest()
    assert {digest, other} <= set(again.json.values())
    assert again.json["job_id"] == first.json["job_id"]


def signed(body: bytes, webhook_id: str = "msg-1", *, age: int = 0) -> dict[str, str]:
    """Headers of a Standard Webhooks request."""
    timestamp = str(int(time.time()) - age)
    key = base64.b64decode(SIGNING_SECRET.removeprefix("whsec_"))
    text = f"{webhook_id}.{timestamp}.".encode() + body
    made = base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
    return {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{made}"}


def test_a_signature_that_is_wrong_in_any_way_is_401_and_a_right_one_does_not_admit_a_restore(
    tmp_path: Path,
) -> None:
    world, body = shop(tmp_path), b'{"connection": "shop"}'
    source = {"FLEXDB_SOURCES__SHOP": f"standard:{SIGNING_SECRET}"}
    with running(tmp_path, {"shop": world.url}, source) as service:

        def ask(operation: str, headers: dict[str, str]) -> tuple[int, str | None]:
            json_headers = {"Content-Type": "application/json"} | headers
            answer = service.request("POST", f"/hooks/{operation}", body, json_headers, token=None)
            return answer.status, answer.code

        assert ask("check", signed(body)) == (202, None)
        assert ask("check", signed(body)) == (202, None), "a repeat inside the window is a duplicate"
        assert len(service.get("/jobs")["data"]) == 1
        no_comma = signed(body) | {"webhook-signature": "v1nocomma"}
        assert ask("check", no_comma)[0] == 401
        assert ask("check", signed(body) | {"webhook-timestamp": "soon"})[0] == 401
        assert ask("check", signed(body + b" "))[0:2] == (401, "bad_signature")
        assert ask("check", signed(body, age=3600)) == (401, "stale_signature")
        assert ask("check", signed(body, age=-3600)) == (401, "stale_signature")
        assert ask("check", {})[0] == 401
        assert ask("restore", signed(body, "msg-2")) == (403, "operation_not_allowed")
        assert service.request("GET", "/jobs", token="wrong").status == 401

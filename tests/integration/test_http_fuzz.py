"""Whatever comes in at the doors of events: an acceptance or a problem with a known code, never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from handlers.registry import handler_classes
from service.http.problems import all_codes
from tests.integration.real_service import TOKEN, Answer, Running, running, signed

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)
FIELDS = sorted({name for handler in handler_classes().values() for name in handler.request_model.model_fields})
SENSIBLE = st.sampled_from(
    ["shop", "away", "../x", "-Fc", 'a b"; drop', "\x00", "queue", "join", "http://[", 1, -1, 0.5]
)
REQUEST = st.dictionaries(st.sampled_from(FIELDS), SENSIBLE | JSON_VALUE, max_size=5)
ATTRIBUTES = ["id", "source", "type", "specversion", "time", "expirytime", "subject", "datacontenttype", "data_base64"]
EVENT = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": ANY_TEXT, "source": ANY_TEXT, "type": st.just("check.requested")},
    optional={"data": JSON_VALUE, **dict.fromkeys(ATTRIBUTES[4:], JSON_VALUE)},
) | st.dictionaries(st.sampled_from(ATTRIBUTES) | ANY_TEXT, JSON_VALUE)
HEADER_VALUE = st.binary(max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127).decode("utf-8", "surrogateescape").strip()
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Idempotency-Key",
            "Prefer",
            "Content-Type",
            "Last-Event-ID",
            "ce-id",
            "ce-source",
            "ce-type",
            "ce-specversion",
        ]
    ),
    HEADER_VALUE | st.sampled_from(["1.0", "application/json", "check.requested", "wait=0", '"a\\"', "%ff", "%zz"]),
)
FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


class Bench:
    """One service for all examples of a test, in a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._context = running(folder)
        self.service: Running = self._loop.run_until_complete(self._context.__aenter__())

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        token: str | None = TOKEN,
    ) -> Answer:
        """On a socket of its own: no client library would send some of this."""
        shown = {"Host": "x", "Content-Length": str(len(body)), "Connection": "close"} | (headers or {})
        if token is not None:
            shown["X-API-Key"] = token
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in shown.items()), "", ""]
        sent = "\r\n".join(lines).encode("utf-8", "surrogateescape") + body
        return self._loop.run_until_complete(self._exchange(sent))

    async def _exchange(self, sent: bytes) -> Answer:
        reader, line = await asyncio.open_connection("127.0.0.1", self.service.port)
        line.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
        line.close()
        await line.wait_closed()
        status, _, rest = head.decode().partition("\r\n")
        fields = dict(field.split(": ", 1) for field in rest.split("\r\n") if field)
        return Answer(int(status.split()[1]), fields, body)

    def close(self) -> None:
        self._loop.run_until_complete(self._context.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def is_an_answer(answer: Answer) -> None:
    if answer.status in {200, 202}:
        return
    assert 400 <= answer.status < 500, (answer.status, answer.body)
    assert answer.code in all_codes(), answer.body
    for error in answer.json.get("errors", []):
        assert error["pointer"].startswith("#") and error["detail"]


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@FUZZ
@given(operation=st.sampled_from(sorted(handler_classes())), data=REQUEST | JSON_VALUE, headers=HEADERS)
@example(operation="check", data={"connection": "shop"}, headers={"Idempotency-Key": "\udcff"})
@example(operation="check", data={"deadline_seconds": 10**400}, headers={})
@example(operation="backup", data={"connection": "shop", "labels": {"a": "\x00"}}, headers={})
def test_any_json_to_any_hook(bench: Bench, operation: str, data: Any, headers: dict[str, str]) -> None:
    is_an_answer(bench.ask("POST", f"/hooks/{operation}", dumped(data), headers))


@FUZZ
@given(body=st.binary(max_size=200), headers=HEADERS, path=st.sampled_from(["/hooks/check", "/events"]))
@example(body=b"[" * 100_000, headers={"Content-Type": "application/json"}, path="/hooks/check")
@example(body=b'{"a":' * 5000 + b"1" + b"}" * 5000, headers={}, path="/hooks/check")
@example(body=b'{"deadline_seconds": ' + b"9" * 10_000 + b"}", headers={}, path="/hooks/check")
@example(body=b'{"connection": "\\ud800"}', headers={}, path="/hooks/check")
@example(body=b'{"max_attempts": 1, "max_attempts": 2}', headers={}, path="/hooks/check")
@example(body=b'{"deadline_seconds": NaN}', headers={}, path="/hooks/check")
@example(body=b"\xef\xbb\xbf{}", headers={}, path="/hooks/check")
def test_any_bytes(bench: Bench, body: bytes, headers: dict[str, str], path: str) -> None:
    is_an_answer(bench.ask("POST", path, body, headers))


@FUZZ
@given(event=EVENT)
@example(event={"specversion": "1.0", "id": "a\x00b", "source": "/x", "type": "check.requested"})
@example(
    event={
        "specversion": "1.0",
        "id": "a",
        "source": "/x",
        "type": "check.requested",
        "time": "9999-12-31T23:59:59-23:59",
    }
)
@example(
    event={
        "specversion": "1.0",
        "id": "a",
        "source": "/x",
        "type": "check.requested",
        "expirytime": "0001-01-01T00:00:00+23:59",
    }
)
def test_any_event_alone_and_in_a_batch(bench: Bench, event: dict[str, Any]) -> None:
    alone = bench.ask("POST", "/events", dumped(event), {"Content-Type": "application/cloudevents+json"})
    is_an_answer(alone)
    good = {"specversion": "1.0", "id": "good", "source": "/fuzz", "type": "check.requested"}
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    answer = bench.ask("POST", "/events", dumped([event, good]), batch)
    is_an_answer(answer)
    if answer.status == 200:
        first, second = answer.json
        assert first.get("status") == alone.status or "job_id" in first
        assert second["event_id"] == "good" and "job_id" in second


@FUZZ
@given(headers=st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), HEADER_VALUE))
def test_no_stranger_gets_in(bench: Bench, headers: dict[str, str]) -> None:
    answer = bench.ask("POST", "/hooks/check", b"{}", signed(b"{ }") | headers, token=None)
    assert answer.status == 401 and answer.code in all_codes()


@FUZZ
@given(
    path=st.sampled_from(["/jobs", "/backups", "/deliveries"]),
    query=st.dictionaries(
        st.sampled_from(["cursor", "limit", "status", "operation", "connection", "label", "min_level", "job_id"]),
        ANY_TEXT | st.sampled_from(["1", "0", "-1", "501", "queued", "a:b", "²", "W10", "WyJqb2JzIiwxXQ"]),
    ),
)
def test_any_query_of_a_list(bench: Bench, path: str, query: dict[str, str]) -> None:
    answer = bench.ask("GET", f"{path}?{urlencode(query)}")
    is_an_answer(answer)
    if answer.status == 200:
        assert answer.json.keys() == {"data", "next_cursor"}

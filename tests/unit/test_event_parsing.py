"""CloudEvents in their three shapes: what is read, and what is refused where."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bodies import parse, parse_exact
from service.cloudevents import from_structured
from service.event import Event
from service.http.cloudevents import from_binary
from service.http.waiting import wished_seconds
from service.intake import Refused


def event(**changes: Any) -> dict[str, Any]:
    made = {
        "specversion": "1.0",
        "id": "e",
        "source": "/tests",
        "type": "backup.requested",
        "data": {"connection": "shop"},
    }
    return {**made, **changes}


def headers(**changes: str) -> dict[str, str]:
    made = {"specversion": "1.0", "id": "e", "source": "/tests", "type": "backup.requested"} | changes
    return {f"ce-{name}": value for name, value in made.items()}


def refusal(value: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        from_structured(value)
    return refused.value


def pointers(value: Any) -> list[str]:
    return [fault.pointer for fault in refusal(value).faults]


def status_of(read: Callable[[], Event]) -> int:
    try:
        read()
    except Refused as refused:
        return refused.status
    return 202


READ = Event("e", "/tests", "backup", {"connection": "shop"})


def test_a_structured_event_is_read() -> None:
    assert from_structured(event()) == READ
    full = event(time="2026-11-21T03:00:00Z", subject="shop", datacontenttype="application/json; charset=utf-8")
    assert from_structured(full | {"traceparent": "00-x", "number": 1, "flag": True}) == READ


def test_a_binary_event_is_read() -> None:
    assert from_binary(headers(), "application/json", b'{"connection": "shop"}') == READ
    assert from_binary({"Host": "x"} | headers(), "application/vnd.x+json", b'{"connection": "shop"}') == READ


def test_an_event_without_data_has_an_empty_object() -> None:
    assert from_structured({name: value for name, value in event().items() if name != "data"}).data == {}
    assert from_structured(event(data=None)).data == {}
    assert from_binary(headers(), "", b" ").data == {}


def test_null_attributes_are_absent_ones() -> None:
    assert from_structured(event(subject=None, time=None, data_base64=None, datacontenttype=None)) == READ
    assert pointers(event(id=None)) == ["/id"]


def test_data_in_base64_may_hold_json() -> None:
    coded = base64.b64encode(b'{"connection": "shop"}').decode()
    assert from_structured(event(data=None, data_base64=coded)) == READ
    assert pointers(event(data_base64=coded)) == ["/data_base64"]
    for wrong in ("%%%", 7, "żółw", ["x"]):
        assert pointers(event(data=None, data_base64=wrong)) == ["/data_base64"]
    assert refusal(event(data=None, data_base64="bm9wZQ==")).code == "malformed_json"


def test_every_wrong_attribute_has_its_pointer() -> None:
    assert pointers({}) == ["/specversion", "/id", "/source", "/type"]
    assert pointers(event(id=7, source="", type=[], specversion=1.0)) == [
        "/specversion",
        "/id",
        "/source",
        "/type",
    ]
    assert pointers(event(specversion="0.3")) == ["/specversion"]
    assert pointers(event(source="not a reference")) == ["/source"]
    assert pointers(event(subject=7)) == ["/subject"]
    assert pointers(event(subject="")) == ["/subject"]
    assert pointers(event(dataschema=1)) == ["/dataschema"]
    assert pointers(event(datacontenttype="text/xml")) == ["/datacontenttype"]
    assert pointers(event(datacontenttype=1)) == ["/datacontenttype"]
    assert pointers(event(**{"Upper": "x", "a/b~c": "x", "list": [1]})) == ["/Upper", "/a~1b~0c", "/list"]
    assert refusal([]).code == refusal("x").code == refusal(None).code == "invalid_event"


def test_a_refusal_stays_small_whatever_is_wrong() -> None:
    many = refusal(event(**{f"Wrong{number}{'x' * 1000}": 1 for number in range(5000)}))
    assert len(many.faults) == 100
    assert all(len(fault.pointer) < 200 for fault in many.faults)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-21T03:00:00Z", 1795230000.0),
        ("2026-11-21t03:00:00z", 1795230000.0),
        ("2026-11-21T03:00:00.500Z", 1795230000.5),
        ("2026-11-21T03:00:00.123456789+00:00", 1795230000.123456),
        ("2026-11-21T05:30:00+02:30", 1795230000.0),
        ("2016-12-31T23:59:60Z", 1483228799.0),
    ],
)
def test_expirytime_is_rfc_3339(text: str, seconds: float) -> None:
    assert from_structured(event(expirytime=text)).expires_at == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "tomorrow",
        "2026-11-21",
        "2026-11-21T03:00:00",
        "20261121T030000Z",
        "2026-13-01T00:00:00Z",
        5,
        True,
        "",
    ],
)
def test_a_time_that_is_not_rfc_3339_is_refused(text: Any) -> None:
    assert "/expirytime" in pointers(event(expirytime=text))
    assert "/time" in pointers(event(time=text))


def test_the_type_says_what_is_requested() -> None:
    for kind in ("backup.completed", "backup", "requested", "backup.requested.v2"):
        assert refusal(event(type=kind)).code == "unknown_operation", kind


@pytest.mark.parametrize("data", ["text", [], 7, True, "{}"])
def test_data_that_is_no_object_is_an_invalid_request(data: Any) -> None:
    found = refusal(event(data=data))
    assert (found.status, found.code) == (422, "invalid_request")


def test_header_values_are_percent_decoded_and_unquoted() -> None:
    def read(**changes: str) -> Event:
        return from_binary(headers(**changes), "application/json", b"{}")

    assert read(id="Euro%20%E2%82%AC%20%F0%9F%98%80").id == "Euro € 😀"
    assert read(id='"quoted \\"id\\""').id == 'quoted "id"'
    assert read(id="100%25").id == "100%"
    assert read(id="%").id == "%"
    for wrong in ("%FF", "\udcff", "%C3"):
        with pytest.raises(Refused) as refused:
            read(id=wrong)
        assert [fault.pointer for fault in refused.value.faults] == ["/id"]


def test_binary_mode_says_the_data_type_in_content_type_only() -> None:
    with pytest.raises(Refused) as refused:
        from_binary(headers(datacontenttype="application/json"), "application/json", b"{}")
    assert refused.value.faults[0].pointer == "/datacontenttype"
    with pytest.raises(Refused) as refused:
        from_binary(headers(), "text/xml", b"<a/>")
    assert refused.value.status == 415


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'"\xff"',
        b'"\\ud800"',
        b"\xed\xa0\x80",
        b"{",
        b"",
        b"{} x",
        b"[" * 100_000,
    ],
)
def test_what_is_not_json_in_utf_8_is_malformed(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse(body)
    assert (refused.value.status, refused.value.code) == (400, "malformed_json")


@pytest.mark.parametrize("read", [parse, parse_exact])
def test_a_name_that_is_given_twice_is_refused_however_deep(read: Callable[[bytes], Any]) -> None:
    assert read(b'{"data": {"records": [{"id": 1}, {"id": 1}]}}') == {"data": {"records": [{"id": 1}, {"id": 1}]}}
    with pytest.raises(Refused, match="'id' twice") as refused:
        read(b'{"data": {"records": [{"id": 1, "id": 2}]}}')
    assert (refused.value.status, refused.value.code) == (400, "malformed_json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["specversion", "id", "source", "type", "data", "data_base64", "time", "expirytime", "x"])


@given(st.dictionaries(NAMES | st.text(), JSON) | JSON, st.booleans())
def test_any_json_is_an_event_or_refused(value: Any, completed: bool) -> None:
    if completed and isinstance(value, dict):
        value = event() | value
    assert status_of(lambda: from_structured(value)) in (202, 400, 404, 422)


@given(st.dictionaries(st.sampled_from(["ce-id", "ce-source", "ce-type", "ce-time", "ce-specversion"]), st.text()))
def test_any_headers_are_an_event_or_refused(found: dict[str, str]) -> None:
    assert status_of(lambda: from_binary(headers() | found, "application/json", b"{}")) in (202, 400, 404)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=5", 5),
        ("WAIT = 5", 5),
        ('wait="7"', 7),
        ("respond-async, wait=10; x=y", 10),
        ("wait=100000", 300),
        ("wait=0", 0),
        ("wait=soon", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait", None),
        ("", None),
    ],
)
def test_prefer_wait_is_read_and_cut(header: str, seconds: int | None) -> None:
    assert wished_seconds([header]) == seconds

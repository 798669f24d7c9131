"""Messages in all their shapes: what is read, on whose behalf, and what is refused."""

from __future__ import annotations

import base64
import gzip
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import ADMIN, Access, NotAuthenticated, Principal
from service.amqp.messages import BROKER, Message, Received, read
from service.event import Event
from service.intake import Refused
from service.signatures import sign

TOKEN = "the-token-of-these-tests"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of 32 bytes......").decode()
LIMIT = 100_000
DATA = {"connection": "shop"}
BODY = json.dumps(DATA).encode()
ACCESS = Access(TOKEN, {"n8n": f"standard:{SECRET}"})
STRUCTURED = {"specversion": "1.0", "id": "e", "source": "/tests", "type": "backup.requested", "data": DATA}
ATTRIBUTES = {"specversion": "1.0", "id": "e", "source": "/tests", "type": "backup.requested"}
READ = Event("e", "/tests", "backup", DATA)
PLAIN = Message(body=BODY, type="backup.requested", message_id="m-1", content_type="application/json")
PREFIXES = ("ce-", "cloudEvents:", "cloudEvents_")


def received(message: Message, *, trust_broker: bool = True) -> Received:
    return read(message, ACCESS, trust_broker=trust_broker, max_body_bytes=LIMIT)


def event(message: Message) -> Event:
    return received(message).event


def refusal(message: Message, *, trust_broker: bool = True) -> tuple[int, str, list[str]]:
    try:
        received(message, trust_broker=trust_broker)
    except Refused as refused:
        return refused.status, refused.code, [fault.pointer for fault in refused.faults]
    except NotAuthenticated as refused:
        return 401, refused.code, []
    pytest.fail("the message was read")


def binary(prefix: str = "ce-", **changes: Any) -> Message:
    headers = {f"{prefix}{name}": value for name, value in (ATTRIBUTES | changes).items()}
    return Message(body=BODY, headers=headers, content_type="application/json")


def signed(message: Message, *, secret: str = SECRET, off: float = 0) -> Message:
    stamp = int(time.time() + off)
    signature = sign([secret], "signed-1", stamp, message.body)
    shown = {"webhook-id": "signed-1", "webhook-timestamp": str(stamp), "webhook-signature": signature}
    return replace(message, headers={**message.headers, **shown})


# ---------------------------------------------------------------- CloudEvents


@pytest.mark.parametrize(
    "content_type",
    ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=UTF-8", "application/json", None, "x/y"],
)
def test_a_structured_event_is_known_by_its_type_or_its_specversion(content_type: str | None) -> None:
    assert event(Message(body=json.dumps(STRUCTURED).encode(), content_type=content_type)) == READ


def test_the_structured_type_admits_nothing_else() -> None:
    kind = "application/cloudevents+json"
    assert refusal(Message(body=BODY, content_type=kind))[:2] == (400, "invalid_event")
    assert refusal(Message(body=b"", content_type=kind))[:2] == (400, "invalid_event")
    assert refusal(Message(body=b"{", content_type=kind))[:2] == (400, "malformed_json")
    batch = Message(body=json.dumps([STRUCTURED]).encode(), content_type="application/cloudevents-batch+json")
    assert refusal(batch)[:2] == (400, "invalid_event")


@pytest.mark.parametrize("prefix", [*PREFIXES, "CE-", "cloudevents:", "CLOUDEVENTS_"])
def test_a_binary_event_is_read_by_every_prefix(prefix: str) -> None:
    assert event(binary(prefix)) == READ


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream", None])
def test_the_data_of_a_binary_event_is_json_whatever_it_is_called(content_type: str | None) -> None:
    assert event(replace(binary(), content_type=content_type)) == READ


def test_a_message_that_mixes_prefixes_is_refused() -> None:
    for one, other in (("ce-", "cloudEvents:"), ("cloudEvents:", "cloudEvents_"), ("cloudEvents_", "ce-")):
        mixed = replace(binary(one), headers={**binary(one).headers, f"{other}subject": "shop"})
        assert refusal(mixed)[:2] == (400, "invalid_event")


def test_an_attribute_given_twice_is_refused() -> None:
    twice = replace(binary(), headers={**binary().headers, "CE-ID": "other"})
    assert refusal(twice) == (400, "invalid_event", ["/id"])


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ("e-7", "e-7"),
        (b"e-7", "e-7"),
        (bytearray(b"e-7"), "e-7"),
        (7, "7"),
        (-7, "-7"),
        (True, "true"),
        (False, "false"),
    ],
)
def test_attributes_may_have_the_types_of_amqp(value: Any, id_: str) -> None:
    assert event(binary(id=value)).id == id_


def test_a_time_may_be_a_native_timestamp() -> None:
    late = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
    for value in (late, late.replace(tzinfo=None), "2026-11-21T03:00:00Z", b"2026-11-21T05:30:00+02:30"):
        assert event(binary(expirytime=value)).expires_at == 1795230000.0
        assert event(binary(time=value)).id == "e"


@pytest.mark.parametrize("value", [1.5, Decimal("1.5"), [], {}, ["x"], b"\xff", object()])
def test_attributes_of_other_types_are_refused(value: Any) -> None:
    assert refusal(binary(subject=value)) == (400, "invalid_event", ["/subject"])


def test_null_attributes_are_absent_ones() -> None:
    assert event(binary(subject=None)) == READ
    assert refusal(binary(id=None)) == (400, "invalid_event", ["/id"])


def test_a_binary_event_without_a_body_has_no_data() -> None:
    assert event(replace(binary(), body=b"")).data == {}
    assert refusal(replace(binary(), body=b"[]"))[:2] == (422, "invalid_request")


# ---------------------------------------------------------------- plain JSON


def test_the_type_property_names_the_event() -> None:
    found = received(PLAIN)
    assert found == Received(Event("m-1", "/flexdb/rabbitmq", "backup", DATA), BROKER, None)


def test_a_naked_message_of_n8n_is_named_by_its_routing_key() -> None:
    naked = Message(body=BODY, routing_key="backup.requested")
    first, second = event(naked), event(naked)
    assert (first.operation, first.data, first.source) == ("backup", DATA, "/flexdb/rabbitmq")
    assert len(first.id) > 8
    assert first.id != second.id


def test_property_before_header_before_routing_key() -> None:
    message = replace(PLAIN, headers={"Type": "check.requested"}, routing_key="restore.requested")
    assert event(message).operation == "backup"
    assert event(replace(message, type=None)).operation == "check"
    assert event(replace(message, type=None, headers={})).operation == "restore"


def test_what_names_no_request_is_refused() -> None:
    assert refusal(Message(body=BODY)) == (400, "invalid_event", ["/type"])
    assert refusal(Message(body=BODY, routing_key="backup.completed")) == (400, "invalid_event", ["/type"])
    assert refusal(Message(body=BODY, type="backup")) == (404, "unknown_operation", [])
    assert refusal(replace(PLAIN, type="backup.completed", routing_key="backup.requested"))[0] == 404


def test_the_id_is_the_header_else_the_field_else_the_property() -> None:
    keyed = json.dumps(DATA | {"idempotency_key": "field"}).encode()
    message = replace(PLAIN, body=keyed, headers={"Idempotency-Key": "header"})
    assert event(message).id == "header"
    assert event(replace(message, headers={})).id == "field"
    assert event(replace(message, headers={}, body=BODY)).id == "m-1"
    assert all(event(changed).data == DATA for changed in (message, replace(message, headers={})))
    assert event(replace(message, headers={"idempotency-key": b"bytes"})).id == "bytes"
    assert event(replace(PLAIN, body=b'{"idempotency_key": null}')).id == "m-1"


@pytest.mark.parametrize("key", [7, [], {}, True])
def test_an_idempotency_key_is_a_string(key: Any) -> None:
    body = json.dumps({"idempotency_key": key}).encode()
    assert refusal(replace(PLAIN, body=body)) == (422, "invalid_request", ["/idempotency_key"])


@pytest.mark.parametrize("body", [b"", b" \n", b"{}"])
def test_an_empty_body_is_an_empty_object(body: bytes) -> None:
    assert event(replace(PLAIN, body=body)).data == {}


@pytest.mark.parametrize("body", [b"[]", b"7", b'"text"', b"null", b"true"])
def test_a_plain_body_is_an_object(body: bytes) -> None:
    if body == b"null":
        assert event(replace(PLAIN, body=body)).data == {}
    else:
        assert refusal(replace(PLAIN, body=body))[:2] == (422, "invalid_request")


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"a": NaN}', b"<a/>", b"[" * 5000, b"\x00"])
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    assert refusal(replace(PLAIN, body=body))[:2] == (400, "malformed_json")


# ---------------------------------------------------------------- size and coding


def test_content_codings_are_undone() -> None:
    for coding, body in (
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
        (None, BODY),
        ("", BODY),
    ):
        assert event(replace(PLAIN, body=body, content_encoding=coding)).data == DATA


def test_other_codings_and_broken_ones_are_refused() -> None:
    assert refusal(replace(PLAIN, content_encoding="br")) == (415, "unsupported_media_type", [])
    assert refusal(replace(PLAIN, content_encoding="utf-8")) == (415, "unsupported_media_type", [])
    assert refusal(replace(PLAIN, content_encoding="gzip")) == (400, "bad_request", [])


def test_too_large_is_refused_packed_and_unpacked() -> None:
    large = json.dumps({"x": "a" * LIMIT}).encode()
    assert refusal(replace(PLAIN, body=large)) == (413, "too_large", [])
    assert refusal(replace(PLAIN, body=gzip.compress(large), content_encoding="gzip")) == (413, "too_large", [])


# ---------------------------------------------------------------- who asks


@pytest.mark.parametrize("trust_broker", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN}"},
        {"X-API-Key": TOKEN},
        {"x-api-key": TOKEN.encode()},
    ],
)
def test_a_token_in_a_header_is_the_administrators(headers: Mapping[str, Any], trust_broker: bool) -> None:
    for message in (replace(PLAIN, headers=headers), replace(binary(), headers={**binary().headers, **headers})):
        assert received(message, trust_broker=trust_broker).principal == ADMIN
    assert received(replace(PLAIN, headers=headers), trust_broker=trust_broker).event.source == "/flexdb/admin"


def test_a_token_in_the_body_of_a_plain_message_is_taken_out() -> None:
    body = json.dumps(DATA | {"api_key": TOKEN, "idempotency_key": "k"}).encode()
    found = received(replace(PLAIN, body=body), trust_broker=False)
    assert found == Received(Event("k", "/flexdb/admin", "backup", DATA), ADMIN, None)
    assert TOKEN not in repr(found)


def test_a_token_in_the_body_is_taken_out_also_where_a_header_speaks() -> None:
    body = json.dumps(DATA | {"api_key": "something"}).encode()
    assert event(replace(PLAIN, body=body, headers={"X-API-Key": TOKEN})).data == DATA
    assert event(replace(PLAIN, body=b'{"api_key": null}')) == Event("m-1", "/flexdb/rabbitmq", "backup", {})


@pytest.mark.parametrize("trust_broker", [True, False])
@pytest.mark.parametrize("wrong", ["wrong", "", 7, True, ["x"], {"a": 1}])
def test_a_wrong_token_is_refused_wherever_it_is(wrong: Any, trust_broker: bool) -> None:
    by_body = replace(PLAIN, body=json.dumps({"api_key": wrong}).encode())
    by_header = replace(PLAIN, headers={"X-API-Key": wrong})
    for message in (by_body, by_header):
        assert refusal(message, trust_broker=trust_broker) == (401, "invalid_token", [])
    bearer = replace(PLAIN, headers={"authorization": f"Bearer {wrong}"}, body=b"not even JSON")
    assert refusal(bearer, trust_broker=trust_broker) == (401, "invalid_token", [])


def test_without_a_credential_the_broker_vouches_or_nobody_does() -> None:
    for message in (PLAIN, binary(), Message(body=json.dumps(STRUCTURED).encode())):
        assert received(message).principal == BROKER
        assert refusal(message, trust_broker=False) == (401, "not_authenticated", [])


def test_a_header_that_is_null_is_absent() -> None:
    names = ("X-API-Key", "authorization", "webhook-id", "idempotency-key", "type")
    assert received(replace(PLAIN, headers=dict.fromkeys(names))) == received(PLAIN)


def test_a_signed_message_has_the_signers_rights_and_the_signed_id() -> None:
    keyed = replace(PLAIN, headers={"idempotency-key": "other"})
    found = received(signed(keyed), trust_broker=False)
    assert found.principal == Principal("n8n", "source")
    assert (found.event.id, found.event.source) == ("signed-1", "/flexdb/n8n")
    assert received(signed(binary())).event == READ
    packed = replace(PLAIN, body=gzip.compress(BODY), content_encoding="gzip")
    assert received(signed(packed)).event.data == DATA


@pytest.mark.parametrize("trust_broker", [True, False])
def test_a_wrong_signature_is_refused(trust_broker: bool) -> None:
    altered = replace(signed(PLAIN), body=b"{}")
    assert refusal(altered, trust_broker=trust_broker) == (401, "bad_signature", [])
    assert refusal(signed(PLAIN, secret=OTHER_SECRET), trust_broker=trust_broker) == (401, "bad_signature", [])
    assert refusal(signed(PLAIN, off=-1000), trust_broker=trust_broker) == (401, "stale_signature", [])
    half = replace(PLAIN, headers={"Webhook-Id": "x"})
    assert refusal(half, trust_broker=trust_broker) == (401, "missing_signature", [])


def test_no_message_shows_what_may_be_secret() -> None:
    message = replace(PLAIN, body=json.dumps({"api_key": TOKEN}).encode(), headers={"X-API-Key": TOKEN})
    assert TOKEN not in repr(message)
    with pytest.raises(NotAuthenticated) as refused:
        received(replace(PLAIN, headers={"X-API-Key": "nearly-" + TOKEN}))
    assert TOKEN not in f"{refused.value!r} {refused.value.detail}"


# ---------------------------------------------------------------- where the answer goes


def test_the_reply_address_is_carried_on() -> None:
    message = replace(PLAIN, reply_to="answers/ä", correlation_id="c 1")
    assert received(message).reply == "reply:answers%2F%C3%A4?correlation_id=c+1"
    assert received(replace(message, correlation_id=None)).reply == "reply:answers%2F%C3%A4"
    assert received(replace(message, reply_to=None)).reply is None
    assert received(replace(binary(), reply_to="q")).reply == "reply:q"


# ---------------------------------------------------------------- anything at all

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.binary(max_size=20).map(bytearray)
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
ATTRIBUTE_NAMES = [*ATTRIBUTES, "time", "expirytime", "subject", "datacontenttype", "dataschema", "data"]
HEADERS = st.sampled_from(
    [f"{prefix}{name}" for prefix in PREFIXES for name in ATTRIBUTE_NAMES]
    + ["authorization", "X-API-Key", "type", "idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["api_key", "idempotency_key", "data", *ATTRIBUTES]) | st.text(), inner)
    ),
    max_leaves=6,
)
TEXTS = st.none() | st.text(max_size=30)
MESSAGES = st.builds(
    Message,
    body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(HEADERS | st.text(max_size=10), VALUES, max_size=8),
    content_type=TEXTS | st.sampled_from(["application/json", "application/cloudevents+json"]),
    content_encoding=st.none() | st.sampled_from(["gzip", "deflate", "identity", "br"]) | st.text(max_size=9),
    type=TEXTS | st.just("backup.requested"),
    message_id=TEXTS,
    correlation_id=TEXTS,
    reply_to=TEXTS,
    routing_key=st.text(max_size=20) | st.just("check.requested"),
)


@given(MESSAGES, st.booleans(), st.booleans())
def test_any_message_is_an_event_or_refused(message: Message, trust_broker: bool, completed: bool) -> None:
    if completed:
        message = replace(message, headers={**binary().headers, **message.headers})
    assert outcome(message, trust_broker) in (202, 400, 401, 404, 413, 415, 422)


def outcome(message: Message, trust_broker: bool) -> int:
    try:
        found = received(message, trust_broker=trust_broker)
    except Refused as refused:
        return refused.status
    except NotAuthenticated:
        return 401
    return 202 if found.principal in (ADMIN, BROKER) and isinstance(found.event.data, dict) else 500

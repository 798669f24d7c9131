"""A dead letter: what of a message an operator may see, and what of it is sent again."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from service.jobs import iso

if TYPE_CHECKING:  # the doors show letters also where no RabbitMQ is configured, and its driver not imported
    from aiormq.abc import DeliveredMessage
    from pamqp.commands import Basic

OURS = "x-flexdb-"
BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""Headers the broker adds on the way; some of them change with every look."""
COPIES = frozenset({"cc", "bcc"})
"""Further routing keys: what they lead to has its copy since the first time."""
CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key", "webhook-signature"})
STRUCK = "***"
PERSISTENT = 2
REQUESTED = ".requested"
TYPE_HEADERS = ("ce-type", "cloudevents:type", "cloudevents_type", "type")
LARGEST_LOOKED_INTO = 1 << 20
"""A larger body is not parsed to find its type."""

_API_KEY = re.compile(rb'("api_key"\s*:\s*)(?:"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[^\s",}\]]+)', re.DOTALL)
"""Also in a body that is no JSON, at any depth, cut off or not in UTF-8: those are the ones that die."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message nobody could take. Credentials among its headers and in its body read `***`."""

    id: str
    """The first 16 hex digits of a SHA-256 over what the message says. It is the same on every look, and after a
    redrive that failed again. Equal messages share it: they are shown one by one, and redriven together."""
    message_id: str | None
    type: str | None
    operation: str | None
    exchange: str
    """Where it came in, and where it is sent again; empty for the broker's default exchange."""
    routing_key: str
    reason: str
    detail: str | None
    status: int | None
    """The HTTP status the same request would have been answered with."""
    dead_at: str | None
    bytes: int
    content_type: str | None
    headers: dict[str, Any]
    body: str | None = None
    """On `find` only: text, or base64 of what is not UTF-8."""
    body_encoding: str | None = None
    """`utf-8` or `base64`."""


def read_letter(message: DeliveredMessage, requests: str, *, with_body: bool = False) -> DeadLetter:
    """`requests` is the exchange and queue it is sent to when nothing says where it came in."""
    properties, headers = message.header.properties, message.header.properties.headers or {}
    death = _death(headers, requests)
    ours = {} if _text(death.get("queue")) == requests else _ours(headers)
    death = {} if ours else death
    routing_key = _routing_key(message, ours, death)
    kind = _type(message, routing_key)
    body, encoding = _shown_body(message.body) if with_body else (None, None)
    return DeadLetter(
        id=_id(message, routing_key),
        message_id=_text(properties.message_id),
        type=kind,
        operation=kind.removesuffix(REQUESTED) if kind and kind.endswith(REQUESTED) else None,
        exchange=ours.get("exchange", requests),
        routing_key=routing_key,
        reason=ours.get("reason") or _text(death.get("reason")) or "unknown",
        detail=ours.get("detail") or _deaths_detail(death),
        status=_status(ours.get("status")),
        dead_at=_moment(headers.get(f"{OURS}dead-at")) if ours else _moment(death.get("time")),
        bytes=len(message.body),
        content_type=_text(properties.content_type),
        headers=_shown(own_headers(headers)),
        body=body,
        body_encoding=encoding,
    )


def own_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Those its publisher gave it."""
    return {name: value for name, value in headers.items() if not name.lower().startswith((OURS, *BROKERS))}


def sent_again(message: DeliveredMessage) -> Basic.Properties:
    """Its properties for a redrive: as they were, without the marks of its death."""
    properties = copy.copy(message.header.properties)
    own = own_headers(properties.headers or {})
    properties.headers = {name: _writable(value) for name, value in own.items() if name.lower() not in COPIES}
    properties.delivery_mode = PERSISTENT
    properties.user_id = None  # the broker admits only our own user's name there
    return properties


def _writable(value: Any) -> Any:
    """A header that is text but not UTF-8 was read as bytes, which can be written as a byte array only."""
    match value:
        case bytes():
            return bytearray(value)
        case dict():
            return {name: _writable(inner) for name, inner in value.items()}
        case list():
            return [_writable(inner) for inner in value]
    return value


# ---------------------------------------------------------------- where from, and why


def _ours(headers: Mapping[str, Any]) -> dict[str, str]:
    """What FlexDB wrote on it. Where the broker put it here by itself these are its publisher's words: not believed."""
    if f"{OURS}reason" not in headers:
        return {}
    return {name[len(OURS) :]: _text(value) or "" for name, value in headers.items() if name.startswith(OURS)}


def _death(headers: Mapping[str, Any], queue: str) -> Mapping[str, Any]:
    """The broker's record of the death in our queue, else of the last one."""
    records = headers.get("x-death")
    tables = [record for record in records if isinstance(record, Mapping)] if isinstance(records, list) else []
    first = tables[0] if tables else {}
    return next((record for record in tables if _text(record.get("queue")) == queue), first)


def _deaths_detail(death: Mapping[str, Any]) -> str | None:
    if not death:
        return None
    return f"The broker took it out of the queue {_text(death.get('queue'))} {_text(death.get('count'))} times."


def _routing_key(message: DeliveredMessage, ours: Mapping[str, str], death: Mapping[str, Any]) -> str:
    if "routing-key" in ours:
        return ours["routing-key"]
    keys = death.get("routing-keys")
    return (_text(keys[0]) if isinstance(keys, list) and keys else message.routing_key) or ""


def _type(message: DeliveredMessage, routing_key: str) -> str | None:
    properties = message.header.properties
    named = {name.lower(): value for name, value in (properties.headers or {}).items()}
    known = [properties.message_type, *(named.get(name) for name in TYPE_HEADERS), _type_in(message.body)]
    known += [routing_key] if routing_key.endswith(REQUESTED) else []
    return next((found for value in known if (found := _text(value))), None)


def _type_in(body: bytes) -> str | None:
    """The type of a structured CloudEvent."""
    if b'"specversion"' not in body[:LARGEST_LOOKED_INTO] or len(body) > LARGEST_LOOKED_INTO:
        return None
    value = _json(body)
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _id(message: DeliveredMessage, routing_key: str) -> str:
    properties = message.header.properties
    said = [
        routing_key,
        properties.message_id,
        properties.message_type,
        properties.content_type,
        properties.reply_to,
        properties.correlation_id,
        own_headers(properties.headers or {}),
    ]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode())
    digest.update(b"\0" + message.body)
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- for the eye


def _shown(headers: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can hold it, credentials struck out."""
    return {name: STRUCK if _is_credential(name) else _plain(value) for name, value in headers.items()}


def _is_credential(name: str) -> bool:
    return name.lower().replace("_", "-") in CREDENTIALS


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping():
            return _shown({str(name): inner for name, inner in value.items()})
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case datetime():
            return _moment(value)
        case _:
            return _text(value)


def _shown_body(body: bytes) -> tuple[str, str]:
    struck = _strike_parsed(_API_KEY.sub(rb'\1"***"', body))
    try:
        return struck.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(struck).decode(), "base64"


def _strike_parsed(body: bytes) -> bytes:
    """A key written with escapes, or a value that is no plain one, is found only by parsing."""
    value = _json(body)
    if not isinstance(value, dict) or value.get("api_key") in (None, STRUCK):
        return body
    return json.dumps(value | {"api_key": STRUCK}, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _status(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _moment(value: Any) -> str | None:
    """A moment as RFC 3339, from whatever type the header has."""
    if isinstance(value, datetime):
        return iso((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return iso(float(value))
    return _text(value)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    return str(value)

"""A message from RabbitMQ becomes an event, who asks for it and where the answer goes, or is refused.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md (structured, and
the prefixes `cloudEvents:` and `cloudEvents_`) and
https://github.com/knative/eventing-rabbitmq (the prefix `ce-`, which the Python SDK uses too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiormq.abc import DeliveredMessage

from handlers.base import Fault
from service.access import SIGNATURE_HEADERS, Access, Principal
from service.bodies import decoded, media_type, parse, too_large
from service.cloudevents import BATCH, REQUESTED, STRUCTURED, from_attributes, from_structured, invalid
from service.event import Event
from service.intake import CONTROL, Refused
from service.jobs import new_id
from service.ledger.destinations import reply_url

PREFIXES = ("ce-", "cloudevents:", "cloudevents_")
BROKER = Principal("rabbitmq", "token")
"""Who asks when a message shows nothing itself: the broker's users and permissions let its publisher in."""


@dataclass(frozen=True, slots=True)
class Message:
    """What of a message says something. Headers and body may hold secrets and are not shown."""

    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    content_type: str | None = None
    content_encoding: str | None = None
    type: str | None = None
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    routing_key: str = ""

    @classmethod
    def of(cls, delivered: DeliveredMessage) -> Message:
        properties = delivered.header.properties
        return cls(
            body=delivered.body,
            headers=properties.headers or {},
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            type=properties.message_type,
            message_id=properties.message_id,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
            routing_key=delivered.routing_key or "",
        )

    def header(self, name: str) -> str | None:
        """A header as text, whatever the case of its name; null is absent."""
        found = (value for key, value in self.headers.items() if key.lower() == name and value is not None)
        return next((_text(value) for value in found), None)


@dataclass(frozen=True, slots=True)
class Received:
    """What a message asks for, on whose behalf, and where it wants the answer."""

    event: Event
    principal: Principal
    reply: str | None


@dataclass(frozen=True, slots=True)
class _Plain:
    """The JSON object of a plain message, without what is about the message and not about the work."""

    data: dict[str, Any]
    idempotency_key: str | None
    api_key: str | None = field(repr=False)


def read(message: Message, access: Access, *, trust_broker: bool, max_body_bytes: int) -> Received:
    """Raises `Refused`, `NotAuthenticated`."""
    if len(message.body) > max_body_bytes:
        raise too_large(max_body_bytes)
    principal = access.by_token(_credentials(message))  # a wrong token is told before the body is looked at
    body = decoded(message.content_encoding or "", message.body, max_body_bytes)
    value = parse(body) if body.strip() else None
    event = _cloudevent(message, value)
    if event is not None:
        return Received(event, principal or _without_token(message, access, trust_broker), _reply(message))
    plain = _plain({} if value is None else value)
    if principal is None and plain.api_key is not None:
        principal = access.by_token({"X-API-Key": plain.api_key})
    principal = principal or _without_token(message, access, trust_broker)
    return Received(_plain_event(message, plain, principal), principal, _reply(message))


def _credentials(message: Message) -> dict[str, str]:
    names = {"x-api-key": "X-API-Key", "authorization": "Authorization"} | {name: name for name in SIGNATURE_HEADERS}
    found = {known: message.header(name) for name, known in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _without_token(message: Message, access: Access, trust_broker: bool) -> Principal:
    shown = _credentials(message)
    if any(name in shown for name in SIGNATURE_HEADERS):
        return access.by_signature(shown, message.body)
    if not trust_broker:
        access.refuse()
    return BROKER


def _reply(message: Message) -> str | None:
    """Raises `Refused` for what no queue is called."""
    if not message.reply_to:
        return None
    for name, value in (("reply_to", message.reply_to), ("correlation_id", message.correlation_id or "")):
        if CONTROL.search(value):
            raise invalid(Fault(f"/{name}", f"The property {name} may hold no control character."))
    return reply_url(message.reply_to, message.correlation_id)


# ---------------------------------------------------------------- CloudEvents


def _cloudevent(message: Message, value: Any) -> Event | None:
    """The event of a message that is a CloudEvent, None for a plain one. `value` is the parsed body."""
    kind = media_type(message.content_type)
    if kind == BATCH:
        raise invalid(Fault("", "A message carries one event; send each of the batch as a message of its own."))
    if kind == STRUCTURED or (isinstance(value, dict) and "specversion" in value):
        return from_structured(value)
    attributes = _attributes(message.headers)
    return from_attributes(attributes, value) if attributes else None


def _attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The context attributes among the headers."""
    found: dict[str, Any] = {}
    used: set[str] = set()
    for header, value in headers.items():
        prefix = next((known for known in PREFIXES if header.lower().startswith(known)), None)
        if prefix is None:
            continue
        name = header[len(prefix) :].lower()
        if name in found:
            raise invalid(Fault(f"/{name[:100]}", "This attribute is given twice."))
        used.add(prefix)
        found[name] = _attribute(name, value)
    if len(used) > 1:
        raise invalid(Fault("", f"The headers mix prefixes: {', '.join(sorted(used))}; use one of them."))
    return found


def _attribute(name: str, value: Any) -> str | None:
    """An attribute's value in its text form, as the specification writes each type. Raises `Refused`."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
        case bytes() | bytearray():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise invalid(Fault(f"/{name[:100]}", "The header is not UTF-8.")) from None
    raise invalid(Fault(f"/{name[:100]}", "Attributes are strings, whole numbers, booleans or timestamps."))


# ---------------------------------------------------------------- plain JSON


def _plain(value: Any) -> _Plain:
    if not isinstance(value, dict):
        detail = "The body of a plain message is a JSON object."
        raise Refused(422, "invalid_request", detail, (Fault("", detail),))
    data = dict(value)
    api_key, idempotency_key = data.pop("api_key", None), data.pop("idempotency_key", None)
    if not isinstance(idempotency_key, str | None):
        fault = Fault("/idempotency_key", "This is a string, or left out.")
        raise Refused(422, "invalid_request", f"The request is not valid: {fault.detail}", (fault,))
    return _Plain(data, idempotency_key, None if api_key is None else str(api_key))


def _plain_event(message: Message, plain: _Plain, principal: Principal) -> Event:
    signed_id = message.header("webhook-id") if principal.kind == "source" else None
    chosen = signed_id or message.header("idempotency-key") or plain.idempotency_key or message.message_id
    return Event(chosen or new_id(), principal.source, _operation(message), plain.data)


def _operation(message: Message) -> str:
    by_routing = message.routing_key if message.routing_key.endswith(REQUESTED) else None
    kind = message.type or message.header("type") or by_routing
    if not kind:
        raise invalid(
            Fault("/type", "Nothing says what is asked for: set the message's type, like backup.requested, or its key.")
        )
    if not kind.endswith(REQUESTED):
        raise Refused(404, "unknown_operation", "The type of a message that asks for work is <operation>.requested.")
    return kind.removesuffix(REQUESTED)


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else str(value)

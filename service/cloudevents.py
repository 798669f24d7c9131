"""CloudEvents, whichever door they came by: the JSON format, or attributes beside data, become `Event`s.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from handlers.base import Fault
from service.bodies import is_json, media_type, parse
from service.event import Event
from service.intake import FAULTS_TOLD, Refused, escaped

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
REQUESTED = ".requested"
REQUIRED = ("specversion", "id", "source", "type")
ATTRIBUTE = re.compile(r"[a-z0-9]+")
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def from_structured(value: Any) -> Event:
    """An event of the JSON format. Raises `Refused`."""
    if not isinstance(value, dict):
        raise invalid(Fault("", "A CloudEvent is a JSON object."))
    attributes = {name: item for name, item in value.items() if name not in ("data", "data_base64")}
    data, encoded = value.get("data"), value.get("data_base64")
    if encoded is None:
        return from_attributes(attributes, data)
    if data is not None:
        raise invalid(Fault("/data_base64", "An event has data or data_base64, not both."))
    return from_attributes(attributes, _decoded(encoded))


def _decoded(text: Any) -> Any:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise invalid(Fault("/data_base64", "This is not base64.")) from None
    return parse(decoded) if decoded.strip() else None


def from_attributes(attributes: dict[str, Any], data: Any) -> Event:
    """An event of its context attributes and its data, both parsed. Raises `Refused`."""
    attributes = {name: value for name, value in attributes.items() if value is not None}
    faults = [fault for name in REQUIRED if (fault := _required(attributes, name))]
    others = ((name, value) for name, value in attributes.items() if name not in REQUIRED)
    faults += [fault for name, value in others if (fault := _odd(name, value))]
    expires_at, time_faults = _times(attributes)
    faults += time_faults
    if faults:
        raise invalid(*faults)
    if data is not None and not isinstance(data, dict):
        raise Refused(
            422,
            "invalid_request",
            "The data of an event is a JSON object.",
            (Fault("", "This must be an object."),),
        )
    return Event(
        id=attributes["id"],
        source=attributes["source"],
        operation=_operation(attributes["type"]),
        data=data or {},
        expires_at=expires_at,
    )


def _required(attributes: Mapping[str, Any], name: str) -> Fault | None:
    value = attributes.get(name)
    if not isinstance(value, str) or not value:
        return Fault(f"/{name}", f"The attribute {name} is required, a string that is not empty.")
    if name == "specversion" and value != "1.0":
        return Fault("/specversion", "Only CloudEvents 1.0 is understood.")
    if name == "source" and re.search(r"[\s<>\"{}|\\^`]", value):
        return Fault("/source", "The source is a URI reference; percent-encode what is special.")
    return None


def _odd(name: str, value: Any) -> Fault | None:
    """What is wrong with an attribute that may be left out, or with its name."""
    if not ATTRIBUTE.fullmatch(name) or isinstance(value, dict | list | float):
        told = "Attribute names hold only a-z and 0-9; values are strings, whole numbers or booleans."
        return Fault(f"/{escaped(name[:100])}", told)
    if name in ("subject", "dataschema") and not (isinstance(value, str) and value):
        return Fault(f"/{name}", f"The attribute {name} is a string that is not empty, or left out.")
    if name == "datacontenttype" and not (isinstance(value, str) and is_json(media_type(value))):
        return Fault("/datacontenttype", "The data of an event is JSON: application/json.")
    return None


def _times(attributes: Mapping[str, Any]) -> tuple[float | None, list[Fault]]:
    faults, found = [], dict[str, float]()
    for name in ("time", "expirytime"):
        if name in attributes:
            try:
                found[name] = _timestamp(attributes[name])
            except (TypeError, ValueError, OverflowError):
                faults.append(Fault(f"/{name}", "This is an RFC 3339 timestamp, like 2026-11-21T03:00:00Z."))
    return found.get("expirytime"), faults


def _timestamp(text: str) -> float:
    """Seconds since the epoch. Raises `TypeError`, `ValueError` or `OverflowError`."""
    shape = RFC_3339.fullmatch(text)
    if shape is None:
        raise ValueError
    if shape[1] == "60":  # a leap second, which Python does not know
        text = f"{text[:17]}59{text[19:]}"
    return datetime.fromisoformat(text.upper()).timestamp()


def _operation(kind: str) -> str:
    if not kind.endswith(REQUESTED):
        raise Refused(404, "unknown_operation", "The type of an event that asks for work is <operation>.requested.")
    return kind.removesuffix(REQUESTED)


def invalid(*faults: Fault) -> Refused:
    """400: what is wrong with the event itself, not with its data."""
    return Refused(400, "invalid_event", f"The event is not valid: {faults[0].detail}", faults[:FAULTS_TOLD])

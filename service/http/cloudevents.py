"""CloudEvents in HTTP's binary mode: attributes are headers, the body is the data.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from handlers.base import Fault
from service.bodies import is_json, parse
from service.cloudevents import from_attributes, invalid
from service.event import Event
from service.intake import Refused


def from_binary(headers: Mapping[str, str], media_type: str, body: bytes) -> Event:
    """An event whose attributes are `ce-…` headers. Raises `Refused`."""
    attributes: dict[str, Any] = {}
    for name, value in headers.items():
        if name.lower().startswith("ce-"):
            attributes[name[3:].lower()] = _header_value(name, value)
    if "datacontenttype" in attributes:
        raise invalid(Fault("/datacontenttype", "In binary mode Content-Type says this; leave the header out."))
    if media_type and not is_json(media_type):
        raise Refused(415, "unsupported_media_type", "The data of an event is JSON: Content-Type: application/json.")
    return from_attributes(attributes, parse(body) if body.strip() else None)


def _header_value(name: str, value: str) -> str:
    """Percent-decoded and unquoted, as the binding says; invalid UTF-8 is refused."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        raise invalid(Fault(f"/{name[3:].lower()}", "The header is not UTF-8.")) from None

"""Named sources of records, built from settings: a URL, or JSON with headers that may hold secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from yarl import URL

from engines.errors import InvalidTarget
from handlers.supplies import Feed

_HINT = 'Set FLEXDB_FEEDS__NAME to a URL, or to JSON: {"url": "https://…", "headers": {"Authorization": "Bearer …"}}.'
_HEADER_NAME = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
_HEADER_VALUE = re.compile(r"^[\t\x20-\x7e\x80-\xff]*$")
_PRINTABLE = re.compile(r"^[\x21-\x7e]+$")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
"""Headers that say how one request is sent, which is not the source's to choose."""


class NamedFeeds:
    """The port `handlers.supplies.Feeds`. Values are read once, at start; a bad one is told when it is used."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._feeds: dict[str, Feed] = {}
        self.faults: dict[str, str] = {}
        """What is wrong with those that cannot be used; no part of their values is in it."""
        for name, value in values.items():
            try:
                self._feeds[name] = _feed(value)
            except ValueError as error:
                self.faults[name] = str(error)

    def names(self) -> list[str]:
        return sorted({*self._feeds, *self.faults})

    def feed(self, name: str) -> Feed:
        if name in self.faults:
            raise InvalidTarget(f"The source {name!r} cannot be used: {self.faults[name]}", hint=_HINT)
        found = self._feeds.get(name)
        if found is None:
            known = ", ".join(self.names()) or "none"
            raise InvalidTarget(f"There is no source {name!r}; configured are: {known}.", hint=_HINT)
        return found


def _feed(value: str) -> Feed:
    """Raises `ValueError` with a sentence that repeats nothing of the value."""
    text = value.strip()
    if not text.startswith("{"):
        return Feed(_url(text))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it begins like JSON and is none.") from None  # the cause would quote it
    url = found.pop("url", None)
    if not isinstance(url, str):
        raise ValueError("its JSON has no text `url`.")  # noqa: TRY004  all faults of a value are alike here
    return Feed(_url(url), _headers(found.pop("headers", None) or {}), found)


def _url(text: str) -> str:
    try:
        url = URL(text, encoded=True)
        usable = url.scheme in ("http", "https") and bool(url.raw_host) and url.port is not None
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("its URL is not one of http:// or https:// with a host.")
    if not _PRINTABLE.match(text):
        raise ValueError("its URL may hold printable ASCII characters only; percent-encode all others.")
    return text


def _headers(found: Any) -> dict[str, str]:
    if not isinstance(found, dict):
        raise ValueError("its `headers` are not a JSON object.")  # noqa: TRY004  all faults of a value are alike here
    for name, value in found.items():
        if not _HEADER_NAME.match(name):
            raise ValueError("one of its `headers` has a name that HTTP does not allow.")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name} is set by FlexDB itself.")
        if not isinstance(value, str) or not _HEADER_VALUE.match(value):
            raise ValueError(f"the header {name} is not a text, or holds line breaks or characters beyond Latin-1.")
    return dict(found)

"""What is said of a source that did not answer as it should: host, status, a cleaned word of its own; no secret."""

from __future__ import annotations

import http
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, unquote

from yarl import URL

from engines.errors import SourceFailed, SourceUnavailable

EXCERPT = 200
"""Characters of a source's own words that are passed on."""
_SHORTEST_SECRET = 4
_WORDS = ("detail", "message", "error", "title", "description", "error_description", "reason")
_QUERY = re.compile(r"\?[^\s\"'<>]+")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_AGAIN = frozenset({408, 425, 429, *range(500, 600)})


class Again(Exception):
    """This attempt came to nothing, another may do better. `error` is raised when there is no other.

    `wait` is what the source asked for in seconds, if anything; `busy` says that it has too much to do.
    """

    def __init__(self, error: SourceFailed, wait: float | None = None, *, busy: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait
        self.busy = busy


def host_of(url: URL) -> str:
    """Host, and port where one is named: enough to know which source is meant."""
    host = url.host or "the source"
    host = f"[{host}]" if ":" in host else host
    return host if url.explicit_port is None else f"{host}:{url.explicit_port}"


def status_failure(url: URL, status: int, wait: float | None, said: str) -> SourceFailed | Again:
    """For an answer that is neither 2xx nor a redirect; `said` is its `excerpt`."""
    words = f"{host_of(url)} answered {status} {_phrase(status)}"
    message = f'{words}; it says: "{said}"' if said else f"{words}."
    details = {"host": host_of(url), "http_status": status}
    if status not in _AGAIN:
        return SourceFailed(message, hint=_HINTS.get(status), details=details)
    return Again(SourceUnavailable(message, details=details), wait, busy=status in (429, 503))


_HINTS = {
    401: "The source wants to know who asks: name a source that is configured with its headers (FLEXDB_FEEDS__NAME).",
    403: "The source does not allow this to whom the configured headers belong.",
    404: "There is nothing at this URL: correct the source's URL.",
}


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "(an unknown status)"


def secrets_of(urls: Iterable[URL], headers: Mapping[str, str]) -> list[str]:
    """What must not be repeated: values of headers and of queries, user names and passwords, raw and decoded."""
    found: set[str] = set()
    for value in headers.values():
        found.update((value, *value.split()))
    for url in urls:
        raw = url.raw_query_string
        found.update(
            (raw, unquote(raw), url.raw_user or "", url.user or "", url.raw_password or "", url.password or "")
        )
        for _, value in parse_qsl(raw):
            found.add(value)
        found.update(part.partition("=")[2] for part in raw.split("&"))
    return sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len, reverse=True)


def excerpt(content_type: str, body: bytes, secrets: Iterable[str]) -> str:
    """The beginning of an error's text on one line; empty unless it is plain text or JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json")
    if not is_json and kind != "text/plain":
        return ""
    text = body.decode("utf-8", "replace")
    if is_json:
        text = _told(text) or text
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _BLANK.sub(" ", _QUERY.sub("?***", text)).strip()
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def _told(text: str) -> str | None:
    """The sentence in a JSON error, where it has one in a usual place."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    if not isinstance(found, dict):
        return None
    return next((found[name] for name in _WORDS if isinstance(found.get(name), str) and found[name]), None)

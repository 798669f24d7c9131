"""Where events go: which subscriptions a type matches, which host a URL leads to, how a reply queue is written."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

REPLY = "reply:"
HOST_LENGTH = 300
"""More than a name of DNS and a port can have; a longer one must not burst an index."""


def matches(patterns: Sequence[str], event_type: str) -> bool:
    """Whether a pattern fits. `*` stands for one word (`backup.*`, `*.failed`), alone for everything."""
    words = event_type.split(".")
    return any(pattern == "*" or _fits(pattern.split("."), words) for pattern in patterns)


def _fits(pattern: Sequence[str], words: Sequence[str]) -> bool:
    return len(pattern) == len(words) and all(
        wanted in ("*", word) for wanted, word in zip(pattern, words, strict=True)
    )


def host_of(url: str) -> str:
    """Host, with the port where the URL has one, without user or password: what deliveries share room by.

    Never raises: a URL that makes no sense must not keep its job from ending.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "invalid"
    return parts.netloc.rpartition("@")[2].lower()[:HOST_LENGTH] or "invalid"


def reply_url(queue: str, correlation_id: str | None = None) -> str:
    """A message's `reply_to` and `correlation_id` as one text, kept among a job's callbacks."""
    query = "" if correlation_id is None else "?" + urlencode({"correlation_id": correlation_id})
    return REPLY + quote(queue, safe="") + query


def reply_parts(url: str) -> tuple[str, str | None]:
    """Queue and correlation id of a `reply_url`. Raises `ValueError` for any other text."""
    if not url.startswith(REPLY):
        raise ValueError("this is no reply address")
    queue, _, query = url.removeprefix(REPLY).partition("?")
    found = parse_qs(query, keep_blank_values=True, max_num_fields=1)
    return unquote(queue), found["correlation_id"][0] if found else None

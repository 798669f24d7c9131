"""Where events go: which subscriptions a type matches, which host a URL leads to."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit


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
    return parts.netloc.rpartition("@")[2].lower() or "invalid"

"""URLs of further pages: links in headers and bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urljoin, urlsplit, urlunsplit

_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[^\s=;,]+(?:\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s;,\"]*))?)*)")
_PARAMETER = re.compile(r";\s*([^\s=;,]+)(?:\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]*)))?")


def next_in_header(link: str) -> str | None:
    """The target of rel=next in a `Link` header (RFC 8288), as it stands there; None without one."""
    for target, parameters in _LINK.findall(link):
        for name, quoted, bare in _PARAMETER.findall(parameters):
            if name.lower() == "rel":
                if "next" in (quoted or bare).lower().split():
                    return str(target)
                break  # RFC 8288: only the first rel counts
    return None


def looks_like_link(value: object) -> bool:
    """Whether a member's value is a URL, whole or in part, and no mere cursor."""
    if not isinstance(value, str) or not value or any(sign.isspace() for sign in value):
        return False
    return value.startswith(("http://", "https://", "/", "?", "./")) or ("=" in value.strip("=") and "?" in value)


def followed(url: str, link: str) -> str:
    """Where a link of the answer from `url` leads; a mere query goes to the same place."""
    return urljoin(url, link).partition("#")[0]


def without_known(link: str, asked: str) -> str:
    """A link without those parameters of its query that the URL asked for has too: secrets of a feed may be there."""
    known = set(parse_qsl(urlsplit(asked).query, keep_blank_values=True))
    parts = urlsplit(link)
    left = [pair for pair in parts.query.split("&") if pair and not _pair(pair) & known]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join(left), ""))


def with_known(link: str, asked: str) -> str:
    """A link from `without_known` made whole again, with the parameters of the same URL."""
    parts, query = urlsplit(link), urlsplit(asked).query
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    back = [pair for pair in query.split("&") if pair and not {name for name, _ in _pair(pair)} & names]
    own = [parts.query] if parts.query else []
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join([*own, *back]), ""))


def _pair(text: str) -> set[tuple[str, str]]:
    return set(parse_qsl(text, keep_blank_values=True))


def number_in_query(url: str, names: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of these parameters (names in lower case) whose value is a number, with it."""
    for name, value in parse_qsl(urlsplit(url).query):
        if name.lower() in names and value.isdecimal() and len(value) < 16:
            return name, int(value)
    return None


def total_in_headers(headers: Mapping[str, str]) -> int | None:
    """How many records there are in all, as `X-Total-Count` and the like, or `Content-Range: items 0-9/95`, say."""
    for name in ("x-total-count", "x-total", "total-count"):
        if (value := headers.get(name, "").strip()).isdecimal() and len(value) < 16:
            return int(value)
    total = headers.get("content-range", "").rpartition("/")[2].strip()
    return int(total) if total.isdecimal() and len(total) < 16 else None

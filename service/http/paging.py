"""Lists by HTTP: `{"data": […], "next_cursor": …}` and a Link to the next page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from handlers.base import Fault
from service.intake import Refused
from service.ledger.records import Page

LONGEST_PAGE = 500


def wished_limit(query: Mapping[str, str], default: int = 50) -> int:
    """`limit` of a query, 1 to 500. Raises `Refused` (422)."""
    text = query.get("limit", str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= LONGEST_PAGE:
        detail = f"limit is a whole number from 1 to {LONGEST_PAGE}."
        raise Refused(422, "invalid_request", detail, (Fault("/limit", detail),))
    return int(text)


def refuse_unknown(name: str, value: str | None, known: Iterable[str]) -> None:
    """Raises `Refused` (422) for a filter that can match nothing because of a typing error."""
    if value is not None and value not in (names := tuple(known)):
        detail = f"{name} is one of {', '.join(names)}."
        raise Refused(422, "invalid_request", f"The filter {detail}", (Fault(f"/{name}", detail),))


def page_response(
    request: web.Request,
    page: Page,
    shown: Callable[[Any], Any],
    *,
    encode: Callable[[Any], str] = json.dumps,
) -> web.Response:
    headers = {}
    if page.next_cursor is not None:
        following = request.rel_url.update_query(cursor=page.next_cursor)
        headers["Link"] = f'<{following}>; rel="next"'
    body = {"data": [shown(item) for item in page.items], "next_cursor": page.next_cursor}
    return web.json_response(body, headers=headers, dumps=encode)

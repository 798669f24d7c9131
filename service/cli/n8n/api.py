"""n8n over HTTP as the commands use it: its public API, and webhooks of its workflows."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from service.cli.client import shown_url
from service.cli.exits import CommandError
from service.cli.session import Session, limits, reason

ANSWER_SECONDS = 30.0
PAGE = 100
ANSWER_BYTES = 100_000_000
SAID_SIGNS = 500
SECRETS = frozenset({"value", "hmacSecret", "password"})
"""Fields of credentials that are shown to nobody, not even when n8n's own message repeats them."""
NOT_N8N = "what answers is not n8n"
REGISTERED_SECONDS = 20.0
"""A webhook answers 404 for a moment after its workflow was published."""
SCOPES = (
    "workflow list, read, create, update, delete, activate, deactivate; credential list, create, update, delete; "
    "tag list, create; workflowTags list, update; execution list, read, stop"
)


class N8nAway(CommandError):
    """n8n does not answer, or what answers is not n8n."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"n8n at {shown_url(url)} does not answer ({reason}).",
            "Start it, or say with --url where it runs.",
        )


class N8nRefused(CommandError):
    """n8n answered with an error; `said` is its own message."""

    def __init__(self, status: int, message: str, hint: str = "", said: str = "") -> None:
        self.status = status
        self.said = said
        super().__init__(message, hint)


class N8n(Session):
    """One n8n. Raises `N8nAway` or `N8nRefused`; no text of these ever holds the key."""

    def __init__(self, url: str, api_key: str) -> None:
        super().__init__(url, {}, ANSWER_SECONDS)
        self._api_key = api_key
        self._hidden = {api_key, *_password(url)}

    def hide(self, *secrets: str) -> None:
        """From now on no error repeats these, whatever n8n says."""
        self._hidden |= {secret for secret in secrets if secret}

    async def greet(self) -> None:
        """Returns when n8n answers and takes the key; raises what is wrong otherwise."""
        try:
            page = await self.call("GET", "/workflows", params={"limit": 1})
        except N8nRefused as error:
            if error.status in {404, 405} or (400 <= error.status < 500 and not error.said):
                raise N8nRefused(
                    error.status,
                    f"{shown_url(self.url)} has no public API of n8n.",
                    "Look at --url; in n8n the API must not be switched off (N8N_PUBLIC_API_DISABLED).",
                ) from error
            raise
        if not _is_page(page):
            raise N8nAway(self.url, NOT_N8N)

    async def call(self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """One call of the public API, `/api/v1` left out; the JSON that it answered, None for an empty body."""
        if isinstance(body, Mapping) and isinstance(body.get("data"), Mapping):
            self.hide(*(str(value) for name, value in body["data"].items() if name in SECRETS))
        status, text = await self._send(
            method, f"/api/v1{path}", body, params=params, headers={"X-N8N-API-KEY": self._api_key}
        )
        if status >= 300:
            raise self._refused(status, text, f"{method} /api/v1{path}")
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError) as error:
            raise N8nAway(self.url, NOT_N8N) from error

    async def all(self, path: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Every item of a listing, over all its pages."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            asked = {"limit": PAGE, **(params or {})} | ({"cursor": cursor} if cursor else {})
            page = await self.call("GET", path, params=asked)
            if not _is_page(page) or (cursor and page.get("nextCursor") == cursor):
                raise N8nAway(self.url, NOT_N8N)
            items += page["data"]
            cursor = page.get("nextCursor")
            if not cursor:
                return items

    async def webhook(self, path: str, headers: Mapping[str, str], seconds: float) -> tuple[int, bytes]:
        """POST to a published workflow's webhook, once it is registered; status and body of its answer."""
        loop = asyncio.get_running_loop()
        end = loop.time() + REGISTERED_SECONDS
        while True:
            status, text = await self._send("POST", f"/webhook/{path}", {}, headers=headers, seconds=seconds)
            if status != 404 or b"is not registered" not in text or loop.time() > end:
                return status, text
            await asyncio.sleep(0.2)

    async def _send(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> tuple[int, bytes]:
        try:
            async with self._request(
                method,
                path,
                params,
                json=body,
                headers=headers,
                timeout=limits(seconds),
                skip_auto_headers=("Content-Type",) if body is None else (),  # n8n refuses a type of nothing
            ) as response:
                return response.status, await self._read(response)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise CommandError("--url is not a URL.", "Write it like http://127.0.0.1:5678.") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:  # some are ValueErrors, too
            raise N8nAway(self.url, reason(error)) from error
        except ValueError as error:
            raise CommandError("The API key cannot be sent: it holds signs that no key has.") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        text = bytearray()
        async for chunk in response.content.iter_chunked(1 << 18):
            text += chunk
            if len(text) > ANSWER_BYTES:
                raise N8nAway(self.url, "its answer does not end")
        return bytes(text)

    def _refused(self, status: int, text: bytes, what: str) -> N8nRefused:
        said = self._shown(_message(text))
        if status == 401:
            return N8nRefused(
                status, "n8n does not take the API key.", "Make one in n8n under Settings > n8n API.", said
            )
        if status == 403:
            hint = f"Give it these scopes in n8n under Settings > n8n API: {SCOPES}."
            return N8nRefused(status, f"n8n's API key may not do {what}.", hint, said)
        if 300 <= status < 400:
            return N8nRefused(status, f"{shown_url(self.url)} leads on to another address.", "Give that as --url.")
        return N8nRefused(status, f"n8n answered {what} with {status}: {said or 'nothing'}", "", said)

    def _shown(self, said: str) -> str:
        for secret in sorted(self._hidden, key=len, reverse=True):
            said = said.replace(secret, "***")
        return said if len(said) <= SAID_SIGNS else f"{said[:SAID_SIGNS]}…"


def _is_page(found: Any) -> bool:
    rows = found.get("data") if isinstance(found, dict) else None
    return isinstance(rows, list) and all(isinstance(row, dict) and {"id", "name"} <= set(row) for row in rows)


def _password(url: str) -> list[str]:
    """That in the URL: as written, as meant, and as it is sent with the user's name."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    if not parts.password:
        return []
    user, password = unquote(parts.username or ""), unquote(parts.password)
    return [parts.password, password, b64encode(f"{user}:{password}".encode()).decode()]


def _message(text: bytes) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(found.get("message", "")) if isinstance(found, dict) else ""

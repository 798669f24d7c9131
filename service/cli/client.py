"""The service over HTTP, as commands use it: JSON calls, pages, event streams, downloads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

from service.cli.exits import CommandError, NotReachable, Refused
from service.cli.session import Session, limits, reason
from service.cli.stream import EventStream, Message
from service.settings import Settings

T = TypeVar("T")
ANSWER_SECONDS = 60.0
QUIET_SECONDS = 60.0
"""A stream silent for so long is opened anew."""
STORED_SECONDS = 600.0
"""After the last byte of an upload the service writes to disk what the system had kept in memory."""
NOT_SHOWN = "No token was sent: set FLEXDB_TOKEN, or FLEXDB_HOME to the folder where the service keeps its token."
NOT_TAKEN = "FLEXDB_TOKEN or FLEXDB_HOME/token is not this service's; compare FLEXDB_URL and FLEXDB_HOME."


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer whose body was JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


class NoStream(Exception):
    """The service has no event stream at that address."""


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, `given` ones first. Raises `CommandError` that shows no value."""
    from pydantic import ValidationError

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        wrong = [f"FLEXDB_{'__'.join(str(part) for part in item['loc']).upper()}: {item['msg']}" for item in found]
        raise CommandError(
            "Settings cannot be used: " + "; ".join(wrong), "See .env.example for each setting."
        ) from None


def find_token(settings: Settings) -> str | None:
    """FLEXDB_TOKEN, else what the service wrote into its folder; None when there is neither."""
    if settings.token is not None:
        return settings.token.get_secret_value()
    try:
        return (settings.home / "token").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


class ServiceClient(Session):
    """One service. Raises `NotReachable` when it does not answer, `Refused` for every error it answers."""

    def __init__(self, url: str, token: str | None) -> None:
        super().__init__(url, {"Authorization": f"Bearer {token}"} if token else {}, ANSWER_SECONDS)
        self._token = token

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call; `params` that are None are left out."""
        async with self._open(method, path, params=params, body=body, headers=headers) as response:
            return Answer(response.status, response.headers.copy(), await _json(response))

    async def pages(self, path: str, limit: int, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Up to `limit` items of a listing, over as many pages as it takes."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(items) < limit:
            asked = {**params, "limit": min(limit - len(items), 100), "cursor": cursor}
            page = (await self.call("GET", path, params=asked)).body
            items += page["data"]
            cursor = page.get("next_cursor")
            if not cursor:
                break
        return items[:limit]

    async def stream(self, path: str, last_id: str) -> AsyncGenerator[Message]:
        """Messages until the service closes the stream. Raises `NoStream` where there is none."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            async with self._open("GET", path, headers=headers, timeout=limits(None, QUIET_SECONDS)) as response:
                if response.content_type != "text/event-stream":
                    raise NoStream(path)
                stream = EventStream()
                async for chunk in response.content.iter_any():
                    for message in stream.feed(chunk):
                        yield message
        except Refused as error:
            if error.status in {404, 405, 406, 501}:
                raise NoStream(path) from error
            raise

    async def download(
        self, path: str, write: Callable[[bytes], object], params: Mapping[str, Any] | None = None
    ) -> Mapping[str, str]:
        """Pass the body's chunks to `write`; the answer's headers."""
        async with self._open("GET", path, params=params, timeout=limits(None, QUIET_SECONDS)) as response:
            async for chunk in response.content.iter_chunked(1 << 18):
                write(chunk)
            return response.headers.copy()

    async def upload(
        self, path: str, chunks: AsyncIterator[bytes], size: int, params: Mapping[str, Any] | None = None
    ) -> Answer:
        """PUT exactly `size` bytes as they are."""
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        how: dict[str, Any] = {"data": chunks, "headers": headers, "timeout": limits(None, STORED_SECONDS)}
        async with self._open("PUT", path, params=params, **how) as response:
            return Answer(response.status, response.headers.copy(), await _json(response))

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        **how: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`how` is aiohttp's."""
        try:
            async with self._request(method, path, params, json=body, **how) as response:
                if response.status >= 300:
                    raise await self._refused(response)
                yield response
        except aiohttp.InvalidURL as error:
            raise CommandError("FLEXDB_URL is not a URL.", "Write it like http://127.0.0.1:8080.") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            raise NotReachable(shown_url(self.url), reason(error), sent=sent) from error

    async def _refused(self, response: aiohttp.ClientResponse) -> Refused:
        try:
            problem = await _json(response)
        except CommandError:
            problem = {}
        hint = ""
        if response.status == 401:
            hint = NOT_TAKEN if self._token else NOT_SHOWN
        return Refused(response.status, problem if isinstance(problem, dict) else {}, hint)


async def _json(response: aiohttp.ClientResponse) -> Any:
    text = await response.read()
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(
            f"{shown_url(str(response.url))} answered {response.status} with something else than JSON.",
            "FLEXDB_URL seems to lead to another program.",
        ) from error


def shown_url(url: str) -> str:
    """A URL without user and password."""
    scheme, separator, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return scheme + separator + place.rpartition("@")[2] + slash + path


def with_service(work: Callable[[ServiceClient], Awaitable[T]], settings: Settings | None = None) -> T:
    """Run `work` with a client of the configured service."""
    settings = settings or load_settings()

    async def call() -> T:
        async with ServiceClient(settings.service_url, find_token(settings)) as service:
            return await work(service)

    return asyncio.run(call())

"""One HTTP session as commands use it: opened and closed with its context, no redirects, failures in plain words."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

import aiohttp

from service import __version__

CONNECT_SECONDS = 5.0
Answering = AbstractAsyncContextManager[aiohttp.ClientResponse]


class Session:
    """Asks one server. Used as a context; aiohttp's errors come through."""

    def __init__(self, url: str, headers: Mapping[str, str], seconds: float) -> None:
        """`seconds` is how long an answer may take unless a request says otherwise."""
        self.url = url.rstrip("/")
        self._headers = {"User-Agent": f"flexdb/{__version__}", **headers}
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=limits(self._seconds))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def _request(self, method: str, path: str, params: Mapping[str, Any] | None, **how: Any) -> Answering:
        """An answer as a context; `params` that are None are left out, `how` is aiohttp's."""
        assert self._session is not None, "use it as an async context"  # noqa: S101  a programmer's slip, not an input
        query = {name: str(value) for name, value in (params or {}).items() if value is not None}
        return self._session.request(method, self.url + path, params=query, allow_redirects=False, **how)


def limits(total: float | None, silence: float | None = None) -> aiohttp.ClientTimeout:
    """How many seconds all of an answer may take, and how many may pass without a byte of it."""
    return aiohttp.ClientTimeout(total=total, sock_connect=CONNECT_SECONDS, sock_read=silence)


def reason(error: BaseException) -> str:
    """Why no answer came, without addresses, in which there could be a password."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        number, words = error.os_error.errno, error.os_error.strerror
        if isinstance(error.os_error, ssl.SSLError):  # whose numbers are OpenSSL's
            return words or type(error.os_error).__name__
        # asyncio's own words for a refused connection name the address; those for an unknown name have no errno
        return os.strerror(number) if number and number > 0 else words or type(error.os_error).__name__
    return type(error).__name__

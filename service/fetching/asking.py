"""One GET: addresses checked, redirects followed, headers kept to their origin, answer read within its bounds."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from engines.errors import SourceFailed, SourceUnavailable
from handlers.supplies import Fetched, FetchRules
from service.fetching.failures import Again, excerpt, host_of, secrets_of, status_failure
from service.fetching.unpacking import ACCEPTED, NotUnpackable, unpacker
from service.outgoing import OutgoingPolicy, OutgoingRefused, connection_fault, exact_url
from service.verdicts import parse_retry_after

REDIRECTS = 5
LONGEST_URL = 8000
ERROR_BYTES = 4096
"""What is read of an answer that is an error."""
ERROR_SECONDS = 3.0
SLOWEST = 16 * 1024
"""Bytes of a long answer that must come within the time one answer may take."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_LIMITS = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)
"""The whole answer has one limit, here; aiohttp's own would be reset by every byte."""

Origin = tuple[str, str, int | None]


def origin(url: URL) -> Origin:
    return url.scheme, (url.raw_host or "").lower(), url.port


class Asker:
    """Asks one source. Raises `SourceFailed` when asking again is of no use, `Again` when it may be."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        policy: OutgoingPolicy,
        home: URL,
        headers: Mapping[str, str],
        rules: FetchRules,
    ) -> None:
        """`headers`, and user and password of `home`, go to its origin only."""
        self._client = client
        self._policy = policy
        self._rules = rules
        self._home = home
        self._own = _headers(home, headers)

    async def whole(self, text: str) -> Fetched:
        """The answer with all of its body, within the time and the size that the rules allow."""
        seconds = self._rules.seconds
        try:
            async with asyncio.timeout(seconds):
                response = await self._open(text)
                try:
                    return await self._read(response)
                finally:
                    response.close()  # of no effect on a connection whose answer was read to its end
        except TimeoutError:
            raise _too_slow(exact_url(text), seconds) from None

    async def opened(self, text: str) -> aiohttp.ClientResponse:
        """The answer, its body not read yet; close it."""
        seconds = self._rules.seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._open(text)
        except TimeoutError:
            raise _too_slow(exact_url(text), seconds) from None

    async def wire(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """A body as it comes, still packed. What the reader takes in between does not count as the source's time."""
        left, got = self._rules.seconds, 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(left):
                    chunk = await response.content.readany()
            except TimeoutError:
                raise _too_slow(response.url, self._rules.seconds) from None
            except (aiohttp.ClientError, OSError) as error:
                raise _broken_off(response.url, error) from error
            if not chunk:
                return
            left -= loop.time() - began
            got += len(chunk)
            if got >= SLOWEST or left <= 0:
                if got < SLOWEST:
                    raise _too_slow(response.url, self._rules.seconds)
                left, got = self._rules.seconds, 0
            yield chunk

    async def _open(self, text: str) -> aiohttp.ClientResponse:
        """Follow redirects to an answer of 2xx."""
        url = self._checked(text)
        seen = [url]
        for _ in range(REDIRECTS + 1):
            response = await self._send(url)
            if 200 <= response.status < 300:
                return response
            try:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    raise await self._failure(response, url, seen)
                url = self._checked(_joined(url, location), "The source redirects to what cannot be asked. ")
                seen.append(url)
            finally:
                response.close()
        raise SourceFailed(f"{host_of(url)} redirects more than {REDIRECTS} times.", details={"host": host_of(url)})

    def _checked(self, text: str, before: str = "") -> URL:
        """The URL without user and password: those of the first one are headers by now."""
        reason = self._policy.refuse_literal(text, "source")
        if reason is None and len(text) > LONGEST_URL:
            reason = f"The URL is longer than {LONGEST_URL} characters."
        if reason is not None:
            raise SourceFailed(f"{before}{reason}")
        return exact_url(text).with_user(None).with_fragment(None)

    async def _send(self, url: URL) -> aiohttp.ClientResponse:
        own = self._own if origin(url) == origin(self._home) else {}
        headers = {"Accept": "application/json, */*;q=0.8", "Accept-Encoding": ACCEPTED}
        names = {name.lower() for name in own}
        headers = {name: value for name, value in headers.items() if name.lower() not in names} | dict(own)
        try:
            return await self._client.get(url, headers=headers, allow_redirects=False, timeout=_NO_LIMITS)
        except OutgoingRefused as error:
            raise SourceFailed(f"{error}.".replace("..", "."), details={"host": host_of(url)}) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise SourceFailed(f"The URL at {host_of(url)} cannot be asked.", details={"host": host_of(url)}) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise SourceFailed(
                f"{host_of(url)}: {connection_fault(error, 'the source')}.", details={"host": host_of(url)}
            ) from None  # its text names the certificate's fields, and its cause the same
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            fault = connection_fault(error, "the source")
            raise Again(SourceUnavailable(f"{host_of(url)}: {fault}.", details={"host": host_of(url)})) from error
        except ValueError:  # a header that cannot be sent; its text would repeat it
            raise SourceFailed(
                f"{host_of(url)} was not asked: the source's headers hold what no header can.",
                details={"host": host_of(url)},
            ) from None

    async def _failure(self, response: aiohttp.ClientResponse, url: URL, seen: list[URL]) -> SourceFailed | Again:
        wait = parse_retry_after(response.headers.get("Retry-After"), _now_of(response))
        secrets = secrets_of((self._home, *seen), self._own)
        said = excerpt(response.headers.get("Content-Type", ""), await _beginning(response), secrets)
        return status_failure(url, response.status, wait, said)

    async def _read(self, response: aiohttp.ClientResponse) -> Fetched:
        """The body, unpacked. Lengths are checked before and while it grows."""
        url, largest = response.url, self._rules.largest
        length = response.content_length
        if length is not None and length > largest:
            raise _too_large(url, largest)
        pieces: list[bytes] = []
        size = 0
        try:
            packed = unpacker(response.headers.get("Content-Encoding"))
            while chunk := await response.content.readany():
                for number, piece in enumerate(packed.unpack(chunk)):
                    size += len(piece)
                    if size > largest:
                        raise _too_large(url, largest)
                    pieces.append(piece)
                    if number:  # so much came of one chunk: others want the loop too
                        await asyncio.sleep(0)
            packed.finish()
        except NotUnpackable as error:
            raise damaged(url, error) from error
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise _broken_off(url, error) from error
        return Fetched(str(url), response.status, _joined_headers(response), b"".join(pieces))


def _headers(home: URL, headers: Mapping[str, str]) -> dict[str, str]:
    """With user and password of the URL as HTTP's basic authentication, unless the headers have their own."""
    found = dict(headers)
    if home.user is not None and "authorization" not in {name.lower() for name in headers}:
        pair = f"{home.user}:{home.password or ''}".encode()
        found["Authorization"] = "Basic " + base64.b64encode(pair).decode()
    return found


def _joined(url: URL, location: str) -> str:
    """Where a redirect leads, for `Location` as it is sent in practice: not always percent-encoded."""
    try:
        return str(url.join(URL(location)))
    except ValueError:
        return location


def _now_of(response: aiohttp.ClientResponse) -> float:
    """The source's clock, by which its dates are meant; ours where it does not say."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return time.time()


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """What an error says, as much as comes in a short time; the status stands without it."""
    read = bytearray()
    try:
        packed = unpacker(response.headers.get("Content-Encoding"))
        async with asyncio.timeout(ERROR_SECONDS):
            while len(read) < ERROR_BYTES and (chunk := await response.content.readany()):
                for piece in packed.unpack(chunk):
                    read += piece[:ERROR_BYTES]
                    if len(read) >= ERROR_BYTES:
                        break
    except (TimeoutError, NotUnpackable, aiohttp.ClientError, OSError):
        pass  # an error without a word of its own
    return bytes(read[:ERROR_BYTES])


def _joined_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Names in lower case, values of the same name in one; without those that speak of the packed body."""
    found: dict[str, str] = {}
    for name, value in response.headers.items():
        key = name.lower()
        if key not in ("content-encoding", "content-length", "transfer-encoding", "set-cookie"):
            found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def _too_slow(url: URL, seconds: float) -> Again:
    message = f"{host_of(url)} gave no whole answer within {seconds:g} s."
    return Again(SourceUnavailable(message, details={"host": host_of(url)}))


def _too_large(url: URL, largest: int) -> SourceFailed:
    return SourceFailed(
        f"An answer of {host_of(url)} is larger than {largest:,} bytes.",
        hint="Ask for smaller pages, or take the file in as NDJSON or CSV, which is read piece by piece.",
        details={"host": host_of(url), "largest": largest},
    )


def _broken_off(url: URL, error: Exception) -> Again:
    message = f"{host_of(url)} broke off in the middle of its answer."
    failure = SourceUnavailable(message, details={"host": host_of(url)})
    failure.__cause__ = error
    return Again(failure)


def damaged(url: URL, error: NotUnpackable) -> Again:
    """Tried again, because it may be a broken connection that a proxy hides; no other attempt of a job is of use."""
    return Again(SourceFailed(f"{host_of(url)} sent what cannot be read: {error}.", details={"host": host_of(url)}))

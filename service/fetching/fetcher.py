"""Fetching for handlers, which are threads: requests run in the service's event loop, answers come as futures."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import structlog
from yarl import URL

from engines.errors import SourceFailed, SourceUnavailable, Stopped
from engines.run import StopReason, StopToken
from handlers.supplies import Fetched, FetchRules
from service.fetching.asking import Asker, damaged
from service.fetching.failures import Again
from service.fetching.pacing import Backoff, Gate
from service.fetching.unpacking import NotUnpackable, unpacker
from service.outgoing import OutgoingPolicy, exact_url, outgoing_session

AHEAD = 8
"""Pieces of a long answer that are read before they are wanted; each is what one read gave, less than a megabyte."""
CLOSING_SECONDS = 10.0
T = TypeVar("T")
log = structlog.get_logger(__name__)


class HttpFetcher:
    """The port `handlers.supplies.Fetcher` over HTTP."""

    def __init__(self, loop: asyncio.AbstractEventLoop, policy: OutgoingPolicy, backoff: Backoff | None = None) -> None:
        """Requests run in `loop`, which must run in another thread than those who ask."""
        self._loop = loop
        self._policy = policy
        self._backoff = backoff or Backoff()

    def refuse(self, url: str) -> str | None:
        return self._policy.refuse_literal(url, "source")

    @contextmanager
    def session(self, headers: Mapping[str, str], rules: FetchRules, stop: StopToken) -> Iterator[HttpSession]:
        """Enter it in a thread, not in the loop. At its end all that is under way is ended too."""
        session = HttpSession(self._loop, self._policy, self._backoff, headers, rules, stop)
        try:
            with stop.calling(session.halt):
                yield session
        finally:
            session.close()


class HttpSession:
    """Requests of one piece of work to one source. `get` and `blocks` may be called by several threads."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        policy: OutgoingPolicy,
        backoff: Backoff,
        headers: Mapping[str, str],
        rules: FetchRules,
        stop: StopToken,
    ) -> None:
        self._loop = loop
        self._policy = policy
        self._backoff = backoff
        self._headers = headers
        self._rules = rules
        self._stop = stop
        self._lock = threading.Lock()
        self._home: URL | None = None
        self._closed = False
        self._orders = itertools.count()
        # what follows is used in the loop only
        self._tasks: set[asyncio.Task[Any]] = set()
        self._client: Any = None
        self._gate: Gate | None = None
        self._asker: Asker | None = None

    # -- for threads

    def get(self, url: str) -> Future[Fetched]:
        return self._begin(url, lambda: self._persistently(lambda asker: asker.whole(url)))

    def blocks(self, url: str) -> Iterator[bytes]:
        pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(AHEAD)
        opened = self._begin(url, lambda: self._persistently(lambda asker: asker.opened(url)))
        response = self._result(opened)
        reading = self._begin(url, lambda: self._read_ahead(response, pieces))
        try:
            packed = unpacker(response.headers.get("Content-Encoding"))
            while (piece := self._result(self._begin(url, pieces.get))) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield from packed.unpack(piece)  # in the reader's thread: the loop only moves bytes
                self._stop.check()
            packed.finish()
        except NotUnpackable as error:
            raise damaged(response.url, error).error from error
        finally:
            reading.cancel()
            self._tell(response.close)

    def halt(self) -> None:
        """End what is under way at once, with `Stopped`. May be called from any thread."""
        self._tell(self._cancel_all)

    def close(self) -> None:
        """End what is under way, and the connections."""
        with self._lock:
            self._closed = True
        ending = self._in_loop(self._end)
        if ending is None:
            return
        try:
            ending.result(CLOSING_SECONDS)
        except TimeoutError:
            log.warning("source_connections_not_ended", seconds=CLOSING_SECONDS)

    def _begin(self, url: str, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        reason = self._policy.refuse_literal(url, "source")
        if reason is not None:
            return _failed(SourceFailed(reason))
        with self._lock:
            if self._closed:
                raise RuntimeError("this session has ended")
            self._home = self._home or exact_url(url)
            running = self._in_loop(lambda: self._watched(work))
        return running or _failed(Stopped(StopReason.SHUTDOWN))

    def _in_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T] | None:
        """None when the loop has ended: nothing of ours lives there any more."""
        coroutine = work()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            return None

    def _tell(self, work: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:
            return  # the loop has ended

    def _result(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            self._stop.check()
            raise RuntimeError("this session has ended") from None

    # -- in the loop

    async def _watched(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The work, ended by a stop as `Stopped`."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        try:
            self._stop.check()
            return await work()
        except asyncio.CancelledError:
            self._stop.check()
            raise
        finally:
            self._tasks.discard(task)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _end(self) -> None:
        self._cancel_all()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._gate is not None:
            self._gate.close()
        if self._client is not None:
            await self._client.close()

    def _ready(self) -> tuple[Asker, Gate]:
        """Made at the first request, in the loop that will use it."""
        if self._asker is None or self._gate is None:
            home = cast("URL", self._home)  # set before anything was begun
            self._gate = Gate(self._rules.in_flight, self._rules.rate)
            self._client = outgoing_session(self._policy, "source", keep_alive=True)
            self._asker = Asker(self._client, self._policy, home, self._headers, self._rules)
        return self._asker, self._gate

    async def _persistently(self, ask: Callable[[Asker], Coroutine[Any, Any, T]]) -> T:
        """Ask, and ask again as the rules say."""
        asker, gate = self._ready()
        order, began = next(self._orders), time.monotonic()
        for tried in itertools.count(1):
            async with gate.turn(order) as turn:
                try:
                    found = await ask(asker)
                except Again as again:
                    self._refuse_to_wait(again, tried, time.monotonic() - began)
                    if again.busy:  # the gate keeps everybody waiting, this one first in the row
                        gate.busy(turn, again.wait, self._backoff)
                        wait = 0.0
                    else:
                        wait = again.wait or self._backoff.wait(tried)
                else:
                    gate.well()
                    return found
            await asyncio.sleep(wait)
        raise AssertionError("count() does not end")

    def _refuse_to_wait(self, again: Again, tried: int, seconds: float) -> None:
        """Raise when there is to be no other try."""
        if again.wait is not None and again.wait > self._rules.patience:
            raise _come_back(again.error, again.wait) from again.error.__cause__
        if tried >= self._rules.tries:
            raise _given_up(again.error, tried, seconds) from again.error.__cause__

    async def _read_ahead(self, response: Any, pieces: asyncio.Queue[bytes | Exception | None]) -> None:
        asker, _ = self._ready()
        try:
            async for chunk in asker.wire(response):
                await pieces.put(chunk)
            await pieces.put(None)
        except Again as again:
            await pieces.put(again.error)
        except Exception as error:  # noqa: BLE001  whatever it is, the reader waits for it in its thread
            await pieces.put(error)
        finally:
            response.close()


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _given_up(error: SourceFailed, tried: int, seconds: float) -> SourceFailed:
    if tried == 1:
        return error
    message = f"{error.message.removesuffix('.')}; asked {tried} times in {seconds:.0f} s."
    return type(error)(message, hint=error.hint, details=error.details | {"tries": tried})


def _come_back(error: SourceFailed, wait: float) -> SourceUnavailable:
    at = datetime.fromtimestamp(time.time() + wait, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return SourceUnavailable(
        f"{error.message.removesuffix('.')}; it asks to come back in {wait:.0f} s, at {at}.",
        hint="Ask again then, or ask more slowly: `rate` limits the requests a second.",
        details=error.details | {"retry_after": round(wait), "retry_at": at},
    )

"""The way in by RabbitMQ: takes messages, has them accepted, and acknowledges what is on disk."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from contextlib import suppress

import structlog
from aio_pika.exceptions import AMQPError
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import InvalidFrameError

from service.access import Access, NotAuthenticated
from service.amqp.channels import ChannelGone
from service.amqp.line import HELD_TOO_LONG, Line
from service.amqp.messages import Message, Received, read
from service.amqp.names import Names
from service.amqp.rejections import Rejection, Rejections
from service.intake import Intake, Refused
from service.ledger.records import Accepted, LedgerUnavailable

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
CHECK_SECONDS = 15.0
STOP_SECONDS = 10.0
RECONNECT = (1.0, 15.0)
"""First and longest pause before the broker is tried again."""
QUARANTINE_SECONDS = 5.0
"""How long messages are taken one by one after one that could not be decoded."""
QUARANTINE_PAUSE = 0.1
"""Between connections then: nothing else gets in before the broker has given up on that message."""
HOLD_SECONDS = 600.0
"""How long messages wait here for a ledger that takes none. RabbitMQ closes a channel after 30 minutes without an
acknowledgement (unless it is told otherwise) and counts that against each message; given back, they wait there."""
GROW_SECONDS = 15.0
"""How long fewer messages are taken at once because the ledger had little room, before it is looked again."""
LOOK_SECONDS = 5.0
"""How often it is looked whether the ledger takes events again."""
TRY_AGAIN = (0.1, 5.0)
"""First and longest pause before a message that could not be accepted or put aside is tried again."""


class Left(Exception):
    """The message stays as it is: its channel is gone or the service stops, and the broker delivers it again."""


class Pauses:
    """Pauses that double up to a limit, with jitter so that many waiters do not wake together."""

    def __init__(self, first: float, longest: float) -> None:
        self._next = self._first = first
        self._longest = longest

    def next(self) -> float:
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  jitter is no secret

    def reset(self) -> None:
        self._next = self._first


class Consumer:
    """Consumes the requests queue for as long as it is started, through every outage of broker and ledger."""

    def __init__(
        self,
        url: str,
        names: Names,
        intake: Intake,
        access: Access,
        *,
        prefetch: int,
        trust_broker: bool,
        max_body_bytes: int = MAX_BODY_BYTES,
        check_seconds: float = CHECK_SECONDS,
        hold_seconds: float = HOLD_SECONDS,
    ) -> None:
        """`trust_broker`: a message that shows no credential is let in, since the broker let its publisher in.

        Every `check_seconds` the broker is asked whether it still knows of a consumer.
        """
        self._url = url
        self._names = names
        self._intake = intake
        self._access = access
        self._prefetch = prefetch
        self._trust_broker = trust_broker
        self._max_body_bytes = max_body_bytes
        self._check_seconds = check_seconds
        self._hold_seconds = hold_seconds
        self._accepted_at = time.monotonic()
        """Or when there was nothing to accept."""
        self._hold_back = False
        self._rejections = Rejections(url, names)
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._line: Line | None = None
        self._takes: set[asyncio.Task[None]] = set()
        """Messages under way; they outlive their channel, as the ledger may be writing."""
        self._waiting = 0
        """How many messages wait for the ledger: told of when the first does, not for every message."""

    @property
    def connected(self) -> bool:
        """Whether messages are taken now."""
        return self._line is not None and not self._line.ended.is_set()

    def start(self) -> None:
        """Returns at once; the broker may come later."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take no more; what is being accepted is acknowledged first, what waits is left to the next consumer."""
        self._stopping.set()
        if self._running is None:
            return
        if self._line is None:  # a connection attempt, which nothing depends on
            self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running
        await self._finished()
        with suppress(AMQPError, ChannelGone):
            await self._rejections.close()

    # -- the connection

    async def _run(self) -> None:
        pauses = Pauses(*RECONNECT)
        one_by_one = False
        while not self._stopping.is_set():
            await self._until_there_is_room()
            if self._stopping.is_set():
                return
            try:
                one_by_one = await self._consume(pauses, one_by_one=one_by_one)
            except Exception as error:  # noqa: BLE001  whatever is wrong with the broker, it is tried again
                log.warning("amqp_consumer_not_connected", error=_told(error))
                one_by_one = False
            await self._pause(QUARANTINE_PAUSE if one_by_one else pauses.next())

    async def _until_there_is_room(self) -> None:
        """Messages were given back because none could be accepted: take none before that has changed."""
        while self._hold_back and not self._stopping.is_set():
            if await self._intake.room():
                self._hold_back = False
            else:
                await self._pause(LOOK_SECONDS)

    async def _consume(self, pauses: Pauses, *, one_by_one: bool) -> bool:
        """Take messages until the line is gone or the service stops; whether to take them one by one after that.

        A message that cannot be decoded ends the connection for all that were delivered with it, which counts against
        each of them. Taken alone it meets the delivery limit without the others.
        """
        # No more than there is room for: what must be given back counts as delivered, and not for ever is that allowed.
        prefetch = 1 if one_by_one else max(1, min(self._prefetch, await self._intake.room()))
        line = self._line = await Line.open(self._url, self._names, prefetch, self._arrived)
        log.info("amqp_consuming", queue=self._names.requests, prefetch=prefetch)
        pauses.reset()
        try:
            gone = await self._until_gone(line, prefetch, one_by_one=one_by_one)
            cause = await line.cause() if gone else None
        finally:
            await self._close(line)
            self._line = None
        self._hold_back = gone == HELD_TOO_LONG
        if gone:
            log.warning("amqp_consumer_gone", because=gone, error=_told(cause) if cause else None)
        return isinstance(cause, InvalidFrameError)

    async def _until_gone(self, line: Line, prefetch: int, *, one_by_one: bool) -> str | None:
        """Why the line is gone; None when it is time for one that takes more, or to stop."""
        if one_by_one:
            return await line.until_gone(self._stopping, self._check_seconds, QUARANTINE_SECONDS)
        narrow = GROW_SECONDS if prefetch < self._prefetch else None
        while True:
            gone = await line.until_gone(self._stopping, self._check_seconds, narrow)
            if gone or self._stopping.is_set():
                return gone
            if not self._waiting and await self._intake.room() > prefetch:
                return None

    async def _close(self, line: Line) -> None:
        await line.cancel()
        line.ended.set()
        await self._finished()
        await line.close()

    async def _finished(self) -> None:
        """Wait for what is under way; it can be acknowledged only while its channel is there."""
        if self._takes:
            await asyncio.wait(self._takes, timeout=STOP_SECONDS)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- one message

    async def _arrived(self, line: Line, delivered: DeliveredMessage) -> None:
        """Leave the message to a task of our own: a channel that closes cancels the tasks it started itself."""
        task = asyncio.create_task(self._take(line, delivered))
        self._takes.add(task)
        task.add_done_callback(self._takes.discard)

    async def _take(self, line: Line, delivered: DeliveredMessage) -> None:
        try:
            received = self._read(Message.of(delivered))
            accepted = await self._accept(line, received)
        except Left:
            return
        except Exception as error:  # noqa: BLE001  whoever cannot be understood is put aside, whatever the reason
            await self._reject(line, delivered, error)
            return
        log.debug(  # the worker's lines say more; this is for every message
            "message_accepted",
            job_id=accepted.job_id,
            event_id=received.event.id,
            operation=received.event.operation,
            duplicate=accepted.duplicate,
        )
        await line.ack(delivered)

    def _read(self, message: Message) -> Received:
        return read(message, self._access, trust_broker=self._trust_broker, max_body_bytes=self._max_body_bytes)

    async def _accept(self, line: Line, received: Received) -> Accepted:
        """Raises `Refused` for what will never be accepted, `Left`; waits out what passes."""
        accepted = await self._try(received)
        if isinstance(accepted, Accepted):
            self._accepted_at = time.monotonic()
            return accepted
        if not self._waiting:
            log.warning("messages_wait", because=accepted)
            self._accepted_at = time.monotonic()
        self._waiting += 1
        try:
            pauses = Pauses(*TRY_AGAIN)
            while not isinstance(accepted, Accepted):
                if time.monotonic() - self._accepted_at > self._hold_seconds:
                    line.given_up.set()
                await self._again(line, pauses)
                accepted = await self._try(received)
        finally:
            self._waiting -= 1
        self._accepted_at = time.monotonic()
        if not self._waiting:
            log.info("messages_accepted_again")
        return accepted

    async def _try(self, received: Received) -> Accepted | str:
        """Why it cannot be accepted now, in a word, when that may pass. Raises `Refused` for all else."""
        try:
            return await self._intake.accept(received.event, received.principal, received.reply)
        except LedgerUnavailable:
            return "ledger_unavailable"
        except Refused as refused:
            if refused.status != 429:
                raise
            return refused.code

    async def _again(self, line: Line, pauses: Pauses) -> None:
        """Return when it is time to try again. Raises `Left` as soon as there is no sense in it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(line.ended.wait(), pauses.next())
            raise Left

    async def _reject(self, line: Line, delivered: DeliveredMessage, error: Exception) -> None:
        """Put a copy aside, then acknowledge; without a confirmed copy the message stays where it is."""
        rejection = Rejection.of(error)
        facts = {"reason": rejection.code, "message_id": delivered.header.properties.message_id}
        try:
            await self._put_aside(line, delivered, rejection)
        except Left:
            log.warning("message_not_dead_lettered", **facts)
            return
        log.error("message_dead_lettered", bytes=len(delivered.body), **facts, **_unforeseen(error))
        await line.ack(delivered)
        await self._rejections.tell(delivered, rejection)

    async def _put_aside(self, line: Line, delivered: DeliveredMessage, rejection: Rejection) -> None:
        """Return when the copy is safe. Raises `Left`."""
        pauses = Pauses(*TRY_AGAIN)
        told = False
        while True:
            try:
                return await self._rejections.put_aside(delivered, rejection)
            except Exception as failure:  # noqa: BLE001  whatever it is, the message is not acknowledged
                if not told:
                    log.warning("dead_letter_not_stored", error=_told(failure))
                told = True
            await self._again(line, pauses)


def _unforeseen(error: Exception) -> dict[str, str]:
    """Where a fault of ours happened; without the error's text, which may repeat what the message held."""
    if isinstance(error, Refused | NotAuthenticated):
        return {}
    frames = "".join(traceback.format_tb(error.__traceback__))
    return {"error": type(error).__name__, "traceback": frames}


def _told(error: BaseException) -> str:
    """The error's class, and its text where that comes from the broker or the network and so holds no secret."""
    known = isinstance(error, AMQPError | OSError)
    return f"{type(error).__name__}: {str(error)[:300]}" if known else type(error).__name__

"""The dead letters in RabbitMQ: looked at without taking them out, and sent again to where they came in."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelClosed, ChannelInvalidStateError, DeliveryError, PublishError
from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException

from service.amqp import topology
from service.amqp.channels import ChannelGone, within
from service.amqp.letters import DeadLetter, read_letter, sent_again
from service.amqp.names import Names
from service.amqp.publisher import describe
from service.amqp.redrives import DEFAULT_LIMIT, LARGEST_LIMIT, AMQPUnavailable, Left, Listing, Redrive, Wanted

log = structlog.get_logger(__name__)

MOST_LOOKED_AT = 10_000
LOOK_SECONDS = 30.0
"""What one call reads at most, to find those it is asked for."""
ANSWER_SECONDS = 10.0
"""Limit of one answer of the broker."""
BROKEN = (AMQPError, ChannelInvalidStateError, PAMQPException, OSError)
"""What aio-pika raises when the broker is away, hangs up or does not admit us; `TimeoutError` is an `OSError`."""


class DeadLetters:
    """The queue of dead letters of one service. Each call makes its connection and closes it.

    While a call looks at letters, other readers of the queue do not see them; calls of one process wait for each
    other. Whatever a call does not send again is back in the queue when it returns.
    """

    def __init__(self, url: str, names: Names) -> None:
        self._url = url
        self._names = names
        self._lock = asyncio.Lock()
        self._closing = False

    async def list(self, limit: int) -> list[DeadLetter]:
        """Up to `limit` letters without their bodies. Raises `AMQPUnavailable`."""
        return [*(await self.look(limit)).letters]

    async def look(self, limit: int) -> Listing:
        """As `list`, and whether there are more."""
        letters: list[DeadLetter] = []
        more = False
        async with self._reading() as (_, channel), aclosing(self._unread(channel, limit)) as messages:
            async for message in messages:
                letters.append(read_letter(message, self._names.requests))
                more = waiting(message) > 0
        return Listing(tuple(sorted(letters, key=lambda letter: letter.dead_at or "")), more)

    async def find(self, letter_id: str) -> DeadLetter | None:
        """The letter with its body, None when none of those that can be looked at has this id.

        Raises `AMQPUnavailable`.
        """
        async with self._reading() as (_, channel), aclosing(self._unread(channel, MOST_LOOKED_AT)) as messages:
            async for message in messages:
                letter = read_letter(message, self._names.requests)
                if letter.id == letter_id:
                    return read_letter(message, self._names.requests, with_body=True)
        return None

    async def redrive(self, wanted: Wanted, *, apply: bool, limit: int = DEFAULT_LIMIT) -> Redrive:
        """Send letters again to the exchange they came by; without `apply` only tell which would be.

        A letter leaves the queue after the broker has confirmed it at its new place: a connection lost between the
        two leaves it in both, which an event's id makes harmless. Raises `AMQPUnavailable` when nothing was done.
        """
        done = Redrive(applied=apply)
        try:
            async with self._reading() as (connection, channel):
                await self._redrive(wanted, min(limit, LARGEST_LIMIT), done, _Sender(connection), channel)
        except AMQPUnavailable as error:
            if not done.letters and not done.left:
                raise
            done.more = True
            log.warning("redrive_broken_off", error=str(error), redriven=len(done.letters), left=len(done.left))
        found = {letter.id for letter in done.letters} | {left.letter.id for left in done.left}
        done.not_found = sorted(wanted.ids - found)
        return done

    async def close(self) -> None:
        """Wait until a call under way has ended; a redrive ends after the letter in hand."""
        self._closing = True
        async with self._lock:
            return

    async def _redrive(self, wanted: Wanted, limit: int, done: Redrive, sender: _Sender, channel: RawChannel) -> None:
        async with aclosing(self._unread(channel, MOST_LOOKED_AT)) as messages:
            async for message in messages:
                letter = read_letter(message, self._names.requests)
                done.more = waiting(message) > 0
                if not wanted.takes(letter):
                    continue
                if len(done.letters) + len(done.left) >= limit:
                    done.more = True
                    return
                if done.applied:
                    await _send(letter, message, done, sender, channel)
                else:
                    done.letters.append(letter)

    async def _unread(self, channel: RawChannel, limit: int) -> AsyncGenerator[DeliveredMessage, None]:
        """Messages as they lie in the queue, none of them acknowledged.

        Only those that were there at the first look: what is redriven can be dead again in the same second.
        """
        until, there = time.monotonic() + LOOK_SECONDS, limit
        taken = 0
        while taken < there and time.monotonic() < until and not self._closing:
            async with broker():
                message = await channel.basic_get(self._names.dead)
            if isinstance(message.delivery, Basic.GetEmpty):
                return
            if not taken:
                there = min(limit, 1 + waiting(message))
            taken += 1
            yield message

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[AbstractConnection, RawChannel]]:
        """A connection, and a channel to read on: what is unacknowledged when it closes is back in the queue."""
        async with self._lock:
            if self._closing:
                raise AMQPUnavailable("the service stops")
            async with broker():
                connection = await topology.connect(self._url, f"{self._names.dead} letters")
            try:
                async with broker():
                    channel = await connection.channel(publisher_confirms=False)
                    raw = await channel.get_underlay_channel()
                yield connection, raw
                async with broker():  # acknowledgements have no answer; that the channel closes in peace is theirs
                    await channel.close()
            finally:
                with suppress(AMQPError, ChannelGone):  # it was broken; nothing is left to save
                    await within(ANSWER_SECONDS, connection.close())


async def _send(
    letter: DeadLetter, message: DeliveredMessage, done: Redrive, sender: _Sender, channel: RawChannel
) -> None:
    """One letter to where it came in, then out of the queue. Raises `AMQPUnavailable`: then nothing further is sent."""
    facts = {"letter_id": letter.id, "exchange": letter.exchange, "routing_key": letter.routing_key}
    try:
        why = await sender.send(letter, message)
    except AMQPUnavailable as error:
        why = f"No confirm came ({error}): it may have arrived all the same."
        done.left.append(Left(letter, why))
        raise
    if why is not None:
        log.warning("dead_letter_left", why=why, **facts)
        done.left.append(Left(letter, why))
        return
    done.letters.append(letter)
    async with broker():
        assert isinstance(message.delivery, Basic.GetOk)  # noqa: S101  for mypy: `_unread` yields nothing else
        await channel.basic_ack(message.delivery.delivery_tag or 0)
    log.info("dead_letter_redriven", **facts)


class _Sender:
    """Publishes letters on a channel of its own, opened anew after a refusal that closed it."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None

    async def send(self, letter: DeadLetter, message: DeliveredMessage) -> str | None:
        """None when it is confirmed, else why it could not be sent. Raises `AMQPUnavailable` for an open outcome."""
        async with broker():
            channel = await self._open()
            try:
                await channel.basic_publish(
                    message.body,
                    exchange=letter.exchange,
                    routing_key=letter.routing_key,
                    properties=sent_again(message),
                    mandatory=True,
                )
            except PublishError:
                return f"No queue is bound to the exchange {letter.exchange!r} for the key {letter.routing_key!r}."
            except DeliveryError:
                return "The queue it belongs to refused it: it is full, or its node is in trouble."
            except ChannelClosed as error:
                return f"RabbitMQ refused it: {describe(error)}"
            except (TypeError, ValueError, OverflowError, struct.error) as error:
                await self._drop()  # the channel has counted a message that was never written
                return f"It cannot be written as a message: {type(error).__name__}"
        return None

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _open(self) -> RawChannel:
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        return await self._channel.get_underlay_channel()


def waiting(message: DeliveredMessage) -> int:
    """How many more lay in the queue when this one was fetched."""
    return message.delivery.message_count or 0 if isinstance(message.delivery, Basic.GetOk) else 0


@asynccontextmanager
async def broker() -> AsyncIterator[None]:
    """One exchange with the broker, within its time: the place where what goes wrong becomes `AMQPUnavailable`."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except ChannelNotFoundEntity as error:
        raise AMQPUnavailable(f"{describe(error)}; the service makes its queues when it connects") from error
    except TimeoutError as error:
        raise AMQPUnavailable("no answer in time") from error
    except BROKEN as error:
        raise AMQPUnavailable(describe(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise AMQPUnavailable("the connection broke") from error  # aiormq ends what waits on a channel this way

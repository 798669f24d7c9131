"""Publishes events to RabbitMQ, and learns of each what became of it: persistent, mandatory, confirmed."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, AMQPChannelError, DeliveryError, PublishError

from service.amqp import topology
from service.amqp.names import Names
from service.amqp.outcomes import ANSWERED, CONFIRMED, LOST, UNROUTABLE, Answer, Outcome
from service.ledger.destinations import reply_parts
from service.ledger.records import Delivery

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/cloudevents+json"
OPEN_SECONDS = 60.0
CHECK_SECONDS = 5.0
BROKEN = "the connection was closed"
CLOSE_SECONDS = 5.0
PERSISTENT = aio_pika.DeliveryMode.PERSISTENT.value


class BrokerAway(Exception):
    """RabbitMQ cannot be reached or does not admit us; the text says which, without the URL."""


class Publisher:
    """One connection and one channel with publisher confirms; after any trouble both are made anew by `open`.

    The channel of aiormq is used as it is: aio_pika's message and exchange cost a third of the time of a publish.
    """

    def __init__(self, url: str, names: Names, on_close: Callable[[], None], *, confirm_seconds: float) -> None:
        self._url = url
        self._names = names
        self._on_close = on_close
        self._confirm_seconds = confirm_seconds
        self._connection: AbstractConnection | None = None
        self._kept: AbstractChannel | None = None
        self._channel: aiormq.abc.AbstractChannel | None = None
        self._publishing: set[asyncio.Task[Any]] = set()
        self._answered_at = 0.0
        self.in_doubt = False
        """No confirm comes any more: `check` tells a queue that is stuck from a line that is dead."""
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    @property
    def is_open(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def open(self) -> None:
        """Connect, declare what is missing, open the channel. Raises `BrokerAway`."""
        await self.close()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._connect()
        except CONNECTION_EXCEPTIONS as error:  # a time limit is an OSError, so among them
            await self.close()
            raise BrokerAway(describe(error)) from error
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> None:
        connection = self._connection = await topology.connect(self._url, f"{self._names.events} out")
        await topology.declare(connection, self._names)
        self._kept = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._kept.close_callbacks.add(self._closed)
        self._channel = await self._kept.get_underlay_channel()

    def _closed(self, *_: Any) -> None:
        self._on_close()

    async def close(self) -> None:
        """Let go of the connection, whatever its state; what is unconfirmed ends as lost."""
        connection, self._connection, self._kept, self._channel = self._connection, None, None, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close()
        except CONNECTION_EXCEPTIONS as error:
            log.debug("amqp_close_failed", error=describe(error))  # it was broken; nothing is left to save
        finally:
            # aiormq ends what waits for a confirm; what waits to be written would go on waiting.
            for task in self._publishing:
                task.cancel(BROKEN)

    async def is_blocked(self) -> bool:
        """Whether RabbitMQ has asked us to wait, being short of memory or disk."""
        if self._channel is None:
            return False
        try:
            async with asyncio.timeout(0):
                await self._channel.connection.ready()
        except TimeoutError:
            return True
        return False

    async def check(self) -> None:
        """Ask RabbitMQ for any answer; let go of the line when there is none."""
        self.in_doubt = False
        if self._connection is None or await self.is_blocked():
            return
        try:
            async with asyncio.timeout(CHECK_SECONDS), self._connection.channel(publisher_confirms=False):
                return
        except CONNECTION_EXCEPTIONS:
            self._channel = None

    async def publish(self, delivery: Delivery) -> Answer:
        """Publish once and wait for the confirm. Never raises for anything RabbitMQ or the network does."""
        channel, task = self._channel, asyncio.current_task()
        if channel is None or task is None:
            return LOST
        self._publishing.add(task)
        try:
            answer = await self._publish(channel, delivery, time.monotonic())
        except asyncio.CancelledError as error:
            if error.args == (BROKEN,):
                task.uncancel()
            elif task.cancelling():
                raise
            return LOST  # aiormq ends in this way what waits on a channel that was closed in order
        finally:
            self._publishing.discard(task)
        if answer[0] in ANSWERED:
            self._answered_at = time.monotonic()
        return answer

    async def _publish(self, channel: aiormq.abc.AbstractChannel, delivery: Delivery, began: float) -> Answer:
        try:
            exchange, key, properties = self._message(delivery)
            await channel.basic_publish(
                delivery.body,
                exchange=exchange,
                routing_key=key,
                properties=properties,
                mandatory=True,
                timeout=self._confirm_seconds,
            )
        except PublishError:
            return UNROUTABLE
        except DeliveryError:
            return Outcome.NACKED, ""
        except TimeoutError:
            if self._answered_at < began:  # nothing at all was answered meanwhile
                self.in_doubt = True
            return Outcome.SILENT, f"no confirm within {self._confirm_seconds:g} s"
        except AMQPChannelError as error:
            return Outcome.CLOSED, describe(error)
        except CONNECTION_EXCEPTIONS as error:
            return Outcome.LOST, describe(error)
        except (ValueError, TypeError, OverflowError) as error:
            return Outcome.UNFIT, str(error)
        except Exception:
            if channel.is_closed:
                return LOST  # aiormq has no better word than `Exception` where a channel was closed in order
            raise
        return CONFIRMED

    def _message(self, delivery: Delivery) -> tuple[str, str, aiormq.spec.Basic.Properties]:
        """Exchange, routing key and properties. Raises `ValueError`."""
        exchange, key, correlation_id = delivery.destination, delivery.event_type, None
        if delivery.kind == "reply":
            exchange = ""
            key, correlation_id = reply_parts(delivery.url)
        properties = aiormq.spec.Basic.Properties(
            content_type=CONTENT_TYPE,
            delivery_mode=PERSISTENT,
            correlation_id=correlation_id,
            # Unique per publish: returns are matched by it. What stays the same over tries is ce-id.
            message_id=f"{delivery.delivery_id}/{self._run}{next(self._numbers):x}",
            timestamp=datetime.fromtimestamp(delivery.created_at, UTC),
            message_type=delivery.event_type,
            app_id="flexdb",
            headers={
                "ce-id": delivery.event_id,
                "ce-type": delivery.event_type,
                "ce-source": "/flexdb",
                "ce-specversion": "1.0",
                "ce-jobid": delivery.job_id,
            },
        )
        return exchange, key, properties


def describe(error: BaseException) -> str:
    """What went wrong, in RabbitMQ's words or the system's, never with the URL."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or type(error).__name__
    words = [str(part) for part in error.args if isinstance(part, str | int) and "://" not in str(part)]
    return " ".join(words)[:300] or type(error).__name__

"""Messages that are not taken: a confirmed copy with the reason in the dead-letter queue, and word to the sender."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import PublishError
from pamqp import encode
from pamqp.commands import Basic

from service.access import NotAuthenticated
from service.amqp.channels import within
from service.amqp.names import Names
from service.amqp.topology import connect, declare
from service.intake import Refused
from service.jobs import iso

log = structlog.get_logger(__name__)

PUBLISH_SECONDS = 15.0
CLOSE_SECONDS = 5.0
DETAIL_LENGTH = 1000
COUNTS = frozenset({"x-delivery-count", "x-acquired-count"})
"""Headers in which a quorum queue tells its own story of a message."""
FRAME_ROOM = 8192
"""What a message's head needs beside its headers; the head cannot be split over frames."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a message is not taken."""

    status: int
    code: str
    detail: str

    @classmethod
    def of(cls, error: Exception) -> Rejection:
        match error:
            case Refused():
                return cls(error.status, error.code, error.detail[:DETAIL_LENGTH])
            case NotAuthenticated():
                return cls(401, error.code, error.detail[:DETAIL_LENGTH])
        return cls(500, "internal_error", "Something went wrong here; the service's log has the details.")

    def problem(self) -> bytes:
        """The body of application/problem+json (RFC 9457)."""
        members = {
            "type": f"/docs#{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        return json.dumps(members).encode()


class Rejections:
    """Publishes on a connection of its own: what holds up publishers must not hold up consuming."""

    def __init__(self, url: str, names: Names) -> None:
        self._url = url
        self._names = names
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._turn = asyncio.Lock()
        """One at a time: aiormq finds a returned message's publisher by its id, and ids are the senders' choice."""

    async def put_aside(self, delivered: DeliveredMessage, rejection: Rejection) -> None:
        """Returns once the broker has the copy on disk. Raises when that is not known."""
        properties = _copied(delivered.header.properties)
        reason = _headers(delivered, rejection)
        async with self._turn:
            channel = await self._opened()
            properties.headers = _fitting(properties.headers or {}, reason, channel)
            try:
                await self._publish(channel, delivered.body, self._names.dead, delivered.routing_key or "", properties)
            except PublishError:  # somebody removed the queue; the next channel finds it declared again
                self._channel = None
                raise

    async def tell(self, delivered: DeliveredMessage, rejection: Rejection) -> None:
        """Send the problem to where the message wants its answer, if it can be done; never raises."""
        asked = delivered.header.properties
        if not asked.reply_to:
            return
        answer = Basic.Properties(content_type="application/problem+json", correlation_id=asked.correlation_id)
        try:
            async with self._turn:
                await self._publish(await self._opened(), rejection.problem(), "", asked.reply_to, answer)
        except Exception as error:  # noqa: BLE001  best effort: the message itself is safe already
            log.debug("problem_not_told", queue=asked.reply_to, error=type(error).__name__)

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await within(CLOSE_SECONDS, connection.close())

    async def _publish(
        self, channel: AbstractChannel, body: bytes, exchange: str, routing_key: str, properties: Basic.Properties
    ) -> None:
        """Raises `PublishError` for what reaches no queue; after any other failure the next begins anew."""
        properties.delivery_mode = 2
        sent = channel.basic_publish(
            body, exchange=exchange, routing_key=routing_key, properties=properties, mandatory=True
        )
        try:
            await within(PUBLISH_SECONDS, sent)
        except PublishError:
            raise
        except BaseException:
            self._channel = None
            raise

    async def _opened(self) -> AbstractChannel:
        if self._channel is not None and not self._channel.is_closed:
            return self._channel
        await self._forget()
        self._connection = await connect(self._url, f"{self._names.requests} dead letters")
        await declare(self._connection, self._names)
        opened = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await within(PUBLISH_SECONDS, opened.initialize())
        self._channel = await opened.get_underlay_channel()
        return self._channel

    async def _forget(self) -> None:
        try:
            await self.close()
        except Exception as error:  # noqa: BLE001  it is broken anyway
            log.debug("connection_not_closed", error=type(error).__name__)


def _copied(properties: Basic.Properties) -> Basic.Properties:
    """As they came, without what would not outlive a dead letter or is checked against our own user."""
    copied = Basic.Properties()
    for name in Basic.Properties.attributes():
        setattr(copied, name, getattr(properties, name))
    copied.expiration = None
    copied.user_id = None
    copied.headers = {name: value for name, value in (properties.headers or {}).items() if name not in COUNTS}
    return copied


def _headers(delivered: DeliveredMessage, rejection: Rejection) -> dict[str, Any]:
    return {
        "x-flexdb-reason": rejection.code,
        "x-flexdb-detail": rejection.detail,
        "x-flexdb-status": rejection.status,
        "x-flexdb-dead-at": iso(time.time()),
        "x-flexdb-exchange": delivered.exchange or "",
        "x-flexdb-routing-key": delivered.routing_key or "",
    }


def _fitting(found: dict[str, Any], ours: dict[str, Any], channel: AbstractChannel) -> dict[str, Any]:
    """The message's headers and ours; ours alone where both are too much for one frame or cannot be written again."""
    both = found | ours
    try:
        size = len(encode.field_table(both))
    except (TypeError, ValueError):
        return ours
    return both if size < channel.connection.connection_tune.frame_max - FRAME_ROOM else ours

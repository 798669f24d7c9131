"""Acknowledgements of one channel: those of one commit leave together."""

from __future__ import annotations

import asyncio

import structlog
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from aiormq.abc import AbstractChannel

from service.amqp.channels import within

log = structlog.get_logger(__name__)

SECONDS = 10.0


class Acks:
    """A frame each would be a system call each; one frame can acknowledge all messages up to one of them."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._through = 0
        """All messages up to this delivery tag are done; the broker numbers them from 1."""
        self._done: set[int] = set()
        """Tags above it that are done."""
        self._waiting: list[int] = []
        self._sent = asyncio.get_running_loop().create_future()
        """Done when those that wait now are sent."""
        self._sending: asyncio.Task[None] | None = None

    async def ack(self, tag: int) -> None:
        """Returns when it is on its way, or cannot be any more; never raises."""
        self._waiting.append(tag)
        sent = self._sent
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        await asyncio.shield(sent)

    async def _send_all(self) -> None:
        """One after the other: the broker closes the channel for a tag that one sent later has covered before."""
        try:
            while self._waiting:
                tags, sent = self._waiting, self._sent
                self._waiting, self._sent = [], asyncio.get_running_loop().create_future()
                try:
                    await self._send(tags)
                finally:
                    sent.set_result(None)
        finally:
            self._sending = None

    async def _send(self, tags: list[int]) -> None:
        self._done.update(tags)
        while self._through + 1 in self._done:
            self._through += 1
            self._done.discard(self._through)
        try:
            covered = [tag for tag in tags if tag <= self._through]
            if covered:  # the last of them, not `_through`, which may have been acknowledged alone
                await within(SECONDS, self._channel.basic_ack(max(covered), multiple=True))
            for tag in tags:
                if tag > self._through:  # one that came earlier is not done: it must not be acknowledged with this
                    await within(SECONDS, self._channel.basic_ack(tag))
        except (AMQPError, ChannelInvalidStateError, OSError) as error:
            # Nothing is lost: the broker delivers them again, and the ledger knows them.
            log.info("messages_not_acknowledged", messages=len(tags), error=type(error).__name__)

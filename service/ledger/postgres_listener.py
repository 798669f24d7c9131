"""Hears what other processes on a PostgreSQL ledger have changed (LISTEN/NOTIFY)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import closing

import psycopg2
import structlog
from psycopg2.extensions import connection

from service.ledger.postgres_session import CHANNEL, changes_of
from service.ledger.records import Change

log = structlog.get_logger(__name__)

MISSED = (Change("queue"), Change("outbox"), Change("schedule"))
"""What may have happened while nobody listened."""


class Listener:
    """A connection of its own, made again whenever it is lost. Notifications are hints: missing some is harmless."""

    def __init__(
        self, open_connection: Callable[[], connection], origin: str, announce: Callable[[Sequence[Change]], None]
    ) -> None:
        self._open = open_connection
        self._origin = origin
        self._announce = announce
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen_for_ever(), name="ledger-listener")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen_for_ever(self) -> None:
        pause = 0.5
        while True:
            try:
                opened = await asyncio.to_thread(self._begin)
                self._announce(MISSED)  # also the first time: others may have written since this process looked
                pause = 0.5
                await self._hear(opened)
                log.warning("ledger_listener_lost")
            except (psycopg2.Error, OSError) as error:
                log.warning("ledger_listener_waits", error=type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _begin(self) -> connection:
        opened = self._open()
        try:
            with opened.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            opened.close()
            raise
        return opened

    async def _hear(self, opened: connection) -> None:
        """Returns when the connection is lost. Raises `OSError` when no more files can be opened.

        The loop watches a descriptor of our own: libpq closes its socket as soon as it sees that the server is gone,
        and the next caller's connection gets the number while the loop still takes it for this one's. That caller
        would never be heard.
        """
        loop = asyncio.get_running_loop()
        lost = asyncio.Event()
        with closing(opened):
            descriptor = os.dup(opened.fileno())
            loop.add_reader(descriptor, self._read, opened, lost)
            try:
                await lost.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)

    def _read(self, opened: connection, lost: asyncio.Event) -> None:
        try:
            opened.poll()
        except psycopg2.Error:
            lost.set()
            return
        while opened.notifies:
            payload = opened.notifies.pop(0).payload
            try:
                changes = changes_of(payload, self._origin)
            except (ValueError, TypeError):
                log.warning(
                    "ledger_notification_unreadable", bytes=len(payload)
                )  # another program's, or a later version's
                continue
            if changes:
                self._announce(changes)

"""The listener of a PostgreSQL ledger takes no descriptor away from others when its connection is lost."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import cast

import psycopg2
import uvloop
from psycopg2.extensions import connection

from service.ledger.postgres_listener import Listener


class LostConnection:
    """As psycopg2 does it: the socket is closed in the moment the driver sees that the server has gone."""

    def __init__(self) -> None:
        self._socket, self.server = socket.socketpair()
        self.number = self._socket.fileno()

    def fileno(self) -> int:
        return self._socket.fileno()

    def poll(self) -> int:
        self._socket.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    def close(self) -> None:
        self._socket.close()
        self.server.close()

    def cursor(self) -> LostConnection:
        return self

    def execute(self, _: str) -> None:
        """LISTEN."""

    def __enter__(self) -> LostConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Of the cursor."""


class Caller(asyncio.Protocol):
    """The service's end of a caller's connection: it answers what it hears."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._numbers.append(transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@contextmanager
def none_free_below(number: int) -> Iterator[None]:
    """The system gives out the lowest free descriptor: it is `number`, once that is closed."""
    with ExitStack() as taken:
        while (filler := os.dup(0)) < number:
            taken.callback(os.close, filler)
        os.close(filler)
        yield


async def a_caller_comes_as_the_connection_is_lost() -> None:
    loop = asyncio.get_running_loop()
    opened: list[LostConnection] = []
    numbers: list[int] = []
    listens = asyncio.Queue[None]()

    def open_connection() -> connection:
        opened.append(LostConnection())
        return cast("connection", opened[-1])

    listener = Listener(open_connection, "us", lambda _: listens.put_nowait(None))
    server = await loop.create_server(lambda: Caller(numbers), "127.0.0.1", 0)
    listener.start()
    await listens.get()
    with none_free_below(opened[0].number):
        opened[0].server.close()
        caller = socket.create_connection(server.sockets[0].getsockname())  # both, before the loop looks again
        reader, writer = await asyncio.open_connection(sock=caller)
        writer.write(b"?")
        try:
            async with asyncio.timeout(5):
                assert await reader.readexactly(1) == b"?", "the caller is not heard"
                await listens.get()  # on a new connection
        finally:
            writer.close()
            server.close()
            await listener.stop()
    assert numbers == [opened[0].number], "the caller has another descriptor: nothing was tested"


def test_a_caller_who_comes_in_the_moment_the_listeners_connection_is_lost_is_heard() -> None:
    loop = uvloop.new_event_loop()  # the service's
    loop.run_until_complete(a_caller_comes_as_the_connection_is_lost())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()  # not after a failure: a loop that has lost track of a descriptor waits for it for ever

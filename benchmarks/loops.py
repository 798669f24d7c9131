"""An event loop in another thread, as the service has one beside the threads of its handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop


@contextmanager
def loop_beside() -> Iterator[asyncio.AbstractEventLoop]:
    """It runs until the block ends."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

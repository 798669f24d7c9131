"""Waiting for a channel that may close meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from aio_pika.exceptions import AMQPError

T = TypeVar("T")


class ChannelGone(ConnectionError):
    """The channel or its connection closed, or the broker does not answer: whether it was done is not known."""


async def within(seconds: float, work: Awaitable[T]) -> T:
    """What `work` returns. Raises `ChannelGone`, or what the broker refused it with.

    It runs in a task of its own: a closing channel cancels whoever waits on it, and the caller would take that for
    its own end.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        unanswered = task.cancel()
    if unanswered or task.cancelled():
        raise ChannelGone("no answer in time" if unanswered else "closed meanwhile")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, AMQPError):
        raise error
    raise ChannelGone(type(error).__name__) from error  # without its text, which may hold part of the URL

"""The relay: takes deliveries that are due from the ledger, has each attempted, and settles it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Protocol

import structlog

from service.ledger.base import Ledger
from service.ledger.records import Change, Delivery, DeliveryStatus, LedgerUnavailable, Verdict

log = structlog.get_logger(__name__)


class Sender(Protocol):
    """Makes one attempt at a delivery, within `timeout` seconds."""

    @property
    def timeout(self) -> float: ...

    async def attempt(self, delivery: Delivery) -> Verdict: ...


class Outbox:
    """Each delivery is a task of its own and each host has its own room: a slow receiver delays no other.

    Nothing is lost: what is not settled is due again when its lease ends.
    """

    SETTLE_MARGIN = 10.0
    """Seconds a delivery stays hidden beyond the longest attempt, for settling it."""
    JAMMED_POLL = 0.25
    """Seconds between looks while a host has more due than room: its wake-ups cannot be timed."""

    def __init__(
        self,
        ledger: Ledger,
        sender: Sender,
        *,
        per_host: int = 16,
        total: int = 256,
        poll_seconds: float = 5.0,
    ) -> None:
        self._ledger = ledger
        self._sender = sender
        self._per_host = per_host
        self._total = total
        self._poll_seconds = poll_seconds
        self._woken = asyncio.Event()
        self._stopping = False
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._busy: Counter[str] = Counter()
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def start(self) -> None:
        """Watch the ledger and begin to relay."""
        self._ledger.watch(self._hint)
        self._loop_task = asyncio.create_task(self._relay(), name="outbox")

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Take no more; let attempts in flight end for a while, then break them off (they are due again)."""
        self._stopping = True
        self._woken.set()
        if self._loop_task is not None:
            await self._loop_task
        if self._in_flight:
            await asyncio.wait(self._in_flight.values(), timeout=grace_seconds)
        left = list(self._in_flight.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _hint(self, change: Change) -> None:
        if change.kind == "outbox":
            self._woken.set()

    async def _relay(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                pause = await self._look()
            except LedgerUnavailable as error:
                log.warning("outbox_waits_for_ledger", error=str(error))
                pause = 1.0
            except Exception:  # a fault here must show in the log and never end the relay
                log.exception("outbox_failed")
                pause = 1.0
            await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _look(self) -> float:
        """Take what there is room for; seconds until the next look is worth it."""
        room = self._total - len(self._in_flight)
        if room <= 0:
            return self._poll_seconds
        lease = self._sender.timeout + self.SETTLE_MARGIN
        taken = await self._ledger.take_deliveries(room, self._per_host, dict(self._busy), lease)
        for delivery in taken:
            self._begin(delivery)
        if taken:
            return 0.0
        due = await self._ledger.next_delivery_due()
        if due is None:
            return self._poll_seconds
        jammed = any(number >= self._per_host for number in self._busy.values())
        return min(max(due, self.JAMMED_POLL if jammed else 0.01), self._poll_seconds)

    def _begin(self, delivery: Delivery) -> None:
        if delivery.delivery_id in self._in_flight:
            return  # asked for again while it is under way: the attempt in flight answers that
        task = asyncio.create_task(self._deliver(delivery), name=f"delivery-{delivery.delivery_id}")
        self._in_flight[delivery.delivery_id] = task
        self._busy[delivery.host] += 1
        task.add_done_callback(lambda _: self._ended(delivery))

    def _ended(self, delivery: Delivery) -> None:
        self._in_flight.pop(delivery.delivery_id, None)
        self._busy[delivery.host] -= 1
        if self._busy[delivery.host] <= 0:
            del self._busy[delivery.host]
        self._woken.set()

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            verdict = await self._sender.attempt(delivery)
        except asyncio.CancelledError:
            # What became of it is unknown; due at once, it is sent again after the next start.
            await self._settle(delivery, _broken_off(), tries=1)
            raise
        except Exception:  # one delivery's fault must show in the log and not touch the others
            log.exception("delivery_attempt_failed", delivery_id=delivery.delivery_id, job_id=delivery.job_id)
            return  # due again when its lease ends
        await self._settle(delivery, verdict, tries=30)

    async def _settle(self, delivery: Delivery, verdict: Verdict, *, tries: int) -> None:
        for number in range(tries):
            try:
                settled = await self._ledger.settle_delivery(delivery.delivery_id, verdict)
            except LedgerUnavailable as error:
                log.warning("delivery_not_settled", delivery_id=delivery.delivery_id, error=str(error))
                await asyncio.sleep(min(0.1 * 2.0**number, 5.0) if number + 1 < tries else 0)
                continue
            if not settled:
                log.info("delivery_settled_meanwhile", delivery_id=delivery.delivery_id)
            return


def _broken_off() -> Verdict:
    return Verdict(time.time(), None, "broken off: the service stopped", 0.0, DeliveryStatus.PENDING, 0.0)

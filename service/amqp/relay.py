"""The relay to RabbitMQ: takes events that are due from the ledger, has each published, and settles it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import structlog

from service.amqp.names import Names
from service.amqp.outcomes import ANSWERED, UNROUTABLE, Outcome, follows, is_passing_news, spread
from service.amqp.publisher import BrokerAway, Publisher
from service.ledger.base import Ledger
from service.ledger.records import Change, Delivery, LedgerUnavailable, Verdict

log = structlog.get_logger(__name__)


class Relay:
    """Publishes in windows on one channel; while RabbitMQ is away, nothing is taken from the ledger.

    Nothing is lost: what is not settled is due again when its lease ends. So an event may arrive twice, always
    with the same `ce-id`.
    """

    SETTLE_MARGIN = 10.0
    """Seconds a delivery stays hidden from other relays beyond the longest wait for a confirm, for settling it."""
    UNWANTED_SECONDS = 5.0
    """How long RabbitMQ is not asked again whether somebody wants a `.started` event that nobody wanted."""
    LAST_SECONDS = 2.0
    """How long a stop waits for the ledger to note what became of the last messages."""
    LONGEST_PAUSE = 15.0
    """Seconds between attempts to connect, at most."""

    def __init__(
        self,
        ledger: Ledger,
        url: str,
        names: Names,
        *,
        schedule: Sequence[float],
        window: int = 512,
        poll_seconds: float = 5.0,
        confirm_seconds: float = 20.0,
    ) -> None:
        """`schedule`: seconds before each further try of an event that RabbitMQ did not keep."""
        self._ledger = ledger
        self._schedule = tuple(schedule)
        self._batch = max(1, window // 2)  # one half is published while the other is settled
        self._window = window
        self._poll_seconds = poll_seconds
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._publisher = Publisher(url, names, self._woken.set, confirm_seconds=confirm_seconds)
        self._lease_seconds = confirm_seconds + self.SETTLE_MARGIN
        self._loop_task: asyncio.Task[None] | None = None
        self._batches: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._tries = 0
        """Attempts to connect since RabbitMQ last answered to a message."""
        self._away = False
        self._ledger_away = False
        self._unwanted: dict[str, float] = {}
        """Types of `.started` events that no queue is bound for, and until when that is believed."""
        self._suspects: set[str] = set()
        """Deliveries unconfirmed when RabbitMQ closed the channel: sent one by one, to find the one it minds."""

    @property
    def connected(self) -> bool:
        return self._publisher.is_open

    @property
    def in_flight(self) -> int:
        return self._in_flight

    # -- life

    def start(self) -> None:
        """Watch the ledger and begin to relay; never blocks on an absent broker."""
        self._ledger.watch(self._hint)
        self._loop_task = asyncio.create_task(self._relay(), name="amqp-relay")

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Take no more; let what is in flight be confirmed for a while, then break it off: it is due again."""
        self._stopping.set()
        self._woken.set()
        loop = set() if self._loop_task is None else {self._loop_task}
        if not self.connected:
            _cancel(loop)  # it may be connecting for long, and has taken nothing
        await _ended(loop, self.LAST_SECONDS)
        await _ended(self._batches, grace_seconds)
        await self._publisher.close()  # this ends every publish that is under way
        await _ended(self._batches, self.LAST_SECONDS)
        _cancel(left := loop | self._batches)
        await asyncio.gather(*left, return_exceptions=True)

    def _hint(self, change: Change) -> None:
        if change.kind == "outbox":
            self._woken.set()

    async def _relay(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                pause = await self._look() if self.connected else await self._connect()
            except LedgerUnavailable as error:
                log.warning("amqp_relay_waits_for_ledger", error=str(error))
                pause = 1.0
            except Exception:  # a fault here must show in the log and never end the relay
                log.exception("amqp_relay_failed")
                pause = 1.0
            await _wait(self._woken, pause)

    async def _connect(self) -> float:
        """Try to reach RabbitMQ, after a pause that grows as long as it answers to no message."""
        if self._tries:
            await _wait(self._stopping, spread(min(2.0 ** (self._tries - 1), self.LONGEST_PAUSE)))
        if self._stopping.is_set():
            return 0.0
        self._tries = min(self._tries + 1, 30)
        try:
            await self._publisher.open()
        except BrokerAway as error:
            if not self._away:
                log.warning("amqp_relay_waits", error=str(error))
            self._away = True
            return 0.0
        log.info("amqp_relay_resumed" if self._away else "amqp_relay_connected")
        self._away = False
        return 0.0

    # -- work

    async def _look(self) -> float:
        """Take what there is room for; seconds until the next look is worth it."""
        if self._publisher.in_doubt:
            await self._publisher.check()
            return 0.0
        if self._in_flight > self._window - self._batch or await self._publisher.is_blocked():
            return min(1.0, self._poll_seconds)
        taken = await self._ledger.take_messages(self._batch, self._lease_seconds)
        if taken:
            self._begin(taken)
            return 0.0
        due = await self._ledger.next_delivery_due("amqp")
        return self._poll_seconds if due is None else min(max(due, 0.01), self._poll_seconds)

    def _begin(self, batch: list[Delivery]) -> None:
        self._in_flight += len(batch)
        task = asyncio.create_task(self._relay_batch(batch), name="amqp-batch")
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    def _leave(self) -> None:
        """One delivery less under way; one that waits for its confirm must not keep out those that come after."""
        self._in_flight -= 1
        if self._in_flight == self._window - self._batch:
            self._woken.set()

    async def _relay_batch(self, batch: list[Delivery]) -> None:
        suspects = [delivery for delivery in batch if delivery.delivery_id in self._suspects]
        together = [delivery for delivery in batch if delivery not in suspects] if suspects else batch
        outcomes = await asyncio.gather(*map(self._deliver, together))
        outcomes += [await self._deliver(delivery, alone=True) for delivery in suspects]
        _tell(outcomes)

    async def _deliver(self, delivery: Delivery, *, alone: bool = False) -> Outcome | None:
        try:
            return await self._publish(delivery, alone=alone)
        finally:
            self._leave()

    async def _publish(self, delivery: Delivery, *, alone: bool) -> Outcome | None:
        """Publish and settle; None: what became of it is not known."""
        at, began = time.time(), time.monotonic()
        try:
            answer = UNROUTABLE if self._is_unwanted(delivery) else await self._publisher.publish(delivery)
            self._learn(delivery, answer[0])
            status, wait, error = follows(delivery, answer, self._schedule, alone=alone)
        except Exception:  # one delivery's fault must show in the log and not touch the others
            log.exception("amqp_delivery_failed", delivery_id=delivery.delivery_id, job_id=delivery.job_id)
            return None  # due again when its lease ends
        took = (time.monotonic() - began) * 1000
        await self._settle(delivery, Verdict(at, None, error, took, status, wait), tries=30)
        return answer[0]

    def _is_unwanted(self, delivery: Delivery) -> bool:
        """A `.started` that nobody was bound for a moment ago: it would be given up anyway (see `follows`)."""
        return self._unwanted.get(delivery.event_type, 0.0) > time.monotonic() and is_passing_news(delivery)

    def _learn(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome is Outcome.UNROUTABLE and is_passing_news(delivery) and not self._is_unwanted(delivery):
            self._unwanted[delivery.event_type] = time.monotonic() + self.UNWANTED_SECONDS
        if outcome is Outcome.CLOSED:
            if len(self._suspects) > 2 * self._window:
                self._suspects.clear()  # another relay sent them meanwhile
            self._suspects.add(delivery.delivery_id)
        elif outcome in ANSWERED:
            self._tries = 0
            self._suspects.discard(delivery.delivery_id)

    async def _settle(self, delivery: Delivery, verdict: Verdict, *, tries: int) -> None:
        for number in range(tries):
            try:
                settled = await self._ledger.settle_delivery(delivery.delivery_id, verdict)
            except LedgerUnavailable as error:
                if not self._ledger_away:  # once: hundreds may be in flight
                    log.warning("amqp_deliveries_not_settled", delivery_id=delivery.delivery_id, error=str(error))
                self._ledger_away = True
                await asyncio.sleep(min(0.1 * 2.0**number, 5.0) if number + 1 < tries else 0)
                continue
            self._ledger_away = False
            if not settled:
                log.info("delivery_settled_meanwhile", delivery_id=delivery.delivery_id)
            return


def _tell(outcomes: Iterable[Outcome | None]) -> None:
    """One line for all of a batch that was not confirmed."""
    counts = Counter(outcome for outcome in outcomes if outcome not in (Outcome.CONFIRMED, None))
    if counts:
        log.warning("amqp_events_not_confirmed", **{str(outcome): number for outcome, number in counts.items()})


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _ended(tasks: Iterable[asyncio.Task[None]], seconds: float) -> None:
    """Wait until all have ended, but not for longer."""
    if tasks := set(tasks):
        await asyncio.wait(tasks, timeout=seconds)


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()

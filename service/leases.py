"""The leases this worker holds: renewed all in one call, independent of the threads that do the work."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog

from engines.errors import Stopped
from engines.run import StopReason, StopToken
from service.ledger.base import Ledger
from service.ledger.records import LedgerUnavailable

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Lease:
    """A running job's hold on its claims. `until` is monotonic time and errs on the early side."""

    job_id: str
    token: int
    until: float
    stop: StopToken
    lost: bool = False
    ending: bool = False
    """The work is over and the end is being written: that the ledger no longer knows the lease is no news."""

    def lose(self, why: str) -> None:
        """The lease is gone or must be presumed gone: its work stops at once."""
        if self.lost or self.ending:
            return
        self.lost = True
        log.warning("lease_lost", job_id=self.job_id, token=self.token, why=why)
        self.stop.request(StopReason.LEASE_LOST)


class Leases:
    """All methods run in the event loop's thread."""

    def __init__(self, ledger: Ledger, worker_id: str, *, lease_seconds: float, heartbeat_seconds: float) -> None:
        self._ledger = ledger
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._held: dict[str, Lease] = {}
        self._renewed_at = time.monotonic()

    def add(self, job_id: str, token: int, claimed_at: float, stop: StopToken) -> Lease:
        """`claimed_at`: monotonic time from before the claim was asked for."""
        lease = Lease(job_id, token, claimed_at + self._lease_seconds, stop)
        self._held[job_id] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        if self._held.get(lease.job_id) is lease:
            del self._held[lease.job_id]

    async def beat(self) -> None:
        """The heartbeat; runs until it is canceled."""
        while True:
            await asyncio.sleep(self._pause())
            await self.renew()

    def _pause(self) -> float:
        """Until the next renewal; sooner when one failed, so that a lease is not lost to one bad moment."""
        since = time.monotonic() - self._renewed_at
        return self._heartbeat_seconds if since < self._heartbeat_seconds else min(self._heartbeat_seconds / 4, 1.0)

    async def renew_if_late(self) -> None:
        """After a pause of the whole process: renew before anybody calls our own leases expired."""
        if time.monotonic() - self._renewed_at > self._heartbeat_seconds * 1.5:
            await self.renew()

    async def renew(self) -> None:
        """Renew every lease in one call."""
        asked_at = time.monotonic()
        held = [lease for lease in self._held.values() if not lease.lost]
        try:
            await self._renew(held)
        except (LedgerUnavailable, TimeoutError) as error:
            log.warning("heartbeat_failed", leases=len(held), error=str(error) or type(error).__name__)
            self._presume_lost(held)
        else:
            self._renewed_at = asked_at

    async def confirm(self, lease: Lease) -> None:
        """Return when the ledger says the lease is held; raises `Stopped` when it is lost or presumed so."""
        while not lease.lost:
            try:
                await self._renew([lease])
            except (LedgerUnavailable, TimeoutError) as error:
                log.warning("lease_not_confirmed", job_id=lease.job_id, error=str(error) or type(error).__name__)
                self._presume_lost([lease])
                lease.stop.check()
                await asyncio.sleep(0.2)
            else:
                break
        if lease.lost:
            raise Stopped(StopReason.LEASE_LOST)

    async def _renew(self, leases: list[Lease]) -> None:
        if not leases:
            return
        asked_at = time.monotonic()
        time_left = max(min(lease.until for lease in leases) - asked_at, 0.1)
        async with asyncio.timeout(min(time_left, self._heartbeat_seconds)):
            answers = await self._ledger.renew(self._worker_id, {lease.job_id: lease.token for lease in leases})
        for lease in leases:
            answer = answers.get(lease.job_id)
            if answer is None or not answer.held:
                lease.lose("the ledger gave it to another")
                continue
            lease.until = asked_at + self._lease_seconds
            if answer.cancel_requested:
                lease.stop.request(StopReason.CANCEL)

    def _presume_lost(self, leases: list[Lease]) -> None:
        now = time.monotonic()
        for lease in leases:
            if now >= lease.until:
                lease.lose("the ledger was away for longer than the lease")

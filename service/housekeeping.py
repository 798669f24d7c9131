"""What runs beside the jobs: old rows swept, dead attempts' leavings removed from storage and databases."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from engines.errors import FlexError
from engines.registry import EngineRegistry
from handlers.ports import Connections
from service.catalogue import StorageSweep
from service.jobs import ENDED
from service.ledger.base import Ledger
from service.ledger.records import LedgerUnavailable

log = structlog.get_logger(__name__)


class Housekeeping:
    """Runs once at start and then every `every` seconds; a failing part never stops the others."""

    def __init__(
        self,
        ledger: Ledger,
        storage: StorageSweep,
        connections: Connections,
        engines: EngineRegistry,
        *,
        keep_seconds: float,
        every: float = 3600.0,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._connections = connections
        self._engines = engines
        self._keep_seconds = keep_seconds
        self._every = every
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name="housekeeping")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _loop(self) -> None:
        while True:
            try:
                await self.once()
            except LedgerUnavailable as error:
                log.warning("housekeeping_postponed", error=str(error))
            except Exception:
                log.exception("housekeeping_failed")
            await asyncio.sleep(self._every)

    async def once(self) -> None:
        await self._storage.run()
        await self._databases()
        while await self._ledger.sweep(self._keep_seconds):  # noqa: ASYNC110  batches with pauses, not waiting
            await asyncio.sleep(0.05)  # so that intake is never held up

    async def _databases(self) -> None:
        """Drop scratch and half-built databases of jobs of this ledger that have ended."""
        loop = asyncio.get_running_loop()

        def is_dead(job_id: str) -> bool:
            return asyncio.run_coroutine_threadsafe(self._is_over(job_id), loop).result(30)

        for name in self._connections.names():
            try:
                target = self._connections.target(name)
                engine = self._engines.by_kind(target.engine)
                gone = await asyncio.to_thread(engine.remove_leftovers, target, is_dead)
            except FlexError as error:
                log.info("leftovers_not_checked", connection=name, code=error.code)
                continue
            if gone:
                log.info("leftovers_removed", connection=name, databases=gone)

    async def _is_over(self, job_id: str) -> bool:
        """True for ended jobs of this ledger; a job it does not know may be another service's."""
        job = await self._ledger.job(job_id)
        return job is not None and job.status in ENDED

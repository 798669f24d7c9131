"""Has every tick of every schedule make its event, once however many replicas look."""

from __future__ import annotations

import asyncio

import structlog

from service.intake import Intake, Refused, refusal_of
from service.jobs import iso
from service.ledger.base import Ledger
from service.ledger.records import Accepted, Change, LedgerUnavailable, QueueFull, Schedule, ScheduleStep
from service.ticks import SCHEDULES, newest_tick, next_tick, tick_event

log = structlog.get_logger(__name__)


class Scheduler:
    """Looks for schedules that are due and fires them.

    A tick's event and the schedule's move to the next tick are one transaction of the ledger, which takes place only
    while the schedule stands where it was read. So of several replicas one fires, and a schedule that was replaced or
    removed fires its old definition no more. Time is the ledger's: a replica's own clock decides nothing.

    Of the ticks missed while nothing ran, or while the queue was full, the newest fires, late, and the others are
    passed over. Where the ledger's clock is set forward, that is the same; where it is set back, schedules wait until
    it has come as far again, and a tick that had fired makes no second job.
    """

    BATCH = 100
    """Schedules fired between two looks at the ledger."""
    LEFT_PAUSE = 5.0
    """Seconds until a schedule that could not be fired is tried again."""

    def __init__(self, ledger: Ledger, intake: Intake, *, poll_seconds: float = 30.0) -> None:
        self._ledger = ledger
        self._intake = intake
        self._poll_seconds = poll_seconds
        self._woken = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the ledger and begin to fire."""
        self._ledger.watch(self._hint)
        self._task = asyncio.create_task(self._run(), name="scheduler")

    async def stop(self) -> None:
        """Fire no more; what is being fired is on disk when this returns."""
        self._stopping = True
        self._woken.set()
        if self._task is not None:
            await self._task

    def _hint(self, change: Change) -> None:
        if change.kind == "schedule":
            self._woken.set()

    async def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                pause = await self._look()
            except LedgerUnavailable as error:
                log.warning("scheduler_waits_for_ledger", error=str(error))
                pause = 1.0
            except Exception:  # a fault here must show in the log and never end the scheduler
                log.exception("scheduler_failed")
                pause = self.LEFT_PAUSE
            await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _look(self) -> float:
        """Fire what is due; seconds until the next look is worth it."""
        left = False
        for schedule in await self._ledger.due_schedules(self.BATCH):
            if self._stopping:
                return 0.0
            left |= not await self._fire(schedule)
        if left:
            return min(self.LEFT_PAUSE, self._poll_seconds)
        due = await self._ledger.next_schedule_due()
        return self._poll_seconds if due is None else min(due, self._poll_seconds)

    async def _fire(self, schedule: Schedule) -> bool:
        """False when the schedule is still due."""
        try:
            step = await self._step(schedule)
            try:
                return await self._accept(schedule, step)
            except Refused as refused:
                await self._refuse(step, refused)
                return True
        except LedgerUnavailable:
            raise
        except Exception:  # one schedule's fault (its time zone is unknown on this machine) must not hold up the others
            log.exception("schedule_failed", schedule=schedule.name)
            return False

    async def _step(self, schedule: Schedule) -> ScheduleStep:
        tick = schedule.next_at
        assert tick is not None  # noqa: S101  for mypy: it is due
        now = await self._ledger.now()
        from_tick, following = tick, next_tick(schedule.cron, schedule.timezone, tick)
        if following is not None and following <= now:
            tick = newest_tick(schedule.cron, schedule.timezone, following, now)
            following = next_tick(schedule.cron, schedule.timezone, tick)
        return ScheduleStep(schedule.name, schedule.revision, from_tick, tick, following)

    async def _accept(self, schedule: Schedule, step: ScheduleStep) -> bool:
        """False when the queue is full. Raises `Refused` for what will not be accepted later either."""
        submission = self._intake.submission(tick_event(schedule, step.tick), SCHEDULES)
        answer = await self._ledger.fire_schedule(step, submission)
        match answer:
            case None:
                log.debug("schedule_moved_meanwhile", schedule=step.name, tick=iso(step.tick))
            case Accepted(job_id, _, duplicate):
                facts = {"schedule": step.name, "tick": iso(step.tick), "job_id": job_id, "next": iso(step.to_tick)}
                log.info("schedule_fired", duplicate=duplicate, **facts)
                if step.tick != step.from_tick:
                    log.warning("schedule_ticks_missed", since=iso(step.from_tick), **facts)
            case QueueFull(open_jobs):
                log.warning("schedule_waits_for_queue", schedule=step.name, tick=iso(step.tick), open_jobs=open_jobs)
                return False
            case _:
                raise refusal_of(answer, submission)
        return True

    async def _refuse(self, step: ScheduleStep, refused: Refused) -> None:
        refusal = {"at": iso(step.tick), "code": refused.code, "detail": refused.detail}
        if await self._ledger.advance_schedule(step, refusal):
            facts = {"code": refused.code, "detail": refused.detail, "next": iso(step.to_tick)}
            log.error("schedule_refused", schedule=step.name, tick=iso(step.tick), **facts)

"""Schedulers over a real ledger whose clock is set by hand: every tick once, whoever looks and whenever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from engines.run import Run
from handlers.base import Handler, Outcome, Request, Result
from service.intake import Intake
from service.jobs import Job, Status
from service.ledger.base import Ledger
from service.ledger.postgres import PostgresLedger
from service.ledger.records import Acceptance, Rules, Schedule, ScheduleStep, Submission
from service.ledger.sqlite import SQLiteLedger
from service.scheduler import Scheduler
from service.ticks import next_tick
from tests.conftest import LentLedger
from tests.contracts.ledger_world import FakeClock, submission
from tests.spine import Trouble, ended, holds, until

START = datetime.fromisoformat("2026-11-21T02:30:00+00:00").timestamp()
FIVE_MINUTES = "*/5 * * * *"


class Wish(Request):
    word: str = ""


class Said(Result):
    word: str


class Saying(Handler[Wish]):
    operation = "saying"
    request_model = Wish
    result_model = Said

    def run(self, request: Wish, run: Run) -> Outcome:
        return Outcome(Said(word=request.word))


@dataclass
class World:
    """A ledger, the clock it goes by, and schedulers that share it as replicas do."""

    ledger: Ledger
    clock: FakeClock
    stack: AsyncExitStack
    another: Callable[[], Awaitable[Ledger]]
    replicas: list[Scheduler] = field(default_factory=list)

    async def put(self, name: str = "nightly", cron: str = FIVE_MINUTES, **changes: Any) -> Schedule:
        wanted = Schedule(name, cron, "Europe/Berlin", "saying", {"word": "first"}, True)
        wanted = replace(wanted, next_at=next_tick(cron, wanted.timezone, self.clock.now))
        await self.ledger.put_schedule(replace(wanted, **changes))
        return await self.kept(name)

    async def kept(self, name: str = "nightly") -> Schedule:
        found = await self.ledger.schedule(name)
        assert found is not None
        return found

    async def elsewhere(self) -> Ledger:
        """The ledger as a replica on another machine has it, where the ledger can be shared."""
        return self.ledger if isinstance(self.ledger, SQLiteLedger) else await self.another()

    def start(self, ledger: Ledger | None = None, *, poll_seconds: float = 0.01) -> Scheduler:
        """One more replica; `ledger` is how it sees the ledger, the ledger itself unless told otherwise."""
        seen = ledger or self.ledger
        replica = Scheduler(seen, Intake(seen, {"saying": Saying()}, lambda url: None), poll_seconds=poll_seconds)
        replica.start()
        self.stack.push_async_callback(replica.stop)
        self.replicas.append(replica)
        return replica

    async def jobs(self) -> list[Job]:
        """Oldest first."""
        return list((await self.ledger.jobs(limit=500)).items)[::-1]

    async def moved(self, found: Schedule) -> Schedule:
        """The schedule once it has left the tick it stood at."""

        async def look() -> Schedule | None:
            now = await self.kept(found.name)
            return now if now.next_at != found.next_at else None

        return await until(look)


OpenLedger = Callable[[Callable[[], float], Rules], Ledger]
OpenWorld = Callable[..., Awaitable[World]]


@pytest.fixture(params=["sqlite", "postgres"])
def make_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLedger:
    """Every call sees the same store: with PostgreSQL as another process would, with SQLite nobody else can."""
    if request.param == "sqlite":
        return lambda clock, rules: SQLiteLedger(tmp_path / "ledger.sqlite", rules, clock)
    lent_ledger: LentLedger = request.getfixturevalue("lent_ledger")
    url = lent_ledger(request.getfixturevalue("postgres15_url"))
    return lambda clock, rules: PostgresLedger(url, rules, clock)


@pytest.fixture
async def opened(make_ledger: OpenLedger) -> AsyncIterator[OpenWorld]:
    async with AsyncExitStack() as stack:

        async def make(clock: Callable[[], float] | None = None, **rules: Any) -> World:
            by_hand = FakeClock()
            by_hand.now = START

            async def another() -> Ledger:
                ledger = make_ledger(clock or by_hand, Rules(**rules))
                await ledger.open()
                stack.push_async_callback(ledger.close)
                return ledger

            return World(await another(), by_hand, stack, another)

        yield make


@pytest.fixture
async def world(opened: OpenWorld) -> World:
    return await opened()


class Watched:
    """The real ledger as one replica sees it; a test may look on, or act, before a call reaches it."""

    def __init__(
        self,
        real: Ledger,
        *,
        before_fire: Callable[[], Awaitable[object]] | None = None,
        together: asyncio.Barrier | None = None,
    ) -> None:
        self._real = real
        self._before_fire = before_fire
        self._together = together
        self.looks = 0
        self.naps = 0
        self.answers: list[Acceptance | None] = []

    @property
    def ledger(self) -> Ledger:
        return cast("Ledger", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def due_schedules(self, limit: int) -> list[Schedule]:
        self.looks += 1
        found = await self._real.due_schedules(limit)
        if found and self._together is not None:
            await self._together.wait()
        return found

    async def next_schedule_due(self) -> float | None:
        """The last that is asked before a scheduler sleeps."""
        due = await self._real.next_schedule_due()
        self.naps += 1
        return due

    async def fire_schedule(self, step: ScheduleStep, asked: Submission) -> Acceptance | None:
        if self._before_fire is not None:
            act, self._before_fire = self._before_fire, None
            await act()
        answer = await self._real.fire_schedule(step, asked)
        self.answers.append(answer)
        return answer


def logged(entries: list[Any], event: str) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if entry["event"] == event]


# ---------------------------------------------------------------- once


async def test_a_tick_makes_the_event_of_its_schedule(world: World) -> None:
    found = await world.put()
    world.start()
    world.clock.now = START + 300
    moved = await world.moved(found)
    (job,) = await world.jobs()
    assert (job.source, job.event_id) == ("/flexdb/schedules", "nightly/2026-11-21T02:35:00Z")
    assert (job.operation, job.data, job.status) == ("saying", {"word": "first"}, Status.QUEUED)
    assert (moved.last_at, moved.last_job_id, moved.next_at) == (START + 300, job.job_id, START + 600)


async def test_two_replicas_that_see_every_tick_at_once_fire_it_once(world: World) -> None:
    """Through the night in which an hour comes twice, so that ids cannot be those of the wall clock."""
    world.clock.now = datetime.fromisoformat("2026-10-24T23:00:00+00:00").timestamp()
    first = world.clock.now
    found = await world.put()
    barrier = asyncio.Barrier(2)
    seen = [Watched(await world.elsewhere(), together=barrier) for _ in range(2)]
    for one in seen:
        world.start(one.ledger)
    for _ in range(48):
        world.clock.advance(300)
        found = await world.moved(found)
    await holds(lambda: sum(len(one.answers) for one in seen) == 96)
    for replica in world.replicas:
        await replica.stop()
    jobs = await world.jobs()
    expected = [first + 300 * number for number in range(1, 49)]
    made = [datetime.fromisoformat(job.event_id.removeprefix("nightly/")).timestamp() for job in jobs]
    assert made == expected
    assert sum(answer is None for one in seen for answer in one.answers) == 48, "both had seen every tick"


async def test_a_replica_that_fell_asleep_between_look_and_firing_fires_nothing_again(world: World) -> None:
    found = await world.put()

    async def another_fires_and_time_goes_on() -> None:
        world.start()
        world.clock.advance(86_400)
        await world.moved(found)

    slow = Watched(await world.elsewhere(), before_fire=another_fires_and_time_goes_on)
    world.start(slow.ledger)
    world.clock.advance(300)
    await holds(lambda: slow.answers)
    assert slow.answers[0] is None
    ids = [job.event_id for job in await world.jobs()]
    assert ids == ["nightly/2026-11-22T02:35:00Z"]


async def test_many_schedules_due_at_once_are_all_fired(world: World) -> None:
    names = [f"s{number:03}" for number in range(250)]
    for name in names:
        await world.put(name)
    replicas = [Watched(await world.elsewhere()) for _ in range(2)]
    for one in replicas:
        world.start(one.ledger, poll_seconds=60)
    await holds(lambda: all(one.naps for one in replicas))
    world.clock.advance(300)
    await world.put("last", next_at=world.clock.now)  # which wakes them

    async def all_fired() -> bool:
        return await world.ledger.due_schedules(1) == []

    await until(all_fired)
    ids = {job.event_id for job in await world.jobs()}
    assert ids == {f"{name}/2026-11-21T02:35:00Z" for name in [*names, "last"]}
    assert len(await world.jobs()) == 251


# ---------------------------------------------------------------- time


async def test_the_clock_of_the_process_decides_nothing(world: World) -> None:
    """The process's clock is years away from the ledger's here."""
    world.clock.now = time.time() - 5 * 365 * 86_400
    found = await world.put()
    seen = Watched(world.ledger)
    world.start(seen.ledger)
    await holds(lambda: seen.looks >= 5)
    assert (await world.jobs(), await world.kept()) == ([], found)
    world.clock.now = cast("float", found.next_at)
    await world.moved(found)
    assert len(await world.jobs()) == 1


async def test_the_newest_missed_tick_fires_once_at_start_and_the_others_do_not(world: World) -> None:
    found = await world.put(cron="0 3 * * *")
    world.clock.advance(10 * 86_400)
    with structlog.testing.capture_logs() as entries:
        world.start()
        world.start()
        moved = await world.moved(found)
        await holds(lambda: logged(entries, "schedule_ticks_missed"))
    assert [job.event_id for job in await world.jobs()] == ["nightly/2026-12-01T02:00:00Z"]
    assert moved.next_at == datetime.fromisoformat("2026-12-02T03:00:00+01:00").timestamp()
    (missed,) = logged(entries, "schedule_ticks_missed")
    assert (missed["schedule"], missed["since"], missed["log_level"]) == (
        "nightly",
        "2026-11-22T02:00:00.000Z",
        "warning",
    )


async def test_a_ledger_clock_that_is_set_back_makes_no_second_job(world: World) -> None:
    found = await world.put()
    seen = Watched(world.ledger)
    world.start(seen.ledger)
    world.clock.advance(300)
    found = await world.moved(found)
    world.clock.advance(-299)
    looks = seen.looks
    await holds(lambda: seen.looks >= looks + 3)
    assert await world.kept() == found
    await world.put(next_at=START + 300)  # made anew by somebody whose clock says that the tick is still to come
    world.clock.advance(299)
    await world.moved(await world.kept())
    assert len(await world.jobs()) == 1


async def test_the_next_tick_is_slept_for_and_a_new_schedule_wakes_the_sleeper(opened: OpenWorld) -> None:
    world = await opened(clock=time.time)
    world.clock.now = time.time()
    seen = Watched(await world.elsewhere())
    world.start(seen.ledger, poll_seconds=60)
    await holds(lambda: seen.naps)
    began = time.monotonic()
    found = await world.put(next_at=time.time() + 0.4)
    await world.moved(found)
    assert 0.3 < time.monotonic() - began < 10


# ---------------------------------------------------------------- what is not fired


async def test_a_schedule_that_is_replaced_while_it_fires_fires_its_new_definition_only(world: World) -> None:
    found = await world.put()

    async def replaced() -> None:
        await world.put(data={"word": "second"}, next_at=START + 600)

    world.start(Watched(await world.elsewhere(), before_fire=replaced).ledger)
    world.clock.advance(300)
    await world.moved(found)
    (job,) = await world.jobs()
    assert (job.event_id, job.data) == ("nightly/2026-11-21T02:35:00Z", {"word": "second"})


@pytest.mark.parametrize("then", ["deleted", "disabled"])
async def test_a_schedule_that_is_taken_away_while_it_fires_fires_no_more(world: World, then: str) -> None:
    await world.put()

    async def taken_away() -> None:
        if then == "deleted":
            await world.ledger.delete_schedule("nightly")
        else:
            await world.put(enabled=False, next_at=None)

    seen = Watched(await world.elsewhere(), before_fire=taken_away)
    world.start(seen.ledger)
    world.clock.advance(300)
    await holds(lambda: seen.answers)
    assert (seen.answers, await world.jobs()) == ([None], [])


async def test_a_disabled_schedule_makes_nothing(world: World) -> None:
    await world.put("off", enabled=False, next_at=None)
    found = await world.put("on")
    world.start()
    world.clock.advance(300)
    await world.moved(found)
    assert [job.event_id for job in await world.jobs()] == ["on/2026-11-21T02:35:00Z"]


# ---------------------------------------------------------------- refusals and faults


async def test_a_tick_that_is_refused_is_told_and_the_schedule_moves_on(world: World) -> None:
    found = await world.put(data={"wurd": "first"})
    with structlog.testing.capture_logs() as entries:
        world.start()
        world.clock.advance(300)
        moved = await world.moved(found)
        await holds(lambda: logged(entries, "schedule_refused"))
    assert moved.next_at == START + 600
    assert moved.last_refusal is not None
    assert (moved.last_refusal["code"], moved.last_refusal["at"]) == ("invalid_request", "2026-11-21T02:35:00.000Z")
    assert (moved.last_at, moved.last_job_id, await world.jobs()) == (None, None, [])
    (told,) = logged(entries, "schedule_refused")
    assert (told["log_level"], told["schedule"], told["code"]) == ("error", "nightly", "invalid_request")


async def test_an_operation_that_is_gone_is_a_refusal(world: World) -> None:
    found = await world.put(operation="shouting")
    world.start()
    world.clock.advance(300)
    moved = await world.moved(found)
    assert moved.last_refusal is not None and moved.last_refusal["code"] == "unknown_operation"


async def test_a_tick_whose_id_is_used_up_is_a_refusal(world: World) -> None:
    found = await world.put()
    taken = submission("nightly/2026-11-21T02:35:00Z", source="/flexdb/schedules", data={"word": "other"})
    await world.ledger.accept(taken)
    world.start()
    world.clock.advance(300)
    moved = await world.moved(found)
    assert moved.last_refusal is not None and moved.last_refusal["code"] == "id_reused"
    assert [job.job_id for job in await world.jobs()] == [taken.job_id]


async def test_a_full_queue_is_waited_for_and_the_newest_tick_then_fires(opened: OpenWorld) -> None:
    world = await opened(queue_limit=1)
    found = await world.put()
    await world.ledger.accept(submission("in the way"))
    with structlog.testing.capture_logs() as entries:
        world.start()
        world.clock.advance(300)
        await holds(lambda: len(logged(entries, "schedule_waits_for_queue")) >= 2)
        assert await world.kept() == found, "it stays due and nothing is held against it"
        world.clock.advance(3000)
        (job,) = await world.ledger.claim("tests", 1)
        await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
        await ended(world.ledger, job.job_id)
        moved = await world.moved(found)
    assert (moved.last_at, moved.next_at) == (START + 3300, START + 3600)
    assert [job.event_id for job in await world.jobs()] == ["in the way", "nightly/2026-11-21T03:25:00Z"]


async def test_a_schedule_that_cannot_be_read_here_holds_up_no_other(world: World) -> None:
    await world.put("broken", timezone="Mars/Phobos", next_at=START + 1)
    found = await world.put()
    with structlog.testing.capture_logs() as entries:
        world.start()
        world.clock.advance(300)
        await world.moved(found)
        await holds(lambda: logged(entries, "schedule_failed"))
    assert (await world.kept("broken")).next_at == START + 1


async def test_a_ledger_that_goes_away_delays_a_tick_and_loses_none(world: World) -> None:
    found = await world.put()
    world.clock.advance(300)
    line = Trouble(world.ledger, due_schedules=1, fire_schedule=1)
    world.start(line.ledger)
    await world.moved(found)
    assert line.refused == 2
    assert len(await world.jobs()) == 1


async def test_a_scheduler_that_was_stopped_fires_no_more(world: World) -> None:
    found = await world.put()
    seen = Watched(world.ledger)
    replica = world.start(seen.ledger)
    await holds(lambda: seen.looks >= 1)
    await replica.stop()
    looks = seen.looks
    world.clock.advance(300)
    await world.put("another", next_at=START + 300)  # tells whoever listens
    assert await world.kept() == found
    assert (seen.looks, await world.jobs()) == (looks, [])

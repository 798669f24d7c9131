"""What every ledger promises of schedules: kept, due in time, moved on once, never fired as they were before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from service.jobs import Status
from service.ledger.records import Accepted, IdReused, QueueFull, Rules, Schedule, ScheduleStep
from tests.contracts.ledger_world import World, submission

DATA: dict[str, Any] = {"connection": "shop", "labels": {"é": "ü"}, "verify": 3}


def schedule(name: str = "nightly", **changes: Any) -> Schedule:
    return replace(Schedule(name, "0 3 * * *", "Europe/Berlin", "backup", DATA), **changes)


async def put(world: World, name: str = "nightly", *, due_in: float = 60.0, **changes: Any) -> Schedule:
    """A schedule as it is kept; its tick comes `due_in` seconds from now."""
    await world.ledger.put_schedule(schedule(name, **({"next_at": world.clock.now + due_in} | changes)))
    return await kept(world, name)


async def kept(world: World, name: str = "nightly") -> Schedule:
    found = await world.ledger.schedule(name)
    assert found is not None
    return found


def step_of(found: Schedule, **changes: Any) -> ScheduleStep:
    """Past its tick to the one a day later."""
    tick = found.next_at
    assert tick is not None
    return replace(ScheduleStep(found.name, found.revision, tick, tick, tick + 86400), **changes)


class ScheduleSuite:
    async def test_a_schedule_is_kept_as_it_was_put_over_a_restart(self, world: World) -> None:
        at = world.clock.now
        assert await world.ledger.put_schedule(schedule(next_at=at + 60.0))
        again = await world.reopen()
        found = await kept(again)
        assert found == schedule(next_at=at + 60.0, revision=found.revision, created_at=at, updated_at=at)
        assert found.revision

    async def test_schedules_are_listed_by_name_and_removed_once(self, world: World) -> None:
        for name in ("b", "a", "c"):
            await put(world, name)
        assert [item.name for item in await world.ledger.schedules()] == ["a", "b", "c"]
        assert await world.ledger.delete_schedule("b")
        assert not await world.ledger.delete_schedule("b")
        assert [item.name for item in await world.ledger.schedules()] == ["a", "c"]
        assert await world.ledger.schedule("b") is None

    async def test_a_replaced_schedule_has_another_revision_and_keeps_what_it_did(self, world: World) -> None:
        first = await put(world, due_in=0)
        answer = await world.ledger.fire_schedule(step_of(first), submission("t1"))
        assert isinstance(answer, Accepted)
        world.clock.advance(5)
        assert not await world.ledger.put_schedule(schedule(cron="0 4 * * *", operation="check", data={}, next_at=9.0))
        second = await kept(world)
        assert second.revision not in ("", first.revision)
        assert (second.cron, second.operation, second.data, second.next_at) == ("0 4 * * *", "check", {}, 9.0)
        assert (second.last_at, second.last_job_id) == (first.next_at, answer.job_id)
        assert (second.created_at, second.updated_at) == (first.created_at, world.clock.now)

    async def test_schedules_are_due_when_their_tick_has_come_longest_due_first(self, world: World) -> None:
        await put(world, "later", due_in=60)
        await put(world, "sooner", due_in=30)
        await put(world, "never", enabled=False, next_at=None)
        assert await world.ledger.due_schedules(10) == []
        assert await world.ledger.next_schedule_due() == 30.0
        world.clock.advance(60)
        assert [item.name for item in await world.ledger.due_schedules(10)] == ["sooner", "later"]
        assert [item.name for item in await world.ledger.due_schedules(1)] == ["sooner"]
        assert await world.ledger.next_schedule_due() == 0.0

    async def test_without_an_enabled_schedule_nothing_is_due(self, world: World) -> None:
        assert await world.ledger.next_schedule_due() is None
        await put(world, enabled=False, next_at=None)
        assert await world.ledger.next_schedule_due() is None

    async def test_a_tick_makes_its_job_and_moves_the_schedule_on_together(self, world: World) -> None:
        found = await put(world, due_in=0)
        asked = submission("nightly/tick", data=DATA)
        answer = await world.ledger.fire_schedule(step_of(found), asked)
        assert answer == Accepted(asked.job_id, Status.QUEUED)
        assert (await world.job(asked.job_id)).data == DATA
        moved = await kept(world)
        assert (moved.next_at, moved.last_at, moved.last_job_id) == (
            world.clock.now + 86400,
            found.next_at,
            asked.job_id,
        )
        assert moved.revision == found.revision

    async def test_a_tick_fires_once_however_many_ask_at_once(self, world: World) -> None:
        found = await put(world, due_in=0)
        asked = [submission("nightly/tick", data=DATA) for _ in range(20)]
        answers = await asyncio.gather(*(world.ledger.fire_schedule(step_of(found), one) for one in asked))
        assert len([answer for answer in answers if answer is not None]) == 1
        assert len((await world.ledger.jobs()).items) == 1

    async def test_a_tick_that_had_made_its_job_before_moves_on_with_that_job(self, world: World) -> None:
        found = await put(world, due_in=0)
        before = await world.accepted("nightly/tick", data=DATA)
        answer = await world.ledger.fire_schedule(step_of(found), submission("nightly/tick", data=DATA))
        assert isinstance(answer, Accepted) and (answer.job_id, answer.duplicate) == (before, True)
        assert (await kept(world)).last_job_id == before

    async def test_what_was_replaced_or_removed_meanwhile_is_not_fired(self, world: World) -> None:
        read = await put(world, due_in=0)
        await put(world, due_in=0, data={"connection": "other"})
        assert (await kept(world)).next_at == read.next_at, "the same tick, so that only the revision tells"
        assert await world.ledger.fire_schedule(step_of(read), submission("old")) is None
        assert not await world.ledger.advance_schedule(step_of(read), {"code": "x"})
        read = await kept(world)
        await world.ledger.delete_schedule("nightly")
        assert await world.ledger.fire_schedule(step_of(read), submission("removed")) is None
        await put(world, due_in=0, data={"connection": "other"})
        assert await world.ledger.fire_schedule(step_of(read), submission("made anew")) is None
        assert (await world.ledger.jobs()).items == []
        assert (await kept(world)).last_refusal is None

    async def test_an_event_that_is_not_accepted_leaves_the_schedule_where_it_is(self, world: World) -> None:
        found = await put(world, due_in=0)
        await world.accepted("nightly/tick", data={"connection": "other"})
        answer = await world.ledger.fire_schedule(step_of(found), submission("nightly/tick", data=DATA))
        assert isinstance(answer, IdReused)
        full = await world.reopen(Rules(queue_limit=1))
        assert isinstance(await full.ledger.fire_schedule(step_of(found), submission("another")), QueueFull)
        assert await kept(full) == found

    async def test_a_refused_tick_is_remembered_until_one_is_accepted(self, world: World) -> None:
        found = await put(world, due_in=0)
        refusal = {"at": "then", "code": "invalid_request", "detail": "There is no such connection: é."}
        assert await world.ledger.advance_schedule(step_of(found), refusal)
        assert not await world.ledger.advance_schedule(step_of(found), refusal), "it has moved on"
        moved = await kept(world)
        assert (moved.next_at, moved.last_refusal) == (world.clock.now + 86400, refusal)
        assert (moved.last_at, moved.last_job_id) == (None, None)
        world.clock.advance(86400)
        assert isinstance(await world.ledger.fire_schedule(step_of(moved), submission("next")), Accepted)
        assert (await kept(world)).last_refusal is None

    async def test_a_refusal_is_not_held_against_another_definition(self, world: World) -> None:
        found = await put(world, due_in=0)
        await world.ledger.advance_schedule(step_of(found), {"code": "invalid_request"})
        assert (await kept(world)).last_refusal is not None
        assert (await put(world, data={"connection": "other"})).last_refusal is None

    async def test_the_newest_of_several_missed_ticks_is_the_last_one(self, world: World) -> None:
        found = await put(world, due_in=0)
        world.clock.advance(200_000)
        step = step_of(found, tick=world.clock.now, to_tick=None)
        assert isinstance(await world.ledger.fire_schedule(step, submission("t")), Accepted)
        moved = await kept(world)
        assert (moved.last_at, moved.next_at) == (world.clock.now, None)
        assert await world.ledger.due_schedules(10) == []

    async def test_a_tick_that_waits_is_not_lost_by_putting_the_schedule_again(self, world: World) -> None:
        waiting = await put(world, due_in=0)
        assert (await put(world, due_in=86400, data={})).next_at == waiting.next_at
        assert (await put(world, due_in=86400, cron="0 4 * * *")).next_at == world.clock.now + 86400
        assert (await put(world, due_in=60, cron="0 4 * * *")).next_at == world.clock.now + 60, "the earlier one"

    async def test_another_time_zone_or_a_pause_lets_the_waiting_tick_go(self, world: World) -> None:
        await put(world, due_in=0)
        assert (await put(world, due_in=600, timezone="UTC")).next_at == world.clock.now + 600
        world.clock.advance(600)
        assert (await put(world, enabled=False, next_at=None, timezone="UTC")).next_at is None
        assert (await put(world, due_in=900, timezone="UTC")).next_at == world.clock.now + 900

    async def test_putting_a_schedule_is_told_to_whoever_watches(self, world: World) -> None:
        heard: list[str] = []
        world.ledger.watch(lambda change: heard.append(change.kind))
        await put(world)
        assert "schedule" in heard

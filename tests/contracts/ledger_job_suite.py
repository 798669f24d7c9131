"""What every ledger does with a job from claim to end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from handlers.base import Claim, Later
from service.jobs import Job, Problem, Status, new_id
from service.ledger.records import Accepted, CancelOutcome, Change, DeliveryStatus, Heartbeat, Rules, Verdict
from tests.contracts.ledger_world import World

AWAY = Problem("target_unavailable", "The server is away.", retryable=True, hint="Start it.")


def event_of(text: str | None) -> dict[str, Any]:
    assert text is not None
    event: dict[str, Any] = json.loads(text)
    return event


class JobSuite:
    # ------------------------------------------------------------ claiming

    async def test_jobs_are_claimed_oldest_first_with_growing_tokens(self, world: World) -> None:
        queued = [await world.accepted() for _ in range(5)]
        first = await world.claim(limit=2)
        rest = await world.claim(limit=10)
        assert [job.job_id for job in first + rest] == queued
        tokens = [job.fencing_token for job in first + rest]
        assert tokens == sorted(set(tokens))
        assert all(job.status is Status.RUNNING and job.attempts == 1 for job in first)
        assert first[0].started_at == world.clock.now

    async def test_a_claim_records_the_started_event(self, world: World) -> None:
        job = await world.running("e1")
        row = (await world.ledger.history(job.job_id))[-1]
        assert (row.from_status, row.to_status, row.attempt, row.token) == (
            "queued",
            "running",
            1,
            job.fencing_token,
        )
        event = event_of(row.event)
        assert event["type"] == row.event_type == "backup.started"
        assert event["id"] == row.event_id == f"{job.job_id}/started/1"
        assert event["causationid"] == "e1"

    async def test_an_end_makes_the_job_that_follows_it_and_that_waits_its_time(self, world: World) -> None:
        job = await world.running("e1")
        later = Later("removal", "shop", {"connection": "shop"}, (Claim("target:kept", "exclusive"),), 60.0, 7)
        await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED, {}, later=(later,))
        (found,) = (await world.ledger.jobs(status="queued", limit=10)).items
        assert (found.operation, found.source, found.event_id) == ("removal", "/flexdb", f"{job.job_id}/removal")
        assert (found.connection, found.data, found.max_attempts) == ("shop", {"connection": "shop"}, 7)
        assert await world.claim() == []
        assert 59 < (await world.ledger.next_due() or 0) <= 60
        world.clock.now += 61
        (follower,) = await world.claim()
        assert follower.job_id == found.job_id

    async def test_a_list_leaves_out_what_is_long(self, world: World) -> None:
        long, short = await world.running("long", data={"text": "x" * 20_000}), await world.running("short")
        await world.ledger.finish_job(long.job_id, long.fencing_token, Status.SUCCEEDED, {"result": "9" * 20_000})
        await world.ledger.finish_job(short.job_id, short.fencing_token, Status.SUCCEEDED, {"result": "9" * 10_000})
        for page in (await world.ledger.jobs(), await world.ledger.jobs(status="succeeded")):
            second, first = page.items
            assert (first.data, first.result, first.result_omitted) == ({}, None, True)
            assert (second.result, second.result_omitted) == ({"result": "9" * 10_000}, False)
        whole = await world.job(long.job_id)
        assert (whole.data, whole.result) == ({"text": "x" * 20_000}, {"result": "9" * 20_000})
        assert "result_omitted" not in whole.as_json()

    async def test_an_end_that_comes_too_late_makes_no_job(self, world: World) -> None:
        job = await world.running("e1")
        later = Later("removal", None, {}, (), 0.0, 1)
        ended = await world.ledger.finish_job(job.job_id, job.fencing_token + 1, Status.SUCCEEDED, {}, later=(later,))
        assert ended is None
        assert [each.job_id for each in (await world.ledger.jobs(limit=10)).items] == [job.job_id]

    async def test_jobs_on_one_target_run_one_at_a_time(self, world: World) -> None:
        first, second = await world.accepted(target="shop"), await world.accepted(target="shop")
        (running,) = await world.claim()
        assert running.job_id == first
        assert await world.claim() == []
        await world.ledger.finish_job(first, running.fencing_token, Status.SUCCEEDED)
        assert [job.job_id for job in await world.claim()] == [second]

    async def test_two_workers_claiming_at_once_never_share_a_target(self, world: World) -> None:
        for number in range(40):
            await world.accepted(target=f"t{number % 4}")
        claims = [world.ledger.claim(f"worker-{number % 2}", 3) for number in range(10)]
        running: list[Job] = [job for taken in await asyncio.gather(*claims) for job in taken]
        assert len(running) == 4
        assert len({job.job_id for job in running}) == 4

    async def test_a_busy_target_does_not_hold_up_the_others(self, world: World) -> None:
        busy = await world.running(target="busy")
        await asyncio.gather(*(world.accepted(target="busy") for _ in range(300)))
        free = [await world.accepted(target="free"), await world.accepted()]
        assert [job.job_id for job in await world.claim(limit=2)] == free
        assert await world.ledger.next_due() is not None, "the leases run out some time"
        assert await world.claim() == []
        await world.ledger.finish_job(busy.job_id, busy.fencing_token, Status.SUCCEEDED)
        assert len(await world.claim()) == 1

    async def test_shared_holds_run_together_and_keep_an_excluder_out(self, world: World) -> None:
        shared, exclusive = Claim("backup:b", "shared"), Claim("backup:b", "exclusive")
        readers = [await world.accepted(claims=(shared,)) for _ in range(3)]
        await world.accepted(claims=(exclusive,))
        running = await world.claim()
        assert [job.job_id for job in running] == readers
        for job in running:
            assert await world.claim() == []
            await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
        (excluder,) = await world.claim()
        await world.accepted(claims=(shared,))
        assert await world.claim() == []
        await world.ledger.finish_job(excluder.job_id, excluder.fencing_token, Status.SUCCEEDED)
        assert len(await world.claim()) == 1

    async def test_all_claims_of_a_job_are_taken_or_none(self, world: World) -> None:
        excluder = await world.running(claims=(Claim("backup:b", "exclusive"),))
        both = (Claim("target:copy", "exclusive"), Claim("backup:b", "shared"))
        restore = await world.accepted(claims=both)
        other = await world.accepted(claims=(Claim("target:copy", "exclusive"),))
        assert [job.job_id for job in await world.claim()] == [other], "the waiting restore holds nothing meanwhile"
        await world.ledger.finish_job(excluder.job_id, excluder.fencing_token, Status.SUCCEEDED)
        assert await world.claim() == []
        token = (await world.job(other)).fencing_token
        await world.ledger.finish_job(other, token, Status.SUCCEEDED)
        assert [job.job_id for job in await world.claim()] == [restore]

    async def test_hold_adds_a_shared_claim_to_a_running_job(self, world: World) -> None:
        job = await world.running()
        assert await world.ledger.hold(job.job_id, job.fencing_token, "backup:b")
        assert await world.ledger.hold(job.job_id, job.fencing_token, "backup:b"), "a second hold changes nothing"
        await world.accepted(claims=(Claim("backup:b", "exclusive"),))
        assert await world.claim() == []
        assert not await world.ledger.hold(job.job_id, job.fencing_token - 1, "backup:c")
        await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
        (excluder,) = await world.claim()
        late = await world.running()
        assert not await world.ledger.hold(late.job_id, late.fencing_token, "backup:b")
        assert await world.ledger.hold(excluder.job_id, excluder.fencing_token, "backup:b"), "it has it to itself"

    # ------------------------------------------------------------ ending

    async def test_finish_job_sets_state_result_and_the_terminal_event_together(self, world: World) -> None:
        job = await world.running("e1", callback_url="http://a/1")
        world.clock.advance(5)
        done = await world.ledger.finish_job(
            job.job_id, job.fencing_token, Status.SUCCEEDED, result={"backup_id": "b1", "bytes": 7}
        )
        assert done is not None and done == await world.job(job.job_id)
        assert (done.status, done.ended_at, done.error) == (Status.SUCCEEDED, world.clock.now, None)
        assert done.result == {"backup_id": "b1", "bytes": 7}
        row = (await world.ledger.history(job.job_id))[-1]
        event = event_of(row.event)
        assert (event["id"], event["type"]) == (f"{job.job_id}/terminal", "backup.completed")
        assert event["data"]["backup_id"] == "b1" and event["data"]["status"] == "succeeded"
        (delivery,) = await world.deliveries_of(job.job_id)
        assert delivery.body == (row.event or "").encode()

    async def test_a_failed_job_keeps_its_problem(self, world: World) -> None:
        job = await world.running()
        problem = Problem("tool_failed", "It said no.", hint="Ask.", details={"evidence": [1]})
        done = await world.ledger.finish_job(job.job_id, job.fencing_token, Status.FAILED, problem=problem)
        assert done is not None and done.error == problem.as_json()
        event = event_of((await world.ledger.history(job.job_id))[-1].event)
        assert event["data"]["error"]["code"] == "tool_failed" and event["data"]["evidence"] == [1]

    @pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING])
    async def test_a_job_cannot_end_in_a_state_that_is_no_end(self, world: World, status: Status) -> None:
        job = await world.running()
        with pytest.raises(ValueError):
            await world.ledger.finish_job(job.job_id, job.fencing_token, status)

    async def test_exactly_one_of_many_endings_holds(self, world: World) -> None:
        job = await world.running(callback_url="http://a/1")
        ends = [Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.SUCCEEDED]
        done = await asyncio.gather(
            *(world.ledger.finish_job(job.job_id, job.fencing_token, status) for status in ends)
        )
        assert [one is not None for one in done] == [True, False, False, False]
        terminal = [row for row in await world.ledger.history(job.job_id) if row.event_id == f"{job.job_id}/terminal"]
        assert len(terminal) == 1
        assert len(await world.deliveries_of(job.job_id)) == 1

    async def test_an_old_token_changes_nothing(self, world: World) -> None:
        old = await world.running(target="shop")
        world.clock.advance(world.rules.lease_seconds)
        assert await world.ledger.reap() == 1
        (new,) = await world.claim()
        assert new.fencing_token > old.fencing_token
        before, moves = await world.job(old.job_id), await world.moves(old.job_id)
        ledger, job_id, token = world.ledger, old.job_id, old.fencing_token
        assert await ledger.finish_job(job_id, token, Status.SUCCEEDED) is None
        assert not await ledger.retry_later(job_id, token, 1.0, AWAY)
        assert not await ledger.give_back(job_id, token)
        assert not await ledger.hold(job_id, token, "backup:b")
        assert await ledger.renew(world.worker, {job_id: token}) == {job_id: Heartbeat(False, False)}
        assert await world.job(job_id) == before and await world.moves(job_id) == moves

    # ------------------------------------------------------------ back to the queue

    async def test_retry_later_waits_and_counts_the_attempt(self, world: World) -> None:
        job = await world.running(target="shop")
        assert await world.ledger.retry_later(job.job_id, job.fencing_token, 10.0, AWAY)
        waiting = await world.job(job.job_id)
        assert waiting.status is Status.QUEUED and waiting.attempts == 1
        assert waiting.error == AWAY.as_json()
        assert await world.claim() == [] and await world.ledger.next_due() == pytest.approx(10.0)
        other = await world.running(target="shop")
        assert other.attempts == 1, "the claims were freed"
        await world.ledger.finish_job(other.job_id, other.fencing_token, Status.SUCCEEDED)
        world.clock.advance(10)
        assert await world.ledger.next_due() == 0
        (again,) = await world.claim()
        assert again.job_id == job.job_id and again.attempts == 2
        assert again.started_at == job.started_at
        done = await world.ledger.finish_job(again.job_id, again.fencing_token, Status.SUCCEEDED)
        assert done is not None and done.error is None

    async def test_give_back_undoes_the_attempt(self, world: World) -> None:
        job = await world.running(target="shop")
        assert await world.ledger.give_back(job.job_id, job.fencing_token)
        waiting = await world.job(job.job_id)
        assert (waiting.status, waiting.attempts, waiting.crashes) == (Status.QUEUED, 0, 0)
        assert waiting.started_at is None
        (again,) = await world.claim()
        assert again.attempts == 1 and again.fencing_token > job.fencing_token

    async def test_a_wish_to_cancel_is_granted_when_the_job_goes_back(self, world: World) -> None:
        for back in ("retry", "give back"):
            job = await world.running()
            await world.ledger.request_cancel(job.job_id)
            if back == "retry":
                assert await world.ledger.retry_later(job.job_id, job.fencing_token, 1.0, AWAY)
            else:
                assert await world.ledger.give_back(job.job_id, job.fencing_token)
            assert (await world.job(job.job_id)).status is Status.CANCELED

    # ------------------------------------------------------------ leases and time

    async def test_a_renewed_lease_is_kept(self, world: World) -> None:
        job = await world.running()
        for _ in range(4):
            world.clock.advance(world.rules.lease_seconds - 1)
            held = await world.ledger.renew(world.worker, {job.job_id: job.fencing_token})
            assert held == {job.job_id: Heartbeat(True, False)}
            assert await world.ledger.reap() == 0
        other = await world.ledger.renew("somebody else", {job.job_id: job.fencing_token})
        assert other == {job.job_id: Heartbeat(False, False)}

    async def test_an_expired_lease_goes_back_to_the_queue_as_a_crash(self, world: World) -> None:
        job = await world.running(target="shop")
        assert await world.ledger.next_due() == pytest.approx(world.rules.lease_seconds)
        world.clock.advance(world.rules.lease_seconds)
        assert await world.ledger.reap() == 1
        lost = await world.job(job.job_id)
        assert (lost.status, lost.crashes, lost.attempts) == (Status.QUEUED, 1, 1)
        assert [again.job_id for again in await world.claim()] == [job.job_id]

    async def test_the_last_crash_allowed_ends_the_job(self, world: World) -> None:
        world = await world.reopen(Rules(crash_limit=3))
        job_id = await world.accepted(target="shop", callback_url="http://a/1")
        for _ in range(3):
            assert (await world.job(job_id)).status is Status.QUEUED
            await world.claim()
            world.clock.advance(world.rules.lease_seconds)
            assert await world.ledger.reap() == 1
        job = await world.job(job_id)
        assert job.status is Status.FAILED and job.crashes == 3
        assert job.error is not None and job.error["code"] == "worker_lost"
        assert len(await world.deliveries_of(job_id)) == 1

    async def test_a_lost_job_whose_cancel_was_asked_for_is_canceled(self, world: World) -> None:
        job = await world.running()
        await world.ledger.request_cancel(job.job_id)
        world.clock.advance(world.rules.lease_seconds)
        await world.ledger.reap()
        assert (await world.job(job.job_id)).status is Status.CANCELED

    async def test_a_queued_job_past_its_deadline_fails_by_way_of_running(self, world: World) -> None:
        job_id = await world.accepted(deadline_seconds=5.0, callback_url="http://a/1")
        assert await world.ledger.next_due() == 0, "it can be claimed"
        world.clock.advance(5)
        assert await world.claim() == []
        assert await world.ledger.next_due() == 0, "it can be reaped"
        assert await world.ledger.reap() == 1
        job = await world.job(job_id)
        assert job.status is Status.FAILED and job.attempts == 0 and job.started_at is None
        assert job.error is not None and job.error["code"] == "deadline_exceeded"
        assert await world.moves(job_id) == [(None, "queued"), ("queued", "running"), ("running", "failed")]
        types = [row.event_type for row in await world.ledger.history(job_id)]
        assert types == [None, None, "backup.failed"], "it never started"
        assert await world.ledger.next_due() is None

    async def test_a_job_not_started_by_its_expiry_is_canceled(self, world: World) -> None:
        started = await world.running(expires_at=world.clock.now + 5)
        job_id = await world.accepted(expires_at=world.clock.now + 5)
        await world.ledger.retry_later(started.job_id, started.fencing_token, 1.0, AWAY)
        world.clock.advance(5)
        assert [job.job_id for job in await world.claim()] == [started.job_id], "it had started in time"
        assert await world.ledger.reap() == 1
        job = await world.job(job_id)
        assert job.status is Status.CANCELED
        assert job.error is not None and job.error["code"] == "expired"

    async def test_nothing_is_due_in_an_empty_ledger(self, world: World) -> None:
        assert await world.ledger.next_due() is None
        assert await world.ledger.reap() == 0

    async def test_the_next_process_goes_on_where_a_dead_one_stopped(self, world: World) -> None:
        lost = await world.running(target="shop")
        canceled = await world.running()
        await world.ledger.request_cancel(canceled.job_id)
        queued = await world.accepted()
        world = await world.reopen()
        assert (await world.job(canceled.job_id)).status is Status.CANCELED
        again = await world.claim()
        assert [job.job_id for job in again] == [lost.job_id, queued]
        assert again[0].crashes == 1 and again[0].fencing_token > canceled.fencing_token

    # ------------------------------------------------------------ cancel and retry

    async def test_canceling_a_queued_job_tells_everybody_at_once(self, world: World) -> None:
        await world.ledger.put_subscription("all", "http://hub/x", ["*"])
        job_id = await world.accepted("e1", target="shop", callback_url="http://a/1")
        heard: list[Change] = []
        world.ledger.watch(heard.append)
        assert await world.ledger.request_cancel(job_id) is CancelOutcome.CANCELED
        assert {Change("job", job_id), Change("outbox")} <= set(heard)
        assert await world.ledger.request_cancel(job_id) is CancelOutcome.ENDED
        assert await world.moves(job_id) == [(None, "queued"), ("queued", "canceled")]
        deliveries = await world.deliveries_of(job_id)
        assert sorted((one.kind, one.event_type) for one in deliveries) == [
            ("callback", "backup.canceled"),
            ("subscription", "backup.canceled"),
        ]
        assert json.loads(deliveries[0].body)["data"]["error"]["code"] == "canceled"

    async def test_canceling_a_running_job_is_a_wish(self, world: World) -> None:
        job = await world.running()
        heard: list[Change] = []
        world.ledger.watch(heard.append)
        assert await world.ledger.request_cancel(job.job_id) is CancelOutcome.REQUESTED
        assert heard.count(Change("cancel", job.job_id)) == 1
        assert (await world.job(job.job_id)).cancel_requested
        beat = await world.ledger.renew(world.worker, {job.job_id: job.fencing_token})
        assert beat[job.job_id] == Heartbeat(True, True)
        assert await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED) is not None

    async def test_canceling_an_unknown_job_is_none(self, world: World) -> None:
        assert await world.ledger.request_cancel(new_id()) is None

    async def test_a_retry_is_a_new_job_like_the_failed_one(self, world: World) -> None:
        failed = await world.ended(
            Status.FAILED,
            event_id="e1",
            target="shop",
            callback_url="http://a/1",
            max_attempts=7,
            deadline_seconds=60.0,
            expires_at=world.clock.now + 30,
        )
        world.clock.advance(100)
        again = new_id()
        assert await world.ledger.retry_job(failed.job_id, again) == Accepted(again, Status.QUEUED)
        job = await world.job(again)
        assert (job.event_id, job.source, job.retry_of) == ("e1/retry/1", failed.source, failed.job_id)
        assert (job.data, job.max_attempts, job.attempts) == (failed.data, 7, 0)
        assert job.deadline_at == world.clock.now + 60 and job.expires_at is None
        await world.accepted(target="shop")
        (running,) = await world.claim()
        assert running.job_id == again, "it has the same claims"
        await world.ledger.finish_job(again, running.fencing_token, Status.FAILED)
        assert [one.url for one in await world.deliveries_of(again)] == ["http://a/1"]

    async def test_retries_of_one_event_are_numbered_and_never_collide(self, world: World) -> None:
        failed = await world.ended(Status.FAILED, event_id="e1")
        await world.accepted("e1/retry/2")
        first, second, third = new_id(), new_id(), new_id()
        await world.ledger.retry_job(failed.job_id, first)
        await world.ledger.retry_job(failed.job_id, second)
        await world.ledger.request_cancel(first)
        await world.ledger.retry_job(first, third)
        ids = [(await world.job(job_id)).event_id for job_id in (first, second, third)]
        assert ids == ["e1/retry/1", "e1/retry/3", "e1/retry/4"]
        assert (await world.job(third)).retry_of == first

    async def test_only_failed_and_canceled_jobs_can_be_retried(self, world: World) -> None:
        queued = await world.accepted()
        assert await world.ledger.retry_job(queued, new_id()) is Status.QUEUED
        await world.claim()
        assert await world.ledger.retry_job(queued, new_id()) is Status.RUNNING
        done = await world.ended()
        assert await world.ledger.retry_job(done.job_id, new_id()) is Status.SUCCEEDED
        assert await world.ledger.retry_job(new_id(), new_id()) is None

    async def test_history_can_be_read_from_a_point_on(self, world: World) -> None:
        job = await world.ended()
        rows = await world.ledger.history(job.job_id)
        assert [row.seq for row in rows] == sorted({row.seq for row in rows})
        assert await world.ledger.history(job.job_id, rows[0].seq) == rows[1:]
        assert await world.ledger.history(job.job_id, rows[-1].seq) == []
        assert await world.ledger.history(new_id()) == []

    # ------------------------------------------------------------ what must not poison the rest

    async def test_text_no_database_holds_harms_nobody(self, world: World) -> None:
        job = await world.running(reply="reply:a%00b?correlation_id=%00")
        assert await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED) is not None
        await world.ledger.put_subscription("odd", "http://" + "a" * 8000 + "/x", ["*"])
        other = await world.running()
        odd = Problem("tool_failed", "It said \0 and \ud800.", hint="\0")
        assert await world.ledger.finish_job(other.job_id, other.fencing_token, Status.FAILED, problem=odd) is not None
        for delivery in await world.take():
            verdict = Verdict(0.0, None, "a\0b\ud800", 1.0, DeliveryStatus.PENDING)
            assert await world.ledger.settle_delivery(delivery.delivery_id, verdict)
        assert (await world.ledger.counts())["running"] == 0

    async def test_long_callbacks_are_kept_and_told_once_each(self, world: World) -> None:
        url = "http://a/" + "x" * 8000
        job = await world.running(callback_url=url)
        assert await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED) is not None
        assert [one.url for one in await world.deliveries_of(job.job_id)] == [url]

    async def test_a_job_that_cannot_be_reaped_keeps_no_other_from_it(self, world: World) -> None:
        jobs = [await world.running(f"e{number}") for number in range(3)]
        stuck = jobs[1].job_id
        await world.forbid_moves(stuck)
        world.clock.advance(world.rules.lease_seconds)
        assert await world.ledger.reap() == 2
        assert {job.job_id for job in await world.claim()} == {job.job_id for job in jobs if job.job_id != stuck}

    async def test_a_claim_on_an_odd_key_stops_nobody(self, world: World) -> None:
        odd = await world.accepted(claims=(Claim("backup:a\0b", "shared"), Claim("target:\ud800", "exclusive")))
        await world.accepted(on_conflict="reject", claims=(Claim("backup:c\0d", "exclusive"),))
        plain = await world.accepted()
        claimed = [job.job_id for job in await world.claim()]
        assert {odd, plain} <= set(claimed) and len(claimed) == 3

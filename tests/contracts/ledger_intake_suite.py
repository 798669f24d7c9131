"""What every ledger does with events that come in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from handlers.base import Claim
from service.jobs import Status, new_id
from service.ledger.base import Ledger
from service.ledger.records import Accepted, Busy, Change, IdReused, QueueFull, Rules
from tests.contracts.ledger_world import World, submission


class IntakeSuite:
    async def test_an_accepted_event_is_a_queued_job_with_all_it_came_with(self, world: World) -> None:
        asked = submission("e1", target="shop", data={"connection": "shop", "note": "ü"}, deadline_seconds=60.0)
        assert await world.ledger.accept(asked) == Accepted(asked.job_id, Status.QUEUED)
        job = await world.job(asked.job_id)
        assert (job.event_id, job.source, job.operation, job.connection) == (
            "e1",
            "/flexdb/default",
            "backup",
            "shop",
        )
        assert job.data == {"connection": "shop", "note": "ü"}
        assert job.status is Status.QUEUED and job.attempts == 0 and job.max_attempts == 3
        assert job.created_at == world.clock.now and job.deadline_at == world.clock.now + 60
        (row,) = await world.ledger.history(asked.job_id)
        assert (row.from_status, row.to_status, row.event, row.at) == (None, "queued", None, world.clock.now)

    async def test_many_acceptances_at_once_share_few_commits(
        self, world: World, commits: Callable[[Ledger], int]
    ) -> None:
        before = commits(world.ledger)
        asked = [submission() for _ in range(64)]
        answers = await asyncio.gather(*(world.ledger.accept(one) for one in asked))
        assert commits(world.ledger) - before <= 8
        assert answers == [Accepted(one.job_id, Status.QUEUED) for one in asked]
        assert await world.ledger.live_jobs() == {one.job_id for one in asked}

    async def test_a_batch_too_large_for_one_statement_is_recorded_whole(self, world: World) -> None:
        asked = [submission(target=f"t{number % 3}", callback_url=f"http://a/{number}") for number in range(700)]
        await asyncio.gather(*(world.ledger.accept(one) for one in asked))
        assert (await world.ledger.counts())["queued"] == 700
        assert await world.moves(asked[699].job_id) == [(None, "queued")]

    async def test_the_same_id_twice_gives_the_same_job(self, world: World) -> None:
        first = await world.accepted("e1")
        again = await world.ledger.accept(submission("e1"))
        assert again == Accepted(first, Status.QUEUED, duplicate=True)
        assert (await world.ledger.counts())["queued"] == 1

    async def test_a_repeat_tells_the_present_status(self, world: World) -> None:
        job = await world.ended(event_id="e1")
        assert await world.ledger.accept(submission("e1")) == Accepted(job.job_id, Status.SUCCEEDED, duplicate=True)

    async def test_the_same_id_twice_at_once_makes_one_job(self, world: World) -> None:
        asked = [submission("e1") for _ in range(5)] + [submission("e2")]
        answers = await asyncio.gather(*(world.ledger.accept(one) for one in asked))
        accepted = [answer for answer in answers if isinstance(answer, Accepted)]
        assert [answer.duplicate for answer in accepted] == [False, True, True, True, True, False]
        assert len({answer.job_id for answer in accepted}) == 2
        assert len(await world.ledger.live_jobs()) == 2

    async def test_the_same_submission_sent_again_after_a_doubtful_answer_is_a_duplicate(self, world: World) -> None:
        asked = submission("e1")
        await world.ledger.accept(asked)
        answers = await asyncio.gather(world.ledger.accept(asked), world.ledger.accept(submission("e2")))
        assert answers[0] == Accepted(asked.job_id, Status.QUEUED, duplicate=True)
        twice = submission("e3")
        both = await asyncio.gather(world.ledger.accept(twice), world.ledger.accept(twice))
        assert sorted(answer.duplicate for answer in both if isinstance(answer, Accepted)) == [False, True]

    async def test_ids_are_unique_per_source(self, world: World) -> None:
        assert await world.accepted("e1", source="/a") != await world.accepted("e1", source="/b")

    async def test_the_same_id_with_other_content_is_refused_with_the_first_digest(self, world: World) -> None:
        first = submission("e1", data={"connection": "shop"})
        await world.ledger.accept(first)
        other = submission("e1", data={"connection": "other"})
        assert await world.ledger.accept(other) == IdReused(first.job_id, first.digest)

    async def test_other_content_in_the_same_batch_is_refused_and_spoils_nobody_else(self, world: World) -> None:
        first, other = submission("e1"), submission("e1", data={"connection": "other"})
        answers = await asyncio.gather(*(world.ledger.accept(one) for one in (first, other, submission("e2"))))
        assert answers[1] == IdReused(first.job_id, first.digest)
        assert isinstance(answers[0], Accepted) and isinstance(answers[2], Accepted)

    async def test_a_faulty_submission_fails_alone(self, world: World) -> None:
        first = await world.accepted("e1")
        answers = await asyncio.gather(
            world.ledger.accept(submission("e2", job_id=first)),
            world.ledger.accept(submission("e3")),
            return_exceptions=True,
        )
        assert isinstance(answers[0], Exception)
        assert isinstance(answers[1], Accepted)
        assert isinstance(await world.ledger.accept(submission("e2")), Accepted)

    # ------------------------------------------------------------ join

    async def test_join_attaches_an_event_to_an_open_job_that_asks_for_the_same(self, world: World) -> None:
        first = await world.running(target="shop", callback_url="http://a/1")
        joined = submission("j", target="shop", on_conflict="join", callback_url="http://b/2")
        expected = Accepted(first.job_id, Status.RUNNING, joined=True)
        assert await world.ledger.accept(joined) == expected
        again = await world.ledger.accept(submission("j", target="shop", on_conflict="join"))
        assert again == Accepted(first.job_id, Status.RUNNING, duplicate=True, joined=True)
        assert await world.ledger.job(joined.job_id) is None
        await world.ledger.finish_job(first.job_id, first.fencing_token, Status.SUCCEEDED)
        urls = [delivery.url for delivery in await world.deliveries_of(first.job_id)]
        assert sorted(urls) == ["http://a/1", "http://b/2"]

    async def test_join_within_one_batch(self, world: World) -> None:
        asked = [submission(target="shop", on_conflict="join", callback_url="http://a/same") for _ in range(3)]
        answers = await asyncio.gather(*(world.ledger.accept(one) for one in asked))
        assert {answer.job_id for answer in answers if isinstance(answer, Accepted)} == {asked[0].job_id}
        job = (await world.claim())[0]
        await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
        assert len(await world.deliveries_of(job.job_id)) == 1, "one delivery per distinct callback"

    @pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELED])
    async def test_join_finds_no_ended_job(self, world: World, status: Status) -> None:
        await world.ended(status, target="shop")
        joined = submission(target="shop", on_conflict="join")
        assert await world.ledger.accept(joined) == Accepted(joined.job_id, Status.QUEUED)

    async def test_join_asks_for_the_same_data(self, world: World) -> None:
        await world.accepted(target="shop")
        other = submission(target="shop", data={"connection": "shop", "compression": "none"}, on_conflict="join")
        assert await world.ledger.accept(other) == Accepted(other.job_id, Status.QUEUED)

    async def test_join_leaves_a_job_alone_that_is_about_to_be_canceled(self, world: World) -> None:
        first = await world.running(target="shop")
        await world.ledger.request_cancel(first.job_id)
        joined = submission(target="shop", on_conflict="join")
        assert await world.ledger.accept(joined) == Accepted(joined.job_id, Status.QUEUED)

    # ------------------------------------------------------------ reject

    async def test_reject_names_the_open_job_on_the_same_target(self, world: World) -> None:
        queued = await world.accepted(target="shop")
        assert await world.ledger.accept(submission(target="shop", on_conflict="reject")) == Busy(queued)
        await world.claim()
        assert await world.ledger.accept(submission(target="shop", on_conflict="reject")) == Busy(queued)
        assert isinstance(await world.ledger.accept(submission(target="other", on_conflict="reject")), Accepted)

    async def test_reject_within_one_batch(self, world: World) -> None:
        asked = [submission(target="shop", on_conflict="reject") for _ in range(4)]
        answers = await asyncio.gather(*(world.ledger.accept(one) for one in asked))
        assert answers == [Accepted(asked[0].job_id, Status.QUEUED), *[Busy(asked[0].job_id)] * 3]

    async def test_reject_accepts_once_the_other_job_has_ended(self, world: World) -> None:
        await world.ended(target="shop")
        assert isinstance(await world.ledger.accept(submission(target="shop", on_conflict="reject")), Accepted)

    @pytest.mark.parametrize(
        ("open_mode", "asked_mode", "busy"),
        [("shared", "shared", False), ("shared", "exclusive", True), ("exclusive", "shared", True)],
    )
    async def test_reject_looks_at_modes_and_at_every_key(
        self, world: World, open_mode: str, asked_mode: str, busy: bool
    ) -> None:
        restore = (Claim("target:copy", "exclusive"), Claim("backup:b1", open_mode))  # type: ignore[arg-type]  # from parameters
        await world.accepted(claims=restore)
        wanted = (Claim("backup:b1", asked_mode),)  # type: ignore[arg-type]  # from parameters
        answer = await world.ledger.accept(submission(claims=wanted, on_conflict="reject"))
        assert isinstance(answer, Busy if busy else Accepted)
        lone = (Claim("backup:b2", open_mode),)  # type: ignore[arg-type]  # from parameters
        await world.accepted(claims=lone)
        wanted = (Claim("backup:b2", asked_mode),)  # type: ignore[arg-type]  # from parameters
        answer = await world.ledger.accept(submission(claims=wanted, on_conflict="reject"))
        assert isinstance(answer, Busy if busy else Accepted)

    async def test_reject_sees_a_hold_that_was_added_while_running(self, world: World) -> None:
        job = await world.running()
        assert await world.ledger.hold(job.job_id, job.fencing_token, "backup:b1")
        wanted = submission(claims=(Claim("backup:b1", "exclusive"),), on_conflict="reject")
        assert await world.ledger.accept(wanted) == Busy(job.job_id)

    # ------------------------------------------------------------ queue limit

    async def test_a_full_queue_refuses_new_jobs_only(self, world: World) -> None:
        small = await world.reopen(Rules(queue_limit=2))
        first = await small.accepted("e1", target="shop")
        await small.accepted("e2")
        assert await small.ledger.accept(submission("e3")) == QueueFull(2)
        assert await small.ledger.accept(submission("e1")) == Accepted(first, Status.QUEUED, duplicate=True)
        joined = await small.ledger.accept(submission("e4", target="shop", on_conflict="join"))
        assert joined == Accepted(first, Status.QUEUED, joined=True)
        await small.ledger.request_cancel(first)
        await small.accepted("e3")

    async def test_the_limit_holds_inside_a_batch_and_after_a_restart(self, world: World) -> None:
        small = await world.reopen(Rules(queue_limit=3))
        answers = await asyncio.gather(*(small.ledger.accept(submission()) for _ in range(5)))
        assert [isinstance(answer, QueueFull) for answer in answers] == [False] * 3 + [True] * 2
        again = await small.reopen(Rules(queue_limit=3))
        assert await again.ledger.accept(submission()) == QueueFull(3)

    # ------------------------------------------------------------ hints

    async def test_watchers_hear_of_a_new_job_after_it_can_be_read(self, world: World) -> None:
        heard: asyncio.Queue[Change] = asyncio.Queue()
        world.ledger.watch(heard.put_nowait)
        await world.accepted()
        assert (await asyncio.wait_for(heard.get(), 5)).kind == "queue"

    async def test_ping_answers_while_the_ledger_can_be_written(self, world: World) -> None:
        await world.ledger.ping()

    async def test_known_and_live_jobs(self, world: World) -> None:
        ended = await world.ended()
        queued = await world.accepted()
        assert await world.ledger.live_jobs() == {queued}
        assert await world.ledger.known_jobs([ended.job_id, queued, new_id()]) == {ended.job_id, queued}
        assert await world.ledger.known_jobs([]) == set()

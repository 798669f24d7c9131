"""What every ledger does with events that go out."""

from __future__ import annotations

import json

import pytest

from service.jobs import Status
from service.ledger.records import Delivery, DeliveryStatus
from tests.contracts.ledger_world import World, verdict

SHORT = 0.3
"""`Rules.callback_delay`, unless a test chose another."""


def urls(deliveries: list[Delivery]) -> list[str]:
    return [delivery.url for delivery in deliveries]


class DeliverySuite:
    async def test_the_terminal_event_goes_to_each_distinct_callback_and_matching_subscription(
        self, world: World
    ) -> None:
        await world.ledger.put_subscription("done", "http://hub/done", ["*.completed"])
        await world.ledger.put_subscription("failures", "http://hub/failed", ["*.failed"])
        await world.ledger.put_subscription("backups", "http://hub/backups", ["restore.*", "backup.*"])
        await world.ledger.put_subscription("all", "http://hub/all", ["*"])
        job = await world.ended(callback_url="http://User:Secret@N8N.local:5678/resume?token=s3cret")
        found = await world.deliveries_of(job.job_id)
        assert sorted((one.event_type, one.destination) for one in found) == [
            ("backup.completed", "all"),
            ("backup.completed", "backups"),
            ("backup.completed", "done"),
            ("backup.completed", "n8n.local:5678"),
            ("backup.started", "all"),
            ("backup.started", "backups"),
        ]
        callback = next(one for one in found if one.kind == "callback")
        assert callback.url == "http://User:Secret@N8N.local:5678/resume?token=s3cret", "byte for byte"
        assert callback.host == "n8n.local:5678"
        assert json.loads(callback.body)["id"] == callback.event_id == f"{job.job_id}/terminal"
        assert (callback.status, callback.attempts) == (DeliveryStatus.PENDING, 0)

    async def test_a_callback_that_is_no_url_does_not_keep_its_job_from_ending(self, world: World) -> None:
        job = await world.ended(callback_url="http://[broken")
        assert [one.host for one in await world.deliveries_of(job.job_id)] == ["invalid"]

    async def test_callbacks_wait_a_moment_and_subscriptions_do_not(self, world: World) -> None:
        await world.ledger.put_subscription("done", "http://hub/done", ["*.completed"])
        assert await world.ledger.next_delivery_due() is None
        await world.ended(callback_url="http://a/1")
        assert await world.ledger.next_delivery_due() == 0
        assert urls(await world.take()) == ["http://hub/done"]
        assert await world.ledger.next_delivery_due() == pytest.approx(SHORT, abs=1e-5)
        world.clock.advance(SHORT)
        assert urls(await world.take()) == ["http://a/1"]

    async def test_a_taken_delivery_is_hidden_until_its_lease_runs_out(self, world: World) -> None:
        await world.ended(callback_url="http://a/1")
        world.clock.advance(1)
        (taken,) = await world.take()
        assert await world.take() == []
        world.clock.advance(60)
        (again,) = await world.take()
        assert again.delivery_id == taken.delivery_id and again.body == taken.body

    async def test_deliveries_taken_by_a_dead_process_are_due_at_once(self, world: World) -> None:
        await world.ended(callback_url="http://a/1")
        waiting = await world.ended(callback_url="http://a/2")
        world.clock.advance(1)
        taken = await world.take()
        settled = next(one for one in taken if one.job_id == waiting.job_id)
        await world.ledger.settle_delivery(
            settled.delivery_id, verdict(DeliveryStatus.PENDING, retry_after=600, http=503)
        )
        world = await world.reopen()
        assert urls(await world.take()) == ["http://a/1"], "the other waits for its retry as before"

    async def test_settling_logs_the_attempt_and_sets_what_follows(self, world: World) -> None:
        job = await world.ended(callback_url="http://a/1")
        world.clock.advance(1)
        (taken,) = await world.take()
        first = verdict(DeliveryStatus.PENDING, at=world.clock.now, retry_after=30.0, http=503)
        assert await world.ledger.settle_delivery(taken.delivery_id, first)
        assert await world.take() == [] and await world.ledger.next_delivery_due() == pytest.approx(30.0)
        assert await world.ledger.pending_deliveries() == {"http": 1, "amqp": 0}
        world.clock.advance(30)
        (again,) = await world.take()
        assert again.attempts == 1 and again.last_error == "answered 503" and len(again.log) == 1
        done = verdict(DeliveryStatus.DELIVERED, at=world.clock.now)
        assert await world.ledger.settle_delivery(taken.delivery_id, done)
        assert not await world.ledger.settle_delivery(taken.delivery_id, done), "it was settled meanwhile"
        (kept,) = await world.deliveries_of(job.job_id)
        assert (kept.status, kept.attempts, kept.delivered_at) == (
            DeliveryStatus.DELIVERED,
            2,
            world.clock.now,
        )
        assert [(one.number, one.http_status, one.error) for one in kept.log] == [
            (1, 503, "answered 503"),
            (2, 200, None),
        ]
        assert (
            await world.ledger.pending_deliveries() == {"http": 0, "amqp": 0}
            and await world.ledger.next_delivery_due() is None
        )

    async def test_an_unknown_delivery_cannot_be_settled_or_sent_again(self, world: World) -> None:
        assert not await world.ledger.settle_delivery("nothing", verdict(DeliveryStatus.DELIVERED))
        assert await world.ledger.redeliver("nothing") is None

    @pytest.mark.parametrize("end", [DeliveryStatus.DELIVERED, DeliveryStatus.ABANDONED])
    async def test_redelivery_starts_anew_and_keeps_the_log(self, world: World, end: DeliveryStatus) -> None:
        await world.ended(callback_url="http://a/1")
        world.clock.advance(1)
        (taken,) = await world.take()
        await world.ledger.settle_delivery(taken.delivery_id, verdict(end, http=410))
        again = await world.ledger.redeliver(taken.delivery_id)
        assert again is not None
        assert (again.status, again.attempts, again.due_at) == (DeliveryStatus.PENDING, 0, world.clock.now)
        assert len(again.log) == 1 and again.body == taken.body and again.event_id == taken.event_id
        assert [one.delivery_id for one in await world.take()] == [taken.delivery_id]
        await world.ledger.settle_delivery(taken.delivery_id, verdict(DeliveryStatus.DELIVERED))
        page = await world.ledger.deliveries(status="delivered")
        assert [len(one.log) for one in page.items] == [2]

    # ------------------------------------------------------------ fairness

    async def test_a_host_gets_no_more_than_it_has_room_for(self, world: World) -> None:
        for number in range(6):
            await world.ended(callback_url=f"http://a/{number}")
        world.clock.advance(1)
        assert urls(await world.take(per_host=4, busy={"a": 1})) == [f"http://a/{number}" for number in range(3)]
        assert await world.take(per_host=4, busy={"a": 4}) == []
        assert len(await world.take(per_host=4)) == 3

    async def test_a_host_with_many_pending_does_not_crowd_out_another(self, world: World) -> None:
        for number in range(60):
            await world.ended(callback_url=f"http://slow/{number}")
        await world.ended(callback_url="http://quick/1")
        await world.ended(callback_url="http://other/1")
        world.clock.advance(1)
        taken = urls(await world.take(limit=8, per_host=16))
        assert taken[:3] == ["http://slow/0", "http://quick/1", "http://other/1"]
        assert taken[3:] == [f"http://slow/{number}" for number in range(1, 6)]

    # ------------------------------------------------------------ lists and subscriptions

    async def test_deliveries_are_listed_newest_first_by_job_and_status(self, world: World) -> None:
        jobs = [await world.ended(callback_url=f"http://a/{number}") for number in range(5)]
        page = await world.ledger.deliveries(limit=2)
        assert urls(list(page.items)) == ["http://a/4", "http://a/3"]
        await world.ended(callback_url="http://a/later")
        rest = await world.ledger.deliveries(limit=10, cursor=page.next_cursor)
        assert urls(list(rest.items)) == ["http://a/2", "http://a/1", "http://a/0"] and rest.next_cursor is None
        assert urls(await world.deliveries_of(jobs[1].job_id)) == ["http://a/1"]
        assert (await world.ledger.deliveries(status="abandoned")).items == []

    async def test_deliveries_are_listed_without_the_news_that_a_job_has_started(self, world: World) -> None:
        await world.ledger.put_subscription("all", "http://a/all", ["*"])
        job = await world.ended()
        for job_id in (None, job.job_id):
            types = [one.event_type for one in (await world.ledger.deliveries(job_id=job_id)).items]
            assert [name.rpartition(".")[2] for name in types] == ["completed", "started"]
            page = await world.ledger.deliveries(job_id=job_id, started=False)
            assert [one.event_type for one in page.items] == types[:1]

    async def test_subscriptions_are_put_replaced_and_deleted(self, world: World) -> None:
        assert await world.ledger.put_subscription("one", "http://a/1", ["backup.*"])
        world.clock.advance(10)
        assert not await world.ledger.put_subscription("one", "http://a/2", ["*.failed", "*"])
        (found,) = await world.ledger.subscriptions()
        assert (found.name, found.url, found.types) == ("one", "http://a/2", ("*.failed", "*"))
        assert found.created_at == world.clock.now - 10
        assert await world.ledger.delete_subscription("one")
        assert not await world.ledger.delete_subscription("one")
        job = await world.ended(Status.FAILED)
        assert await world.deliveries_of(job.job_id) == []

    @pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELED])
    async def test_each_end_has_its_own_event_type(self, world: World, status: Status) -> None:
        await world.ledger.put_subscription("bad", "http://a/1", [f"*.{status.value}"])
        job = await world.ended(status)
        assert [one.event_type for one in await world.deliveries_of(job.job_id)] == [f"backup.{status.value}"]

"""What every ledger keeps for records and calculations: collections, bookmarks, rejected records, stacks."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from handlers.supplies import Rejected, Taken
from service.jobs import Status
from service.ledger.records import Change, InvalidCursor
from tests.contracts.ledger_world import World


def rejected(page: int, position: int, record: str = "{}") -> Rejected:
    return Rejected(page, position, record, ({"pointer": "/email", "detail": "It is missing."},))


class RecordSuite:
    # ------------------------------------------------------------ collections

    async def test_a_collection_is_put_replaced_and_deleted(self, world: World) -> None:
        heard: list[Change] = []
        world.ledger.watch(heard.append)
        assert await world.ledger.put_collection("orders", {"table": "orders", "ü": [1]})
        world.clock.advance(5)
        assert not await world.ledger.put_collection("orders", {"table": "other"})
        assert await world.ledger.put_collection("apples", {})
        apples, orders = await world.ledger.collections()
        assert (apples.name, orders.name, orders.document) == ("apples", "orders", {"table": "other"})
        assert orders.updated_at - orders.created_at == pytest.approx(5)
        assert await world.ledger.delete_collection("orders")
        assert not await world.ledger.delete_collection("orders")
        assert [one.name for one in await world.ledger.collections()] == ["apples"]
        assert "collection" in {change.kind for change in heard}

    # ------------------------------------------------------------ bookmarks and rejected records

    async def test_a_bookmark_is_kept_with_the_rejected_records_of_its_moment(self, world: World) -> None:
        job = await world.running()
        assert await world.ledger.bookmark("job:x") is None
        keep = world.ledger.keep_bookmark
        assert await keep(job.job_id, job.fencing_token, "job:x", {"page": 1}, [rejected(1, 7), rejected(1, 2)])
        assert await keep(job.job_id, job.fencing_token, "job:x", {"page": 2}, [rejected(1, 7), rejected(2, 0)])
        assert await world.ledger.bookmark("job:x") == {"page": 2}
        found = (await world.ledger.rejected(job.job_id)).items
        assert [(one.page, one.position) for one in found] == [(1, 2), (1, 7), (2, 0)]
        assert found[0] == rejected(1, 2)

    async def test_who_has_lost_the_lease_keeps_nothing(self, world: World) -> None:
        job = await world.running()
        token = job.fencing_token
        assert await world.ledger.keep_bookmark(job.job_id, token, "k", {"page": 1})
        assert not await world.ledger.keep_bookmark(job.job_id, token + 1, "k", {"page": 2}, [rejected(1, 1)])
        await world.ledger.finish_job(job.job_id, token, Status.SUCCEEDED)
        assert not await world.ledger.keep_bookmark(job.job_id, token, "k", {"page": 3}, [rejected(1, 1)])
        assert await world.ledger.bookmark("k") == {"page": 1}
        assert (await world.ledger.rejected(job.job_id)).items == []

    async def test_rejected_records_come_in_pages(self, world: World) -> None:
        job = await world.running()
        rows = [
            rejected(page, position, f'{{"n": "{page}.{position}\\u0000"}}') for page in (0, 3) for position in range(4)
        ]
        await world.ledger.keep_bookmark(job.job_id, job.fencing_token, "k", {}, rows)
        seen: list[Rejected] = []
        cursor = None
        while True:
            page = await world.ledger.rejected(job.job_id, cursor=cursor, limit=3)
            seen += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert seen == rows
        for wrong in ("", "x", "WyJyZWplY3RlZCIsLTUsMF0"):
            with pytest.raises(InvalidCursor):
                await world.ledger.rejected(job.job_id, cursor=wrong)

    async def test_what_belongs_to_a_job_is_swept_with_it(self, world: World) -> None:
        job = await world.running()
        keep, own = world.ledger.keep_bookmark, f"job:{job.job_id}"
        await keep(job.job_id, job.fencing_token, own, {"page": 1}, [rejected(1, 1)])
        await keep(job.job_id, job.fencing_token, "ingest:orders", {"at": 5})
        await world.ledger.stack_push("s", ["1"], step=job.job_id)
        await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED)
        world.clock.advance(1000)
        fresh = await world.ended()
        await world.ledger.stack_push("s", ["1"], step=fresh.job_id)
        assert await world.ledger.sweep(500) == 1
        assert await world.ledger.bookmark(own) is None
        assert await world.ledger.bookmark("ingest:orders") == {"at": 5}
        assert (await world.ledger.rejected(job.job_id)).items == []
        assert await world.ledger.stack_step(job.job_id) is None
        assert await world.ledger.stack_step(fresh.job_id) == "2"

    # ------------------------------------------------------------ stacks

    async def test_the_last_value_put_on_a_stack_is_the_first_to_come_off(self, world: World) -> None:
        ledger = world.ledger
        assert await ledger.stack_size("s") == 0
        assert await ledger.stack_push("s", ["1", "2"]) == 2
        assert await ledger.stack_push("s", ["3" * 5000]) == 3
        taken = await ledger.stack_top("s", 2)
        assert taken.values == ("3" * 5000, "2") and taken.size == 3
        assert await ledger.stack_pop("s", 2, taken.revision)
        assert await ledger.stack_top("s", 9) == Taken(("1",), 1, taken.revision + 1)
        assert await ledger.stack_size("other") == 0

    async def test_a_stack_that_moved_on_keeps_its_values(self, world: World) -> None:
        ledger = world.ledger
        await ledger.stack_push("s", ["1", "2"])
        before = await ledger.stack_top("s", 2)
        await ledger.stack_push("s", ["3"])
        assert not await ledger.stack_pop("s", 2, before.revision)
        now = await ledger.stack_top("s", 9)
        assert now.values == ("3", "2", "1")
        assert not await ledger.stack_pop("s", 4, now.revision)
        assert await ledger.stack_size("s") == 3

    async def test_a_step_is_made_once(self, world: World) -> None:
        ledger = world.ledger
        assert await ledger.stack_push("s", ["1", "2"], step="a") == 2
        assert await ledger.stack_push("s", ["1", "2"], step="a") == 2
        revision = (await ledger.stack_top("s", 1)).revision
        assert await ledger.stack_step("b") is None
        assert await ledger.stack_pop("s", 1, revision, step="b", outcome="two")
        assert await ledger.stack_pop("s", 1, revision, step="b", outcome="never")
        assert (await ledger.stack_step("b"), await ledger.stack_size("s")) == ("two", 1)

    async def test_clients_at_once_lose_and_double_nothing(self, world: World) -> None:
        ledger = world.ledger
        await asyncio.gather(*(ledger.stack_push("s", [str(n), str(n + 100)]) for n in range(20)))
        assert await ledger.stack_size("s") == 40
        taken: list[str] = []

        async def take_two() -> None:
            while True:
                top = await ledger.stack_top("s", 2)
                if await ledger.stack_pop("s", 2, top.revision):
                    taken.extend(top.values)
                    return

        await asyncio.gather(*(take_two() for _ in range(20)))
        assert Counter(taken) == Counter(str(n) for n in [*range(20), *range(100, 120)])
        assert await ledger.stack_size("s") == 0

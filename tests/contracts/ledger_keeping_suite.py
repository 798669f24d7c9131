"""What every ledger keeps, lists and forgets: pages of jobs, the catalogue, the sweep."""

from __future__ import annotations

import pytest

from handlers.base import Published, Verified
from service.jobs import Status
from service.ledger.records import Accepted, BackupFilter, DeliveryStatus, InvalidCursor
from tests.contracts.ledger_world import World, entry, submission, verdict


class KeepingSuite:
    # ------------------------------------------------------------ pages of jobs

    async def test_pages_of_jobs_stay_whole_while_jobs_are_added(self, world: World) -> None:
        ids = [await world.accepted() for _ in range(7)]
        seen: list[str] = []
        cursor = None
        while True:
            page = await world.ledger.jobs(cursor=cursor, limit=3)
            seen += [job.job_id for job in page.items]
            await world.accepted()
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == ids[::-1]

    async def test_a_full_last_page_has_no_next(self, world: World) -> None:
        for _ in range(2):
            await world.accepted()
        assert (await world.ledger.jobs(limit=2)).next_cursor is None

    async def test_jobs_are_found_by_status_operation_and_connection(self, world: World) -> None:
        shop = await world.ended()
        check = await world.accepted(operation="check", data={})
        other = await world.accepted(data={"connection": "other"})

        async def found(**wanted: str) -> list[str]:
            return [job.job_id for job in (await world.ledger.jobs(**wanted)).items]  # type: ignore[arg-type]  # strings only

        assert await found() == [other, check, shop.job_id]
        assert await found(status="queued") == [other, check]
        assert await found(operation="check") == [check]
        assert await found(connection="other") == [other]
        assert await found(connection="shop", status="queued") == []
        assert await found(status="succeeded", operation="backup") == [shop.job_id]
        assert await found(connection="shop", operation="backup", status="succeeded") == [shop.job_id]

    @pytest.mark.parametrize("cursor", ["", "x", "e30", "WyJqb2JzIiwgIjEiXQ", "é", "WyJqb2JzIiwtMV0", "a" * 999])
    async def test_a_cursor_that_no_page_gave_out_is_refused(self, world: World, cursor: str) -> None:
        with pytest.raises(InvalidCursor):
            await world.ledger.jobs(cursor=cursor)
        with pytest.raises(InvalidCursor):
            await world.ledger.deliveries(cursor=cursor)
        with pytest.raises(InvalidCursor):
            await world.ledger.backups(BackupFilter(), cursor=cursor)

    async def test_a_cursor_of_another_list_is_refused(self, world: World) -> None:
        for _ in range(2):
            await world.accepted()
        cursor = (await world.ledger.jobs(limit=1)).next_cursor
        with pytest.raises(InvalidCursor):
            await world.ledger.deliveries(cursor=cursor)

    async def test_counts_name_every_status(self, world: World) -> None:
        await world.ended()
        await world.accepted()
        assert await world.ledger.counts() == {
            "queued": 1,
            "running": 0,
            "succeeded": 1,
            "failed": 0,
            "canceled": 0,
        }

    async def test_an_unknown_job_is_none(self, world: World) -> None:
        assert await world.ledger.job("nothing") is None

    # ------------------------------------------------------------ catalogue

    async def test_a_backup_enters_the_catalogue_with_the_end_of_its_job(self, world: World) -> None:
        job = await world.running()
        published = entry("b1", labels={"env": "prod"})
        stale = await world.ledger.finish_job(
            job.job_id, job.fencing_token + 1, Status.SUCCEEDED, changes=(Published(published),)
        )
        assert stale is None and await world.ledger.backup("b1") is None
        await world.ledger.finish_job(job.job_id, job.fencing_token, Status.SUCCEEDED, changes=(Published(published),))
        assert await world.ledger.backup("b1") == published

    async def test_verification_raises_the_level_and_damage_is_remembered(self, world: World) -> None:
        await world.ledger.adopt_backup(entry("b1", level=1))

        async def after(change: Verified, status: Status = Status.SUCCEEDED) -> tuple[int, bool]:
            job = await world.running()
            await world.ledger.finish_job(job.job_id, job.fencing_token, status, changes=(change,))
            found = await world.ledger.backup("b1")
            assert found is not None
            return found.level, found.damaged

        assert await after(Verified("b1", 3)) == (3, False)
        assert await after(Verified("b1", 1)) == (3, False), "a lower level takes nothing away"
        assert await after(Verified("b1", 0, damaged=True), Status.FAILED) == (0, True)
        assert await after(Verified("b1", 0)) == (0, True)
        assert await after(Verified("b1", 2)) == (2, False)

    async def test_an_artefact_found_in_storage_is_adopted_once(self, world: World) -> None:
        assert await world.ledger.adopt_backup(entry("b1", listed=False))
        assert not await world.ledger.adopt_backup(entry("b1"))
        found = await world.ledger.backup("b1")
        assert found is not None and not found.listed
        job = await world.running()
        await world.ledger.finish_job(
            job.job_id, job.fencing_token, Status.SUCCEEDED, changes=(Published(entry("b1")),)
        )
        found = await world.ledger.backup("b1")
        assert found is not None and found.listed, "its own job has published it after all"

    async def test_backups_are_filtered_and_paged_newest_first(self, world: World) -> None:
        await world.ledger.adopt_backup(entry("b1", ended=1.0, level=1, labels={"env": "prod", "team": "a"}))
        await world.ledger.adopt_backup(entry("b2", ended=3.0, level=2, labels={"env": "prod"}))
        await world.ledger.adopt_backup(entry("b3", ended=2.0, level=3, connection="other"))
        await world.ledger.adopt_backup(entry("b4", ended=4.0, level=0, damaged=True))
        await world.ledger.adopt_backup(entry("b5", ended=4.0, listed=False))

        async def found(**wanted: object) -> list[str]:
            page = await world.ledger.backups(BackupFilter(**wanted))  # type: ignore[arg-type]  # filters of several types
            return [one.manifest.backup_id for one in page.items]

        assert await found() == ["b5", "b4", "b2", "b3", "b1"]
        assert await found(connection="other") == ["b3"]
        assert await found(labels={"env": "prod"}) == ["b2", "b1"]
        assert await found(labels={"env": "prod", "team": "a"}) == ["b1"]
        assert await found(labels={"env": "test"}) == []
        assert await found(min_level=2, listed_only=True) == ["b2", "b3"]
        assert await found(undamaged_only=True, listed_only=True) == ["b2", "b3", "b1"]
        page = await world.ledger.backups(BackupFilter(), limit=1)
        assert [one.manifest.backup_id for one in page.items] == ["b5"]
        page = await world.ledger.backups(BackupFilter(), limit=3, cursor=page.next_cursor)
        assert [one.manifest.backup_id for one in page.items] == ["b4", "b2", "b3"]
        page = await world.ledger.backups(BackupFilter(), limit=3, cursor=page.next_cursor)
        assert [one.manifest.backup_id for one in page.items] == ["b1"] and page.next_cursor is None

    async def test_whole_backups_are_found_behind_any_number_of_parts(self, world: World) -> None:
        await world.ledger.adopt_backup(entry("w1", ended=1.0))
        await world.ledger.adopt_backup(entry("w2", ended=2.0))
        await world.ledger.adopt_backup(entry("by-hand", ended=3.0, options={"adopted": {}}))
        for number in range(7):
            await world.ledger.adopt_backup(entry(f"p{number}", ended=4.0, options={"include": ["orders"]}))
        await world.ledger.adopt_backup(entry("w3", ended=0.5, options={"content": "all", "include": []}))

        async def pages(whole: tuple[bool | None, ...], limit: int) -> list[list[str]]:
            found, cursor = [], None
            while True:
                page = await world.ledger.backups(BackupFilter(whole=whole), limit=limit, cursor=cursor)
                found.append([one.manifest.backup_id for one in page.items])
                cursor = page.next_cursor
                if cursor is None:
                    return found

        assert await pages((True,), 1) == [["w2"], ["w1"], ["w3"]]
        assert await pages((True,), 2) == [["w2", "w1"], ["w3"]]
        assert await pages((True,), 3) == [["w2", "w1", "w3"]]
        assert await pages((True, None), 2) == [["by-hand", "w2"], ["w1", "w3"]]
        assert await pages((False,), 4) == [["p6", "p5", "p4", "p3"], ["p2", "p1", "p0"]]
        parts = ["p6", "p5", "p4", "p3", "p2", "p1", "p0"]
        assert await pages((True, False, None), 9) == [[*parts, "by-hand", "w2"], ["w1", "w3"]]

    async def test_an_unknown_backup_is_none(self, world: World) -> None:
        assert await world.ledger.backup("nothing") is None

    # ------------------------------------------------------------ sweep

    async def test_the_sweep_removes_what_ended_long_ago_and_nothing_else(self, world: World) -> None:
        job = await world.running()
        await world.ledger.finish_job(
            job.job_id, job.fencing_token, Status.SUCCEEDED, changes=(Published(entry("b1")),)
        )
        undelivered = await world.ended(callback_url="http://a/1")
        still_open = await world.accepted()
        world.clock.advance(1000)
        fresh = await world.ended()
        assert await world.ledger.sweep(500) == 1
        assert await world.ledger.job(job.job_id) is None
        assert await world.ledger.history(job.job_id) == []
        assert await world.ledger.backup("b1") is not None
        for kept in (undelivered.job_id, still_open, fresh.job_id):
            assert await world.ledger.job(kept) is not None

    async def test_a_job_goes_once_its_last_delivery_is_settled(self, world: World) -> None:
        job = await world.ended(event_id="e1", callback_url="http://a/1")
        world.clock.advance(1000)
        assert await world.ledger.sweep(500) == 0
        (taken,) = await world.take()
        await world.ledger.settle_delivery(taken.delivery_id, verdict(DeliveryStatus.ABANDONED, http=410))
        assert await world.ledger.sweep(500) == 1
        assert await world.deliveries_of(job.job_id) == []

    async def test_an_id_whose_job_was_swept_makes_a_new_job(self, world: World) -> None:
        first = await world.running("e1", target="shop")
        await world.ledger.accept(submission("j1", target="shop", on_conflict="join"))
        await world.ledger.finish_job(first.job_id, first.fencing_token, Status.SUCCEEDED)
        world.clock.advance(1000)
        await world.ledger.sweep(500)
        for event_id in ("e1", "j1"):
            asked = submission(event_id)
            assert await world.ledger.accept(asked) == Accepted(asked.job_id, Status.QUEUED)

    async def test_one_sweep_removes_no_more_than_its_limit(self, world: World) -> None:
        for _ in range(5):
            await world.ended()
        world.clock.advance(1000)
        assert await world.ledger.sweep(500, limit=3) == 3
        assert await world.ledger.sweep(500, limit=3) == 2

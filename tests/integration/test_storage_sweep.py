"""The sweep removes what dead attempts left, and nothing that could be a backup or somebody else's."""

from __future__ import annotations

from pathlib import Path

from engines.storage.registry import open_store
from service.catalogue import StorageSweep
from service.connections import NamedStores
from service.jobs import Status, new_id
from tests.spine import accept, open_ledger


async def test_only_loose_objects_of_ended_jobs_of_this_ledger_are_removed(tmp_path: Path) -> None:
    store = open_store("default", str(tmp_path / "storage"))
    async with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        over, alive = await accept(ledger, "backup"), await accept(ledger, "backup")
        (job,) = await ledger.claim("worker", 1)
        assert job.job_id == over
        assert await ledger.finish_job(over, job.fencing_token, Status.FAILED)
        loose = f"shop/20261121T030000Z-{over}-1/shop.dump.zst"
        kept = [
            f"shop/20261121T030000Z-{alive}-2/shop.dump.zst",  # its job is not over
            f"shop/20261121T030000Z-{new_id()}-1/shop.dump.zst",  # another service shares the store
            "shop/by-hand/shop.dump",
            "notes.txt",
        ]
        published = [f"shop/20261121T030000Z-{over}-3/{name}" for name in ("shop.dump.zst", "manifest.json")]
        for key in (loose, *kept, *published):
            store.put(key, b"x")
        removed, adopted = await StorageSweep(ledger, NamedStores({"default": store})).run()
        assert (removed, adopted) == (1, 0)  # a manifest that cannot be read is told of, its files stay
        assert {item.key for item in store.list()} == {*kept, *published}

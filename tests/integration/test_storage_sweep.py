"""The sweep removes what dead attempts left, and nothing that could be a backup or somebody else's."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

from engines.artefacts.manifest import MANIFEST_NAME
from engines.storage.registry import open_store
from handlers.incoming import incoming_key
from service.catalogue import UPLOAD_DEAD, StorageSweep
from service.connections import NamedStores
from service.jobs import Status, new_id
from tests.contracts.ledger_world import entry
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


async def test_uploaded_dumps_wait_for_ever_and_are_never_taken_for_backups(tmp_path: Path) -> None:
    """Whatever they are called, and whatever is in them."""
    store = open_store("default", str(tmp_path / "storage"))
    async with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        over = await accept(ledger, "adoption")
        (job,) = await ledger.claim("worker", 1)
        assert await ledger.finish_job(over, job.fencing_token, Status.FAILED)
        store.put("shop/a/manifest.json", manifest("a"))
        kept = [incoming_key(name) for name in ("shop.dump", MANIFEST_NAME, f"20261121T030000Z-{over}-1")]
        for key in kept:
            store.put(key, manifest("b"))
            os.utime(tmp_path / "storage" / key, (0, 0))
        assert await StorageSweep(ledger, NamedStores({"default": store})).run() == (0, 1)
        assert {item.key for item in store.list()} == {*kept, "shop/a/manifest.json"}
        assert await ledger.backup("b") is None
        assert await ledger.backup("a") is not None, "the sweep does adopt such a manifest elsewhere"


async def test_what_an_upload_left_that_died_is_removed_after_a_day(tmp_path: Path) -> None:
    store = open_store("default", str(tmp_path / "storage"))
    folder = tmp_path / "storage" / "_incoming"
    folder.mkdir(parents=True)
    old = time.time() - UPLOAD_DEAD.total_seconds() - 60
    for name, at in (("dead", old), ("alive", old + 120)):
        part = folder / f".{name}.part-0123456789abcdef"
        part.write_bytes(b"half")
        os.utime(part, (at, at))
    async with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        assert await StorageSweep(ledger, NamedStores({"default": store})).run() == (1, 0)
    assert [path.name for path in folder.iterdir()] == [".alive.part-0123456789abcdef"]


async def test_a_file_of_one_job_is_removed_when_that_cannot_be_retried_any_more(tmp_path: Path) -> None:
    store = open_store("default", str(tmp_path / "storage"))
    now = time.time()
    ages = {"_ingest-old.csv": 40, "_ingest-new.csv": 20, "ingest-of-somebody.csv": 400}
    for name, days in ages.items():
        store.put(incoming_key(name), b"id\n1\n")
        os.utime(tmp_path / "storage" / incoming_key(name), (now - days * 86400,) * 2)
    async with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        sweep = StorageSweep(ledger, NamedStores({"default": store}), keep=timedelta(days=30))
        assert await sweep.run() == (1, 0)
    assert {item.key for item in store.list()} == {incoming_key(name) for name in list(ages)[1:]}


def manifest(backup_id: str) -> bytes:
    return entry(backup_id).manifest.to_bytes()

"""The catalogue can be rebuilt from the storage alone: a lost ledger loses no backup."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.acceptance.service_process import RunningService, until


def test_a_service_with_a_new_ledger_finds_its_backups_and_restores_them(tmp_path: Path) -> None:
    shop, copy = tmp_path / "shop.sqlite", tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(shop)) as opened, opened:
        opened.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        opened.executemany("INSERT INTO orders VALUES (?)", [(number,) for number in range(500)])
    service = RunningService(tmp_path / "service", {"shop": f"sqlite:///{shop}", "copy": f"sqlite:///{copy}"}).start()
    try:
        backup_id = service.complete("backup", {"connection": "shop", "verify": 3})["backup_id"]
        service.stop()
        for file in service.home.glob("ledger.sqlite*"):
            file.unlink()
        service.start()
        (found,) = until(lambda: service.get("/backups")["data"])
        assert (found["backup_id"], found["level"], found["listed"]) == (backup_id, 3, False)
        assert service.complete("restore", {"backup_id": backup_id, "connection": "copy"})["rows"] == 500
        with closing(sqlite3.connect(copy)) as opened:
            assert opened.execute("SELECT count(*), max(id) FROM orders").fetchone() == (500, 499)
    finally:
        service.close()

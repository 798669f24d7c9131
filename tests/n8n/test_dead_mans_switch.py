"""dead-mans-switch: quiet while every database has a recent proven backup, and loud when one has not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.acceptance.service_process import free_port
from tests.n8n.conftest import MakePair
from tests.n8n.pair import Pair
from tests.n8n.process import Execution

NAME = "dead-mans-switch"
DUMP = b"BEGIN TRANSACTION;\nCREATE TABLE orders (id INTEGER PRIMARY KEY);\nINSERT INTO orders VALUES (1);\nCOMMIT;\n"


def test_it_is_quiet_when_every_connection_has_a_recent_proven_backup(pair: Pair) -> None:
    made = [pair.flexdb.complete("backup", {"connection": name})["backup_id"] for name in ("shop", "crm")]
    done = look(pair)
    assert done.status == "success", done.error
    assert {"All is well", "Is there a heartbeat?"} <= set(done.nodes)
    text = done.output("Report")[0]["text"]
    assert all(
        f"✓ {name}: {backup}, 0.0 h old, level 2" in text for name, backup in zip(("shop", "crm"), made, strict=True)
    )
    assert pair.told() == []


def test_it_looks_every_hour(pair: Pair) -> None:
    pair.flexdb.complete("backup", {"connection": "shop"})
    done = pair.run(pair.load(NAME, {"connections": "shop"}), trigger="Every hour")
    assert done.status == "success", done.error


def test_a_heartbeat_is_sent_when_all_is_well(pair: Pair) -> None:
    pair.flexdb.complete("backup", {"connection": "shop"})
    with watchdog() as (url, paths):
        done = look(pair, connections="shop", heartbeatUrl=f"{url}/ping/1")
        assert done.status == "success", done.error
        assert paths == ["/ping/1"]


def test_no_heartbeat_is_sent_when_a_backup_is_missing(pair: Pair) -> None:
    with watchdog() as (url, paths):
        assert look(pair, heartbeatUrl=f"{url}/ping/1").status == "error"
        assert paths == []


def test_a_heartbeat_that_cannot_be_sent_fails_the_run(pair: Pair) -> None:
    pair.flexdb.complete("backup", {"connection": "shop"})
    done = look(pair, connections="shop", heartbeatUrl=f"http://127.0.0.1:{free_port()}/")
    assert done.status == "error"
    assert done.error.startswith("All is well, but the heartbeat could not be sent: ")


def test_a_connection_without_any_backup_is_told_beside_those_that_are_safe(pair: Pair) -> None:
    safe = pair.flexdb.complete("backup", {"connection": "crm"})["backup_id"]
    done = look(pair, connections="shop, crm, nobody")
    assert done.status == "error"
    told = pair.told_of("Backups: 2 to look after")
    assert "✗ shop: there is no backup at all" in told
    assert f"✓ crm: {safe}" in told
    assert "✗ nobody: there is no backup at all" in told
    assert "✗ shop" in done.error


def test_a_backup_that_is_too_old_is_told_with_its_age(pair: Pair) -> None:
    old = adopt(pair, hours=27.5)
    assert look(pair, connections="shop").status == "error"
    words = f"✗ shop: the newest proven backup of the whole database is 27.5 h old ({old}), allowed are 26 h"
    assert words in pair.told_of("to look after").splitlines()
    assert look(pair, connections="shop", oldestHours=28).status == "success"


def test_the_safety_copy_of_a_restore_does_not_count(pair: Pair) -> None:
    old = adopt(pair, hours=30)
    restored = pair.flexdb.complete("restore", {"backup_id": old, "connection": "shop", "mode": "replace"})
    assert pair.flexdb.get(f"/backups/{restored['safety_backup_id']}")["level"] >= 2
    assert look(pair, connections="shop").status == "error"
    assert f"30.0 h old ({old})" in pair.told_of("✗ shop")


def test_a_part_of_the_database_does_not_count_however_new_it_is(pair: Pair) -> None:
    pair.flexdb.complete("backup", {"connection": "shop", "verify": 3, "content": "schema"})
    assert look(pair, connections="shop").status == "error"
    assert "(0 damaged, 0 safety copies or unlisted, 1 partial, 0 " in pair.told_of("✗ shop: none of its 1 backups")
    old = adopt(pair, hours=30)
    assert look(pair, connections="shop").status == "error"
    assert f"30.0 h old ({old}), allowed are 26 h; not counted: 1 partial, 0 adopted" in pair.told_of("✗ shop: the new")


def test_a_dump_that_nobody_said_is_whole_does_not_count(pair: Pair) -> None:
    adopt(pair, hours=1, whole=None)
    assert look(pair, connections="shop").status == "error"
    assert "0 partial, 1 adopted of unknown extent)" in pair.told_of("✗ shop: none of its 1 backups")
    adopt(pair, hours=2)
    assert look(pair, connections="shop").status == "success"


def test_a_backup_below_the_level_asked_for_does_not_count(pair: Pair) -> None:
    pair.flexdb.complete("backup", {"connection": "shop", "verify": 1})
    assert look(pair, connections="shop").status == "error"
    assert "✗ shop: none of its 1 backups is whole, listed and of level 2 or more" in pair.told_of("to look after")
    assert look(pair, connections="shop", minLevel=1).status == "success"


def test_a_damaged_backup_does_not_count_and_the_one_before_it_does(pair: Pair) -> None:
    first = pair.flexdb.complete("backup", {"connection": "shop"})["backup_id"]
    second = pair.flexdb.complete("backup", {"connection": "shop"})["backup_id"]
    damage(pair, second)
    done = look(pair, connections="shop", minLevel=0)
    assert done.status == "success", done.error
    assert first in done.output("Report")[0]["text"]
    damage(pair, first)
    assert look(pair, connections="shop", minLevel=0).status == "error"
    told = pair.told_of("none of its 2 backups")
    assert "(2 damaged, 0 safety copies or unlisted, 0 partial, 0 adopted of unknown extent)" in told


def test_a_flexdb_that_does_not_answer_is_told(pair: Pair) -> None:
    pair.flexdb.kill()
    done = look(pair)
    assert done.status == "error"
    told = pair.told_of(f"✗ FlexDB at {pair.flexdb_url} takes no work: ")
    assert "No backup is made while that is so." in told
    assert "takes no work" in done.error


def test_backups_that_cannot_be_listed_are_told(make_pair: MakePair) -> None:
    pair = make_pair(FLEXDB_TOKEN="another-token-than-n8n-has")
    done = look(pair)
    assert done.status == "error"
    told = pair.told_of("2 to look after")
    assert "✗ shop: its backups could not be listed, " in told
    assert "✗ crm: its backups could not be listed, " in told


def test_settings_that_name_no_connection_are_told(pair: Pair) -> None:
    done = look(pair, connections=" , ")
    assert done.status == "error"
    assert "Settings names no connection" in pair.told_of("1 to look after")


def look(pair: Pair, **settings: Any) -> Execution:
    return pair.run(pair.load(NAME, settings))


def adopt(pair: Pair, hours: float, *, whole: bool | None = True) -> str:
    """A backup of shop that is so old, and said to be whole or a part or neither; its id."""
    assert pair.flexdb.request("PUT", "/incoming/old.sql", DUMP).status == 201
    made_at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    dump = {"connection": "shop", "path": "old.sql", "made_at": made_at, "whole": whole}
    adopted = pair.flexdb.complete("adoption", dump)
    return str(adopted["backup_id"])


def damage(pair: Pair, backup: str) -> None:
    """Break what is stored, and have FlexDB find out."""
    stored: Path = next((pair.flexdb.storage / "shop" / backup).glob("*.zst"))
    stored.write_bytes(stored.read_bytes()[:-8] + b"damaged!")
    assert pair.flexdb.carry_out("verification", {"backup_id": backup, "level": 1})["type"] == "verification.failed"


@contextmanager
def watchdog() -> Iterator[tuple[str, list[str]]]:
    """Somebody who takes heartbeats; its URL and the paths asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

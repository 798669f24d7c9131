"""Secrets stay put: searched for wherever the service speaks, writes or runs something."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.acceptance.scenes import Scene, open_scene, postgres15
from tests.acceptance.service_process import TOKEN, WEBHOOK_SECRET, free_port, until

PASSWORD = "s3cr3t-Pa55/w@rd:%"
WITH_PASSWORD = "acceptance-user"


class Watch(threading.Thread):
    """Keeps every command line that a process or one that it started, at whatever remove, has meanwhile."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root = root
        self.seen: set[bytes] = set()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        line = (entry / "cmdline").read_bytes()
                        if line not in self.seen and self._is_ours(entry):
                            self.seen.add(line)
                    except OSError:
                        continue
            time.sleep(0.005)

    def _is_ours(self, entry: Path) -> bool:
        """Other tests run beside this one, and some give the token on a command line."""
        while (pid := int(entry.name)) != self._root:
            if pid <= 1:
                return False
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            entry = entry.with_name(parent)
        return True


@contextmanager
def watching_command_lines(root: int) -> Iterator[Watch]:
    watch = Watch(root)
    watch.start()
    try:
        yield watch
    finally:
        watch.done.set()
        watch.join()


def test_no_secret_is_found_in_logs_answers_events_manifest_ledger_or_command_lines(tmp_path: Path) -> None:
    world = postgres15()
    role = f"{world.name}_{WITH_PASSWORD}"
    url = world.url_of(world.name, role, PASSWORD)
    settings = {
        "FLEXDB_LOG_LEVEL": "debug",
        "FLEXDB_CONNECTIONS__AWAY": f"postgresql://u:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/x",
        "FLEXDB_CONNECTIONS__RAW": f"postgresql://u:{PASSWORD}@127.0.0.1:5432/x",
        "FLEXDB_CONNECTIONS__NOWHERE": world.url_of("nowhere_at_all", role, PASSWORD),
    }
    with open_scene(tmp_path, world, settings) as scene:
        world.make_role(role, PASSWORD)
        scene.service.kill()
        scene.service.settings["FLEXDB_CONNECTIONS__SHOP"] = url
        scene.service.restart()
        with watching_command_lines(scene.service.process.pid) as watch:
            ask_for_everything(scene, world.copy)
        assert any(b"pg_dump" in line for line in watch.seen), "the watch saw no tool"
        scene.service.stop()
        places = where_secrets_could_be(scene, watch)
    for secret in (
        PASSWORD,
        quote(PASSWORD, safe=""),
        TOKEN,
        WEBHOOK_SECRET,
        WEBHOOK_SECRET.removeprefix("whsec_"),
    ):
        found = [name for name, text in places.items() if secret.encode() in text]
        assert not found, f"a secret is in {found}"


def ask_for_everything(scene: Scene, copy: str) -> None:
    service = scene.service
    told = {"connection": "shop", "callback_url": scene.receiver.url}
    made = service.complete("backup", told | {"verify": 3, "globals": True, "jobs": 2})
    scene.back_up(counts="none")
    service.complete("restore", told | {"backup_id": made["backup_id"], "into": copy})
    service.complete("inspection", {"connection": "shop"})
    service.complete("check", {})
    for connection in ("away", "nowhere", "raw"):
        service.hook("backup", {"connection": connection, "callback_url": scene.receiver.url}, wait=30)
    service.hook("restore", {"connection": "shop", "backup_id": "none", "into": copy}, wait=30)
    for path in (
        "/jobs",
        "/backups",
        f"/backups/{made['backup_id']}",
        "/deliveries",
        "/health",
        "/metrics",
        "/docs",
    ):
        service.request("GET", path)
    service.request("GET", "/jobs", token=f"{TOKEN}x")
    until(lambda: not service.rows("SELECT 1 FROM deliveries WHERE status = 'pending'"))


def where_secrets_could_be(scene: Scene, watch: Watch) -> dict[str, bytes]:
    service = scene.service
    places = {f"command line {line!r}": line for line in watch.seen}
    places |= {f"answer {number}": body for number, body in enumerate(service.answers)}
    places |= {f"event {number}": each.body for number, each in enumerate(scene.receiver.all)}
    places |= {
        f"headers of event {number}": repr(each.headers).encode() for number, each in enumerate(scene.receiver.all)
    }
    places["log"] = service.log.read_bytes()
    for path in service.home.rglob("*"):
        if path.is_file() and ".dump" not in path.name:
            places[str(path.relative_to(service.home))] = path.read_bytes()
    assert any(name.endswith("manifest.json") for name in places)
    assert "ledger.sqlite" in places
    return places


def test_what_the_service_makes_is_for_its_own_user_only(sqlite_scene: Scene) -> None:
    sqlite_scene.back_up()
    home = sqlite_scene.service.home
    for path in [home, *home.rglob("*")]:
        assert path.lstat().st_mode & 0o077 == 0, f"{path} can be read by others"

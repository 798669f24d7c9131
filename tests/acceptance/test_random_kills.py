"""SIGKILL again and again at any moment, with everything asked for at once: nothing is lost or doubled."""

from __future__ import annotations

import threading
from functools import partial
from http.client import HTTPException
from random import Random, SystemRandom

from tests.acceptance.audit import audit, nothing_half_built, staging, tools_are_gone
from tests.acceptance.scenes import Scene
from tests.acceptance.service_process import until

KILLS = 2
MIXTURE = ("backup", "backup", "verification", "restore", "restore", "check", "inspection")


class Callers:
    """Two callers who ask for everything at once, over and over; each notes what was answered 202."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.answered: list[str] = []
        self._scene = scene
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(Random(seed + number),)) for number in range(2)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def have(self, enough: int) -> bool:
        return len(self.answered) >= enough

    def _call(self, chance: Random) -> None:
        while not self._done.is_set():
            operation = chance.choice(MIXTURE)
            try:
                answer = self._scene.service.hook(operation, self._data(operation, chance))
                if answer.status == 202:
                    self.answered.append(answer.json["job_id"])
            except (OSError, ValueError, HTTPException):  # killed before, or in the middle of, an answer
                self._done.wait(0.05)
            self._done.wait(chance.random() * 0.6)

    def _data(self, operation: str, chance: Random) -> dict[str, object]:
        data: dict[str, object] = {"callback_url": self._scene.receiver.url}
        shop = {"connection": "shop"}
        if operation == "verification":
            return data | {"filter": shop, "level": chance.choice([1, 2, 3])}
        if operation == "restore":
            return data | shop | {"latest": shop, "into": self._scene.world.copy, "mode": "replace"}
        if operation == "backup":
            return data | shop | {"verify": chance.choice([0, 1, 2, 3])}
        return data | shop


def test_whatever_runs_when_it_is_killed_again_and_again_nothing_is_lost_or_doubled(scene: Scene) -> None:
    seed = SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    chance, callers = Random(seed), Callers(scene, seed)
    backed_up, good = scene.world.contents(), scene.back_up()
    callers.start()
    try:
        for _ in range(KILLS):
            enough = len(callers.answered) + chance.randint(1, 8)
            until(partial(callers.have, enough))
            tools_are_gone(scene.service.kill())
            scene.service.restart()
    finally:
        callers.stop()
    for job_id in callers.answered:
        scene.service.ended(job_id, seconds=120)
        scene.receiver.first_of(job_id)
    audit(scene.service, callers.answered, scene.receiver.all)
    assert scene.has_backup(good)
    assert scene.world.contents(scene.world.copy) in (backed_up, None)
    assert scene.world.contents() == backed_up
    nothing_half_built(scene)
    assert not staging(scene.service)

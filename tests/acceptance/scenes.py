"""A shop database, the service that backs it up and a receiver of its webhooks, started and ended together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.service_process import RunningService
from tests.acceptance.webhook_receiver import Receiver, receiving
from tests.acceptance.worlds import PostgresWorld, SQLiteWorld, World
from tests.servers import ServerMissingError, installed_postgres, missing


@dataclass(frozen=True, slots=True)
class Scene:
    world: World
    service: RunningService
    receiver: Receiver

    @property
    def postgres(self) -> PostgresWorld:
        assert isinstance(self.world, PostgresWorld)
        return self.world

    def back_up(self, **data: object) -> str:
        """A good backup of the shop; its id."""
        return str(self.service.complete("backup", {"connection": "shop"} | data)["backup_id"])

    def has_backup(self, backup_id: str) -> bool:
        """Whether the catalogue lists it."""
        return backup_id in {backup["backup_id"] for backup in self.service.get("/backups?limit=200")["data"]}

    def job_ids(self) -> list[str]:
        if not self.service.ledger_file.exists():
            return []
        return [row["job_id"] for row in self.service.rows("SELECT job_id FROM jobs")]


@contextmanager
def open_scene(
    folder: Path, world: World, settings: Mapping[str, str] | None = None, *, orders: int = 500
) -> Iterator[Scene]:
    """Everything started is ended, everything made is removed; the service's log is printed for pytest to show."""
    with receiving() as receiver:
        service = RunningService(folder / "service", {"shop": world.url}, settings)
        scene = Scene(world, service, receiver)
        try:
            world.fill(orders)
            service.start()
            yield scene
        finally:
            service.close()
            print(f"--- the service's log ({service.log})\n{service.last_words()}")
            world.close(scene.job_ids())


def postgres15() -> PostgresWorld:
    """A new shop on the server that is there; skips loudly without one."""
    try:
        return PostgresWorld(installed_postgres())
    except ServerMissingError as error:
        missing(str(error))
        raise


def world_of(kind: str, folder: Path) -> World:
    return SQLiteWorld(folder / "databases") if kind == "sqlite" else postgres15()


@contextmanager
def running(
    folder: Path,
    connections: dict[str, str],
    settings: dict[str, str] | None = None,
    *,
    wrapper: tuple[str, ...] = (),
) -> Iterator[RunningService]:
    """A service alone; its log is printed for pytest to show."""
    service = RunningService(folder / "service", connections, settings, wrapper=wrapper)
    try:
        yield service.start()
    finally:
        service.close()
        print(f"--- the service's log ({service.log})\n{service.last_words()}")


def shop(folder: Path, orders: int = 500) -> SQLiteWorld:
    """A shop in SQLite, of about a kilobyte per order."""
    world = SQLiteWorld(folder / "databases")
    world.fill(orders)
    return world

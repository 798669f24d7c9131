"""Who is measured from queue to queue: how each is filled, started, and what it leaves in RabbitMQ."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection

from benchmarks.peers.trial import Trial
from benchmarks.processes import REPLICA, ROOT, BenchmarkError, free_port, settings_of
from benchmarks.queue_broker import fill, make_queues, remove
from service.amqp import topology
from service.amqp.names import Names

CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Promises:
    """What its users may rely on, as it was measured here."""

    durable: str = "no"
    """Whether work is on disk in a ledger before the message is acknowledged."""
    duplicates: str = "no"
    exclusive: str = "no"
    confirmed: str = "yes"


@dataclass(frozen=True, slots=True)
class Contestant(ABC):
    """A program that takes from the trial's requests and adds to its replies. `requests` is where its work waits."""

    name: str
    promises: Promises

    def requests(self, trial: Trial) -> str:
        return trial.requests

    @abstractmethod
    async def prepare(self, connection: AbstractConnection, trial: Trial) -> None:
        """Make both queues, and fill the one."""

    @abstractmethod
    def command(self, trial: Trial) -> list[str]: ...

    def environment(self, trial: Trial, folder: Path) -> Mapping[str, str]:
        return {**os.environ, **trial.environment(), "PYTHONPATH": str(ROOT)}

    async def clean(self, connection: AbstractConnection, trial: Trial) -> None:
        names = (trial.requests, trial.replies)
        queues = [name + suffix for name in names for suffix in ("", ".DQ", ".XQ")]  # the last two are Dramatiq's
        exchanges = [*names, f"{trial.name}.events", f"{trial.name}.taskiq"]
        await remove(connection, [*queues, f"{trial.name}.dead"], exchanges)


@dataclass(frozen=True, slots=True)
class Peer(Contestant):
    """A framework with its own format of messages, filled by its own program where `filler` names one."""

    python: Path
    program: tuple[str, ...]
    filler: str | None = None

    async def prepare(self, connection: AbstractConnection, trial: Trial) -> None:
        if self.filler is None:
            await make_queues(connection, trial.requests, trial.replies)
            await fill(connection, trial.requests, trial)
            return
        command = [str(self.python), "-m", f"benchmarks.peers.{self.filler}", "fill"]
        environment = self.environment(trial, ROOT)
        await asyncio.to_thread(_run, command, environment)

    def command(self, trial: Trial) -> list[str]:
        return [str(self.python), "-m", *(part.format(requests=trial.requests) for part in self.program)]


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")


@dataclass(frozen=True, slots=True)
class FlexDB(Contestant):
    """The service with the operation `noop`; `ledger_url` None is a SQLite file of its own for every round."""

    ledger_url: str | None = None

    def requests(self, trial: Trial) -> str:
        return Names.of(trial.name).requests

    async def prepare(self, connection: AbstractConnection, trial: Trial) -> None:
        names = Names.of(trial.name)
        await topology.declare(connection, names)
        await make_queues(connection, trial.replies)
        async with connection.channel() as channel:
            events = await channel.declare_exchange(names.events, ExchangeType.TOPIC, durable=True, passive=True)
            replies = await channel.declare_queue(trial.replies, passive=True)
            await replies.bind(events, "noop.completed")
        await fill(connection, names.requests, trial)

    def command(self, trial: Trial) -> list[str]:
        return [*REPLICA, "--port", str(free_port())]

    def environment(self, trial: Trial, folder: Path) -> Mapping[str, str]:
        settings = {"AMQP_URL": trial.url, "AMQP_NAME": trial.name, "CONCURRENCY": str(CONCURRENCY)}
        if self.ledger_url is not None:
            settings["LEDGER_URL"] = self.ledger_url
        return settings_of(folder, **settings)

    async def clean(self, connection: AbstractConnection, trial: Trial) -> None:
        names = Names.of(trial.name)
        await remove(
            connection, [trial.replies, names.requests, names.dead], [names.events, names.requests, names.dead]
        )


def echo() -> Peer:
    """Runs in our own environment: aio-pika is a dependency."""
    return Peer("aio-pika alone", Promises(), Path(sys.executable), ("benchmarks.peers.echo",))


FASTSTREAM, CELERY = "FastStream", "Celery, prefork 2"


def peers(python: Path) -> list[Peer]:
    """The frameworks, as each is run at its best on one machine with late acknowledgement."""
    option = Promises(confirmed="option, on")
    dramatiq = Promises(exclusive="with Redis", confirmed="option, on")
    return [
        Peer(FASTSTREAM, Promises(), python, ("benchmarks.peers.with_faststream",)),
        Peer(CELERY, option, python, ("benchmarks.peers.with_celery", "prefork"), "with_celery"),
        Peer("Celery, solo", option, python, ("benchmarks.peers.with_celery", "solo"), "with_celery"),
        Peer(
            "Dramatiq, 8 threads",
            dramatiq,
            python,
            ("dramatiq", "benchmarks.peers.with_dramatiq", "-p", "1", "-t", "8", "--queues", "{requests}"),
            "with_dramatiq",
        ),
        Peer(
            "Taskiq",
            Promises(),
            python,
            ("taskiq", "worker", "benchmarks.peers.with_taskiq:broker", "-w", "1", "--max-async-tasks", "100",
             "--ack-type", "when_executed", "--log-level", "WARNING"),
            "with_taskiq",
        ),
    ]  # fmt: skip

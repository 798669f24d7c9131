"""The MongoDB the suite runs against: one the environment names, else one started here, gone with this process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from engines.command import TETHER
from tests.memory_folders import data_folder
from tests.servers import ServerMissingError

MONGODB_VARIABLE = "FLEXDB_TEST_MONGODB_URL"
SECANTUS = Path(sys.executable).with_name("secantusd-py")
WITHOUT_EXPIRY = Path(__file__).with_name("data") / "secantusd.toml"
READY_SECONDS = 30.0


def with_database(server: str, database: str) -> str:
    """The same server and options, another database."""
    return urlunsplit(urlsplit(server)._replace(path="/" + quote(database, safe="")))


@contextmanager
def some_mongodb() -> Iterator[str]:
    """URL of the server FLEXDB_TEST_MONGODB_URL names, else of a SecantusDB of our own.

    Raises `ServerMissingError` where there is neither.
    """
    named = os.environ.get(MONGODB_VARIABLE)
    if not named:
        with own_secantus() as server:
            yield server.url
        return
    if not _answers(named):
        raise ServerMissingError(f"no MongoDB answers at {urlsplit(named).netloc.rpartition('@')[2]}")
    yield named


@dataclass(frozen=True, slots=True)
class OwnMongoDB:
    url: str
    guard: subprocess.Popen[bytes]

    def kill(self) -> None:
        """At once, as in a crash."""
        os.killpg(self.guard.pid, signal.SIGKILL)
        self.guard.wait(timeout=10)


@contextmanager
def own_secantus(*arguments: str, storage: Path | None = None) -> Iterator[OwnMongoDB]:
    """A server that speaks MongoDB's protocol, on a free port of 127.0.0.1; `arguments` are its own.

    Everything lies in one temporary folder, but its data where `storage` says so. Ends with the context, and with this
    process however that ends.
    """
    if not SECANTUS.exists():
        raise ServerMissingError("the package SecantusDB is not installed")
    port = _free_port()
    command = [str(SECANTUS), "--host", "127.0.0.1", "--port", str(port), "--config", str(WITHOUT_EXPIRY), *arguments]
    with _started(command, "--storage-path", storage) as guard:
        url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        _wait_until_ready(url, "SecantusDB")
        yield OwnMongoDB(url, guard)


@contextmanager
def own_mongod() -> Iterator[str]:
    """A real mongod as a replica set of one, where its program is on the PATH."""
    program = shutil.which("mongod")
    if program is None:
        raise ServerMissingError("there is no mongod on the PATH")
    port = _free_port()
    command = [program, "--bind_ip", "127.0.0.1", "--port", str(port), "--replSet", "flexdb"]
    command += ["--setParameter", "ttlMonitorEnabled=false"]  # as in secantusd.toml
    with _started(command, "--dbpath", None):
        url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        _wait_until_ready(url, "mongod")
        with MongoClient[dict[str, Any]](url) as client:
            members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
            client.admin.command("replSetInitiate", {"_id": "flexdb", "members": members})
            deadline = time.monotonic() + READY_SECONDS
            while not client.admin.command("hello")["isWritablePrimary"]:
                if time.monotonic() > deadline:
                    raise ServerMissingError("mongod did not become the primary of its set")
                time.sleep(0.05)
        yield url


@contextmanager
def _started(command: list[str], option: str, storage: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    """Under the same guard that client tools run under: its whole process group ends with us."""
    home = Path(tempfile.mkdtemp(prefix="flexdb-mongodb-"))
    kept = ExitStack()
    data = storage or kept.enter_context(data_folder(home))
    data.mkdir(exist_ok=True)
    held_by_guard, held_by_us = os.pipe()
    with (home / "server.log").open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, "-S", "-E", "-I", str(TETHER), str(held_by_guard), *command, option, str(data)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(home)},
            cwd=home,
            pass_fds=(held_by_guard,),
            start_new_session=True,
        )
    os.close(held_by_guard)
    try:
        yield guard
    finally:
        with suppress(ProcessLookupError):
            os.killpg(guard.pid, signal.SIGKILL)
        os.close(held_by_us)
        guard.wait(timeout=10)
        kept.close()
        shutil.rmtree(home, ignore_errors=True)  # the server may still be writing its last words


def _wait_until_ready(url: str, what: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _answers(url):
        if time.monotonic() > deadline:
            raise ServerMissingError(f"{what} did not start")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=300) as client:
            client.admin.command("hello")
    except PyMongoError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

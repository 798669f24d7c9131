"""The servers of the MongoDB benchmarks, each a process of its own: the replay, and SecantusDB, a real one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bson
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from benchmarks.mongodb_documents import COLLECTIONS, DATABASE, encoded
from benchmarks.processes import ROOT, BenchmarkError, free_port
from benchmarks.rounds import tell
from benchmarks.unavailable import UnavailableError

SECANTUS = Path(sys.executable).with_name("secantusd-py")
READY_SECONDS = 60.0


@contextmanager
def replaying(documents: int, repeat: int = 1) -> Iterator[str]:
    """URL of the database `shop` of a replay server; see `mongodb_replay`."""
    tell("making MongoDB's documents")
    command = [sys.executable, "-m", "benchmarks.mongodb_replay", str(documents), str(repeat)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise BenchmarkError("the replay server ended before it was ready")
            yield f"mongodb://127.0.0.1:{port}/{DATABASE}"
        finally:
            process.kill()


@contextmanager
def secantus(documents: int, folder: Path) -> Iterator[str]:
    """URL of the database `shop` of a SecantusDB with so many documents. Raises `UnavailableError`."""
    if not SECANTUS.exists():
        raise UnavailableError("SecantusDB, a package for tests")
    port = free_port()
    url = f"mongodb://127.0.0.1:{port}/{DATABASE}"
    command = [str(SECANTUS), "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "secantus")]
    with (folder / "secantus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with MongoClient[Any](url, serverSelectionTimeoutMS=1000) as client:
                _await_ready(client)
                _fill(client, documents)
            yield url
        finally:
            process.kill()


def _await_ready(client: MongoClient[Any]) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            client.admin.command("ping")
        except PyMongoError as error:
            if time.monotonic() > until:
                raise BenchmarkError("SecantusDB did not become ready") from error
        else:
            return


def _fill(client: MongoClient[Any], documents: int) -> None:
    tell("filling SecantusDB")
    for name in COLLECTIONS:
        found = [bson.decode(one) for one in encoded(name, documents // len(COLLECTIONS))]
        client[DATABASE][name].insert_many(found, ordered=False)

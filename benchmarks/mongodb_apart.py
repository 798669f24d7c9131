"""What FlexDB's MongoDB engine is measured against: a driver that does no more than it must, and one that decodes.

`python -m benchmarks.mongodb_apart`, each in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from benchmarks.apart import asked, report
from benchmarks.mongodb_documents import COLLECTIONS, DATABASE
from benchmarks.mongodb_wire import split

BATCH = 1000
READ_BYTES = 1 << 20


def read_raw(client: MongoClient[Any], file: Path, batch: int | None) -> None:
    """All collections as they come, one after the other into a file."""
    options = {} if batch is None else {"batch_size": batch}
    with file.open("wb", buffering=0) as out:
        for name in COLLECTIONS:
            for data in client[DATABASE][name].find_raw_batches(**options):
                out.write(data)


def read_decoded(client: MongoClient[Any], file: Path) -> None:
    with file.open("wb") as out:
        for name in COLLECTIONS:
            for document in client[DATABASE][name].find(batch_size=BATCH):
                out.write(bson.encode(document))


def batches(file: Path) -> Iterator[list[bytes]]:
    """The documents of a file, `BATCH` at a time."""
    kept: list[bytes] = []
    rest = b""
    with file.open("rb") as source:
        while data := source.read(READ_BYTES):
            rest += data
            whole = split(memoryview(rest))
            kept += map(bytes, whole)
            rest = rest[sum(map(len, whole)) :]
            while len(kept) >= BATCH:
                yield kept[:BATCH]
                kept = kept[BATCH:]
    if kept:
        yield kept


def insert(client: MongoClient[Any], file: Path, into: str, prepared: Callable[[bytes], Any]) -> None:
    collection = client[into][COLLECTIONS[0]]
    for together in batches(file):
        collection.insert_many([prepared(one) for one in together], ordered=False)


def main() -> None:
    known = asked()
    file = Path(known["file"])
    with MongoClient[Any](known["url"]) as client:
        actions: dict[str, Callable[[], None]] = {
            "raw to nowhere": lambda: read_raw(client, Path(os.devnull), BATCH),
            "raw to file": lambda: read_raw(client, file, None),
            "raw to file, 1000": lambda: read_raw(client, file, BATCH),
            "decoded": lambda: read_decoded(client, file),
            "insert raw": lambda: insert(client, file, known["into"], RawBSONDocument),
            "insert decoded": lambda: insert(client, file, known["into"], bson.decode),
        }
        report(actions[known["action"]])
        if "into" in known:
            client.drop_database(known["into"])


if __name__ == "__main__":
    main()

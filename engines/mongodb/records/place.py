"""Where the documents of one table lie: the client that is kept for it, and what is known of the collection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
from bson import Int64
from bson.errors import BSONError
from pymongo import ReturnDocument, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import PyMongoError

from engines.errors import CollectionMismatch, RecordRefused
from engines.mongodb.address import Address
from engines.mongodb.connection import BUSY, DENIED, GONE_AWAY, Client, Document, kept_client, translated, user_database
from engines.records.fields import Table

COUNTERS = "flexdb_counters"
"""One document per table: `fields`, those that the table was made or widened for, and `last`, the last key given."""
LOOK_AGAIN = 5.0
"""Seconds after which we look again whether the collection is still there."""
DUPLICATE = 11000


class Place:
    """One table's collection. The driver's client is safe in any thread and keeps its own connections."""

    def __init__(self, address: Address, table: Table, seconds: float) -> None:
        self.address, self.table = address, table
        self._seconds = seconds
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._users = 0
        """How many are using the client now: it is not closed under them."""
        self._closed = False
        self._seen = float("-inf")

    @contextmanager
    def reached(self, *, seconds: float | None = None) -> Iterator[Database[Document]]:
        """The database, for calls that take so long together at most; driver errors come out translated."""
        limit = self._seconds if seconds is None else seconds
        with self._translating(), self._used() as client, pymongo.timeout(limit):
            yield user_database(client, self.address)

    @contextmanager
    def unhurried(self) -> Iterator[tuple[Client, Database[Document]]]:
        """As `reached`, without a limit for all of it."""
        with self._translating(), self._used() as client:
            yield client, user_database(client, self.address)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (PyMongoError, BSONError) as error:
            raise translated(error, self.address) from error
        except UnicodeEncodeError as error:
            raise RecordRefused("A text holds characters that are no Unicode text.") from error

    @contextmanager
    def _used(self) -> Iterator[Client]:
        with self._lock:
            if self._client is None:
                self._client = kept_client(self.address, "flexdb")
            client = self._client
            self._users += 1
        try:
            yield client
        finally:
            with self._lock:
                self._users -= 1
            self._close_unused()

    def documents(self, database: Database[Document]) -> Collection[Document]:
        """The collection; raises `CollectionMismatch` where it is not there: to MongoDB it would just be empty."""
        if time.monotonic() - self._seen > LOOK_AGAIN:
            if options_of(database, self.table.name) is None:
                raise CollectionMismatch(
                    f"There is no collection {self.table.name!r} in the database.",
                    hint="Declare the collection again, which makes it.",
                )
            self._seen = time.monotonic()
        return durable(database, self.table.name)

    def forget(self) -> None:
        """Look anew whether the collection is there."""
        self._seen = float("-inf")

    def close(self) -> None:
        """Now, or when the last of those who use the client has done."""
        self._closed = True
        self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            if not self._closed or self._users:
                return
            client, self._client = self._client, None
        if client is not None:
            client.close()


def durable(database: Database[Document], name: str) -> Collection[Document]:
    """What is written there is on disk when the server answers."""
    asked = database.client.write_concern.document
    asked = {word: value for word, value in asked.items() if word in {"w", "wtimeout"} and value != 0}
    return database.get_collection(name, write_concern=WriteConcern(**asked, j=True))


def options_of(database: Database[Document], name: str) -> dict[str, Any] | None:
    """None where there is no such collection."""
    for found in database.list_collections(filter={"name": name}):
        return dict(found)
    return None


def refuses(code: int | None) -> bool:
    """Whether a write failed because of what it would have written."""
    return code is not None and code not in DENIED | BUSY | GONE_AWAY


def highest_key(documents: Collection[Document], key: str) -> int:
    found = documents.find_one({key: {"$type": ["int", "long"]}}, {key: 1}, sort=[(key, -1)])
    return int(found[key]) if found else 0


def next_key(database: Database[Document], documents: Collection[Document], table: Table) -> Int64:
    counters = durable(database, COUNTERS)
    while True:
        found = counters.find_one_and_update(
            {"_id": table.name, "last": {"$exists": True}},
            {"$inc": {"last": Int64(1)}},
            return_document=ReturnDocument.AFTER,
        )
        if found is not None:
            return Int64(found["last"])
        pass_key(database, table, highest_key(documents, table.key))


def pass_key(database: Database[Document], table: Table, key: int) -> None:
    """Give no key up to this one any more."""
    durable(database, COUNTERS).update_one({"_id": table.name}, {"$max": {"last": Int64(key)}}, upsert=True)

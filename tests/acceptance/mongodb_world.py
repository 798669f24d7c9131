"""The shop on MongoDB: made, looked at and removed with a plain driver."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database

from tests.acceptance.worlds import KEPT, Contents, World
from tests.mongodb import with_database

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


OWN = "flexdb_new_"
"""What collections begin with that a restore builds inside the database it restores into."""


class MongoWorld(World):
    """On the server that `server_url` leads to."""

    kind = "mongodb"

    def __init__(self, server_url: str) -> None:
        self.server_url = server_url
        self.name = f"acceptance_{secrets.token_hex(6)}"
        self.copy = f"{self.name}_copy"
        self._client: MongoClient[dict[str, Any]] = MongoClient(server_url, serverSelectionTimeoutMS=5000)

    @property
    def url(self) -> str:
        return with_database(self.server_url, self.name)

    def fill(self, orders: int) -> None:
        shop = self._client[self.name]
        shop["customers"].insert_many(
            [{"_id": 1, "name": "Ada"}, {"_id": 2, "name": "Grace"}, {"_id": 3, "name": "Żółć"}]
        )
        shop["orders"].insert_many(
            [{"_id": number, "cents": number * 7, "note": secrets.token_bytes(1000)} for number in range(1, orders + 1)]
        )
        shop["orders"].create_index("cents", name="orders_by_cents")

    def change(self) -> None:
        shop = self._client[self.name]
        shop["orders"].update_many({"_id": {"$mod": [2, 0]}}, {"$inc": {"cents": 1}})
        shop["later"].insert_one({"_id": 1})

    def contents(self, database: str | None = None) -> Contents | None:
        name = database or self.name
        if name not in self._client.list_database_names():
            return None
        found: Database[dict[str, Any]] = self._client[name]
        names = [each for each in found.list_collection_names() if not each.startswith(("system.", OWN))]
        return {each: _digest(found, each) for each in sorted(names)}

    @contextmanager
    def watching(self, database: str | None = None) -> Iterator[Callable[[], bool]]:
        """A collection that took another's name has a UUID of its own."""
        shop = self._client[database or self.name]

        def ids() -> list[Any]:
            return sorted((each["name"], str(each["info"].get("uuid"))) for each in shop.list_collections())

        before = ids()
        yield lambda: ids() not in (before, [])

    def remove(self, database: str) -> None:
        self._client.drop_database(database)

    def locked(self) -> AbstractContextManager[None]:
        raise NotImplementedError("MongoDB has no lock that keeps readers off one collection")

    def half_built(self, job_ids: Iterable[str]) -> list[str]:
        jobs = tuple(job_ids)
        found = [name for name in self._made_by(jobs) if not name.startswith(KEPT)]
        for database in (self.name, self.copy):
            found += [name for name in self._client[database].list_collection_names() if name.startswith(OWN)]
        return sorted(name for name in found if any(job in name for job in jobs))

    def _made_by(self, job_ids: Iterable[str]) -> list[str]:
        jobs = tuple(job_ids)
        found = [name for name in self._client.list_database_names() if name.startswith("flexdb_")]
        return [name for name in found if any(job in name for job in jobs)]

    def close(self, job_ids: Iterable[str] = ()) -> None:
        for name in (self.name, self.copy, *self._made_by(job_ids)):
            self.remove(name)
        self._client.close()


def _digest(database: Database[dict[str, Any]], name: str) -> tuple[int, str]:
    """Number of documents, and a digest of their bytes and of the indexes."""
    digest, count = hashlib.sha256(), 0
    documents: Any = database.get_collection(name, codec_options=RAW)  # its type keeps the client's document class
    for document in documents.find().sort("_id"):
        digest.update(document.raw)
        count += 1
    indexes = {each["name"]: dict(each["key"]) for each in database[name].list_indexes()}
    digest.update(repr(sorted(indexes.items())).encode())
    return count, digest.hexdigest()

"""What the MongoDB tests work with: an engine, a store, runs, and the driver on the side."""

from __future__ import annotations

import hashlib
import io
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson import json_util
from bson.codec_options import CodecOptions
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from gridfs import GridFS
from pymongo import MongoClient
from pymongo.collation import Collation
from pymongo.database import Database

from engines.artefacts.manifest import Evidence, Manifest, Verification
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import BackupOptions, Dump, Restored, RestoreOptions, Target
from engines.mongodb import MongoEngine
from engines.run import Run, StopToken
from engines.storage.local import LocalStore
from tests.mongodb import with_database

Client = MongoClient[dict[str, Any]]
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
ODD_NAMES = ("with space", "quote'\"s", "ünïcode/é%", "a" * 120, "dots.in.it", "+plus&more", "Σ" * 60)
VALUES: dict[str, Any] = {
    "long": Int64(1),
    "int": 1,
    "double": 1.0,
    "decimal": Decimal128("1.10"),
    "date": datetime(2026, 1, 2, tzinfo=UTC),
    "pattern": Regex("^a", "i"),
    "binary": b"\0\xff",
    "nested": {"list": [1, None, True, {"deep": "ü"}]},
}


def fill(shop: Database[dict[str, Any]]) -> None:
    """One of everything that can be dumped, as far as SecantusDB has it."""
    rule = {"$jsonSchema": {"bsonType": "object", "required": ["name"]}, "name": {"$type": "string", "$regex": "^n"}}
    shop.create_collection("customers", validator=rule, validationLevel="moderate", validationAction="error")
    shop["customers"].insert_many([{"_id": n, "name": f"name {n}", "born": n % 90, **VALUES} for n in range(400)])
    customers = shop["customers"]
    customers.create_index([("name", 1), ("born", -1)], name="who", unique=True)
    customers.create_index("born", name="young", partialFilterExpression={"born": {"$lt": 30}})
    customers.create_index("date", name="gone", expireAfterSeconds=10**9)
    customers.create_index("name", name="german", collation=Collation("de", strength=2))
    customers.create_index([("nested.$**", 1)], name="anything")
    customers.create_index("decimal", name="rare", sparse=True)
    shop.create_collection("sorted", collation=Collation("de"))
    shop["sorted"].insert_one({"_id": "ß"})
    shop.create_collection("ring", capped=True, size=1 << 20, max=100)
    for number in range(10):
        shop["ring"].insert_one({"_id": 9 - number})
    shop.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    shop["clustered"].insert_many([{"_id": n} for n in range(5)])
    shop.create_collection("empty")
    shop["system.js"].insert_one({"_id": "one", "value": 1})
    for name in ODD_NAMES:
        shop[name].insert_many([{"_id": n, "in": name} for n in range(3)])
    shop.create_collection("young_ones", viewOn="customers", pipeline=[{"$match": {"born": {"$lt": 3}}}])
    shop.create_collection("weather", timeseries={"timeField": "at", "metaField": "place"})
    shop["weather"].insert_many(
        [{"at": datetime(2026, 1, 1, n, tzinfo=UTC), "place": "here", "t": n} for n in range(9)]
    )
    GridFS(shop).put(b"a file" * 100_000, filename="ü.bin")


def contents(shop: Database[dict[str, Any]]) -> dict[str, Any]:
    """Everything there is, looked at with the driver alone: options, indexes, documents bytewise in order of `_id`."""
    found: dict[str, Any] = {}
    for item in sorted(shop.list_collections(), key=lambda one: str(one["name"])):
        name, digest = str(item["name"]), hashlib.sha256()
        raw: Any = shop.get_collection(name, codec_options=RAW)
        documents = [] if item["type"] == "view" else [one.raw for one in raw.find().sort([("at", 1), ("_id", 1)])]
        if item["type"] == "timeseries":  # measurements have an _id only if they were given one
            documents = [json_util.dumps({**one, "_id": None}).encode() for one in shop[name].find().sort("at", 1)]
        for document in documents:
            digest.update(document)
        indexes = [] if item["type"] == "view" else [dict(one) for one in shop[name].list_indexes()]
        found[name] = {
            "type": item["type"],
            "options": json_util.dumps(item["options"], sort_keys=True),
            "indexes": sorted(json_util.dumps(one) for one in indexes),
            "number": len(documents),
            "documents": digest.hexdigest(),
        }
    return found


class Swept:
    """Names of FlexDB's own that are on a server."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client, self._job_id = client, job_id

    def names(self) -> list[str]:
        found = []
        for database in self._client.list_database_names():
            if database.startswith("flexdb_") and self._job_id in database:
                found.append(database)
            inside = self._client[database].list_collection_names()
            found += [f"{database}.{name}" for name in inside if name.startswith("flexdb_") and self._job_id in name]
        return found


@dataclass
class Workbench:
    folder: Path
    server: str
    engine: MongoEngine = field(default_factory=MongoEngine)
    job_id: str = field(default_factory=lambda: f"test{secrets.token_hex(8)}")
    runs: int = 0
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client: Client = MongoClient(self.server)

    @property
    def store(self) -> LocalStore:
        return LocalStore("main", self.folder / "store")

    def run(self, **changes: Any) -> Run:
        self.runs += 1
        workspace = Path(tempfile.mkdtemp(dir=self.folder))
        given: dict[str, Any] = {"stop": StopToken()} | changes
        return Run(self.job_id, self.runs, workspace, **given)

    def target(self, name: str | None = None) -> Target:
        database = name or f"flexdbtest_{secrets.token_hex(6)}"
        self.made.append(database)
        return self.engine.target("shop", with_database(self.server, database))

    def database(self, target: Target) -> Database[dict[str, Any]]:
        return self.client[target.database]

    def filled(self) -> Target:
        target = self.target()
        fill(self.database(target))
        return target

    def small(self, number: int = 10) -> Target:
        target = self.target()
        self.database(target)["things"].insert_many([{"_id": n, "v": "x" * 50} for n in range(number)])
        return target

    def contents(self, target: Target) -> dict[str, Any]:
        return contents(self.database(target))

    def back_up(self, target: Target, run: Run | None = None, *, compression: str = "zstd", **options: Any) -> Artefact:
        """As the backup handler does it: what a failed one wrote is discarded."""
        with self.writing(compression) as out:
            dump = self.engine.backup(target, BackupOptions(**options), out, run or self.run())
        return self.kept(out, dump)

    @contextmanager
    def writing(self, compression: str = "zstd") -> Iterator[ArtefactWriter]:
        out = ArtefactWriter(self.store, f"shop/{secrets.token_hex(6)}", Compression.parse(compression))
        try:
            yield out
        except BaseException:
            out.discard()
            raise

    def adopt(self, data: bytes, run: Run | None = None) -> Artefact:
        format = self.engine.recognise(data[: 1 << 16])
        assert format is not None
        with self.writing() as out:
            dump = self.engine.adopt(io.BytesIO(data), format, out, run or self.run())
        return self.kept(out, dump)

    def kept(self, out: ArtefactWriter, dump: Dump) -> Artefact:
        now = datetime.now(UTC)
        manifest = Manifest(
            backup_id=out.folder,
            job_id=self.job_id,
            event_id="event",
            connection="shop",
            engine="mongodb",
            database="shop",
            server_version=dump.server_version,
            flexdb_version="0",
            options=dump.options,
            started_at=now,
            ended_at=now,
            seconds=0,
            consistency=dump.consistency,
            counts="exact" if dump.counts == "exact" else "none",
            objects=dump.objects,
            files=tuple(out.files),
            verification=Verification(level=0, at=now),
            restore_by_hand=dump.restore_by_hand,
        )
        return Artefact(self.store, out.folder, manifest)

    def raw(self, artefact: Artefact) -> bytes:
        """The dump's own bytes."""
        with artefact.open_raw(artefact.manifest.files[0], self.run()) as source:
            parts = []
            while data := source.read():
                parts.append(data)
        return b"".join(parts)

    def with_raw(self, artefact: Artefact, data: bytes) -> Artefact:
        """The same backup with other bytes, every digest recomputed: only the format itself can tell."""
        with self.writing() as out, out.file("changed", artefact.manifest.files[0].format) as sink:
            sink.write(data)
        manifest = artefact.manifest.model_copy(update={"files": tuple(out.files)})
        return Artefact(self.store, out.folder, manifest)

    def restore(self, artefact: Artefact, target: Target, run: Run | None = None, **options: Any) -> Restored:
        return self.engine.restore(artefact, target, RestoreOptions(**options), run or self.run())

    def prove(self, artefact: Artefact, target: Target) -> tuple[Evidence, ...]:
        """To level 3."""
        found = artefact.check(self.run())
        found += self.engine.parse(artefact, self.run())
        found += self.engine.rehearse(artefact, target, self.run())
        assert all(item.ok for item in found)
        return found

    def leftovers(self) -> list[str]:
        return Swept(self.client, self.job_id).names()

    def later_attempt(self, **changes: Any) -> Run:
        return self.run(attempt=2, **changes)

    def with_password(self, target: Target, password: str) -> Target:
        url = target.url.get_secret_value().replace("mongodb://", f"mongodb://somebody:{password}@")
        return replace(self.engine.target("shop", url))

    def close(self) -> None:
        for name in self.made:
            self.client.drop_database(name)
        self.client.close()

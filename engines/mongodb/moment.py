"""What moment a dump shows: one snapshot of the whole database where the server really gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from engines.mongodb.connection import SNAPSHOT_LOST, Moment, Opened
from engines.mongodb.metadata import Collection

LONG_AGO = Timestamp(1, 1)
PLAIN = (
    "No moment common to all collections: each shows its documents as they were while it was read; what was written "
    "meanwhile may be in one collection and not in another."
)


@dataclass(frozen=True, slots=True)
class Consistency:
    """`at` is the cluster time all collections but those `outside` are read as of; None: there is no such time."""

    at: Timestamp | None
    reason: str
    """Why there is none."""
    outside: tuple[str, ...] = ()

    def concern(self, item: Collection) -> ReadConcern | None:
        return None if self.at is None or item.name in self.outside else Moment(self.at)

    @property
    def sentence(self) -> str:
        if self.at is None:
            return f"{PLAIN} {self.reason}"
        text = (
            f"One snapshot of the database, at cluster time ({self.at.time}, {self.at.inc}). Writers were not held off."
        )
        if self.outside:
            text += f" Not in the snapshot, which has no capped collections: {', '.join(self.outside)}."
        return text

    def as_options(self) -> dict[str, object]:
        known = {} if self.at is None else {"cluster_time": [self.at.time, self.at.inc]}
        kind = "snapshot" if self.at is not None else "per collection"
        return {"consistency": kind, "outside_snapshot": list(self.outside), **known}


def plainly(reason: str) -> Consistency:
    return Consistency(None, reason)


def of_snapshot(opened: Opened, items: Sequence[Collection]) -> Consistency:
    """A snapshot all collections can be read from, if the server has such a thing and keeps its word.

    A server that answers a read as of 1970 does not look at the time it is asked for: it accepts snapshot reads and
    does not do them. A real one says SnapshotTooOld.
    """
    hello = opened.client.admin.command("hello")
    if not (hello.get("setName") or hello.get("msg") == "isdbgrid"):
        return plainly("The server stands alone; snapshots need a replica set or a sharded cluster.")
    if hello.get("maxWireVersion", 0) < 13:  # 5.0
        return plainly("The server is older than 5.0, the first version with snapshot reads.")
    first = next((item for item in items if item.kind == "collection" and not item.capped), None)
    if first is None:
        return plainly("There is no collection to take a snapshot of.")
    if not _looks_at_the_time(opened, first.name):
        return plainly("The server accepts snapshot reads but does not keep to the time they name.")
    try:
        answer = opened.database.command({"find": first.name, "limit": 1, "readConcern": {"level": "snapshot"}})
    except OperationFailure as error:
        return plainly(f"The server gives no snapshot here (code {error.code}).")
    at = answer.get("cursor", {}).get("atClusterTime") or answer.get("atClusterTime")
    if not isinstance(at, Timestamp):
        return plainly("The server does not name the time of its snapshots.")
    return Consistency(at, "", tuple(item.name for item in items if item.capped))


def _looks_at_the_time(opened: Opened, name: str) -> bool:
    asked = {"find": name, "limit": 1, "readConcern": {"level": "snapshot", "atClusterTime": LONG_AGO}}
    try:
        opened.database.command(asked)
    except OperationFailure as error:
        return error.code in SNAPSHOT_LOST
    return False

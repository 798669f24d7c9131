"""What is in a database: its collections, their options and indexes, and which of them are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from bson.binary import Binary
from pymongo.errors import OperationFailure

from engines.artefacts.manifest import ObjectCount
from engines.base import BackupOptions
from engines.errors import TargetMissing, UnsupportedOperation
from engines.mongodb.address import OWN
from engines.mongodb.connection import Document, Opened
from engines.mongodb.metadata import BUCKETS, Collection, Kind
from engines.run import Run

NAMESPACE_NOT_FOUND = 26
KEPT_SYSTEM = frozenset({"system.js"})
"""mongodump takes it as well; everything else under `system.` is the server's own."""


def everything(opened: Opened) -> list[Document]:
    """As `listCollections` answers, but what is the server's, FlexDB's, or gone with its maker's session."""
    return [dict(found) for found in opened.database.list_collections() if _of_a_user(found)]


def _of_a_user(found: Mapping[str, Any]) -> bool:
    name = str(found["name"])
    if found.get("options", {}).get("temp") or "$" in name:
        return False
    return not OWN.match(name) and (not name.startswith("system.") or name in KEPT_SYSTEM)


def collections(opened: Opened, run: Run) -> list[Collection]:
    """All of them with their indexes, by name."""
    found = listed(opened)
    described = []
    for number, item in enumerate(found):
        run.progress("looking", number, len(found), "collections")
        described.append(replace(item, indexes=_indexes(opened, item)))
    return described


def listed(opened: Opened) -> list[Collection]:
    """All of them, by name, without their indexes."""
    buckets = {
        str(found["name"])
        for found in opened.database.list_collections(filter={"name": {"$regex": r"^system\.buckets\."}})
    }
    found = [_described(item, opened.address.database, buckets) for item in everything(opened)]
    return sorted(found, key=lambda item: item.name)


def _described(found: Document, database: str, buckets: set[str]) -> Collection:
    name, options = str(found["name"]), dict(found.get("options") or {})
    kind: Kind = {"view": "view", "timeseries": "time-series"}.get(str(found.get("type")), "collection")  # type: ignore[assignment]  # a literal out of a mapping
    if "timeseries" in options:
        kind = "time-series"
    data_in = "" if kind == "view" else name
    if kind == "time-series" and BUCKETS + name in buckets:
        data_in = BUCKETS + name
    return Collection(database, name, kind, options, (), uuid_of(found), data_in)


def uuid_of(found: Document) -> str:
    uuid = found.get("info", {}).get("uuid")
    return bytes(uuid).hex() if isinstance(uuid, Binary | bytes) else ""


def _indexes(opened: Opened, item: Collection) -> tuple[dict[str, Any], ...]:
    if item.kind == "view":
        return ()
    try:
        return tuple(dict(index) for index in opened.database[item.name].list_indexes())
    except OperationFailure as error:
        if error.code == NAMESPACE_NOT_FOUND:  # dropped meanwhile; the end of the backup finds that
            return ()
        raise


def choose(found: Sequence[Collection], options: BackupOptions, database: str) -> list[Collection]:
    """The collections that `include` and `exclude` mean, by name or pattern; raises `TargetMissing` for a pattern
    that means nothing, `UnsupportedOperation` when nothing is left."""
    for pattern in (*options.include, *options.exclude):
        if not any(means(pattern, item.name) for item in found):
            raise TargetMissing(
                f"No collection of database {database!r} is meant by {pattern!r}.",
                hint="Names are matched whole, with * ? and [abc] as wildcards; a name as it is always means itself.",
            )
    kept = [
        item
        for item in found
        if (not options.include or _meant(options.include, item.name)) and not _meant(options.exclude, item.name)
    ]
    if not kept:
        raise UnsupportedOperation(
            f"`include` without `exclude` leaves nothing of database {database!r}.", hint="Correct the patterns."
        )
    return kept


def means(pattern: str, name: str) -> bool:
    return pattern == name or fnmatchcase(name, pattern)


def _meant(patterns: Iterable[str], name: str) -> bool:
    return any(means(pattern, name) for pattern in patterns)


def chosen(objects: Sequence[ObjectCount], include: Sequence[str]) -> tuple[ObjectCount, ...]:
    """Those of a backup that a restore's `include` means; raises `TargetMissing` for a pattern that means nothing."""
    for pattern in include:
        if not any(means(pattern, item.name) for item in objects):
            raise TargetMissing(f"No collection of the backup is meant by {pattern!r}.")
    return tuple(item for item in objects if not include or _meant(include, item.name))


def refuse_missing(found: Sequence[object], opened: Opened) -> None:
    """A database without collections does not exist: raise `TargetMissing`."""
    if not found:
        raise TargetMissing(f"There is no database {opened.address.database!r} at {opened.address.shown}.")


def left_out(opened: Opened) -> tuple[str, ...]:
    """Collections of a user that no backup holds: names with a `$`, which mongodump leaves out as well, and the
    temporary ones of work that is under way."""
    return tuple(
        sorted(
            str(found["name"])
            for found in opened.database.list_collections()
            if found.get("options", {}).get("temp") or "$" in str(found["name"])
        )
    )

"""Making a document collection for a table, or looking whether the one there fits."""

from __future__ import annotations

from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from engines.errors import CollectionMismatch
from engines.mongodb.connection import Document
from engines.mongodb.records.place import COUNTERS, DUPLICATE, durable, options_of
from engines.mongodb.records.values import into, row_of
from engines.records.base import Prepared
from engines.records.fields import Field, Table

SAMPLE = 500
"""Documents whose values are looked at."""
EXISTS_ALREADY = 48


def prepare(database: Database[Document], table: Table, *, change: bool) -> Prepared:
    """As `RecordTable.prepare`. Each step may be done twice, so a second run completes what a dead one left."""
    options = options_of(database, table.name)
    if options is None:
        if change:
            _make(database, table)
        return Prepared(created=True)
    _check_kind(options, table)
    documents = durable(database, table.name)
    notes = _check_values(documents, table)
    _check_key(documents, table, change=change)
    recorded = _recorded(database, table)
    added = [field for field in table.fields if field.name not in recorded and _lacks(documents, field)]
    for field in added:
        if field.required and field.default is None and documents.find_one({field.name: None}, {"_id": 1}):
            raise CollectionMismatch(
                f"{table.name!r} has documents: the required field {field.name!r} cannot be added without a default.",
                hint="Give the field a default, or do not require it.",
            )
    if change:
        for field in added:
            if field.default is not None:
                missing = {field.name: {"$exists": False}}
                documents.update_many(missing, {"$set": {field.name: into(field, field.default)}})
        if set(table.names) - recorded:
            _record(database, table)
    return Prepared(added=tuple(field.name for field in added), notes=tuple(notes))


def _make(database: Database[Document], table: Table) -> None:
    try:
        database.create_collection(table.name, check_exists=False)
    except OperationFailure as error:
        if error.code != EXISTS_ALREADY:
            raise
    else:  # what is kept there may be of a collection that somebody has dropped
        durable(database, COUNTERS).update_one({"_id": table.name}, {"$unset": {"fields": "", "last": ""}})
    _check_key(durable(database, table.name), table, change=True)
    _record(database, table)


def _record(database: Database[Document], table: Table) -> None:
    names = {f"fields.{field.name}": field.kind for field in table.fields}
    durable(database, COUNTERS).update_one({"_id": table.name}, {"$set": names}, upsert=True)


def _recorded(database: Database[Document], table: Table) -> set[str]:
    found = database[COUNTERS].find_one({"_id": table.name}) or {}
    return set(found.get("fields") or {})


def _lacks(documents: Collection[Document], field: Field) -> bool:
    """Whether there is a document without the field, or none at all."""
    lacking = documents.find_one({field.name: {"$exists": False}}, {"_id": 1})
    return lacking is not None or documents.find_one({}, {"_id": 1}) is None


def _check_kind(options: dict[str, Any], table: Table) -> None:
    kind = options.get("type", "collection")
    if kind != "collection" or options.get("options", {}).get("capped"):
        called = "capped collection" if kind == "collection" else str(kind)
        raise CollectionMismatch(f"{table.name!r} is no plain collection but a {called}.")
    collation = options.get("options", {}).get("collation", {}).get("locale", "simple")
    if collation != "simple":
        raise CollectionMismatch(
            f"{table.name!r} compares texts by the collation {collation!r}, and records are known by every code point.",
            hint="Make the collection without a collation of its own.",
        )


def _check_values(documents: Collection[Document], table: Table) -> list[str]:
    """Notes on a sample of documents. Raises `CollectionMismatch` for a value of another kind than its field's."""
    dated: set[str] = set()
    kinds = {field.name for field in table.fields if field.kind in {"date", "timestamp"}}
    for document in documents.find({}, dict.fromkeys(table.names, 1), limit=SAMPLE):
        row_of(table.fields, document)
        dated |= {name for name in kinds if not isinstance(document.get(name), (str, type(None)))}
    return [
        f"{name!r} holds dates of MongoDB's own type, which filters and sorts do not find among those written as text."
        for name in sorted(dated)
    ]


def _check_key(documents: Collection[Document], table: Table, *, change: bool) -> None:
    """See that a unique index keeps the key, made when `change`. Raises `CollectionMismatch` when it cannot be."""
    if documents.find_one({table.key: None}, {"_id": 1}) is not None:
        raise CollectionMismatch(f"{table.name!r} has documents without the key {table.key!r}.")
    if table.key == "_id":
        return
    indexes = documents.index_information()
    if any(_keeps(found, table.key) for found in indexes.values()):
        return
    same = [name for name, found in indexes.items() if [part[0] for part in found["key"]] == [table.key]]
    if same:
        raise CollectionMismatch(
            f"The key {table.key!r} of {table.name!r} is not unique: its index {same[0]!r} is not for all documents.",
            hint="Drop that index, and FlexDB makes a unique one.",
        )
    if not change:
        pipeline: list[dict[str, Any]] = [
            {"$group": {"_id": f"${table.key}", "times": {"$sum": 1}}},
            {"$match": {"times": {"$gt": 1}}},
            {"$limit": 1},
        ]
        if list(documents.aggregate(pipeline, allowDiskUse=True)):
            raise _twice(table)
        return
    try:
        documents.create_index([(table.key, 1)], unique=True)
    except OperationFailure as error:
        if error.code == DUPLICATE:
            raise _twice(table) from error
        raise


def _keeps(index: dict[str, Any], key: str) -> bool:
    partial = "partialFilterExpression" in index or index.get("sparse") or index.get("collation")
    return bool(index.get("unique")) and not partial and [part[0] for part in index["key"]] == [key]


def _twice(table: Table) -> CollectionMismatch:
    return CollectionMismatch(f"The key {table.key!r} of {table.name!r} is not unique: documents share one.")

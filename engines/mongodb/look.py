"""Looking at a MongoDB database: can it be worked with, and what is in it."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pymongo
from bson import json_util
from pymongo.errors import OperationFailure

from engines.base import CheckReport, Inspection, TableInfo, Target
from engines.errors import FlexError
from engines.mongodb import catalog
from engines.mongodb.address import OWN, SYSTEM, Address
from engines.mongodb.connection import Opened, opened
from engines.mongodb.metadata import BUCKETS, CANONICAL, WRITTEN, Collection
from engines.run import Run

IN_PROCESS = {"compatible": True, "tools": {"pymongo": {"version": pymongo.version, "path": ""}}, "hint": ""}
VARIES = frozenset({"uuid", "ns"})


def check(target: Target, run: Run) -> CheckReport:
    began = time.monotonic()
    try:
        address = Address.of(target)
        with opened(address, run.application_name, stop=run.stop) as found:
            version = str(found.client.server_info()["version"])
            found.client.admin.command("ping")
            latency = round((time.monotonic() - began) * 1000, 1)
            if address.database and address.database not in SYSTEM:
                catalog.refuse_missing(found.database.list_collection_names(), found)
    except FlexError as error:
        problem = {"code": error.code, "message": error.message, "hint": error.hint}
        return CheckReport(
            reachable=False, server_version=None, latency_ms=None, client_tools=IN_PROCESS, problem=problem
        )
    return CheckReport(True, version, latency, IN_PROCESS)


def inspect(target: Target, run: Run) -> Inspection:
    """Documents are the server's own estimates, which cost nothing; the fingerprint is over options and indexes."""
    address = Address.of(target)
    address.user_database()
    with opened(address, run.application_name, stop=run.stop) as found:
        items = catalog.collections(found, run)
        catalog.refuse_missing(items, found)
        sizes = found.database.command("dbStats")
        return Inspection(
            server_version=str(found.client.server_info()["version"]),
            database=address.database,
            size_bytes=int(sizes.get("dataSize", 0)) + int(sizes.get("indexSize", 0)),
            databases=_databases(found),
            tables=tuple(_table(found, item) for item in items),
            fingerprint=fingerprint(items),
        )


def _databases(found: Opened) -> tuple[str, ...]:
    try:
        names = found.client.list_database_names()
    except OperationFailure:  # not allowed: at least the one that is looked at
        names = [found.address.database]
    return tuple(sorted(name for name in names if name not in SYSTEM and not OWN.match(name)))


def _table(found: Opened, item: Collection) -> TableInfo:
    if item.kind == "view":
        return TableInfo(item.name, item.kind, None, False, None)
    rows = found.database[item.data_in].estimated_document_count()
    if item.data_in.startswith(BUCKETS):  # buckets, not measurements
        return TableInfo(item.name, item.kind, None, False, _bytes(found, item))
    return TableInfo(item.name, item.kind, rows, False, _bytes(found, item))


def _bytes(found: Opened, item: Collection) -> int | None:
    try:
        (stats,) = found.database[item.data_in].aggregate([{"$collStats": {"storageStats": {}}}])
    except (OperationFailure, ValueError):  # not allowed, or one answer per shard
        return None
    told: dict[str, Any] = stats.get("storageStats", {})
    return int(told.get("size", 0)) + int(told.get("totalIndexSize", 0))


def fingerprint(items: list[Collection]) -> str:
    """Equal structures give equal fingerprints on any server: what servers add of their own is left out."""
    digest = hashlib.sha256()
    for item in items:
        options = {name: value for name, value in item.options.items() if name not in VARIES}
        indexes = sorted((_plain(index) for index in item.indexes), key=str)
        line = [item.name, WRITTEN[item.kind], _plain(options), indexes]
        digest.update(json_util.dumps(line, json_options=CANONICAL, sort_keys=False).encode() + b"\n")
    return digest.hexdigest()


def _plain(found: dict[str, Any]) -> str:
    kept = {name: found[name] for name in sorted(found) if name not in VARIES}
    return json_util.dumps(kept, json_options=CANONICAL)

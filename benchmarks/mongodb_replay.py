"""A server that speaks MongoDB's protocol and is never the slow one: it replays documents from memory and
swallows what is inserted.

`python -m benchmarks.mongodb_replay DOCUMENTS REPEAT` prints its port when it is ready. The database `shop` holds
DOCUMENTS in all, read REPEAT times over; every other database remembers how much was put into it, not what. Queries
are not understood: a `find` answers with all of the collection.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import bson
from bson import Int64

from benchmarks.mongodb_documents import COLLECTIONS, DATABASE, encoded
from benchmarks.mongodb_wire import Connection, Request

FIRST_BATCH = 101
LARGEST_BATCH = 16 << 20
NOT_FOUND, NAMESPACE_MISSING, CURSOR_MISSING = 59, 26, 43
ID_INDEX = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
KEYS = [b"\x03%d\0" % number for number in range(100_000)]
"""Type and name of each element of an array of documents."""


class CommandError(Exception):
    """Answered as MongoDB answers errors."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Collection:
    """`documents` only where there is something to replay; `number` and `size` of all that came."""

    documents: list[bytes] = field(default_factory=list)
    repeat: int = 1
    number: int = 0
    size: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    indexes: list[dict[str, Any]] = field(default_factory=lambda: [dict(ID_INDEX)])
    _batches: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return len(self.documents) * self.repeat

    def batch(self, position: int, size: int) -> tuple[bytes, int]:
        """An array of `size` documents (fewer where the collection, or 16 MiB, ends), encoded once; the position
        after it."""
        first = position % (len(self.documents) or 1)
        if (first, size) not in self._batches:
            self._batches[first, size] = self._encoded(first, size)
        data, number = self._batches[first, size]
        return data, position + number

    def _encoded(self, first: int, size: int) -> tuple[bytes, int]:
        parts: list[bytes] = []
        total = 0
        for key, document in zip(KEYS, self.documents[first : first + size], strict=False):
            if parts and total + len(document) > LARGEST_BATCH:
                break
            parts += [key, document]
            total += len(document)
        array = b"".join(parts)
        return struct.pack("<i", len(array) + 5) + array + b"\0", len(parts) // 2


@dataclass(slots=True)
class Cursor:
    collection: Collection
    namespace: str
    position: int = 0


class Replay:
    """What all connections share: databases and open cursors."""

    def __init__(self, documents: int, repeat: int) -> None:
        self._databases: dict[str, dict[str, Collection]] = {DATABASE: {}}
        self._cursors: dict[int, Cursor] = {}
        self._ids = count(1)
        self._commands = {
            "insert": self._insert,
            "count": self._count,
            "aggregate": self._aggregate,
            "listdatabases": self._list_databases,
            "listcollections": self._list_collections,
            "listindexes": self._list_indexes,
            "create": self._create,
            "createindexes": self._create_indexes,
            "drop": self._drop,
            "dropdatabase": self._drop_database,
            "renamecollection": self._rename,
            "dbstats": self._database_stats,
            "collstats": self._collection_stats,
        }
        for number, name in enumerate(COLLECTIONS, start=1):
            share = documents * number // len(COLLECTIONS) - documents * (number - 1) // len(COLLECTIONS)
            found = list(encoded(name, share))
            size = sum(map(len, found)) * repeat
            self._databases[DATABASE][name] = Collection(found, repeat, share * repeat, size)

    def answer(self, connection: Connection, request: Request) -> None:
        name = next(iter(request.body)).lower()
        try:
            if name == "find":
                self._find(connection, request)
            elif name == "getmore":
                self._get_more(connection, request)
            else:
                self._reply(connection, request, self._carry_out(name, request))
        except CommandError as error:
            problem = {"ok": 0.0, "errmsg": str(error), "code": error.code, "codeName": "Error"}
            connection.reply(request, bson.encode(problem))

    def _carry_out(self, name: str, request: Request) -> dict[str, Any]:
        if name in ALWAYS:
            return ALWAYS[name]
        if name not in self._commands:
            raise CommandError(NOT_FOUND, f"no such command: '{name}'")
        return self._commands[name](request)

    def _reply(self, connection: Connection, request: Request, document: dict[str, Any]) -> None:
        if not request.silent:
            connection.reply(request, bson.encode({**document, "ok": 1.0}))

    def _find(self, connection: Connection, request: Request) -> None:
        body = request.body
        cursor = Cursor(self._found(body, "find"), f"{body['$db']}.{body['find']}")
        number = next(self._ids)
        self._cursors[number] = cursor
        limit = abs(body.get("limit", 0))
        self._send(
            connection, request, number, "firstBatch", limit or body.get("batchSize", FIRST_BATCH), done=limit > 0
        )

    def _get_more(self, connection: Connection, request: Request) -> None:
        number, size = request.body["getMore"], request.body.get("batchSize", len(KEYS))
        while self._send(connection, request, number, "nextBatch", size) and request.exhausting:
            pass

    def _send(
        self, connection: Connection, request: Request, number: int, name: str, size: int, *, done: bool = False
    ) -> bool:
        """One batch of a cursor, and whether there are more."""
        cursor = self._cursors.get(number)
        if cursor is None:
            raise CommandError(CURSOR_MISSING, f"cursor id {number} not found")
        array, cursor.position = cursor.collection.batch(cursor.position, size)
        more = cursor.position < cursor.collection.end and not done
        if not more:
            del self._cursors[number]
        # {"cursor": {"ns": …, "id": …, NAME: ARRAY}, "ok": 1.0}, the array from memory as it is
        inner = bson.encode({"ns": cursor.namespace, "id": Int64(number if more else 0)})[4:-1]
        inner += b"\x04" + name.encode() + b"\0"
        inner = struct.pack("<i", 4 + len(inner) + len(array) + 1) + inner
        outer = b"\x03cursor\0" + inner
        tail = b"\0" + bson.encode({"ok": 1.0})[4:]
        head = struct.pack("<i", 4 + len(outer) + len(array) + len(tail)) + outer
        connection.reply(request, head, array, tail, more=more and request.exhausting and name == "nextBatch")
        return more

    def _found(self, body: dict[str, Any], command: str) -> Collection:
        """The collection a command names; an empty one where there is none."""
        return self._databases.get(body["$db"], {}).get(str(body[command])) or Collection()

    def _made(self, body: dict[str, Any], command: str) -> Collection:
        return self._databases.setdefault(body["$db"], {}).setdefault(body[command], Collection())

    def _insert(self, request: Request) -> dict[str, Any]:
        documents: list[Any] = request.documents or request.body.get("documents", [])
        sizes = [len(one) if isinstance(one, memoryview) else len(bson.encode(one)) for one in documents]
        collection = self._made(request.body, "insert")
        collection.number += len(sizes)
        collection.size += sum(sizes)
        return {"n": len(sizes)}

    def _count(self, request: Request) -> dict[str, Any]:
        return {"n": self._found(request.body, "count").number}

    def _aggregate(self, request: Request) -> dict[str, Any]:
        stages = request.body["pipeline"]
        first = next(iter(stages[0])) if stages else ""
        if first == "$listLocalSessions" or not isinstance(request.body["aggregate"], str):
            return _answered([])
        collection = self._found(request.body, "aggregate")
        if first == "$collStats":
            return _answered([{"storageStats": _sizes(collection), "count": collection.number}])
        if any("$group" in stage or "$count" in stage for stage in stages):
            return _answered([{"_id": 1, "n": collection.number, "count": collection.number}])
        raise CommandError(NOT_FOUND, f"this server knows no {first}")

    def _list_databases(self, _: Request) -> dict[str, Any]:
        found = {name: sum(each.size for each in within.values()) for name, within in self._databases.items()}
        listed = [{"name": name, "sizeOnDisk": Int64(size), "empty": not size} for name, size in found.items()]
        return {"databases": listed, "totalSize": Int64(sum(found.values()))}

    def _list_collections(self, request: Request) -> dict[str, Any]:
        wanted = request.body.get("filter", {}).get("name")
        found = self._databases.get(request.body["$db"], {})
        return _answered(
            {"name": name, "type": "collection", "options": each.options, "info": {"readOnly": False}}
            for name, each in found.items()
            if not isinstance(wanted, str) or wanted == name
        )

    def _list_indexes(self, request: Request) -> dict[str, Any]:
        if str(request.body["listIndexes"]) not in self._databases.get(request.body["$db"], {}):
            raise CommandError(NAMESPACE_MISSING, "ns does not exist")
        return _answered(self._found(request.body, "listIndexes").indexes)

    def _create(self, request: Request) -> dict[str, Any]:
        self._made(request.body, "create")
        return {}

    def _create_indexes(self, request: Request) -> dict[str, Any]:
        collection = self._made(request.body, "createIndexes")
        known = {index["name"] for index in collection.indexes}
        collection.indexes += [index for index in request.body["indexes"] if index["name"] not in known]
        return {"numIndexesAfter": len(collection.indexes)}

    def _drop(self, request: Request) -> dict[str, Any]:
        self._databases.get(request.body["$db"], {}).pop(request.body["drop"], None)
        return {}

    def _drop_database(self, request: Request) -> dict[str, Any]:
        if request.body["$db"] != DATABASE:
            self._databases.pop(request.body["$db"], None)
        return {}

    def _rename(self, request: Request) -> dict[str, Any]:
        database, _, name = request.body["renameCollection"].partition(".")
        into, _, new = request.body["to"].partition(".")
        self._databases.setdefault(into, {})[new] = self._databases[database].pop(name)
        return {}

    def _database_stats(self, request: Request) -> dict[str, Any]:
        found = self._databases.get(request.body["$db"], {}).values()
        size = Int64(sum(each.size for each in found))
        return {"collections": len(found), "objects": sum(each.number for each in found), "dataSize": size}

    def _collection_stats(self, request: Request) -> dict[str, Any]:
        return _sizes(self._found(request.body, "collStats"))


HELLO = {
    "ismaster": True,
    "isWritablePrimary": True,
    "helloOk": True,
    "maxBsonObjectSize": 16 << 20,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "logicalSessionTimeoutMinutes": 30,
    "readOnly": False,
}
ALWAYS: dict[str, dict[str, Any]] = {
    "hello": HELLO,
    "ismaster": HELLO,
    "ping": {},
    "buildinfo": {"version": "7.0.0", "versionArray": [7, 0, 0, 0], "modules": [], "maxBsonObjectSize": 16 << 20},
    "endsessions": {},
    "killcursors": {"cursorsKilled": [], "cursorsNotFound": [], "cursorsAlive": [], "cursorsUnknown": []},
    "connectionstatus": {"authInfo": {"authenticatedUsers": [], "authenticatedUserRoles": []}},
    "collmod": {},
    "killsessions": {},
}


def _sizes(collection: Collection) -> dict[str, Any]:
    size = Int64(collection.size)
    return {"count": collection.number, "size": size, "storageSize": size, "totalIndexSize": 0, "totalSize": size}


def _answered(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"cursor": {"id": Int64(0), "ns": f"{DATABASE}.$cmd", "firstBatch": list(documents)}}


def _serve(replay: Replay, peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(peer)
    with peer:
        try:
            while request := connection.receive():
                replay.answer(connection, request)
        except ConnectionError:  # the driver closed in the middle of a batch it no longer wants
            return


def main() -> None:
    documents, repeat = map(int, sys.argv[1:])
    replay = Replay(documents, repeat)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=_serve, args=(replay, peer), daemon=True).start()


if __name__ == "__main__":
    main()

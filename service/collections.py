"""Collections by name: those declared in files, those that callers put, the ready ones."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from engines.errors import FlexError, UnknownCollection
from engines.records.base import RecordEngine
from engines.registry import EngineRegistry
from handlers.base import Fault
from handlers.collections import Collection, InvalidCollection, parse_collection
from handlers.ports import Connections
from service.asking import Asking
from service.bodies import each_once
from service.ledger.base import Ledger
from service.ledger.records import Change, LedgerUnavailable, StoredCollection

log = structlog.get_logger(__name__)

Origin = Literal["file", "caller", "ready"]


class InvalidDeclaration(ValueError):
    """A file of collections that cannot be used; the message names the file and the place in it."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A collection, and who declared it."""

    collection: Collection
    document: Mapping[str, Any]
    """As it was declared."""
    origin: Origin
    created_at: float | None = None
    updated_at: float | None = None
    """Seconds since the epoch, for what callers have put."""


class NamedCollections:
    """All collections, in memory; what callers put is read again when it changed, and now and then.

    Of one name a file's comes first, then what a caller has put, then the ready one. A stored collection that is not
    understood (another version wrote it) is logged and left out.
    """

    POLL_SECONDS = 5.0
    """A hint of a change by another process may be lost."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        ready: Iterable[Declared] = (),
        files: Iterable[Declared] = (),
        changed: Callable[[Iterable[Collection]], object] = list,
    ) -> None:
        """`changed` is called in the event loop with all collections after one of them became another; it must not
        block."""
        self._ledger = ledger
        self._ready = {one.collection.name: one for one in ready}
        self._files = {one.collection.name: one for one in files}
        self._changed = changed
        self._stored: dict[str, tuple[StoredCollection, Declared | None]] = {}
        self._known = self._ready | self._files
        self._loop_thread: int | None = None
        self._ask: Callable[[Coroutine[Any, Any, None]], None] | None = None
        self._loading = asyncio.Lock()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- what handlers ask, from any thread

    def names(self) -> list[str]:
        return sorted(self._known)

    def collection(self, name: str) -> Collection:
        """Raises `UnknownCollection`. In a thread other than the loop's, where waiting is no harm, that is said only
        after a look into the ledger: a job may run here before the hint of its collection has come."""
        if name not in self._known and self._ask is not None and threading.get_ident() != self._loop_thread:
            self._ask(self.load())
        return self.declared(name).collection

    def declared(self, name: str) -> Declared:
        """Raises `UnknownCollection`."""
        found = self._known.get(name)
        if found is None:
            raise UnknownCollection(f"There is no collection {name!r}.")
        return found

    # -- what the doors ask

    async def found(self, name: str) -> Declared:
        """After a look into the ledger for a name that is not known here. Raises `UnknownCollection`."""
        found = self._known.get(name)
        if found is None:
            with suppress(LedgerUnavailable):  # what is known here is answered all the same
                await self.load()
        return found or self.declared(name)

    def is_fixed(self, name: str) -> bool:
        """Whether a file declares it, so that callers cannot change it."""
        return name in self._files

    async def put(self, name: str, document: Mapping[str, Any]) -> bool:
        """Keep what was found to be good; True when callers had put none of that name."""
        new = await self._ledger.put_collection(name, dict(document))
        await self.load()
        return new

    async def delete(self, name: str) -> bool:
        """Forget what a caller had put; its table stays, and the ready one of that name counts again."""
        gone = await self._ledger.delete_collection(name)
        await self.load()
        return gone

    # -- life

    async def start(self) -> None:
        """Read what is stored, then keep it true. Raises `LedgerUnavailable`."""
        await self.load()
        self._loop_thread, self._ask = threading.get_ident(), Asking(asyncio.get_running_loop()).ask
        self._ledger.watch(self._hint)
        self._task = asyncio.create_task(self._follow(), name="collections")

    async def stop(self) -> None:
        self._ask = None
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def load(self) -> None:
        """Read what is stored. Raises `LedgerUnavailable`."""
        async with self._loading:  # so that what was read earlier does not replace what was read later
            self._take(await self._ledger.collections())

    def _take(self, read: Iterable[StoredCollection]) -> None:
        stored = {one.name: one for one in read}
        before = self._stored
        self._stored = {name: self._understood(one, before.get(name)) for name, one in stored.items()}
        put = {name: declared for name, (_, declared) in self._stored.items() if declared is not None}
        known = self._ready | put | self._files
        if known != self._known:
            self._known = known
            self._changed([one.collection for one in known.values()])

    def _understood(
        self, stored: StoredCollection, before: tuple[StoredCollection, Declared | None] | None
    ) -> tuple[StoredCollection, Declared | None]:
        if before is not None and before[0] == stored:
            return before
        try:
            collection = parse_collection(stored.name, stored.document)
        except InvalidCollection as error:
            log.warning("collection_not_understood", collection=stored.name, error=str(error))
            return stored, None
        return stored, Declared(collection, stored.document, "caller", stored.created_at, stored.updated_at)

    def _hint(self, change: Change) -> None:
        if change.kind == "collection":
            self._woken.set()

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self.load()
            except LedgerUnavailable:
                log.debug("collections_not_read")  # what was known before goes on
            except Exception:  # a fault here must show in the log and never end the task
                log.exception("collections_failed")


def refusals(collection: Collection, connections: Connections, engines: EngineRegistry) -> list[Fault]:
    """What of a collection cannot be had on its connection. No I/O. Raises a `FlexError` for the connection itself."""
    target = connections.target(collection.connection)
    engine = engines.for_target(target, RecordEngine, "records")
    connections.guard_write(target)
    refused = engine.refuse_table(collection.table)
    return [Fault(f"/schema/properties/{field}" if field else "/table", why) for field, why in refused.items()]


# ---------------------------------------------------------------- the ready ones


def ready_collections(
    documents: Mapping[str, Mapping[str, Any]], wanted: str | None, connections: Connections, engines: EngineRegistry
) -> list[Declared]:
    """The collections that come with the product, on the connection `wanted`, or else on the first by name that keeps
    records, PostgreSQL before all others; none when there is no such connection. Raises `InvalidDeclaration` for a wish
    that cannot be met."""
    for name in _postgres_first(connections) if wanted is None else [wanted]:
        declared = [_ready(which, document, name) for which, document in documents.items()]
        told = [why for one in declared for why in _told(one.collection, connections, engines)]
        if not told:
            return declared
        if wanted is not None:
            raise InvalidDeclaration(f"FLEXDB_RECORDS_CONNECTION: {told[0]}")
    return []


def _postgres_first(connections: Connections) -> list[str]:
    """Names of connections; a server is the better home where there is a choice."""

    def others(name: str) -> bool:
        try:
            return connections.target(name).engine != "postgres"
        except FlexError:  # its URL cannot be used, which is told when it is
            return True

    return sorted(connections.names(), key=lambda name: (others(name), name))


def _ready(name: str, document: Mapping[str, Any], connection: str) -> Declared:
    completed = {**document, "connection": connection}
    return Declared(parse_collection(name, completed), completed, "ready")


def _told(collection: Collection, connections: Connections, engines: EngineRegistry) -> list[str]:
    """`refusals` as sentences."""
    try:
        faults = refusals(collection, connections, engines)
    except FlexError as error:
        return [f"/connection: {error.message} {error.hint}"]
    return [f"{fault.pointer}: {fault.detail}" for fault in faults]


# ---------------------------------------------------------------- files


def file_collections(path: Path | None, connections: Connections, engines: EngineRegistry) -> list[Declared]:
    """What a file `{NAME: {…}, …}` declares, or each NAME.json of a folder. Raises `InvalidDeclaration`."""
    if path is None:
        return []
    found: list[tuple[Path, str, str, Any]]
    if path.is_dir():
        found = [(file, "", file.stem, _read(file)) for file in sorted(path.glob("*.json"))]
    else:
        found = [(path, f"/{name}", name, document) for name, document in _read(path).items()]
    declared = []
    for file, pointer, name, document in found:
        one, told = _declared(name, document)
        if one is not None:
            declared.append(one)
            told = _told(one.collection, connections, engines)
        if told:
            where = "; ".join(f"{pointer}{why}" for why in told)
            raise InvalidDeclaration(f"FLEXDB_COLLECTIONS: {file}: {where}")
    return declared


def _declared(name: str, document: Any) -> tuple[Declared | None, list[str]]:
    """The collection, or what is wrong with it."""
    if not isinstance(document, dict):
        return None, [": a collection is a JSON object."]
    try:
        return Declared(parse_collection(name, document), document, "file"), []
    except InvalidCollection as error:
        return None, [f"{fault.pointer}: {fault.detail}" for fault in error.faults]


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidDeclaration(f"FLEXDB_COLLECTIONS: {path} cannot be read: {error.strerror}.") from error
    try:
        found = json.loads(text, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:
        raise InvalidDeclaration(f"FLEXDB_COLLECTIONS: {path} is not JSON in UTF-8: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidDeclaration(f"FLEXDB_COLLECTIONS: {path} must hold a JSON object.")
    return found

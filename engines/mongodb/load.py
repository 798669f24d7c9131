"""Loading a dump's documents: raw, by several threads, indexes after the data."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, PyMongoError

from engines.errors import ToolFailed
from engines.mongodb.archive import Block
from engines.mongodb.connection import Opened, code_of, words_of
from engines.mongodb.documents import split
from engines.mongodb.metadata import Collection
from engines.run import Run

BATCH = 1000
DUPLICATE_KEY = 11000
NAMESPACE_EXISTS = 48
NOT_TAKEN = frozenset({"autoIndexId", "flags", "idIndex", "uuid", "temp"})
"""Options that servers list and do not take."""
EXPIRY = "expireAfterSeconds"
MOST_JOBS = 16


@dataclass(slots=True)
class Loader:
    """Puts collections of a dump into one database, under the names `named` gives them."""

    opened: Opened
    run: Run
    named: Mapping[tuple[str, str], str]
    jobs: int = 2
    duplicates: dict[str, int] = field(default_factory=dict)
    """Documents that came twice, by collection: it was written to while it was read."""

    def create(self, items: Iterable[Collection], *, plain: bool = False) -> None:
        """Make the collections, without indexes. `plain`: time-series collections as ordinary ones, for their raw
        documents; views are not made here."""
        for item in items:
            self.run.stop.check()
            if item.kind == "view":
                continue
            options = {} if plain and not can_be_renamed(item) else creation(item)
            self.opened.database.command({"create": self._name(item), **options})

    def load(self, blocks: Iterable[tuple[Collection, Block]], seen: Callable[[Collection, bytes], None]) -> None:
        """Insert everything; `seen` is told of each block's documents. Raises what an inserting thread raised."""
        with _Inserters(self.opened, self._insert, max(1, min(self.jobs, MOST_JOBS)), self.run) as inserters:
            for item, block in blocks:
                if not block.documents:
                    continue
                seen(item, block.documents)
                if item.capped:  # keeps the order of its documents
                    self._insert(item, block.documents, inserters.session)
                else:
                    inserters.put(item, block.documents)
            inserters.finish()

    def _insert(self, item: Collection, documents: bytes, session: ClientSession) -> None:
        into = self.opened.database[self._name(item)]
        bypass = True if item.options.get("validator") else None  # asks for a privilege, so only where it is needed
        found = split(documents)
        while batch := [RawBSONDocument(one) for one in islice(found, BATCH)]:
            self.run.stop.check()
            try:
                into.insert_many(batch, ordered=item.capped, bypass_document_validation=bypass, session=session)
            except BulkWriteError as error:
                if code_of(error) != DUPLICATE_KEY or item.capped:
                    raise
                number = len((error.details or {}).get("writeErrors", []))
                self.duplicates[item.name] = self.duplicates.get(item.name, 0) + number

    def index(self, items: Sequence[Collection], opened: Opened) -> None:
        """Build all indexes, several collections at once; `opened` waits long enough for that."""
        todo = [item for item in items if wanted_indexes(item)]
        with ThreadPoolExecutor(max(1, min(self.jobs, MOST_JOBS)), thread_name_prefix="indexing") as pool:
            building: set[Future[None]] = {pool.submit(self._index, item, opened) for item in todo}
            left = building
            while left:
                done, left = wait(left, timeout=0.2)
                if any(one.exception() for one in done) or self.run.stop.reason:
                    for one in left:
                        one.cancel()
                for one in done:
                    one.result()
                self.run.progress("indexing", len(todo) - len(left), len(todo), "collections")

    def _index(self, item: Collection, opened: Opened) -> None:
        self.run.stop.check()
        command = {"createIndexes": self._name(item), "indexes": wanted_indexes(item)}
        try:
            with opened.session() as session:
                opened.database.command(command, session=session)
        except PyMongoError as error:
            self.run.stop.check()
            code = code_of(error)
            if code in {DUPLICATE_KEY, 67, 72, 85, 86, 197}:
                words = words_of(error, opened.address)
                raise ToolFailed(f"An index of {item.name!r} cannot be built: {words} (code {code}).") from error
            raise

    def _name(self, item: Collection) -> str:
        return self.named[(item.database, item.name)]


def can_be_renamed(item: Collection) -> bool:
    """Whether it can be built under another name: time-series and system collections cannot be renamed."""
    return item.kind == "collection" and not item.name.startswith("system.")


def creation(item: Collection) -> dict[str, Any]:
    return {name: value for name, value in item.options.items() if name not in NOT_TAKEN}


def without_expiry(item: Collection) -> Collection:
    """The same collection, none of whose documents the server deletes for their age."""
    options = {name: value for name, value in item.options.items() if name != EXPIRY}
    indexes = tuple({name: value for name, value in index.items() if name != EXPIRY} for index in item.indexes)
    return replace(item, options=options, indexes=indexes)


def wanted_indexes(item: Collection) -> list[dict[str, Any]]:
    """As `createIndexes` takes them; the one on `_id` comes with the collection."""
    return [
        {name: value for name, value in index.items() if name not in {"ns", "background", "clustered"}}
        for index in item.indexes
        if index.get("name") != "_id_" and not index.get("clustered")
    ]


class _Inserters:
    """Threads that insert what they are given; at most two blocks wait per thread."""

    def __init__(
        self, opened: Opened, insert: Callable[[Collection, bytes, ClientSession], None], number: int, run: Run
    ) -> None:
        self._opened, self._insert, self._number, self._run = opened, insert, number, run
        self._waiting: queue.Queue[tuple[Collection, bytes] | None] = queue.Queue(2 * number)
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self.session = opened.session()

    def __enter__(self) -> _Inserters:
        self._threads = [
            threading.Thread(target=self._work, name=f"inserting {number}", daemon=True)
            for number in range(self._number)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.session.end_session()

    def put(self, item: Collection, documents: bytes) -> None:
        self._offer((item, documents))

    def finish(self) -> None:
        """Returns when everything is inserted."""
        for _ in self._threads:
            self._offer(None)
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.1)
                self._raise()
        self._raise()

    def _offer(self, work: tuple[Collection, bytes] | None) -> None:
        while True:
            self._raise()
            try:
                return self._waiting.put(work, timeout=0.1)
            except queue.Full:
                continue

    def _raise(self) -> None:
        self._run.stop.check()
        if self._failed:
            raise self._failed[0]

    def _work(self) -> None:
        try:
            with self._opened.session() as session:
                while not self._over.is_set():
                    try:
                        work = self._waiting.get(timeout=0.1)
                    except queue.Empty:
                        continue
                    if work is None:
                        return
                    self._insert(*work, session)
        except BaseException as error:  # noqa: BLE001  raised again by the thread that gives out the work
            self._failed.append(error)


@contextmanager
def dropping_on_failure(drop: Callable[[], None]) -> Iterator[None]:
    """What was made inside is dropped when that fails; the failure itself matters more than one in dropping."""
    try:
        yield
    except BaseException:
        drop()
        raise

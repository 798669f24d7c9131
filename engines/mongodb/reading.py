"""Reading several collections at once, each by a thread of its own, in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pymongo.client_session import ClientSession

from engines.mongodb.batches import Find
from engines.mongodb.connection import Opened
from engines.mongodb.metadata import Collection
from engines.mongodb.moment import Consistency
from engines.run import Run

WAITING_PER_READER = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole documents of one collection; `last` when all of it has come."""

    item: Collection
    documents: bytes
    number: int
    last: bool = False


@dataclass(slots=True)
class Readers:
    """`readers` threads that take one collection after another."""

    opened: Opened
    consistency: Consistency
    items: Sequence[Collection]
    readers: int
    run: Run

    def batches(self) -> Iterator[Batch]:
        """In the order they come; raises what a reader raised. Every thread has ended when this has."""
        waiting: queue.SimpleQueue[Collection] = queue.SimpleQueue()
        for item in self.items:
            waiting.put(item)
        done: queue.Queue[Batch | BaseException | None] = queue.Queue(WAITING_PER_READER * self.readers)
        with self._threads(waiting, done):
            running = self.readers
            while running:
                self.run.stop.check()
                try:
                    found = done.get(timeout=0.2)
                except queue.Empty:
                    continue
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    running -= 1
                else:
                    yield found

    @contextmanager
    def _threads(
        self, waiting: queue.SimpleQueue[Collection], done: queue.Queue[Batch | BaseException | None]
    ) -> Iterator[None]:
        over = threading.Event()

        def put(found: Batch | BaseException | None) -> None:
            while not over.is_set():
                try:
                    done.put(found, timeout=0.2)
                except queue.Full:
                    continue
                return

        def read() -> None:
            try:
                with self.opened.session() as session:
                    while not over.is_set():
                        try:
                            item = waiting.get_nowait()
                        except queue.Empty:
                            break
                        self._read(item, session, put, over)
            except BaseException as error:  # noqa: BLE001  raised again by the thread that reads the queue
                put(error)
            put(None)

        threads = [threading.Thread(target=read, name=f"reading {n}", daemon=True) for n in range(self.readers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _read(
        self,
        item: Collection,
        session: ClientSession,
        put: Callable[[Batch], None],
        over: threading.Event,
    ) -> None:
        source = self.opened.on(item.database)[item.data_in]
        concern = self.consistency.concern(item)
        if concern is not None:
            source = source.with_options(read_concern=concern)
        find = Find(source, natural=item.kind != "time-series", session=session)
        for documents, number in find.batches():
            if over.is_set():
                return
            put(Batch(item, documents, number))
        put(Batch(item, b"", 0, last=True))

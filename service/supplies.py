"""What the doors and handlers of records are supplied with: collections, their tables, sources, what jobs remember."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engines.registry import EngineRegistry
from handlers.collections import Collection
from handlers.collections.ready import READY
from handlers.collections.repository import Repository
from handlers.ports import Catalogue, Connections, Stores
from handlers.supplies import Supplies
from service import __version__
from service.collections import NamedCollections, file_collections, ready_collections
from service.feeds import NamedFeeds
from service.fetching import HttpFetcher
from service.http.keys import RecordParts
from service.ledger.base import Ledger
from service.outgoing import OutgoingPolicy
from service.remembering import LedgerBookmarks, LedgerStacks
from service.results import open_results
from service.settings import Settings
from service.tables import OpenTables

THREADS = 8
"""In which the doors wait for databases; those of jobs are the worker's."""


def ready_documents(feeds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The collections that come with the product. A feed of the same name is the source of one."""
    return {
        name: {**document, **({"source": {"feed": name}} if name in feeds else {})} for name, document in READY.items()
    }


class RecordServices:
    """Built in the event loop, over an open ledger. `start` and `stop` are called once each."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        connections: Connections,
        engines: EngineRegistry,
        policy: OutgoingPolicy,
    ) -> None:
        """Raises `InvalidDeclaration`, a `ValueError`, for files and settings that cannot be used."""
        loop = asyncio.get_running_loop()
        self.threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="records")
        self.tables = OpenTables(connections, engines)
        self.feeds = NamedFeeds({name: value.get_secret_value() for name, value in settings.feeds.items()})
        ready = ready_documents(self.feeds.names())
        self.collections = NamedCollections(
            ledger,
            ready=ready_collections(ready, settings.records_connection, connections, engines),
            files=file_collections(settings.collections, connections, engines),
            changed=self._changed,
        )
        self.repository = Repository(self.collections, self.tables, connections)
        self.fetcher = HttpFetcher(loop, policy)
        self.bookmarks = LedgerBookmarks(ledger, loop)
        self.stacks = LedgerStacks(ledger, loop)
        self.results = open_results(settings.redis_url.get_secret_value() if settings.redis_url else None)
        self._settings = settings
        self._connections = connections
        self._engines = engines

    def for_handlers(self, stores: Stores, catalogue: Catalogue) -> Supplies:
        """With these, everything that handlers are built from."""
        return Supplies(
            connections=self._connections,
            stores=stores,
            catalogue=catalogue,
            engines=self._engines,
            version=__version__,
            collections=self.collections,
            tables=self.tables,
            feeds=self.feeds,
            fetcher=self.fetcher,
            bookmarks=self.bookmarks,
            stacks=self.stacks,
            cache=self.results,
            calculation_cache=self._settings.calculation_cache,
            calculation_history=self._settings.calculation_history,
        )

    def _changed(self, collections: Iterable[Collection]) -> None:
        self.threads.submit(self.tables.retain, list(collections))

    def parts(self) -> RecordParts:
        """What the doors use of it."""
        return RecordParts(self.collections, self.tables, self.repository, self.threads)

    async def start(self) -> None:
        """Read what callers have declared. Raises `LedgerUnavailable`."""
        await self.collections.start()

    async def stop(self) -> None:
        """Call it after the worker has stopped: what is still in use is closed when it comes back."""
        await self.collections.stop()
        await asyncio.to_thread(self.threads.shutdown)
        await asyncio.to_thread(self.tables.close)
        await asyncio.to_thread(self._engines.close)
        self.results.close()

"""What handlers are supplied with, without a ledger and without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from engines.errors import UnknownCollection
from engines.registry import EngineRegistry
from engines.run import StopToken
from handlers.collections import Collection, parse_collection
from handlers.collections.ready import READY
from handlers.ports import Catalogue, Connections, Stores
from handlers.supplies import Collections, Fetcher, FetchRules, FetchSession, Rejected, Supplies, Tables
from service.feeds import NamedFeeds
from service.results.memory import MemoryResults
from service.tables import OpenTables
from tests.stacks import DictStacks


class DictCollections:
    """`handlers.supplies.Collections`: those declared here."""

    def __init__(self, **documents: Mapping[str, Any]) -> None:
        self._known: dict[str, Collection] = {}
        for name, document in documents.items():
            self.declare(name, document)

    @classmethod
    def ready(cls, connection: str) -> DictCollections:
        """Those that come with the product."""
        return cls(**{name: {**document, "connection": connection} for name, document in READY.items()})

    def declare(self, name: str, document: Mapping[str, Any]) -> Collection:
        self._known[name] = parse_collection(name, document)
        return self._known[name]

    def names(self) -> list[str]:
        return sorted(self._known)

    def collection(self, name: str) -> Collection:
        try:
            return self._known[name]
        except KeyError:
            raise UnknownCollection(f"There is no collection {name!r}.") from None


class DictBookmarks:
    """`handlers.supplies.Bookmarks` without a ledger; every lease holds."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.rejected: dict[tuple[str, int, int], Rejected] = {}

    def bookmark(self, key: str) -> dict[str, Any] | None:
        return self.kept.get(key)

    def keep(self, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected] = ()) -> None:
        self.kept[key] = value
        self.rejected |= {(job_id, one.page, one.position): one for one in rejected}


class NoFetcher:
    """`handlers.supplies.Fetcher` for tests that ask nobody."""

    def session(
        self, headers: Mapping[str, str], rules: FetchRules, stop: StopToken
    ) -> AbstractContextManager[FetchSession]:
        raise NotImplementedError("this test has no network")

    def refuse(self, url: str) -> str | None:
        return None


def supplies_of(
    connections: Connections,
    stores: Stores,
    catalogue: Catalogue,
    engines: EngineRegistry,
    *,
    collections: Collections | None = None,
    tables: Tables | None = None,
    fetcher: Fetcher | None = None,
) -> Supplies:
    """Everything that `build_handlers` takes."""
    return Supplies(
        connections=connections,
        stores=stores,
        catalogue=catalogue,
        engines=engines,
        version="0",
        collections=collections or DictCollections(),
        tables=tables or OpenTables(connections, engines),
        feeds=NamedFeeds({}),
        fetcher=fetcher or NoFetcher(),
        bookmarks=DictBookmarks(),
        stacks=DictStacks(),
        cache=MemoryResults(),
    )

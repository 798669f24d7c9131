"""What handlers are supplied with beside databases and stores, as protocols; `service` passes the real ones in.

Calls may block for the ledger, the network or a process; never make them in the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from engines.records.base import RecordTable
from engines.registry import EngineRegistry
from engines.run import StopToken
from handlers.collections import Collection
from handlers.ports import Catalogue, Connections, Stores

# ---------------------------------------------------------------- collections


class Collections(Protocol):
    """Collections by name: those declared in files, those put by callers, the ready ones."""

    def names(self) -> list[str]:
        """Every name, sorted."""
        ...

    def collection(self, name: str) -> Collection:
        """Raises `UnknownCollection`. Asks nobody: it is known in this process."""
        ...


class Tables(Protocol):
    """The tables of collections, open and kept open."""

    def table(self, collection: Collection) -> RecordTable:
        """Not prepared: see `prepared`. Raises `UnsupportedOperation` where the engine keeps no records."""
        ...

    def prepared(self, collection: Collection) -> RecordTable:
        """Made or checked, once in this process for each form of the collection. Raises `CollectionMismatch`,
        `TargetProtected`."""
        ...


# ---------------------------------------------------------------- sources


@dataclass(frozen=True, slots=True)
class Feed:
    """A source that is configured: where it is, and headers that may hold secrets."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of an ingest's `source`, as defaults: paginator, records, rate …"""


class Feeds(Protocol):
    def names(self) -> list[str]: ...

    def feed(self, name: str) -> Feed:
        """Raises `InvalidTarget` for a name that is not configured."""
        ...


@dataclass(frozen=True, slots=True)
class FetchRules:
    """How a source is asked."""

    seconds: float = 30.0
    """What one answer may take, its body included."""
    tries: int = 5
    """For network errors, 408, 425, 429 and 5xx, with full jitter; `Retry-After` is obeyed, up to `patience`."""
    patience: float = 120.0
    rate: float | None = None
    """Requests a second at most."""
    in_flight: int = 8
    """Requests at once at most; fewer for a while after a 429."""
    largest: int = 64 * 1024 * 1024
    """Bytes of one answer, unpacked; `SourceFailed` for more."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer with status 200 to 299."""

    url: str
    """Where it came from, after redirects."""
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)
    """Unpacked."""


class FetchSession(Protocol):
    def get(self, url: str) -> Future[Fetched]:
        """Ask in the background. The future raises `SourceUnavailable` after the last try, `SourceFailed` for
        another 4xx, an answer that is too large, an address that may not be reached."""
        ...

    def blocks(self, url: str) -> Iterator[bytes]:
        """One long answer, piece by piece, however large; unpacked. Raises as above; a break in the middle is
        `SourceUnavailable`."""
        ...


class Fetcher(Protocol):
    def session(
        self, headers: Mapping[str, str], rules: FetchRules, stop: StopToken
    ) -> AbstractContextManager[FetchSession]:
        """`headers` go to the origin (scheme, host, port) of the first URL asked for only, never along with a redirect
        or a next link that leads elsewhere. A stop ends what is under way: futures raise `Stopped`."""
        ...

    def refuse(self, url: str) -> str | None:
        """Why a URL cannot be a source's, as far as it can be told without asking; None when it may."""
        ...


# ---------------------------------------------------------------- what jobs remember


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that was not taken in. Known by page and position: the same one told twice is one."""

    page: int
    position: int
    record: str
    """As it came: JSON text (a line of CSV as a JSON object), at most 64 KiB of it."""
    reasons: tuple[Mapping[str, str], ...]
    """`{"pointer", "detail"}` each."""


class Bookmarks(Protocol):
    """How far something has come, across attempts and jobs. Kept in the ledger."""

    def bookmark(self, key: str) -> dict[str, Any] | None: ...

    def keep(self, job_id: str, token: int, key: str, value: dict[str, Any], rejected: Sequence[Rejected] = ()) -> None:
        """Set the bookmark and add the rejected records of the job, in one transaction, while the job's lease with
        this token holds. Raises `Stopped(lease_lost)` when it does not."""
        ...


# ---------------------------------------------------------------- calculating


@dataclass(frozen=True, slots=True)
class Taken:
    """What lies on top of a stack, the topmost first, and the state of the stack this was true in."""

    values: tuple[str, ...]
    size: int
    revision: int


class Stacks(Protocol):
    """Named stacks of numbers (as text), kept in the ledger, shared by all replicas."""

    def size(self, name: str) -> int: ...

    def top(self, name: str, count: int) -> Taken:
        """At most `count` values; nothing is removed."""
        ...

    def push(self, name: str, values: Sequence[str], *, step: str | None = None) -> int:
        """Put them on top, the last one topmost; the new size. With a `step`, a name of this very change, the second
        call changes nothing and answers what the first did."""
        ...

    def pop(self, name: str, count: int, revision: int, *, step: str | None = None, outcome: str = "") -> bool:
        """Remove the topmost `count`, if the stack is still in the state `revision`; False when it is not. With a
        `step`, `outcome` is kept under its name in the same transaction."""
        ...

    def step(self, step: str) -> str | None:
        """The outcome kept under that name, None when there is none."""
        ...


class ResultCache(Protocol):
    """Results of dear calculations. Never raises: a cache that is away has nothing."""

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, value: str) -> None: ...


# ---------------------------------------------------------------- all of it


@dataclass(frozen=True, slots=True)
class Supplies:
    """Everything handlers are built from."""

    connections: Connections
    stores: Stores
    catalogue: Catalogue
    engines: EngineRegistry
    version: str
    collections: Collections
    tables: Tables
    feeds: Feeds
    fetcher: Fetcher
    bookmarks: Bookmarks
    stacks: Stacks
    cache: ResultCache
    calculation_cache: bool = True
    """Whether `cache` is used at all."""
    calculation_history: tuple[str, ...] = ()
    """Connections that keep the history of calculations which name none."""

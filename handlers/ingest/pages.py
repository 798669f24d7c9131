"""What a source gives: pages of records, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from handlers.ingest.documents import Records


@dataclass(slots=True)
class Page:
    """Records that came together."""

    number: int
    """From 1."""
    records: Records
    first: int = 1
    """Position of its first record, from 1: in a page always 1, in a file it counts on."""


class Pages(Protocol):
    """Where pages come from: answers of a source, pieces of a file."""

    total: int | None
    """How many records there are, as far as it was told last."""
    notes: list[str]
    """Sentences on what was odd and did no harm."""
    requests: int

    def next(self) -> Page | None:
        """The next one; None after the last. Raises `SourceFailed`, `SourceUnavailable`, `Stopped`."""
        ...

    def ready(self) -> bool:
        """Whether `next` would have to wait for nobody."""
        ...

    def kept(self) -> dict[str, Any] | None:
        """Where to go on after the pages that were handed out, as JSON; None: there is no such place."""
        ...

    def close(self) -> None:
        """Nothing more is wanted: a `next` that waits in another thread ends."""
        ...


@dataclass(slots=True)
class Told:
    """What pages said of the number of all records."""

    first: int | None = None
    last: int | None = None
    least: int | None = None
    shrank: bool = False
    """Records went away while they were read, so that those behind them moved forward, perhaps unseen."""

    def hear(self, total: int | None) -> None:
        if total is None:
            return
        self.first = total if self.first is None else self.first
        self.shrank = self.shrank or (self.last is not None and total < self.last)
        self.least = total if self.least is None else min(self.least, total)
        self.last = total

    @property
    def changed(self) -> bool:
        return self.first != self.last or self.first != self.least

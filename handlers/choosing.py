"""Which backups are meant when nobody names one: the newest that match, whole ones before parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from engines.artefacts.manifest import ANY_EXTENT
from engines.errors import UnknownBackup
from handlers.ports import Catalogue, CatalogueEntry

HINT = "Make one, or name the one you mean by its backup_id."

Whole = Annotated[
    bool | None,
    Field(
        strict=True,
        description="`true`: only backups of the whole database; `false`: only parts of it; left out: whole ones and "
        "dumps of which nobody knows it, a part only where nothing else matches.",
    ),
]


class Wish(Protocol):
    """What a backup must be to be meant."""

    @property
    def connection(self) -> str | None: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def min_level(self) -> int: ...

    @property
    def whole(self) -> bool | None: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What a wish came to."""

    entries: list[CatalogueEntry]
    """At least one, newest first."""
    notes: tuple[str, ...] = ()
    """What should be told beside the result, else a restore brings back other data than somebody thinks."""


def choose(catalogue: Catalogue, wish: Wish, limit: int = 1) -> Choice:
    """Raises `UnknownBackup`, which tells what was passed over."""

    def found(extents: Collection[bool | None], limit: int) -> list[CatalogueEntry]:
        return catalogue.find(
            connection=wish.connection, labels=wish.labels, min_level=wish.min_level, whole=extents, limit=limit
        )

    if wish.whole is None:
        chosen = found((True, None), limit) or found((False,), limit)
    else:
        chosen = found((wish.whole,), limit)
    newest = next(iter(found(ANY_EXTENT, 1)), None)
    if not chosen:
        raise _none(wish, newest)
    return Choice(chosen, tuple(_notes(chosen[0], newest, wish)))


def must_be_whole(entry: CatalogueEntry) -> None:
    """Raises `UnknownBackup` for a part that was chosen, not named: what takes all its place must hold all."""
    if entry.manifest.whole is False:
        raise UnknownBackup(
            f"No backup that matches is whole. The newest, {entry.manifest.backup_id}, {extent(entry)}.", hint=HINT
        )


def _notes(chosen: CatalogueEntry, newest: CatalogueEntry | None, wish: Wish) -> Iterator[str]:
    if newest is not None and newest.manifest.ended_at > chosen.manifest.ended_at:
        yield f"The newest backup, {newest.manifest.backup_id}, {extent(newest)}: not taken."
    if wish.whole is None and chosen.manifest.whole is False:
        yield f"The backup {chosen.manifest.backup_id} {extent(chosen)}: none that matches is whole."


def _none(wish: Wish, newest: CatalogueEntry | None) -> UnknownBackup:
    asked = "backup" if wish.connection is None else f"backup of {wish.connection!r}"
    if newest is None:
        return UnknownBackup(f"No undamaged {asked} matches the labels and level asked for.")
    return UnknownBackup(
        f"No undamaged {asked} that matches is {'whole' if wish.whole else 'partial'}. "
        f"The newest, {newest.manifest.backup_id}, {extent(newest)}.",
        hint=HINT,
    )


def extent(entry: CatalogueEntry) -> str:
    """How much of its database a backup holds; goes on a sentence about it."""
    whole = entry.manifest.whole
    if whole is None:
        return "was made by hand, and nobody said whether it is whole"
    return "holds the whole database" if whole else "holds only a part of the database"

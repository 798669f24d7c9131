"""Which tables and views of a database patterns mean, and what goes with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from engines.artefacts.manifest import Manifest, ObjectCount
from engines.base import BackupOptions
from engines.errors import TargetMissing
from engines.sqlite import structure
from engines.sqlite.structure import Table


@dataclass(frozen=True, slots=True)
class Selection:
    """What stays and what goes. Indexes and triggers go with their table, shadow tables with their virtual one."""

    kept: tuple[Table, ...]
    dropped: tuple[Table, ...]


def matches(pattern: str, name: str) -> bool:
    """`table` or `main.table`, with `*`, `?` and `[…]`; as everywhere in SQLite the case of letters means nothing."""
    wanted, found = pattern.lower(), name.lower()
    short = wanted.removeprefix("main.")
    return found in (wanted, short) or fnmatchcase(found, wanted) or fnmatchcase(found, short)


def select(connection: sqlite3.Connection, options: BackupOptions, where: str) -> Selection:
    """Views are chosen as tables are. Raises `TargetMissing` for a pattern that means nothing, or when nothing is left:
    a typing error must not lead to an empty backup."""
    found = structure.tables(connection)
    names = [table.name for table in found]
    kept = set(chosen(options.include, names, where)) if options.include else set(names)
    kept -= set(chosen(options.exclude, names, where))
    if (options.include or options.exclude) and not kept:
        raise TargetMissing(f"`include` without `exclude` leaves nothing of {where}.", hint="Correct the patterns.")
    return Selection(
        tuple(table for table in found if table.name in kept),
        tuple(table for table in found if table.name not in kept),
    )


def chosen(patterns: Iterable[str], names: Sequence[str], where: str) -> list[str]:
    """The names that at least one pattern means; raises `TargetMissing` for a pattern that means none."""
    hits: set[str] = set()
    for pattern in patterns:
        hit = {name for name in names if matches(pattern, name)}
        if not hit:
            raise TargetMissing(
                f"Nothing in {where} matches the pattern {pattern!r}.",
                hint="Write `table`, or a pattern with * and ?; an inspection lists the names.",
            )
        hits |= hit
    return [name for name in names if name in hits]


def planned(manifest: Manifest, include: Sequence[str]) -> tuple[ObjectCount, ...]:
    """The tables of a backup that `include` means; raises `TargetMissing` for a pattern that means nothing in it.

    Views, which have no rows, are listed apart.
    """
    if not include:
        return manifest.objects
    listed = [item.name for item in manifest.objects]
    taken = set(chosen(include, [*listed, *manifest.options.get("views", ())], "the backup"))
    return tuple(item for item in manifest.objects if item.name in taken)

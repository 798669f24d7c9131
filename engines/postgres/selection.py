"""What a backup's patterns mean: the relations it takes, and the arguments that make pg_dump take exactly those."""

from __future__ import annotations

from dataclasses import dataclass

from engines.base import BackupOptions
from engines.errors import UnsupportedOperation
from engines.postgres import catalog
from engines.postgres.catalog import Relation

LONGEST_ARGUMENTS = 1_000_000
"""Bytes of names on one command line; the system's limit is 2 MB, environment included."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a dump takes: the relations, and the arguments that make pg_dump take exactly those."""

    relations: list[Relation]
    arguments: tuple[str, ...] = ()
    large_objects: bool = True


def choose(found: list[Relation], options: BackupOptions, database: str) -> Selection:
    """What the patterns mean, as exact names: pg_dump's own patterns would read names in their own way.

    Raises `TargetMissing` for a pattern that means nothing, `UnsupportedOperation` for too many names.
    """
    if not options.include and not options.exclude:
        return Selection(found)
    where = f"database {database!r}"
    schemas = {item.schema for item in found}
    whole = [name for name in schemas if f"{name}.*" in options.include]
    left_out = [name for name in sorted(schemas) if f"{name}.*" in options.exclude]
    excluded = catalog.select(found, options.exclude, where)
    excluded += [item for item in catalog.owned_sequences(found, excluded) if item not in excluded]
    if not options.include:
        arguments = [f"--exclude-schema={_quote(name)}" for name in left_out]
        arguments += [f"--exclude-table={_quoted(item)}" for item in excluded if item.schema not in left_out]
        taken = [item for item in found if item not in excluded]
    elif len(whole) == len(set(options.include)):
        arguments = [f"--schema={_quote(name)}" for name in sorted(whole)]
        arguments += [f"--exclude-table={_quoted(item)}" for item in excluded]
        taken = [item for item in found if item.schema in whole and item not in excluded and not item.of_extension]
    else:
        included = catalog.select(found, options.include, where)
        included += [item for item in catalog.owned_sequences(found, included) if item not in included]
        taken = [item for item in included if item not in excluded and not item.of_extension]
        arguments = [f"--table={_quoted(item)}" for item in taken]
        _refuse_nothing(taken, where)
    if sum(len(argument.encode()) + 1 for argument in arguments) > LONGEST_ARGUMENTS:
        raise UnsupportedOperation(
            "The patterns mean more relations than fit a command line.",
            hint="Choose whole schemas (`schema.*`).",
        )
    order = {item.oid for item in taken}
    return Selection([item for item in found if item.oid in order], tuple(arguments), not options.include)


def _refuse_nothing(taken: list[Relation], where: str) -> None:
    if not taken:
        raise UnsupportedOperation(
            f"`include` without `exclude` leaves nothing of {where}.", hint="Correct the patterns."
        )


def _quote(name: str) -> str:
    """A name in double quotes: inside them pg_dump's patterns know no wildcards."""
    return '"' + name.replace('"', '""') + '"'


def _quoted(relation: Relation) -> str:
    return f"{_quote(relation.schema)}.{_quote(relation.name)}"


def schemas_by_hand(selection: Selection) -> list[str]:
    """What a dump of chosen parts says of schemas: all of them when whole ones were chosen, else nothing."""
    if any(argument.startswith("--schema=") for argument in selection.arguments):
        return ["DROP SCHEMA public"] if '--schema="public"' in selection.arguments else []
    if any(argument.startswith("--table=") for argument in selection.arguments):
        names = sorted({item.schema for item in selection.relations})
        return [f"CREATE SCHEMA IF NOT EXISTS {_quote(name)}" for name in names]
    return []

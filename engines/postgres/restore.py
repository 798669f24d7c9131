"""Restoring: beside the target and then into its place, or into an empty database in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.reading import Artefact
from engines.base import Restored, RestoreOptions, Target
from engines.errors import FlexError, Stopped, TargetNotEmpty, UnsupportedOperation
from engines.postgres import catalog, databases, filling
from engines.postgres.archive import SQL, Archive, content_of, dump_file, dump_major, ready
from engines.postgres.catalog import QUERIES, Server, identifier, matches, no_match
from engines.postgres.clients import Client, Clients
from engines.postgres.connection import Address, execute, rows, session
from engines.postgres.databases import Locale
from engines.postgres.load import Load, Owners, owners
from engines.postgres.plain import PlainLoad
from engines.postgres.sessions import end_older, end_own, maintenance
from engines.postgres.toc import Entry, partial
from engines.run import Run


@dataclass(frozen=True, slots=True)
class PgRestore:
    """One restore of one artefact into one server."""

    artefact: Artefact
    target: Target
    options: RestoreOptions
    run: Run
    clients: Clients
    free_bytes: Callable[[Path], int]
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", Address.of(self.target))

    def make(self) -> Restored:
        """As `options.mode` says; what can be known to fail is looked at before anything is made."""
        end_older(self.address, self.run)
        self._drop_own_leftovers()
        there = databases.exists(self.address, self.address.database, self.run)
        if rows_only := content_of(self.artefact) == "data":
            self._refuse_unfit(there)
        elif there and self.options.mode == "create" and refuse_what_is_there(self.address, self.run):
            return self._made_earlier()
        server = server_of(self.address, self.run)
        client = self._client(server)
        with ready(self.artefact, self.run, self.free_bytes) as archive:
            kept = owners(archive, self.address, server, self.run)
            load = self._load(archive, client, server, kept)
            if rows_only:
                return self._into_tables(load)
            if there and self.options.mode == "create":
                return self._into_empty(load)
            return self._beside(load, replaces=there)

    def _client(self, server: Server) -> Client | None:
        """None for a plain dump, which goes through the driver."""
        if dump_file(self.artefact).format == SQL:
            refuse_parts_of_a_script(self.options)
            return None
        tls = server.tls or self.address.wants_tls
        return self.clients.for_restore(server.major, dump_major(self.artefact, self.run), tls=tls)

    def _load(self, archive: Archive, client: Client | None, server: Server, kept: Owners) -> Load | PlainLoad:
        if client is None:
            return PlainLoad(archive, self.address, server, self.run, kept)
        return Load(archive, self.address, client, server, self.run, kept, 1, self._entries(archive))

    def _entries(self, archive: Archive) -> list[Entry] | None:
        if not self.options.include:
            return None
        entries = archive.entries(self.run)
        if content_of(self.artefact) != "data":
            return partial(entries, self.options.include, "the backup")
        with session(self.address, self.run.application_name, stop=self.run.stop) as opened:
            return filling.chosen(entries, opened, self.options.include, self.address.database)

    def _refuse_unfit(self, there: bool) -> None:
        filling.refuse_replace(self.options.mode)
        if not there:
            raise filling.refuse_absent(self.address.database)
        with session(self.address, self.run.application_name, seconds=0, stop=self.run.stop) as opened:
            filling.refuse_unfit(opened, planned(self.artefact, self.options), self.address.database)

    def _into_tables(self, load: Load | PlainLoad) -> Restored:
        """Rows into tables that are there and empty, in one transaction."""
        try:
            if load.commits_itself:
                self.run.point_of_no_return()
                load.carry_out()
            else:
                replace(load, before_commit=self.run.point_of_no_return).carry_out()
        except BaseException:
            with suppress(FlexError):  # the failure itself matters more; the next attempt ends them
                end_own(self.address, self.run)
            raise
        names = {item.name for item in planned(self.artefact, self.options)}
        objects = tuple(item for item in finish(load.address, self.run) if item.name in names)
        return self._restored(load, objects, (*_notes(load.owners), *self._unfilled_views()))

    def _unfilled_views(self) -> tuple[str, ...]:
        """Rows alone do not refresh them: their definitions may be others by now."""
        with session(self.address, self.run.application_name, stop=self.run.stop) as opened:
            names = [name for (name,) in rows(opened, QUERIES["unfilled_views"])]
        return (f"To be filled with REFRESH MATERIALIZED VIEW: {', '.join(names)}.",) if names else ()

    def _drop_own_leftovers(self) -> None:
        """Of an earlier attempt of this job; what a switch moved away had its successor in place."""
        databases.sweep(self.address, lambda job_id: job_id == self.run.job_id)

    def _made_earlier(self) -> Restored:
        """An attempt of this job named its database and died before it could say so."""
        return Restored(self.address.database, finish(self.address, self.run), ("Made by an earlier attempt.",))

    def _into_empty(self, load: Load | PlainLoad) -> Restored:
        """One transaction: a failure leaves the database as empty as it was."""
        marked = databases.mark(self.address, self.address.database, self.run)
        try:
            if load.commits_itself:
                self.run.confirm()
            replace(load, before_commit=self.run.point_of_no_return).carry_out()
        except BaseException:
            with suppress(FlexError):  # the failure itself matters more; the next attempt ends them
                end_own(self.address, self.run)
                if marked and not self._was_committed():
                    databases.unmark(self.address, self.address.database)
            raise
        notes = _notes(load.owners)
        if load.commits_itself:
            try:
                self.run.point_of_no_return()
            except Stopped:  # came after the commit: what was restored stays, and is told
                return self._restored(load, self.artefact.manifest.objects, (*notes, "Not counted: stopped."))
        return self._restored(load, finish(load.address, self.run), notes)

    def _was_committed(self) -> bool:
        """The server may have taken the COMMIT whose answer was lost; the next attempt then finds its work done."""
        with session(self.address, self.run.application_name) as opened:  # a stop that is asked for must not end this
            return bool(rows(opened, QUERIES["user_objects"]))

    def _beside(self, load: Load | PlainLoad, *, replaces: bool) -> Restored:
        built = databases.new_name(self.run.job_id)
        address = self.address.with_database(built)
        note = databases.create(self.address, built, Locale.recorded(self.artefact.manifest.options), self.run)
        try:
            replace(load, address=address, jobs=_jobs(load, self.options.jobs)).carry_out()
            objects = finish(address, self.run)
            self.run.point_of_no_return()
            if replaces:
                self._switch(built)
            else:
                databases.publish(self.address, built, self.address.database, self.run)
        except BaseException:
            with suppress(FlexError):  # the failure itself matters more; the sweep drops what stayed
                databases.drop(self.address, built, None)
            raise
        notes = (*_notes(load.owners), *((note,) if note else ()))
        return self._restored(load, objects, notes + (self._drop_old() if replaces else ()))

    def _switch(self, built: str) -> None:
        moved_away = databases.old_name(self.run.job_id)
        databases.switch(self.address, built, self.address.database, moved_away, self.run)

    def _drop_old(self) -> tuple[str, ...]:
        name = databases.old_name(self.run.job_id)
        try:
            databases.drop(self.address, name, self.run)
        except FlexError as error:  # the restore itself is done; the sweep tries again
            return (f"The replaced database is still there as {name}: {error.message}",)
        return ()

    def _restored(self, load: Load | PlainLoad, objects: tuple[ObjectCount, ...], notes: tuple[str, ...]) -> Restored:
        notes += differences(self.artefact, objects) if not self.options.include else ()
        return Restored(self.address.database, objects, notes, load.tool)


def _jobs(load: Load | PlainLoad, wanted: int) -> int:
    """Several connections only where the archive can be read from several places."""
    return max(1, wanted) if load.archive.path is not None else 1


def _notes(kept: Owners) -> tuple[str, ...]:
    return (kept.note,) if kept.note else ()


def planned(artefact: Artefact, options: RestoreOptions) -> tuple[ObjectCount, ...]:
    """What a restore brings; raises `TargetMissing` for a pattern that means nothing, `UnsupportedOperation`."""
    listed = artefact.manifest.objects
    if dump_file(artefact).format == SQL:
        refuse_parts_of_a_script(options)
    for pattern in options.include:
        if not any(_meant(pattern, item) for item in listed):
            raise no_match(pattern, "the backup")
    if not options.include:
        return listed
    return tuple(item for item in listed if any(_meant(pattern, item) for pattern in options.include))


def _meant(pattern: str, item: ObjectCount) -> bool:
    """Like `catalog.matches`, for a name already written `schema.name`."""
    schema, _, name = item.name.partition(".")
    return matches(pattern, schema, name)


def refuse_parts_of_a_script(options: RestoreOptions) -> None:
    if options.include:
        raise UnsupportedOperation(
            "Parts of a plain dump cannot be restored: it has no table of contents.",
            hint="Leave `include` out, or restore into another database with `into` and take the parts from there.",
        )


def server_of(address: Address, run: Run) -> Server:
    with maintenance(address, run) as opened:
        return catalog.server(opened)


def user_objects(address: Address, run: Run) -> list[str]:
    """A few of the objects of anybody's that the database holds."""
    with session(address, run.application_name, stop=run.stop) as opened:
        return [name for (name,) in rows(opened, QUERIES["user_objects"])]


def _holds_more_than_schemas(found: list[str]) -> bool:
    """Schemas may be made ahead of the one transaction that brings everything else."""
    return any(not name.startswith("schema ") for name in found)


def refuse_what_is_there(address: Address, run: Run) -> bool:
    """Whether an earlier attempt of this job did it all; raises `TargetNotEmpty` for objects of anybody else's."""
    found = user_objects(address, run)
    if _holds_more_than_schemas(found) and databases.made_by(address, address.database, run):
        return True
    _refuse(found, address.database)
    return False


def _refuse(found: list[str], database: str) -> None:
    """Raise `TargetNotEmpty` unless the database holds nothing of anybody's."""
    if found:
        raise TargetNotEmpty(
            f"Database {database!r} is not empty: it holds {found[0]}" + (" and more." if len(found) > 1 else "."),
            details={"objects": found},
        )


def finish(address: Address, run: Run) -> tuple[ObjectCount, ...]:
    """Planner statistics for a restored database, which has none, and what is in it, rows counted."""
    with session(address, run.application_name, seconds=0, stop=run.stop) as opened:
        analyze(opened, run)
        return count_objects(opened, run)


def analyze(opened: Connection, run: Run) -> None:
    """One table after the other, so that one sees how far it is; a partitioned one takes its partitions along."""
    wanted = [item for item in catalog.relations(opened) if item.relkind in "rmp" and not item.partition_of]
    for number, item in enumerate(wanted):
        run.progress("analyzing", number, len(wanted), "tables")
        try:
            execute(opened, sql.SQL("ANALYZE {}").format(identifier(item)))
        except psycopg2.errors.UndefinedTable:
            continue  # dropped meanwhile by somebody who was quick
    run.progress("analyzing", len(wanted), len(wanted), "tables")


def count_objects(opened: Connection, run: Run) -> tuple[ObjectCount, ...]:
    found = catalog.relations(opened)
    counts = catalog.count_rows(opened, found, lambda done, of: run.progress("counting rows", done, of, "tables"))
    return catalog.objects(found, counts, int(catalog.one(opened, "large_object_count")))


def differences(artefact: Artefact, objects: tuple[ObjectCount, ...]) -> tuple[str, ...]:
    """What was counted otherwise than at the backup.

    A note, not a failure: a restore is for the hour of need, and its archive was checked by its digests;
    level 3 is where a difference is damage.
    """
    found = {(item.name, item.kind): item.rows for item in objects}
    wrong = [
        f"{item.name} had {item.rows} rows at the backup and has {found.get((item.name, item.kind))} now."
        for item in artefact.manifest.objects
        if item.rows is not None and found.get((item.name, item.kind)) != item.rows
    ]
    return tuple(wrong[:20])

"""Restoring: beside the target and then into its place, or into an empty database in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.reading import Artefact
from engines.base import Restored, RestoreOptions, Target
from engines.errors import FlexError, Stopped, TargetNotEmpty
from engines.postgres import catalog, databases
from engines.postgres.archive import Archive, dump_major, ready
from engines.postgres.catalog import QUERIES, Server
from engines.postgres.clients import Client, Clients
from engines.postgres.connection import Address, execute, rows, session
from engines.postgres.databases import Locale
from engines.postgres.load import Load, Owners, owners
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
        if there and self.options.mode == "create":
            found = user_objects(self.address, self.run)
            if _holds_more_than_schemas(found) and databases.made_by(self.address, self.address.database, self.run):
                return self._made_earlier()
            _refuse(found, self.address.database)
        server = server_of(self.address, self.run)
        client = self._client(server)
        with ready(self.artefact, self.run, self.free_bytes) as archive:
            entries = self._entries(archive)
            kept = owners(archive, self.address, server, self.run)
            load = Load(archive, self.address, client, server, self.run, kept, 1, entries)
            if there and self.options.mode == "create":
                return self._into_empty(load)
            return self._beside(load, replaces=there)

    def _client(self, server: Server) -> Client:
        tls = server.tls or self.address.wants_tls
        return self.clients.for_restore(server.major, dump_major(self.artefact, self.run), tls=tls)

    def _entries(self, archive: Archive) -> list[Entry] | None:
        if not self.options.include:
            return None
        return partial(archive.entries(self.run), self.options.include, "the backup")

    def _drop_own_leftovers(self) -> None:
        """Of an earlier attempt of this job; what a switch moved away had its successor in place."""
        databases.sweep(self.address, lambda job_id: job_id == self.run.job_id)

    def _made_earlier(self) -> Restored:
        """An attempt of this job named its database and died before it could say so."""
        return Restored(self.address.database, finish(self.address, self.run), ("Made by an earlier attempt.",))

    def _into_empty(self, load: Load) -> Restored:
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

    def _beside(self, load: Load, *, replaces: bool) -> Restored:
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

    def _restored(self, load: Load, objects: tuple[ObjectCount, ...], notes: tuple[str, ...]) -> Restored:
        notes += differences(self.artefact, objects) if not self.options.include else ()
        return Restored(self.address.database, objects, notes, load.client.tool("pg_restore"))


def _jobs(load: Load, wanted: int) -> int:
    """Several connections only where the archive can be read from several places."""
    return max(1, wanted) if load.archive.path is not None else 1


def _notes(kept: Owners) -> tuple[str, ...]:
    return (kept.note,) if kept.note else ()


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
        run.progress("analyzing", 0, unit="tables")
        execute(opened, "ANALYZE")
        return count_objects(opened, run)


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

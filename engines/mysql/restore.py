"""Restoring: into a database of FlexDB's own beside the target, and then into its place."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.reading import Artefact
from engines.base import Restored, RestoreOptions, Target
from engines.errors import FlexError, TargetNotEmpty, ToolFailed, UnsupportedOperation
from engines.mysql import catalog, databases, switch
from engines.mysql.address import Address
from engines.mysql.catalog import Charset, Server
from engines.mysql.clients import Clients, Program
from engines.mysql.load import Changes, Load, refuse_rows_only, source_of
from engines.mysql.privileges import may_set_definers
from engines.mysql.session import Session, session
from engines.run import Run

EARLIER = "Made by an earlier attempt."


@dataclass(frozen=True, slots=True)
class Place:
    """What one session learned of the server a restore goes to."""

    server: Server
    program: Program
    definers: bool
    note: str | None


@dataclass(frozen=True, slots=True)
class MySQLRestore:
    """One restore of one artefact into one server."""

    artefact: Artefact
    target: Target
    options: RestoreOptions
    run: Run
    clients: Clients
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", Address.of(self.target))

    def make(self) -> Restored:
        """As `options.mode` says; what can be known to fail is looked at before anything is made."""
        refuse_rows_only(self.artefact)
        included = chosen(self.artefact, self.options.include)
        end_older(self.address, self.run)
        with self._session() as opened:
            earlier = self._settle(opened)
            if earlier is not None or self._made_earlier(opened):
                return Restored(self.address.database, self._counted(opened, self.address.database), (EARLIER,))
            if self.options.mode == "create":
                refuse_objects(opened, self.address.database)
            place = look(opened, self.artefact, self.address, self.clients)
        self.artefact.check(self.run)
        return self._beside(place, included)

    def _made_earlier(self, opened: Session) -> bool:
        """Only where a database with objects would be refused: replacing it once more does no harm."""
        return self.options.mode == "create" and databases.made_by(opened, self.address.database, self.run.job_id)

    def _session(self, on: str | None = None, *, stoppable: bool = True) -> AbstractContextManager[Session]:
        stop = self.run.stop if stoppable else None
        return session(self.address, self.run.application_name, on=on, seconds=0, stop=stop)

    def _settle(self, opened: Session) -> switch.Plan | None:
        """Whether an earlier attempt of this job had come so far that its work only had to be finished."""
        earlier = switch.settle(opened, self.run.job_id)
        databases.drop(self.address, databases.new_name(self.run.job_id), self.run)
        return earlier if earlier is not None and earlier.target == self.address.database else None

    def _beside(self, place: Place, included: frozenset[str] | None) -> Restored:
        built = databases.new_name(self.run.job_id)
        changes = Changes(source_of(self.artefact), built, included, definers=place.definers)
        charset = Charset.recorded(self.artefact.manifest.options)
        try:
            with self._session() as opened:
                databases.create(opened, built, charset)
            Load(self.artefact, self.address.with_database(built), place.program, self.run, changes).carry_out()
            with self._session() as opened:
                objects = self._counted(opened, built)
                if included is None:
                    refuse_differences(self.artefact, objects)
                plan = switch.plan(opened, self.run.job_id, self.address.database, changes.enabled)
                self._refuse_filled(plan)
            self.run.point_of_no_return()
            note = self._switch(plan, charset)
        except BaseException:
            with suppress(FlexError):  # the failure itself matters more; the next attempt or the sweep sees to it
                self._clean_up(built)
            raise
        notes = tuple(text for text in (place.note, note) if text)
        return Restored(self.address.database, objects, notes, place.program.tool())

    def _refuse_filled(self, plan: switch.Plan) -> None:
        """Somebody may have begun to use the empty database meanwhile."""
        if self.options.mode == "create" and (plan.had or plan.had_code):
            raise TargetNotEmpty(f"Database {self.address.database!r} was filled by somebody else meanwhile.")

    def _switch(self, plan: switch.Plan, charset: Charset | None) -> str | None:
        """On a session that is on a database of the job's: the next attempt finds and ends it by that."""
        with self._session(plan.new, stoppable=False) as opened:
            return switch.carry_out(opened, plan, charset)

    def _clean_up(self, built: str) -> None:
        with self._session(stoppable=False) as opened:
            databases.end_sessions_on(opened, built)
            switch.settle(opened, self.run.job_id)
        databases.drop(self.address, built, None)

    def _counted(self, opened: Session, database: str) -> tuple[ObjectCount, ...]:
        return catalog.objects(
            opened, database, lambda done, of: self.run.progress("counting rows", done, of, "tables")
        )


def chosen(artefact: Artefact, patterns: tuple[str, ...]) -> frozenset[str] | None:
    """The tables, views and sequences that patterns mean, None for everything; raises `TargetMissing`."""
    if not patterns:
        return None
    names = [item.name for item in artefact.manifest.objects if item.kind in {"table", "view", "sequence"}]
    return frozenset(catalog.select(names, patterns, artefact.manifest.database, "the backup"))


def look(opened: Session, artefact: Artefact, address: Address, clients: Clients) -> Place:
    """What the server can take; raises `NoFittingClient`, `UnsupportedOperation`."""
    server = catalog.server(opened, address.database)
    refuse_long_rows(artefact, server)
    definers = [str(name) for name in artefact.manifest.options.get("definers", [])]
    kept = may_set_definers(opened, definers)
    note = None if kept else f"Definers were left out, this user may not set them: {', '.join(definers[:5])}."
    return Place(server, clients.shell(server.release), kept, note)


def refuse_long_rows(artefact: Artefact, server: Server) -> None:
    longest = int(artefact.manifest.options.get("longest_statement", 0))
    if longest + 1024 > server.max_packet:
        raise UnsupportedOperation(
            f"The backup holds a row that needs a statement of {longest} bytes; the server takes {server.max_packet}.",
            hint=f"SET GLOBAL max_allowed_packet = {1 << 30} on the server, then restore again.",
        )


def refuse_objects(opened: Session, database: str) -> None:
    """Raise `TargetNotEmpty` unless the database is absent or holds nothing of anybody's."""
    names = [item.name for item in catalog.tables(opened, database)]
    names += [f"{kind} {name}" for kind, name in catalog.code(opened, database)]
    if names:
        raise TargetNotEmpty(
            f"Database {database!r} is not empty: it holds {names[0]}" + (" and more." if len(names) > 1 else "."),
            details={"objects": names[:20]},
        )


def refuse_differences(artefact: Artefact, objects: tuple[ObjectCount, ...]) -> None:
    """Raise `ToolFailed` when a table lacks rows: the client program lost some without a word."""
    found = {(item.name, item.kind): item.rows for item in objects}
    for item in artefact.manifest.objects:
        if item.rows is not None and found.get((item.name, item.kind)) != item.rows:
            raise ToolFailed(
                f"{item.name} had {item.rows} rows at the backup and has {found.get((item.name, item.kind))} after "
                "the restore; the target was not touched."
            )


def end_older(address: Address, run: Run) -> None:
    """End what an earlier attempt of this job left working: whoever is on a database of the job's own.

    Client programs cannot be given a name that the server lists; their databases' names hold the job's.
    A dump that an earlier attempt left only reads, and ends by itself at its next write to nobody.
    """
    names = (databases.new_name, databases.old_name, databases.scratch_name)
    with session(address, run.application_name, stop=run.stop) as opened:
        for name in names:
            databases.end_and_see_gone(opened, name(run.job_id), run)

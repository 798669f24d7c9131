"""Looking before a backup: what would fail, or may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.base import BackupOptions, Finding, Target
from engines.errors import AccessDenied, FlexError, NoFittingClient, Stopped, StorageFull
from engines.postgres import catalog
from engines.postgres.catalog import QUERIES, Server
from engines.postgres.clients import Clients
from engines.postgres.connection import Address, rows, session
from engines.postgres.selection import Selection, choose
from engines.run import Run

LOOK_SECONDS = 30
"""For one statement; what cannot be looked at in time is not held against the target."""
NAMED = 5
"""How many of many are named."""


@dataclass(slots=True)
class Findings:
    """What was looked at so far."""

    found: list[Finding] = field(default_factory=list)

    def fine(self, check: str, detail: str) -> None:
        self.found.append(Finding(check, True, detail))

    def warn(self, check: str, detail: str, hint: str) -> None:
        """Not as it should be, but no reason for the operation to fail for certain."""
        self.found.append(Finding(check, False, detail, hint))

    def wrong(self, check: str, problem: FlexError) -> None:
        self.found.append(Finding(check, False, problem.message, problem.hint, problem))

    @contextmanager
    def looking(self, check: str) -> Iterator[None]:
        """What is raised inside is what the operation would end with; after a finding of that name, a warning."""
        try:
            yield
        except Stopped:
            raise
        except FlexError as error:
            if any(item.check == check for item in self.found):
                self.warn(check, f"Not everything could be looked at: {error.message}", error.hint)
            else:
                self.wrong(check, error)


def named(names: list[str]) -> str:
    """A few names and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class BeforeBackup:
    target: Target
    options: BackupOptions
    run: Run
    clients: Clients
    free_bytes: Callable[[Path], int]
    seen: Findings = field(default_factory=Findings)

    def findings(self) -> tuple[Finding, ...]:
        """One session, a few queries; the first finding says whether there was one at all."""
        self.run.stop.check()
        with self.seen.looking("reachable"):
            address = Address.of(self.target)
            name = self.run.application_name
            with session(address, name, seconds=LOOK_SECONDS, stop=self.run.stop) as opened:
                server = catalog.server(opened)
                self.seen.fine("reachable", f"PostgreSQL {server.version} answers on database {address.database!r}.")
                self._look(opened, server, address)
        return tuple(self.seen.found)

    def _look(self, opened: Connection, server: Server, address: Address) -> None:
        self._client(server, address)
        selection: Selection | None = None
        with self.seen.looking("patterns"):
            selection = choose(catalog.relations(opened), self.options, address.database)
            self.seen.fine("patterns", f"{len(selection.relations)} relation(s) will be backed up.")
        if selection is not None:
            oids = [item.oid for item in selection.relations]
            self._relations(opened, server, oids)
            if selection.large_objects and self.options.content != "schema":
                self._large_objects(opened, server)
            self._locks(opened, oids)
        self._space(server)

    def _client(self, server: Server, address: Address) -> None:
        with self.seen.looking("client"):
            client = self.clients.for_dump(server.major, tls=server.tls or address.wants_tls)
            if self.options.globals and "pg_dumpall" not in client.programs:
                raise NoFittingClient(f"There is no pg_dumpall in {client.folder}, and roles are asked for too.")
            if client.major > server.major:
                self.seen.warn(
                    "client",
                    f"pg_dump {client.version} is newer than the server.",
                    f"Its dumps may not restore into other PostgreSQL {server.major} servers by hand; "
                    f"client programs of version {server.major} are better.",
                )
            else:
                self.seen.fine("client", f"pg_dump {client.version} fits the server.")

    def _relations(self, opened: Connection, server: Server, oids: list[int]) -> None:
        """pg_dump reads without row security, and fails where that would hide rows from its user."""
        if server.superuser:
            self.seen.fine("privileges", "The user is a superuser and may read everything.")
            return
        closed = [name for (name,) in rows(opened, QUERIES["unreadable"], {"oids": oids})]
        if closed:
            self.seen.wrong("privileges", _denied(f"The user may not read {named(closed)}."))
        guarded = [name for (name,) in rows(opened, QUERIES["guarded"], {"oids": oids})]
        if guarded and self.options.content != "schema":
            self.seen.wrong(
                "privileges",
                AccessDenied(
                    f"Row security would hide rows of {named(guarded)} from the user.",
                    hint="Back up as the tables' owner or as a role with BYPASSRLS, or leave the tables out.",
                ),
            )
        if not closed and not guarded:
            self.seen.fine("privileges", f"The user may read all of {len(oids)} relation(s).")

    def _large_objects(self, opened: Connection, server: Server) -> None:
        if server.superuser:
            return
        closed = [str(oid) for (oid,) in rows(opened, QUERIES["unreadable_large_objects"])]
        if closed:
            self.seen.wrong("privileges", _denied(f"The user may not read the large objects {named(closed)}."))

    def _locks(self, opened: Connection, oids: list[int]) -> None:
        held: list[tuple[str, Any]] = rows(opened, QUERIES["held_exclusively"], {"oids": oids})
        if not held:
            self.seen.fine("locks", "Nobody holds a lock that a backup would wait for.")
            return
        prepared = [name for name, pid in held if pid is None]
        hint = "A backup waits 30 seconds for such a lock and gives up; wait until the other work is done."
        if prepared:
            hint = "A prepared transaction goes when it is ended (see pg_prepared_xacts): COMMIT or ROLLBACK PREPARED."
        who = "a prepared transaction" if prepared else "another session"
        self.seen.warn("locks", f"{who.capitalize()} holds an exclusive lock on {named([n for n, _ in held])}.", hint)

    def _space(self, server: Server) -> None:
        with self.seen.looking("space"):
            if self.options.jobs == 1 and self.options.layout == "archive":
                self.seen.fine("space", "Nothing is staged: the dump goes straight into the store.")
                return
            refuse_no_room(self.free_bytes(self.run.workspace), server.size)
            self.seen.fine("space", f"The work folder has room to stage a database of {server.size} bytes.")


def refuse_no_room(free: int, size: int) -> None:
    """Raise `StorageFull` when a parallel dump does not fit into the work folder."""
    if free < size:
        raise StorageFull(
            f"A parallel dump is staged first: the database has {size} bytes, the work folder {free} bytes free.",
            hint="Free space in FLEXDB_HOME, or back up with jobs 1, which stages nothing.",
        )


def _denied(message: str) -> AccessDenied:
    return AccessDenied(
        message, hint="Grant it SELECT (and USAGE on the schemas), or membership in pg_read_all_data, or leave it out."
    )

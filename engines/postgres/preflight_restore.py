"""Looking before a restore: what would fail, or may."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.artefacts.manifest import StoredFile
from engines.artefacts.reading import Artefact
from engines.base import Finding, RestoreOptions, Target
from engines.errors import AccessDenied, StorageFull, ToolFailed
from engines.postgres import catalog, filling
from engines.postgres.archive import DIRECTORY, SPARE_BYTES, SQL, content_of, dump_file, recorded
from engines.postgres.catalog import QUERIES, Server
from engines.postgres.clients import Client, Clients, needs_filter
from engines.postgres.connection import Address, rows, session
from engines.postgres.databases import Locale
from engines.postgres.preflight import LOOK_SECONDS, Findings, named
from engines.postgres.restore import planned, refuse_what_is_there
from engines.postgres.sessions import maintenance
from engines.run import Run


@dataclass(frozen=True, slots=True)
class BeforeRestore:
    artefact: Artefact
    target: Target
    options: RestoreOptions
    run: Run
    clients: Clients
    free_bytes: Callable[[Path], int]
    seen: Findings = field(default_factory=Findings)

    @property
    def _address(self) -> Address:
        return Address.of(self.target)

    def findings(self) -> tuple[Finding, ...]:
        """A session on the server, and one on the target where it exists."""
        self.run.stop.check()
        with self.seen.looking("reachable"), maintenance(self._address, self.run, seconds=LOOK_SECONDS) as opened:
            server = catalog.server(opened)
            self.seen.fine("reachable", f"PostgreSQL {server.version} answers.")
            client = self._client(server)
            self._version(server)
            self._patterns()
            self._roles(opened, server)
            there = bool(rows(opened, QUERIES["database_exists"], (self._address.database,))[0][0])
            self._privileges(opened, server, there)
            self._extensions(opened, server)
            self._space(client, server)
            self._target(there)
        return tuple(self.seen.found)

    def _client(self, server: Server) -> Client | None:
        if dump_file(self.artefact).format == SQL:
            self.seen.fine("client", "A plain dump is restored through the driver; no client program is needed.")
            return None
        major = self._tool_major()
        if major is None:
            self.seen.fine("client", "The manifest does not say which pg_dump made the backup; its head will.")
            return None
        client: Client | None = None
        with self.seen.looking("client"):
            client = self.clients.for_restore(server.major, major, tls=server.tls or self._address.wants_tls)
            how = ""
            if needs_filter(client.major, server.major):
                how = ", without its setting transaction_timeout, which this server does not know"
            self.seen.fine("client", f"pg_restore {client.version} reads the backup and fits the server{how}.")
        return client

    def _tool_major(self) -> int | None:
        found = re.match(r"\d+", (self.artefact.manifest.tool or {}).get("version", ""))
        return int(found.group()) if found else None

    def _version(self, server: Server) -> None:
        source = re.match(r"\d+", self.artefact.manifest.server_version)
        if source is not None and server.major < int(source.group()):
            self.seen.warn(
                "version",
                f"The backup is of PostgreSQL {source.group()}, the target is the older {server.major}.",
                "PostgreSQL does not promise that this works: what the older version lacks makes the restore fail.",
            )
        else:
            self.seen.fine("version", f"PostgreSQL {server.major} takes backups of its own and earlier versions.")

    def _patterns(self) -> None:
        with self.seen.looking("patterns"):
            objects = planned(self.artefact, self.options)
            self.seen.fine("patterns", f"{len(objects)} object(s) will be restored.")

    def _roles(self, opened: Connection, server: Server) -> None:
        wanted = [str(role) for role in recorded(self.artefact, "roles", [])]
        missing = [name for (name,) in rows(opened, QUERIES["missing_roles"], (wanted,))]
        foreign: list[str] = []
        if not missing and not server.superuser:
            foreign = [name for (name,) in rows(opened, QUERIES["roles_we_cannot_act_for"], (wanted,))]
        if missing:
            hint = "Make them first, or do without: owners and grants are then left out."
            self.seen.warn("roles", f"Roles of the backup are missing here: {named(missing)}.", hint)
        elif foreign:
            hint = "Grant the memberships, or do without: owners and grants are then left out."
            self.seen.warn("roles", f"The user cannot act for roles of the backup: {named(foreign)}.", hint)
        else:
            self.seen.fine("roles", "Owners and grants can be restored.")

    def _privileges(self, opened: Connection, server: Server, there: bool) -> None:
        """Making a database, or renaming the one that is replaced."""
        with self.seen.looking("privileges"):
            makes = self.options.mode == "replace" or not there
            if server.superuser or content_of(self.artefact) == "data" or not makes:
                self.seen.fine("privileges", "Nothing has to be made that the user may not make.")
                return
            createdb, owns = rows(opened, QUERIES["may_make"], (self._address.database,))[0]
            if not createdb:
                raise AccessDenied(
                    "Making a database needs the CREATEDB privilege, which this user lacks.",
                    hint="Grant it (ALTER ROLE … CREATEDB), or use mode `create` and an empty database.",
                )
            if owns is False:
                raise AccessDenied(
                    f"Only its owner can replace the database {self._address.database!r}.",
                    hint="Restore as the owner or a superuser, or restore into another database with `into`.",
                )
            self.seen.fine("privileges", "The user may make databases.")

    def _extensions(self, opened: Connection, server: Server) -> None:
        wanted = [str(name) for name in recorded(self.artefact, "extensions", [])]
        found = {
            name: (superuser, trusted) for name, superuser, trusted in rows(opened, QUERIES["available"], (wanted,))
        }
        missing = [name for name in wanted if name not in found]
        message = f"The server lacks extensions of the backup: {named(missing)}."
        hint = "Install their packages on the server, or restore on a server that has them."
        if missing and self.options.include:  # whether the chosen parts need them is not known from here
            self.seen.warn("extensions", message, hint)
        elif missing:
            self.seen.wrong("extensions", ToolFailed(message, hint=hint))
        elif closed := [name for name in wanted if found[name] == (True, False) and not server.superuser]:
            hint = "Have a superuser make them, or restore as one; some hosted services allow it all the same."
            self.seen.warn("extensions", f"Only a superuser may make extensions: {named(closed)}.", hint)
        else:
            self.seen.fine("extensions", f"All of {len(wanted)} extension(s) are available.")

    def _space(self, client: Client | None, server: Server) -> None:
        file = dump_file(self.artefact)
        with self.seen.looking("space"):
            free = self.free_bytes(self.run.workspace)
            if not _fits(file, free) and _must_be_unpacked(file, client, server):
                raise StorageFull(
                    f"The backup is unpacked before it is restored: it has {file.raw_bytes} bytes, "
                    f"the work folder {free} bytes free.",
                    hint="Free space in FLEXDB_HOME.",
                )
            self.seen.fine("space", "The work folder has room. How much the server has cannot be asked of PostgreSQL.")

    def _target(self, there: bool) -> None:
        with self.seen.looking("target"):
            if content_of(self.artefact) == "data":
                self._tables(there)
            elif not there:
                self.seen.fine("target", f"Database {self._address.database!r} will be made.")
            elif self.options.mode == "replace":
                self.seen.fine("target", f"Database {self._address.database!r} will be replaced.")
            else:
                refuse_what_is_there(self._address, self.run)
                self._encoding()
                self.seen.fine("target", f"Database {self._address.database!r} is there and empty.")

    def _tables(self, there: bool) -> None:
        filling.refuse_replace(self.options.mode)
        if not there:
            raise filling.refuse_absent(self._address.database)
        with self._on_target() as opened:
            filling.refuse_unfit(opened, planned(self.artefact, self.options), self._address.database)
        self.seen.fine("target", f"Database {self._address.database!r} has the tables, and no rows in them.")

    def _on_target(self) -> Any:
        return session(self._address, self.run.application_name, seconds=LOOK_SECONDS, stop=self.run.stop)

    def _encoding(self) -> None:
        wanted = Locale.recorded(self.artefact.manifest.options)
        if wanted is None:
            return
        with self._on_target() as opened:
            found = Locale.of(opened)
            may_create = rows(opened, QUERIES["may_create"])[0][0]
        if found.encoding != wanted.encoding:
            self.seen.warn(
                "encoding",
                f"The backup is of a database in {wanted.encoding}, the target is in {found.encoding}.",
                "Characters that the target's encoding lacks make the restore fail; let it make the database instead.",
            )
        if not may_create:
            hint = "Grant CREATE on the database, or restore as its owner."
            self.seen.warn("privileges", "The user may not make schemas or extensions in the target.", hint)


def _fits(file: StoredFile, free: int) -> bool:
    return free >= file.raw_bytes + SPARE_BYTES


def _must_be_unpacked(file: StoredFile, client: Client | None, server: Server) -> bool:
    """What can be streamed needs no room."""
    filtered = client is not None and needs_filter(client.major, server.major)
    return file.format == DIRECTORY or (filtered and file.format != SQL)

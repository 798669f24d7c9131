"""Running pg_restore so that a database ends up with all of an archive or, by a rollback, with nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from psycopg2 import sql

from engines.command import Command, ToolInput, carry_out, feeding, reading
from engines.errors import AccessDenied, FlexError, StorageFull, TargetBusy, TargetUnavailable
from engines.postgres.archive import Archive, recorded
from engines.postgres.catalog import QUERIES, Server
from engines.postgres.clients import Client, needs_filter
from engines.postgres.connection import Address, execute, rows, session
from engines.postgres.sessions import maintenance
from engines.postgres.toc import RELATIONS, Entry
from engines.run import Run

REFUSED_SETTING = b"\nSET transaction_timeout = 0;\n"
"""Written once, at the head, by clients from 17 on; servers before 17 do not know it."""
HEAD_BYTES = 16 * 1024
LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Owners:
    """Whether owners and grants are restored, and why not."""

    kept: bool
    note: str | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        return () if self.kept else ("--no-owner", "--no-acl")


def owners(archive: Archive, address: Address, server: Server, run: Run) -> Owners:
    """Keep owners and grants when every role the backup names exists and may be acted for.

    Otherwise everything belongs to the restoring user: a database without its grants can be used and
    mended, a restore that stops at the first GRANT to a missing role cannot.
    """
    named = [str(role) for role in recorded(archive.artefact, "roles", [])]
    with maintenance(address, run) as opened:
        missing = [name for (name,) in rows(opened, QUERIES["missing_roles"], (named,))]
        if missing:
            return Owners(
                False, f"Owners and grants were left out: roles missing here: {', '.join(missing)}."
            )
        if not server.superuser:
            foreign = [name for (name,) in rows(opened, QUERIES["roles_we_cannot_act_for"], (named,))]
            if foreign:
                return Owners(
                    False, f"Owners and grants were left out: not a member of {', '.join(foreign)}."
                )
    return Owners(True)


@dataclass(frozen=True, slots=True)
class Load:
    """One run of pg_restore into one database."""

    archive: Archive
    address: Address
    """Of the database written."""
    client: Client
    server: Server
    run: Run
    owners: Owners
    jobs: int = 1
    """Above 1: several connections, no common transaction; for databases that are thrown away on failure."""
    entries: Sequence[Entry] | None = None
    """Only these; None for all."""

    def carry_out(self) -> None:
        """Raises `ToolFailed`, `StorageFull`, `Stopped`; then the target must go, unless `jobs` is 1."""
        made = self._make_schemas()
        try:
            self._load()
        except BaseException:
            with suppress(FlexError):  # the failure itself matters more; they are empty
                self._drop_schemas(made)
            raise

    def _make_schemas(self) -> list[str]:
        """A dump of chosen tables names their schemas without holding them; the names of those made."""
        entries = self.entries if self.entries is not None else self.archive.entries(self.run)
        held = {entry.name for entry in entries if entry.kind == "SCHEMA"}
        wanted = {entry.schema for entry in entries if entry.kind in RELATIONS} - held
        if not wanted:
            return []
        with session(self.address, self.run.application_name, stop=self.run.stop) as opened:
            there = {name for (name,) in rows(opened, "SELECT nspname FROM pg_namespace")}
            for name in sorted(wanted - there):
                execute(opened, sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        return sorted(wanted - there)

    def _drop_schemas(self, names: list[str]) -> None:
        if names:
            with session(self.address, self.run.application_name) as opened:
                for name in names:
                    execute(opened, sql.SQL("DROP SCHEMA {}").format(sql.Identifier(name)))

    def _load(self) -> None:
        if needs_filter(self.client.major, self.server.major):
            self._through_psql()
        elif self.archive.path is None:
            self._streamed()
        else:
            command = self._restore(*self._how(), str(self.archive.path))
            carry_out(command, self.run, self._tell_size())

    def _how(self) -> tuple[str, ...]:
        return (f"--jobs={self.jobs}",) if self.jobs > 1 else ("--single-transaction",)

    def _streamed(self) -> None:
        command = self._restore("--single-transaction")
        with (
            self.archive.artefact.open_raw(self.archive.file, self.run, "restoring") as source,
            feeding(command, self.run) as into,
        ):
            into.take(source.read)

    def _through_psql(self) -> None:
        """For servers that do not know a setting the client writes: its script, freed of it, into psql.

        The script holds its own BEGIN and COMMIT, so that a script cut short, for whatever reason, is
        rolled back by the server.
        """
        if self.archive.path is None:
            raise StorageFull(
                "Restoring into an older server needs the archive unpacked; there is no room for it."
            )
        arguments = ("--single-transaction", "--file=-", *self._selection(), *self.owners.arguments)
        script = Command(self.client.path("pg_restore"), (*arguments, str(self.archive.path)))
        conninfo, environment = self.address.for_tools(self.run.application_name, self.run.workspace)
        psql = Command(
            self.client.path("psql"),
            ("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--dbname={conninfo}"),
            environment,
            self.address.secrets,
        )
        tell = self._tell_size()
        with feeding(psql, self.run) as into, reading(script, self.run) as output:
            _pass_on(output.read, into, tell)

    def _restore(self, *arguments: str) -> Command:
        conninfo, environment = self.address.for_tools(self.run.application_name, self.run.workspace)
        return Command(
            self.client.path("pg_restore"),
            (
                *("--no-password", "--exit-on-error", f"--dbname={conninfo}"),
                *(*self._selection(), *self.owners.arguments, *arguments),
            ),
            environment,
            self.address.secrets,
        )

    def _selection(self) -> tuple[str, ...]:
        if self.entries is None:
            return ()
        path = self.run.workspace / "entries.list"
        path.write_text("".join(f"{entry.number};\n" for entry in self.entries))
        return (f"--use-list={path}",)

    def _tell_size(self) -> Callable[[], None]:
        """Progress by the size the database has grown to, looked at now and then."""
        total = int(recorded(self.archive.artefact, "database_bytes", 0)) or None
        looked, size = time.monotonic(), 0

        def tell() -> None:
            nonlocal looked, size
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                size = self._size() or size
            self.run.progress("restoring", size, max(total, size) if total else None)

        return tell

    def _size(self) -> int | None:
        """None when the server has no answer just now: progress must not be what a restore fails of."""
        try:
            with maintenance(self.address, self.run, seconds=5) as opened:
                return int(rows(opened, "SELECT pg_database_size(%s)", (self.address.database,))[0][0])
        except (TargetUnavailable, TargetBusy, AccessDenied):
            return None


def _pass_on(read: Callable[[], bytes], into: ToolInput, tell: Callable[[], None]) -> None:
    """The script without the refused setting. Only its head is looked at: rows may hold the same words."""
    head = b""
    while len(head) < HEAD_BYTES and (data := read()):
        head += data
    first_command, found, rest = head.partition(REFUSED_SETTING)
    if found and b"\nCOPY " not in first_command:
        head = first_command + b"\n" + rest
    into.write(head)
    while data := read():
        into.write(data)
        tell()

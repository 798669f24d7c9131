"""Running pg_restore so that a database ends up with all of an archive or, by a rollback, with nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from psycopg2 import sql

from engines.base import Tool
from engines.command import Command, carry_out, conversing, feeding, reading
from engines.errors import AccessDenied, FlexError, StorageFull, TargetBusy, TargetUnavailable, ToolFailed
from engines.postgres.archive import Archive, content_of, recorded
from engines.postgres.catalog import QUERIES, Server
from engines.postgres.clients import Client, needs_filter
from engines.postgres.connection import Address, execute, rows, session, tools_translated
from engines.postgres.sessions import maintenance
from engines.postgres.toc import RELATIONS, Entry
from engines.run import Run

REFUSED_SETTING = b"\nSET transaction_timeout = 0;\n"
"""Written once, at the head, by clients from 17 on; servers before 17 do not know it."""
HEAD_BYTES = END_BYTES = 16 * 1024
COMMIT = b"\nCOMMIT;\n"
SILENCE = b"\\o /dev/null\n"
"""First of all: newer scripts forbid psql's own commands until their end."""
END_MARK = b"flexdb: end of script"
SAY_END = b"\\echo " + END_MARK + b"\n"
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
            return Owners(False, f"Owners and grants were left out: roles missing here: {', '.join(missing)}.")
        if not server.superuser:
            foreign = [name for (name,) in rows(opened, QUERIES["roles_we_cannot_act_for"], (named,))]
            if foreign:
                return Owners(False, f"Owners and grants were left out: not a member of {', '.join(foreign)}.")
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
    before_commit: Callable[[], None] | None = None
    """Called when everything is in the database and nothing committed; an exception rolls it back."""

    @property
    def tool(self) -> Tool | None:
        return self.client.tool("pg_restore")

    @property
    def commits_itself(self) -> bool:
        """Whether `before_commit` is left out, because pg_restore must stream and commit in one."""
        return self.archive.path is None or "psql" not in self.client.programs

    def carry_out(self) -> None:
        """Raises `ToolFailed`, `StorageFull`, `Stopped`; then the target must go, unless `jobs` is 1."""
        made = self._make_schemas()
        try:
            with tools_translated():
                self._load()
        except BaseException:
            with suppress(FlexError):  # the failure itself matters more; they are empty
                self._drop_schemas(made)
            raise

    def _make_schemas(self) -> list[str]:
        """A dump of chosen tables names their schemas without holding them; the names of those made."""
        entries = self.entries if self.entries is not None else self.archive.entries(self.run)
        held = {entry.name for entry in entries if entry.kind == "SCHEMA" and not entry.makes_public}
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
        if needs_filter(self.client.major, self.server.major) or (self.before_commit and not self.commits_itself):
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
        """The archive as a script into psql: the way to say COMMIT ourselves, or to leave a setting out.

        The script's own COMMIT is held back until psql has come to its end, so that a script cut short,
        for whatever reason, is rolled back by the server.
        """
        if self.archive.path is None:
            raise StorageFull("Restoring into an older server needs the archive unpacked; there is no room.")
        arguments = ("--single-transaction", "--file=-", *self._what(), *self.owners.arguments)
        script = Command(self.client.path("pg_restore"), (*arguments, str(self.archive.path)))
        with conversing(self._psql(), self.run) as (into, answers):
            with reading(script, self.run) as output:
                Script(into, needs_filter(self.client.major, self.server.major)).copy(output.read, self._tell_size())
            into.write(SAY_END)
            if complete := any(END_MARK in data for data in iter(answers.read, b"")):
                if self.before_commit is not None:
                    self.before_commit()
                into.write(b"COMMIT;\n")
        if not complete:  # a tool that failed has raised by now; one that just left has not
            raise ToolFailed("psql ended before its script did.")

    def _psql(self) -> Command:
        conninfo, environment = self.address.for_tools(self.run.application_name, self.run.workspace)
        return Command(
            self.client.path("psql"),
            ("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--dbname={conninfo}"),
            environment,
            self.address.secrets,
        )

    def _restore(self, *arguments: str) -> Command:
        conninfo, environment = self.address.for_tools(self.run.application_name, self.run.workspace)
        return Command(
            self.client.path("pg_restore"),
            (
                *("--no-password", "--exit-on-error", f"--dbname={conninfo}"),
                *(*self._what(), *self.owners.arguments, *arguments),
            ),
            environment,
            self.address.secrets,
        )

    def _what(self) -> tuple[str, ...]:
        if content_of(self.archive.artefact) != "data":
            return self._selection()
        # Triggers would do their work a second time; foreign keys in a circle could never be loaded.
        triggers = ("--disable-triggers",) if self.server.superuser else ()
        return ("--data-only", *triggers, *self._selection())

    def _selection(self) -> tuple[str, ...]:
        """pg_dump --schema=public writes a CREATE SCHEMA public, which nearly every database has already."""
        entries = self.entries if self.entries is not None else self.archive.entries(self.run)
        taken = [entry for entry in entries if not entry.makes_public]
        if self.entries is None and len(taken) == len(entries):
            return ()
        path = self.run.workspace / "entries.list"
        path.write_text("".join(f"{entry.number};\n" for entry in taken))
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


class Taker(Protocol):
    def write(self, data: bytes, /) -> None: ...


class Script:
    """Passes pg_restore's script on to psql, without its COMMIT and without what an old server refuses."""

    def __init__(self, into: Taker, without_setting: bool) -> None:
        self._into, self._without_setting = into, without_setting

    def copy(self, read: Callable[[], bytes], tell: Callable[[], None]) -> None:
        """To the end of the script; raises `ToolFailed` when it has no COMMIT where it belongs."""
        self._into.write(SILENCE)
        kept = self._head(read)
        while data := read():
            kept += data
            if len(kept) > 2 * END_BYTES:
                self._into.write(kept[:-END_BYTES])
                kept = kept[-END_BYTES:]
            tell()
        before, found, after = kept.rpartition(COMMIT)
        if not found:
            raise ToolFailed("pg_restore's script does not end with a COMMIT.")
        self._into.write(before + b"\n" + after)

    def _head(self, read: Callable[[], bytes]) -> bytes:
        """Only the head is looked at for the setting: rows may hold the same words."""
        head = b""
        while len(head) < HEAD_BYTES and (data := read()):
            head += data
        before, found, after = head.partition(REFUSED_SETTING)
        if self._without_setting and found and b"\nCOPY " not in before:
            return before + b"\n" + after
        return head

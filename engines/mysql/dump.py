"""Backing up: the server's own dump program into the artefact, rows counted in what it writes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.artefacts.writing import ArtefactWriter, Sink
from engines.base import BackupOptions, Dump, Target
from engines.command import Command, reading
from engines.errors import FlexError, TargetBusy, ToolFailed, UnsupportedOperation
from engines.mysql import catalog, users
from engines.mysql.address import Address
from engines.mysql.catalog import Charset, Server, Table
from engines.mysql.clients import Clients, Program
from engines.mysql.contents import Contents, Reader
from engines.mysql.script import UnreadableScriptError
from engines.mysql.session import database_session, tools_translated
from engines.run import Run

FORMAT = "mysqldump-sql"
GLOBALS_FILE = "globals.sql"
CONSISTENCY = (
    "One transaction snapshot (REPEATABLE READ), taken when the dump began. Writers were not held off; a table whose "
    "definition changed before its turn made the backup fail. Rows were counted in the dump itself."
)
_CHANGED = re.compile(r"\b(?:1146|1412|1051|1054)\b|doesn't exist")
LONGEST_ARGUMENTS = 1_000_000
"""Bytes of names on one command line; the system's limit is 2 MB, environment included."""
ALWAYS = (
    "--skip-add-locks",  # under LOCK TABLES MariaDB cannot take a default from a sequence: no restore by any means
    *("--single-transaction", "--quick", "--hex-blob", "--skip-lock-tables", "--skip-dump-date", "--no-tablespaces"),
    *("--default-character-set=utf8mb4", "--max-allowed-packet=1G"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """What one session learned of the database before its dump."""

    server: Server
    charset: Charset
    tables: list[Table]
    chosen: list[Table]
    program: Program

    @property
    def estimate(self) -> int:
        """About how many bytes will be written; only progress depends on it."""
        return sum(item.data_bytes for item in self.chosen)


@dataclass(frozen=True, slots=True)
class MySQLDump:
    """One backup of one database."""

    target: Target
    options: BackupOptions
    out: ArtefactWriter
    run: Run
    clients: Clients
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", Address.of(self.target))

    def make(self) -> Dump:
        source = self._look()
        with self.address.options_file(self.run.workspace, mariadb=source.program.mariadb) as options:
            selection = _selection(source, self.options, self.address.database)
            dumping = command(source.program, options, self.run.workspace, self.address, self.options, selection)
            with self.out.file(f"{self.target.connection}.sql", FORMAT) as sink:
                contents = self._write(dumping, sink, source.estimate)
        if self.options.globals:
            self._write_globals()
        return self._describe(source, contents)

    def _look(self) -> Source:
        with database_session(self.address, self.run.application_name, stop=self.run.stop) as opened:
            server = catalog.server(opened, self.address.database)
            found = catalog.tables(opened, self.address.database)
            charset = Charset.of(opened, self.address.database) or Charset("utf8mb4", "utf8mb4_general_ci")
        program = self.clients.dumper(server.release)
        return Source(server, charset, found, choose(found, self.options, self.address.database), program)

    def _write(self, dumping: Command, sink: Sink, estimate: int) -> Contents:
        """Everything the program writes, and its good end: without it the caller's file must not appear."""
        reader = Reader.quick()
        with _changed_tables_told(), tools_translated(), reading(dumping, self.run) as output:
            for data in output.chunks():
                sink.write(data)
                with _whole(dumping):
                    reader.feed(data)
                self.run.progress("dumping", sink.raw_bytes, max(estimate, sink.raw_bytes))
        with _whole(dumping):
            reader.finish()
        return reader.contents

    def _write_globals(self) -> None:
        with self.out.file(GLOBALS_FILE, FORMAT) as sink:
            users.write(self.address, sink, self.run)

    def _describe(self, source: Source, contents: Contents) -> Dump:
        counted = self.options.counts == "exact" and self.options.content != "schema"
        options: dict[str, Any] = {
            "include": list(self.options.include),
            "exclude": list(self.options.exclude),
            "content": self.options.content,
            "globals": self.options.globals,
            "database": {"name": source.charset.name, "collation": source.charset.collation},
            "database_bytes": source.server.size,
            "longest_statement": contents.longest,
            "definers": sorted(contents.definers),
        }
        return Dump(
            server_version=source.server.version,
            objects=contents.objects(counted=counted),
            counts=self.options.counts,
            consistency=consistency(source.chosen),
            restore_by_hand=by_hand(self.out, source, self.options),
            tool=source.program.tool(),
            options=options,
        )


@contextmanager
def _changed_tables_told() -> Iterator[None]:
    """A table that was dropped or altered after the dump began: the next attempt sees the database as it then is."""
    try:
        yield
    except FlexError as error:
        if _CHANGED.search(str(error.details.get("stderr", ""))):
            raise TargetBusy(f"A table was changed while it was dumped: {error.message}") from error
        raise


@contextmanager
def _whole(dumping: Command) -> Iterator[None]:
    try:
        yield
    except UnreadableScriptError as error:
        raise ToolFailed(f"{dumping.name} ended well, but what it wrote is not a whole dump: {error}.") from error


def command(
    program: Program,
    options_file: Path,
    home: Path,
    address: Address,
    options: BackupOptions,
    selection: tuple[str, ...] = (),
) -> Command:
    """`--defaults-file` alone, and a HOME of our own: nobody's ~/.my.cnf has a say in what a backup holds."""
    arguments = (
        f"--defaults-file={options_file}",
        *ALWAYS,
        *_for_release(program),
        *_content(options),
        *(selection or ("--", address.database)),
    )
    if sum(len(argument.encode()) + 1 for argument in arguments) > LONGEST_ARGUMENTS:
        raise UnsupportedOperation(
            "The patterns mean more tables than fit a command line.", hint="Choose fewer, or the whole database."
        )
    return Command(program.path, arguments, {"HOME": str(home)}, address.secrets)


def _for_release(program: Program) -> tuple[str, ...]:
    """Arguments that only some programs know."""
    if program.mariadb:
        return ()
    extra = ("--set-gtid-purged=OFF",) if program.release >= (5, 6) else ()
    return (*extra, "--column-statistics=0") if program.release >= (8, 0) else extra


def _content(options: BackupOptions) -> tuple[str, ...]:
    code = () if options.include or options.content == "data" else ("--routines", "--events")
    if options.content == "data":
        return ("--no-create-info", "--skip-triggers")
    return (*code, "--triggers", *(("--no-data",) if options.content == "schema" else ()))


def choose(found: list[Table], options: BackupOptions, database: str) -> list[Table]:
    """The tables and views that the patterns mean; raises `TargetMissing`, `UnsupportedOperation`."""
    names, where = [item.name for item in found], f"database {database!r}"
    chosen = catalog.select(names, options.include, database, where) if options.include else set(names)
    chosen -= catalog.select(names, options.exclude, database, where)
    if options.include and not chosen:
        raise UnsupportedOperation(f"`include` without `exclude` leaves nothing of {where}.")
    return [item for item in found if item.name in chosen]


def _selection(source: Source, options: BackupOptions, database: str) -> tuple[str, ...]:
    """Exact names, `--` before them: a name may begin with a dash."""
    if options.include:
        return ("--", database, *(item.name for item in source.chosen))
    left_out = {item.name for item in source.tables} - {item.name for item in source.chosen}
    return (*(f"--ignore-table={database}.{name}" for name in sorted(left_out)), "--", database)


def consistency(chosen: list[Table]) -> str:
    """What moment the dump shows, with the tables that no snapshot holds still."""
    outside = [item for item in chosen if not item.transactional]
    told = CONSISTENCY
    if outside:
        names = ", ".join(f"{item.name} ({item.engine or 'no engine'})" for item in outside[:10])
        more = f" and {len(outside) - 10} more" if len(outside) > 10 else ""
        told += f" Not part of the snapshot, because their engine has no transactions: {names}{more}."
    if any(item.type == "SYSTEM VERSIONED" for item in chosen):
        told += " Of system-versioned tables the current rows, not their history."
    return told


def by_hand(out: ArtefactWriter, source: Source, options: BackupOptions) -> tuple[str, ...]:
    """The commands that restore without FlexDB, in the artefact's folder; fill in what is in capitals."""
    client = f"{'mariadb' if source.server.release.mariadb else 'mysql'} --host=HOST --port=PORT --user=USER --password"
    load = "--default-character-set=utf8mb4 --max-allowed-packet=1G --binary-mode"
    lines = [f"zstd -d {file.name}" for file in out.files if file.compression == "zstd"]
    create = f"CREATE DATABASE `DATABASE` CHARACTER SET {source.charset.name} COLLATE {source.charset.collation}"
    names = [file.name.removesuffix(".zst") for file in out.files]
    if GLOBALS_FILE in names:
        lines.append(f"{client} --force < {GLOBALS_FILE}  # users and grants; those that exist are left")
    if options.content != "data":
        lines.append(f"{client} --execute={shlex.quote(create)}")
    same_name = "  # as DATABASE the old name: defaults name their sequences with it"
    note = same_name if any(item.kind == "sequence" for item in source.chosen) else ""
    lines.append(f"{client} {load} DATABASE < {shlex.quote(names[0])}{note}")
    return tuple(lines)

"""Backing up: pg_dump into the artefact, rows counted in the very same snapshot."""

from __future__ import annotations

import shlex
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.writing import ArtefactWriter, Sink
from engines.base import BackupOptions, Dump, Target
from engines.command import Command, carry_out, reading
from engines.errors import StorageFull, UnsupportedOperation
from engines.postgres import catalog
from engines.postgres.archive import CUSTOM, DIRECTORY, GLOBALS
from engines.postgres.catalog import Relation, Server
from engines.postgres.clients import Client, Clients, needs_filter
from engines.postgres.connection import Address, rows, session, tools_translated
from engines.postgres.counting import Snapshot, counting, snapshot
from engines.postgres.databases import Locale
from engines.run import Run

CONSISTENCY = (
    "One transaction snapshot, taken when the dump began. Writers were not held off, changes of the dumped "
    "tables' definitions were."
)
LOCK_WAIT = "30s"
LONGEST_ARGUMENTS = 1_000_000
"""Bytes of names on one command line; the system's limit is 2 MB, environment included."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a dump takes: the relations, and the arguments that make pg_dump take exactly those."""

    relations: list[Relation]
    arguments: tuple[str, ...] = ()
    large_objects: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """What one session learned of the database before its dump."""

    server: Server
    locale: Locale
    roles: list[str]
    selection: Selection
    large_object_bytes: int
    client: Client

    @property
    def estimate(self) -> int:
        """About how many bytes pg_dump will write; only progress depends on it."""
        return sum(item.bytes for item in self.selection.relations) + self.large_object_bytes


@dataclass(frozen=True, slots=True)
class PgDump:
    """One backup of one database."""

    target: Target
    options: BackupOptions
    out: ArtefactWriter
    run: Run
    clients: Clients
    free_bytes: Callable[[Path], int]
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", Address.of(self.target))

    def make(self) -> Dump:
        exact = self.options.counts == "exact"
        if exact or self.options.include or self.options.exclude:
            with snapshot(self.address, self.run) as moment:
                source = self._look(moment.connection)
                counts, large_objects = self._write_counting(source, moment, exact)
        else:  # nothing that has to show the dump's very moment: no session is held beside pg_dump's own
            with session(self.address, self.run.application_name, stop=self.run.stop) as opened:
                source = self._look(opened)
            self._write(source, None)
            counts, large_objects = {}, 0
        if not source.selection.large_objects:
            large_objects = 0
        return self._describe(source, catalog.objects(source.selection.relations, counts, large_objects))

    def _write_counting(self, source: Source, moment: Snapshot, exact: bool) -> tuple[dict[int, int], int]:
        if not exact:
            self._write(source, moment.name)
            return {}, 0
        moment.hold(source.selection.relations)
        with counting(moment, source.selection.relations) as count:
            self._write(source, moment.name)
            return count.result(self.run)

    def _look(self, opened: Any) -> Source:
        server = catalog.server(opened)
        tls = server.tls or self.address.wants_tls
        return Source(
            server=server,
            locale=Locale.of(opened),
            roles=[name for (name,) in rows(opened, catalog.QUERIES["roles"])],
            selection=choose(catalog.relations(opened), self.options, self.address.database),
            large_object_bytes=int(catalog.one(opened, "large_object_bytes")),
            client=self.clients.for_dump(server.major, tls=tls),
        )

    def _write(self, source: Source, snapshot_name: str | None) -> None:
        arguments = (
            *source.selection.arguments,
            *((f"--snapshot={snapshot_name}",) if snapshot_name else ()),
        )
        if self.options.jobs > 1:
            self._write_directory(source, arguments)
        else:
            self._write_custom(source, arguments)
        if self.options.globals:
            self._write_globals(source)

    def _command(self, source: Source, program: str, *arguments: str, into: Path | None = None) -> Command:
        conninfo, environment = self.address.for_tools(self.run.application_name, self.run.workspace)
        return Command(
            source.client.path(program),
            ("--no-password", f"--dbname={conninfo}", *arguments),
            environment,
            self.address.secrets,
            writes_into=into,
        )

    def _pg_dump(self, source: Source, *arguments: str, into: Path | None = None) -> Command:
        return self._command(
            source, "pg_dump", "--compress=0", f"--lock-wait-timeout={LOCK_WAIT}", *arguments, into=into
        )

    def _write_custom(self, source: Source, arguments: tuple[str, ...]) -> None:
        command = self._pg_dump(source, "--format=custom", *arguments)
        with self.out.file(f"{self.target.connection}.dump", CUSTOM) as sink:
            self._copy(command, sink, "dumping", source.estimate)

    def _copy(self, command: Command, sink: Sink, stage: str, estimate: int) -> None:
        """Everything the tool writes, and its good end: without it the caller's file must not appear."""
        with tools_translated(), reading(command, self.run) as output:
            for data in output.chunks():
                sink.write(data)
                self.run.progress(stage, sink.raw_bytes, max(estimate, sink.raw_bytes))

    def _write_directory(self, source: Source, arguments: tuple[str, ...]) -> None:
        """pg_dump's parallel format is a folder: it is staged, then stored as one tar stream."""
        free = self.free_bytes(self.run.workspace)
        if free < source.server.size:
            raise StorageFull(
                f"A parallel dump is staged first: the database has {source.server.size} bytes, "
                f"the work folder {free} bytes free.",
                hint="Free space in FLEXDB_HOME, or back up with jobs 1, which stages nothing.",
            )
        folder = self.run.workspace / "pg_dump"
        command = self._pg_dump(
            source,
            "--format=directory",
            f"--jobs={self.options.jobs}",
            f"--file={folder}",
            *arguments,
            into=folder,
        )
        try:
            with tools_translated():
                carry_out(command, self.run, lambda: self._tell_size(folder, source.estimate))
            with self.out.file(f"{self.target.connection}.tar", DIRECTORY) as sink:
                self._tar(folder, sink)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the workspace goes with the attempt anyway

    def _tell_size(self, folder: Path, estimate: int) -> None:
        size = sum(_size(path) for path in folder.iterdir()) if folder.is_dir() else 0
        self.run.progress("dumping", size, max(estimate, size))

    def _tar(self, folder: Path, sink: Sink) -> None:
        names = sorted(path.name for path in folder.iterdir())
        names.sort(key=lambda name: name != "toc.dat")  # the table of contents first: readers begin with it
        total = sum(_size(folder / name) for name in names)
        stream = _Progressing(sink, lambda: self.run.progress("storing", sink.raw_bytes, max(total, sink.raw_bytes)))
        with tarfile.open(
            mode="w|", fileobj=cast(IO[bytes], stream), bufsize=1 << 20, format=tarfile.PAX_FORMAT
        ) as tar:
            for name in names:
                tar.add(folder / name, arcname=name, recursive=False, filter=_anonymous)
                (folder / name).unlink()  # stored twice would need the room twice on a local store

    def _write_globals(self, source: Source) -> None:
        arguments = ["--globals-only", *(() if source.server.superuser else ("--no-role-passwords",))]
        command = self._command(source, "pg_dumpall", *arguments)
        with self.out.file("globals.sql", GLOBALS) as sink:
            self._copy(command, sink, "dumping globals", 0)

    def _describe(self, source: Source, objects: tuple[ObjectCount, ...]) -> Dump:
        options: dict[str, Any] = {
            "include": list(self.options.include),
            "exclude": list(self.options.exclude),
            "jobs": self.options.jobs,
            "globals": self.options.globals,
            "roles": source.roles,
            "database_bytes": source.server.size,
            **source.locale.as_options(),
        }
        if self.options.globals:
            options["role_passwords"] = source.server.superuser
        return Dump(
            server_version=source.server.version,
            objects=objects,
            counts=self.options.counts,
            consistency=CONSISTENCY,
            restore_by_hand=by_hand(self.out, source),
            tool=source.client.tool("pg_dump"),
            options=options,
        )


class _Progressing:
    """A sink that tells of every write; what `tarfile` writes to."""

    def __init__(self, sink: Sink, tell: Callable[[], None]) -> None:
        self._sink, self._tell = sink, tell

    def write(self, data: bytes) -> int:
        self._tell()
        return self._sink.write(data)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Who ran the dump and when is in the manifest; the same dump gives the same bytes."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o600
    return member


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


def _schemas(selection: Selection) -> list[str]:
    """What a dump of chosen parts says of schemas: all of them when whole ones were chosen, else nothing."""
    if any(argument.startswith("--schema=") for argument in selection.arguments):
        return ["DROP SCHEMA public"] if '--schema="public"' in selection.arguments else []
    if any(argument.startswith("--table=") for argument in selection.arguments):
        names = sorted({item.schema for item in selection.relations})
        return [f"CREATE SCHEMA IF NOT EXISTS {_quote(name)}" for name in names]
    return []


def by_hand(out: ArtefactWriter, source: Source) -> tuple[str, ...]:
    """The commands that restore without FlexDB, in the artefact's folder; fill in what is in capitals."""
    server = "--host=HOST --port=PORT --username=USER"
    lines = [f"zstd -d {file.name}" for file in out.files if file.compression == "zstd"]
    names = {file.format: file.name.removesuffix(".zst") for file in out.files}
    if GLOBALS in names:
        lines.append(f"psql -X {server} --dbname=postgres --file={names[GLOBALS]}  # roles")
    locale = source.locale
    lines.append(f"createdb {server} --template=template0 --encoding={locale.encoding} DATABASE")
    lines += [
        f"psql -X {server} --dbname=DATABASE --command={shlex.quote(line)}" for line in _schemas(source.selection)
    ]
    archive = names.get(CUSTOM, "pg_dump")
    if DIRECTORY in names:
        lines.append(f"mkdir pg_dump && tar -xf {names[DIRECTORY]} -C pg_dump")
    if needs_filter(source.client.major, source.server.major):
        lines.append(
            f"pg_restore --single-transaction --file=- {archive} "
            "| sed '1,40{/^SET transaction_timeout = 0;$/d}' "
            f"| psql -X -v ON_ERROR_STOP=1 {server} --dbname=DATABASE"
        )
    else:
        lines.append(f"pg_restore {server} --exit-on-error --jobs=2 --dbname=DATABASE {archive}")
    lines.append(f'psql -X {server} --dbname=DATABASE --command="ANALYZE"')
    return tuple(lines)

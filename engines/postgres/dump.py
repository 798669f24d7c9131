"""Backing up: pg_dump into the artefact, rows counted in the very same snapshot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.writing import ArtefactWriter, Sink
from engines.base import BackupOptions, Content, Dump, Target
from engines.command import Command, carry_out, reading
from engines.postgres import catalog
from engines.postgres.archive import CUSTOM, DIRECTORY, GLOBALS, pack
from engines.postgres.by_hand import ByHand
from engines.postgres.catalog import Server
from engines.postgres.clients import Client, Clients
from engines.postgres.connection import Address, rows, session, tools_translated
from engines.postgres.counting import Snapshot, counting, snapshot
from engines.postgres.databases import Locale
from engines.postgres.preflight import refuse_no_room
from engines.postgres.selection import Selection, choose, schemas_by_hand
from engines.run import Run

CONSISTENCY = (
    "One transaction snapshot, taken when the dump began. Writers were not held off, changes of the dumped "
    "tables' definitions were."
)
LOCK_WAIT = "30s"
CONTENT_ARGUMENTS: dict[Content, tuple[str, ...]] = {"all": (), "schema": ("--schema-only",), "data": ("--data-only",)}
ROWS_OF_DATA = frozenset({"table", "sequence"})
"""Kinds a dump without definitions has something of."""


@dataclass(frozen=True, slots=True)
class Source:
    """What one session learned of the database before its dump."""

    server: Server
    locale: Locale
    roles: list[str]
    extensions: list[str]
    selection: Selection
    large_object_bytes: int
    client: Client

    @property
    def estimate(self) -> int:
        """About how many bytes pg_dump will write with all rows; only progress depends on it."""
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
        exact = self.options.counts == "exact" and self.options.content != "schema"
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
        return self._describe(source, self._objects(source, counts, large_objects))

    def _objects(self, source: Source, counts: dict[int, int], large_objects: int) -> tuple[ObjectCount, ...]:
        """As a restore brings them: definitions come without rows, rows without views."""
        found = source.selection.relations
        if self.options.content == "schema" and self.options.counts == "exact":
            # An extension fills its own tables when it is made; how many rows that are is its business.
            counts = {item.oid: 0 for item in found if item.counted and not item.of_extension}
        if self.options.content == "data":
            found = [item for item in found if item.kind in ROWS_OF_DATA]
        return catalog.objects(found, counts, large_objects)

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
            extensions=[name for (name,) in rows(opened, catalog.QUERIES["extensions"])],
            selection=self._selection(opened),
            large_object_bytes=int(catalog.one(opened, "large_object_bytes")),
            client=self.clients.for_dump(server.major, tls=tls),
        )

    def _selection(self, opened: Any) -> Selection:
        chosen = choose(catalog.relations(opened, sized=True), self.options, self.address.database)
        return replace(chosen, large_objects=False) if self.options.content == "schema" else chosen

    def _write(self, source: Source, snapshot_name: str | None) -> None:
        arguments = (
            *CONTENT_ARGUMENTS[self.options.content],
            *source.selection.arguments,
            *((f"--snapshot={snapshot_name}",) if snapshot_name else ()),
        )
        if self.options.jobs > 1 or self.options.layout == "directory":
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
            self._copy(command, sink, "dumping", self._estimate(source))

    def _estimate(self, source: Source) -> int:
        return 0 if self.options.content == "schema" else source.estimate

    def _copy(self, command: Command, sink: Sink, stage: str, estimate: int) -> None:
        """Everything the tool writes, and its good end: without it the caller's file must not appear."""
        with tools_translated(), reading(command, self.run) as output:
            while sink.fill(output.readinto):
                self.run.progress(stage, sink.raw_bytes, max(estimate, sink.raw_bytes) if estimate else None)

    def _write_directory(self, source: Source, arguments: tuple[str, ...]) -> None:
        """pg_dump's parallel format is a folder: it is staged, then stored as one tar stream."""
        refuse_no_room(self.free_bytes(self.run.workspace), source.server.size)
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
                carry_out(command, self.run, lambda: self._tell_size(folder, self._estimate(source)))
            with self.out.file(f"{self.target.connection}.tar", DIRECTORY, staged=True) as sink:
                pack(folder, sink, self.run)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the workspace goes with the attempt anyway

    def _tell_size(self, folder: Path, estimate: int) -> None:
        size = sum(_size(path) for path in folder.iterdir()) if folder.is_dir() else 0
        self.run.progress("dumping", size, max(estimate, size) if estimate else None)

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
            "content": self.options.content,
            "roles": source.roles,
            "extensions": [] if self.options.include or self.options.content == "data" else source.extensions,
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
            restore_by_hand=ByHand(
                self.out.files,
                self.options.content,
                source.client.major,
                source.server.major,
                source.locale.encoding,
                schemas_by_hand(source.selection),
            ).lines(),
            tool=source.client.tool("pg_dump"),
            options=options,
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

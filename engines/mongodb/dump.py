"""Backing up one database: raw batches of several collections into mongodump's own format."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import OperationFailure

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.writing import ArtefactWriter, Sink
from engines.base import BackupOptions, Dump, Target, Tool
from engines.errors import TargetBusy
from engines.mongodb import archive, catalog, directory
from engines.mongodb.address import Address
from engines.mongodb.archive import Prelude
from engines.mongodb.connection import SNAPSHOT_LOST, Opened, opened
from engines.mongodb.metadata import Collection
from engines.mongodb.moment import Consistency, of_snapshot, plainly
from engines.mongodb.reading import Readers
from engines.mongodb.users import Accounts, accounts
from engines.mongodb.writing import DumpOut, archive_out, directory_out
from engines.run import Run

TOOL = f"flexdb (pymongo {pymongo.version})"
MOST_READERS = 16


@dataclass(frozen=True, slots=True)
class Source:
    """What was learned of the database before its dump."""

    server_version: str
    items: list[Collection]
    accounts: tuple[Accounts, ...]
    bytes: int
    left_out: tuple[str, ...]

    @property
    def prelude(self) -> Prelude:
        return Prelude(self.server_version, TOOL, (*self.items, *(found.item for found in self.accounts)))


@dataclass(frozen=True, slots=True)
class MongoDump:
    """One backup of one database."""

    target: Target
    options: BackupOptions
    out: ArtefactWriter
    run: Run
    free_bytes: Callable[[Path], int]
    counts: dict[str, int] = field(default_factory=dict)

    def make(self) -> Dump:
        address = Address.of(self.target)
        address.user_database()
        with opened(address, self.run.application_name, stop=self.run.stop) as found:
            source = self._look(found)
            consistency = of_snapshot(found, source.items)
            try:
                self._write(found, source, consistency)
            except OperationFailure as error:
                if error.code not in SNAPSHOT_LOST or consistency.at is None:
                    raise
                consistency = plainly(f"A snapshot was tried; the server gave it up (code {error.code}).")
                self._write(found, source, consistency)
            _refuse_changed(found, source.items)
        return self._describe(source, consistency)

    def _look(self, found: Opened) -> Source:
        listed = catalog.collections(found, self.run)
        catalog.refuse_missing(listed, found)
        items = catalog.choose(listed, self.options, found.address.database)
        if self.options.content == "data":
            items = [_bare(item) for item in items if item.kind != "view"]
        return Source(
            server_version=str(found.client.server_info()["version"]),
            items=items,
            accounts=accounts(found) if self.options.globals else (),
            bytes=int(found.database.command("dbStats").get("dataSize", 0)),
            left_out=catalog.left_out(found),
        )

    def _write(self, found: Opened, source: Source, consistency: Consistency) -> None:
        self.counts.clear()
        self.counts.update({item.name: 0 for item in source.items if item.data_in})
        with_documents = [item for item in source.items if item.data_in and self.options.content != "schema"]
        names = {item.name for item in with_documents}
        readers = max(1, min(self.options.jobs, MOST_READERS, len(with_documents)))
        with self._layout(source, readers) as (out, _):
            for item in source.items:
                if item.name not in names:
                    out.end(item)
            for one in source.accounts:
                out.take(one.item, one.documents)
                out.end(one.item)
            self._copy(Readers(found, consistency, with_documents, readers, self.run), source, out)

    @contextmanager
    def _layout(self, source: Source, readers: int) -> Iterator[tuple[DumpOut, Sink | None]]:
        name = self.target.connection
        if self.options.layout == "directory":
            with directory_out(self.out, name, source.prelude, self.run, source.bytes, self.free_bytes) as staged:
                yield staged
        else:
            with archive_out(self.out, name, source.prelude, readers) as archived:
                yield archived

    def _copy(self, readers: Readers, source: Source, out: DumpOut) -> None:
        done = 0
        for batch in readers.batches():
            if batch.last:
                out.end(batch.item)
            else:
                out.take(batch.item, batch.documents)
                done += len(batch.documents)
                self.counts[batch.item.name] += batch.number
            self.run.progress("dumping", done, max(source.bytes, done))
        self.run.stop.check()

    def _describe(self, source: Source, consistency: Consistency) -> Dump:
        exact = self.options.counts == "exact"
        objects = tuple(
            ObjectCount(name=item.name, kind=item.kind, rows=self.counts.get(item.name) if exact else None)
            for item in source.items
        )
        numbers = {found.item.name.removeprefix("$admin.system."): found.number for found in source.accounts}
        options: dict[str, Any] = {
            "include": list(self.options.include),
            "exclude": list(self.options.exclude),
            "jobs": self.options.jobs,
            "globals": self.options.globals,
            "content": self.options.content,
            "layout": self.options.layout,
            "database_bytes": source.bytes,
            "left_out": list(source.left_out),
            "structure_sha256": structure(source.items),
            **consistency.as_options(),
            **({"users": numbers["users"], "roles": numbers["roles"]} if numbers else {}),
        }
        return Dump(
            server_version=source.server_version,
            objects=objects,
            counts=self.options.counts,
            consistency=consistency.sentence,
            restore_by_hand=by_hand(self.out, self.target.database, globals_too=bool(numbers)),
            tool=Tool("pymongo", pymongo.version),
            options=options,
        )


def _bare(item: Collection) -> Collection:
    """Documents without definitions; a time-series collection's mean nothing without its options."""
    return item if item.kind == "time-series" else replace(item, options={}, indexes=())


def _refuse_changed(found: Opened, items: Sequence[Collection]) -> None:
    """A collection that was dropped while it was read looks like one with fewer documents."""
    now = {str(item["name"]): catalog.uuid_of(item) for item in catalog.everything(found)}
    for item in items:
        if now.get(item.name) != item.uuid:
            raise TargetBusy(f"Collection {item.name!r} was dropped, renamed or made anew while it was backed up.")


def structure(items: Sequence[Collection]) -> str:
    """SHA-256 over what the dump says of its collections, which no CRC of the format covers."""
    digest = hashlib.sha256()
    for item in sorted(items, key=lambda found: (found.database, found.name)):
        digest.update(item.as_json().encode() + b"\n")
    return digest.hexdigest()


def by_hand(out: ArtefactWriter, database: str, *, globals_too: bool) -> tuple[str, ...]:
    """The commands that restore without FlexDB, in the artefact's folder; fill in what is in capitals."""
    lines = [f"zstd -d {shlex.quote(file.name)}" for file in out.files if file.compression == "zstd"]
    names = {file.format: shlex.quote(file.name.removesuffix(".zst")) for file in out.files}
    to = f"--nsFrom={shlex.quote(database + '.*')} --nsTo='DATABASE.*'"
    users = f"  # with users and roles: --restoreDbUsersAndRoles --db={shlex.quote(database)} instead of --ns…"
    if directory.FORMAT in names:
        lines += ["mkdir dump", f"tar -xf {names[directory.FORMAT]} -C dump"]
        line = f"mongorestore --config=FILE_WITH_URI --stopOnError {to} dump"
    else:
        line = (
            f"mongorestore --config=FILE_WITH_URI --stopOnError {to} --archive={names.get(archive.FORMAT, 'ARCHIVE')}"
        )
    lines.append(line + (users if globals_too else ""))
    return tuple(lines)

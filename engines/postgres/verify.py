"""Proving a stored dump: reading all of it with pg_restore, and rehearsing its restore."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engines.artefacts.manifest import Evidence, ObjectCount, StoredFile
from engines.artefacts.reading import Artefact, damaged
from engines.assertions import Assertion
from engines.base import Target
from engines.command import Command, ToolOutput, feeding, reading
from engines.errors import FlexError, NoFittingClient, ToolFailed, VerificationImpossible
from engines.postgres import databases
from engines.postgres.archive import (
    DIRECTORY,
    GLOBALS,
    SQL,
    Archive,
    content_of,
    dump_file,
    dump_major,
    ready,
    unpack,
    unreadable,
)
from engines.postgres.asking import asked
from engines.postgres.catalog import Server
from engines.postgres.clients import Client, Clients
from engines.postgres.connection import Address, session
from engines.postgres.databases import Locale
from engines.postgres.load import Load, Owners
from engines.postgres.outline import Outline
from engines.postgres.plain import Blocks, PlainLoad
from engines.postgres.restore import count_objects, server_of
from engines.postgres.sessions import end_older
from engines.postgres.statements import UnreadableScriptError
from engines.run import Run

GLOBALS_END = b"PostgreSQL database cluster dump complete"
END_BYTES = 4096
FreeBytes = Callable[[Path], int]


def parse(artefact: Artefact, run: Run, clients: Clients) -> tuple[Evidence, ...]:
    """Level 2; raises `ArtefactDamaged` with evidence, `VerificationImpossible` without a pg_restore."""
    main = dump_file(artefact)
    if main.format == SQL:
        evidence = _read_script(artefact, main, run)
    else:
        evidence = _read_archive(artefact, main, _reader(artefact, run, clients), run)
    for file in artefact.manifest.files:
        if file.format == GLOBALS:
            evidence += _read_globals(artefact, file, run)
    return tuple(evidence)


def _reader(artefact: Artefact, run: Run, clients: Clients) -> Client:
    try:
        return clients.for_reading(dump_major(artefact, run))
    except NoFittingClient as error:
        raise VerificationImpossible(f"Level 2 needs a pg_restore: {error.message}", hint=error.hint) from error


def _digests(file: StoredFile) -> list[Evidence]:
    """What `open_raw` has checked by the time its end is reached."""
    return [
        Evidence(level=1, check="stored sha256", object=file.name, expected=file.sha256, found=file.sha256),
        Evidence(level=2, check="raw sha256", object=file.name, expected=file.raw_sha256, found=file.raw_sha256),
    ]


def _read_archive(artefact: Artefact, file: StoredFile, client: Client, run: Run) -> list[Evidence]:
    try:
        if file.format == DIRECTORY:
            _read_folder(artefact, file, client, run)
        else:
            with (
                artefact.open_raw(file, run, "verifying") as source,
                feeding(to_script(client), run) as into,
            ):
                into.take(source.read)
    except ToolFailed as error:
        if int(error.details.get("exit_code", -1)) < 0:  # killed, which says nothing about the archive
            raise
        raise unreadable(file, str(error.details["stderr"])) from error
    check = f"pg_restore {client.version} read all of it"
    seen = Evidence(level=2, check=check, object=file.name, expected=file.raw_bytes, found=file.raw_bytes)
    return [*_digests(file), seen]


def _read_folder(artefact: Artefact, file: StoredFile, client: Client, run: Run) -> None:
    folder = run.workspace / "parsed"
    try:
        unpack(artefact, file, folder, run)
        with reading(to_script(client, str(folder)), run) as script:
            _read_out(script, file, run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the workspace goes with the attempt anyway


def _read_out(script: ToolOutput, file: StoredFile, run: Run) -> None:
    """A script is about as long as what its archive holds uncompressed."""
    read = 0
    for data in script.chunks():
        read += len(data)
        run.progress("verifying", read, max(file.raw_bytes, read))


def to_script(client: Client, *archive: str) -> Command:
    """Turning the archive into a script nobody reads makes pg_restore read every byte of it."""
    return Command(client.path("pg_restore"), ("--file=-", *archive))


def _read_script(artefact: Artefact, file: StoredFile, run: Run) -> list[Evidence]:
    """A plain dump taken apart to its end, its rows compared with those the manifest tells."""
    try:
        with artefact.open_raw(file, run, "verifying") as source:
            outline = Outline.of(Blocks(source))
    except UnreadableScriptError as error:
        seen = Evidence(level=2, check="script", object=file.name, expected="whole", found=str(error), ok=False)
        raise damaged(f"{file.name} is no whole script: {error}.", seen) from error
    evidence = [
        *_digests(file),
        _same("script is complete", file.name, "whole", "whole" if outline.complete else "cut"),
        Evidence(level=2, check="statements read", object=file.name, found=outline.statements),
    ]
    if artefact.manifest.counts == "exact":
        found = {item.name: item.rows for item in outline.objects()}
        evidence += [
            _same("rows in the script", item.name, item.rows, found.get(item.name))
            for item in artefact.manifest.objects
            if item.rows is not None
        ]
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        raise damaged(
            f"{file.name}: {wrong[0].check}: expected {wrong[0].expected}, found {wrong[0].found}.", *evidence
        )
    return evidence


def _same(check: str, name: str, expected: int | str, found: int | str | None) -> Evidence:
    return Evidence(level=2, check=check, object=name, expected=expected, found=found, ok=expected == found)


def _read_globals(artefact: Artefact, file: StoredFile, run: Run) -> list[Evidence]:
    end = b""
    with artefact.open_raw(file, run, "verifying") as source:
        while data := source.read():
            end = (end + data)[-END_BYTES:]
    whole = GLOBALS_END in end
    seen = Evidence(
        level=2,
        check="script is complete",
        object=file.name,
        expected="whole",
        found="whole" if whole else "cut",
        ok=whole,
    )
    if not whole:
        raise damaged(f"{file.name} lacks the line that ends a complete script.", seen)
    return [*_digests(file), seen]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One restore into a scratch database, which is dropped in every case."""

    artefact: Artefact
    scratch: Target
    run: Run
    clients: Clients
    free_bytes: FreeBytes
    assertions: tuple[Assertion, ...] = ()

    @property
    def _base(self) -> Address:
        return Address.of(self.scratch)

    @property
    def _address(self) -> Address:
        return self._base.with_database(databases.scratch_name(self.run.job_id))

    def evidence(self) -> tuple[Evidence, ...]:
        """Level 3: objects and rows compared, then the assertions asked."""
        self._refuse_impossible()
        end_older(self._base, self.run)
        name = self._address.database
        try:
            databases.drop(self._base, name, self.run)
            self._restore()
            with session(self._address, self.run.application_name, seconds=0, stop=self.run.stop) as opened:
                found = count_objects(opened, self.run)
            compared = compare(self.artefact.manifest.objects, found)
            return compared + asked(self.assertions, self._address, self.run)
        except NoFittingClient as error:
            raise VerificationImpossible(f"Level 3: {error.message}", hint=error.hint) from error
        finally:
            with suppress(FlexError):  # unreachable now: the sweep drops it
                databases.drop(self._base, name, None)

    def _refuse_impossible(self) -> None:
        if self.artefact.manifest.counts != "exact":
            raise VerificationImpossible(
                "Level 3 compares row counts, and this backup was made without them.",
                hint="Back up with counts `exact`, or verify to level 2.",
            )
        if content_of(self.artefact) == "data":
            raise VerificationImpossible(
                "A backup of rows only cannot be restored into an empty scratch database: it has no tables.",
                hint="Verify it to level 2, or back up with content `all`.",
            )

    def _restore(self) -> None:
        """Everything but owners and grants."""
        server = server_of(self._base, self.run)
        with ready(self.artefact, self.run, self.free_bytes) as archive:
            databases.create(
                self._base, self._address.database, Locale.recorded(self.artefact.manifest.options), self.run
            )
            try:
                self._load(archive, server).carry_out()
            except ToolFailed as error:
                raise _rehearsal_failed(archive.file, error) from error

    def _load(self, archive: Archive, server: Server) -> Load | PlainLoad:
        owners = Owners(kept=False)
        if archive.file.format == SQL:
            return PlainLoad(archive, self._address, server, self.run, owners)
        tls = server.tls or self._base.wants_tls
        client = self.clients.for_restore(server.major, dump_major(self.artefact, self.run), tls=tls)
        jobs = 2 if archive.path is not None else 1
        return Load(archive, self._address, client, server, self.run, owners, jobs)


_NOT_ITS_FAULT = re.compile(
    r"No space left|permission denied|must be superuser|is not available|extension control file"
    r"|does not exist"
)
"""What a scratch server lacks, or a dump of chosen tables leaves out by intention."""


def _rehearsal_failed(file: StoredFile, error: ToolFailed) -> FlexError:
    """Whether the artefact is to blame for a failed restore, or the place it was tried in."""
    if int(error.details.get("exit_code", -1)) < 0:  # killed, which says nothing of either
        return error
    words = str(error.details["stderr"])[-500:]
    if _NOT_ITS_FAULT.search(words):
        return VerificationImpossible(
            f"The scratch database cannot take the backup: {words}",
            hint="Give the scratch server what is missing, or name another; a backup of chosen tables "
            "lacks what they depend on.",
        )
    seen = Evidence(level=3, check="restore", object=file.name, expected="success", found=words, ok=False)
    return damaged(f"The backup cannot be restored into a scratch database: {words}", seen)


def compare(expected: tuple[ObjectCount, ...], found: tuple[ObjectCount, ...]) -> tuple[Evidence, ...]:
    """Evidence per object of the manifest and per object that is there too many; raises `ArtefactDamaged`."""
    there: Mapping[tuple[str, str], ObjectCount] = {(item.name, item.kind): item for item in found}
    evidence = [_compared(item, there.get((item.name, item.kind))) for item in expected]
    known = {(item.name, item.kind) for item in expected}
    evidence += [
        Evidence(level=3, check="present", object=item.name, expected="absent", found=item.kind, ok=False)
        for key, item in there.items()
        if key not in known
    ]
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        first = wrong[0]
        raise damaged(
            f"{len(wrong)} object(s) differ after a restore; {first.object}: "
            f"expected {first.expected}, found {first.found}.",
            *evidence,
        )
    return tuple(evidence)


def _compared(expected: ObjectCount, found: ObjectCount | None) -> Evidence:
    if found is None:
        return Evidence(
            level=3, check="present", object=expected.name, expected=expected.kind, found="absent", ok=False
        )
    if expected.rows is None:
        return Evidence(level=3, check="present", object=expected.name, expected=expected.kind, found=found.kind)
    same = expected.rows == found.rows
    return Evidence(level=3, check="rows", object=expected.name, expected=expected.rows, found=found.rows, ok=same)

"""Proving a stored dump: reading all of it with pg_restore, and rehearsing its restore."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from engines.artefacts.manifest import Evidence, ObjectCount, StoredFile
from engines.artefacts.reading import Artefact, damaged
from engines.base import Target
from engines.command import Command, carry_out, feeding
from engines.errors import FlexError, NoFittingClient, ToolFailed, VerificationImpossible
from engines.postgres import databases
from engines.postgres.archive import DIRECTORY, GLOBALS, dump_file, dump_major, ready, unpack, unreadable
from engines.postgres.clients import Client, Clients
from engines.postgres.connection import Address, session
from engines.postgres.databases import Locale
from engines.postgres.load import Load, Owners
from engines.postgres.restore import count_objects, server_of
from engines.postgres.sessions import end_older
from engines.run import Run

GLOBALS_END = b"PostgreSQL database cluster dump complete"
END_BYTES = 4096
FreeBytes = Callable[[Path], int]


def parse(artefact: Artefact, run: Run, clients: Clients) -> tuple[Evidence, ...]:
    """Level 2; raises `ArtefactDamaged` with evidence, `VerificationImpossible` without a pg_restore."""
    try:
        client = clients.for_reading(dump_major(artefact, run))
    except NoFittingClient as error:
        raise VerificationImpossible(f"Level 2 needs a pg_restore: {error.message}", hint=error.hint) from error
    evidence: list[Evidence] = []
    for file in artefact.manifest.files:
        if file.format == GLOBALS:
            evidence += _read_globals(artefact, file, run)
        elif file == dump_file(artefact):
            evidence += _read_archive(artefact, file, client, run)
    return tuple(evidence)


def _digests(file: StoredFile) -> list[Evidence]:
    """What `open_raw` has checked by the time its end is reached."""
    return [
        Evidence(level=1, check="stored sha256", object=file.name, expected=file.sha256, found=file.sha256),
        Evidence(level=2, check="raw sha256", object=file.name, expected=file.raw_sha256, found=file.raw_sha256),
    ]


def _read_archive(artefact: Artefact, file: StoredFile, client: Client, run: Run) -> list[Evidence]:
    try:
        if file.format == DIRECTORY:
            folder = run.workspace / "parsed"
            unpack(artefact, file, folder, run)
            carry_out(_to_script(client, str(folder)), run, lambda: run.stop.check())
        else:
            with (
                artefact.open_raw(file, run, "verifying") as source,
                feeding(_to_script(client), run) as into,
            ):
                into.take(source.read)
    except ToolFailed as error:
        if int(error.details.get("exit_code", -1)) < 0:  # killed, which says nothing about the archive
            raise
        raise unreadable(file, str(error.details["stderr"])) from error
    check = f"pg_restore {client.version} read all of it"
    seen = Evidence(level=2, check=check, object=file.name, expected=file.raw_bytes, found=file.raw_bytes)
    return [*_digests(file), seen]


def _to_script(client: Client, *archive: str) -> Command:
    """Turning the archive into a script nobody reads makes pg_restore read every byte of it."""
    return Command(client.path("pg_restore"), ("--file=-", *archive))


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


def rehearse(
    artefact: Artefact, scratch: Target, run: Run, clients: Clients, free_bytes: FreeBytes
) -> tuple[Evidence, ...]:
    """Level 3; the scratch database is dropped in every case."""
    if artefact.manifest.counts != "exact":
        raise VerificationImpossible(
            "Level 3 compares row counts, and this backup was made without them.",
            hint="Back up with counts `exact`, or verify to level 2.",
        )
    name = databases.scratch_name(run.job_id)
    address = Address.of(scratch).with_database(name)
    base = Address.of(scratch)
    end_older(base, run)
    try:
        databases.drop(base, name, run)
        found = _restored(artefact, base, address, run, clients, free_bytes)
    except NoFittingClient as error:
        raise VerificationImpossible(f"Level 3: {error.message}", hint=error.hint) from error
    finally:
        with suppress(FlexError):  # unreachable now: the sweep drops it
            databases.drop(base, name, None)
    return compare(artefact.manifest.objects, found)


def _restored(
    artefact: Artefact, base: Address, address: Address, run: Run, clients: Clients, free_bytes: FreeBytes
) -> tuple[ObjectCount, ...]:
    """What is in the scratch database after a restore of everything but owners and grants."""
    server = server_of(base, run)
    client = clients.for_restore(server.major, dump_major(artefact, run), tls=server.tls or base.wants_tls)
    with ready(artefact, run, free_bytes) as archive:
        databases.create(base, address.database, Locale.recorded(artefact.manifest.options), run)
        jobs = 2 if archive.path is not None else 1
        try:
            Load(archive, address, client, server, run, Owners(kept=False), jobs).carry_out()
        except ToolFailed as error:
            raise _rehearsal_failed(archive.file, error) from error
    with session(address, run.application_name, seconds=0, stop=run.stop) as opened:
        return count_objects(opened, run)


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

"""Proving a stored dump: reading all of it statement by statement, and rehearsing its restore."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from engines.artefacts.manifest import Evidence, ObjectCount, StoredFile
from engines.artefacts.reading import Artefact, damaged, proven
from engines.assertions import Assertion, judged
from engines.base import Target
from engines.errors import (
    FlexError,
    NoFittingClient,
    ToolFailed,
    UnsupportedOperation,
    VerificationImpossible,
)
from engines.mysql import again, catalog, databases
from engines.mysql.address import Address
from engines.mysql.asking import asked
from engines.mysql.catalog import Charset
from engines.mysql.clients import Clients
from engines.mysql.contents import Contents, Reader, shown
from engines.mysql.load import Changes, Load, dump_file, refuse_rows_only, source_of, unreadable
from engines.mysql.restore import Place, end_older, look
from engines.mysql.script import UnreadableScriptError
from engines.mysql.session import session
from engines.run import Run


def parse(artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
    """Level 2; raises `ArtefactDamaged` with evidence."""
    evidence: list[Evidence] = []
    for file in artefact.manifest.files:
        contents = _read(artefact, file, run)
        evidence += proven(file)
        if file == dump_file(artefact):
            evidence += _held_against(artefact, contents)
        whole = "every statement whole, end mark there"
        evidence.append(Evidence(level=2, check="script is whole", object=file.name, expected=whole, found=whole))
    return tuple(evidence)


def _read(artefact: Artefact, file: StoredFile, run: Run) -> Contents:
    reader = Reader()
    with artefact.open_raw(file, run, "verifying") as source:
        broken: UnreadableScriptError | None = None
        while data := source.read():
            try:
                if broken is None:
                    reader.feed(data)
            except UnreadableScriptError as error:  # the digests, known at the end, may explain it
                broken = error
    try:
        if broken is not None:
            raise broken
        return reader.finish()
    except UnreadableScriptError as error:
        raise unreadable(file, error) from error


def _held_against(artefact: Artefact, contents: Contents) -> tuple[Evidence, ...]:
    """The manifest's objects against those of the script; what a hand-made manifest does not list is no damage."""
    counted = artefact.manifest.counts == "exact" and artefact.manifest.options.get("content") != "schema"
    return compare(artefact.manifest.objects, contents.objects(counted=counted), level=2, what="the dump holds")


def rehearse(
    artefact: Artefact, scratch: Target, run: Run, clients: Clients, assertions: tuple[Assertion, ...]
) -> tuple[Evidence, ...]:
    """Level 3; the scratch database is dropped in every case."""
    if artefact.manifest.counts != "exact":
        raise VerificationImpossible(
            "Level 3 compares row counts, and this backup was made without them.",
            hint="Back up with counts `exact`, or verify to level 2.",
        )
    refuse_rows_only(artefact, VerificationImpossible)
    address = Address.of(scratch).with_database(databases.scratch_name(run.job_id))
    end_older(address, run)
    artefact.check(run)
    try:
        databases.drop(address, address.database, run)
        evidence = _restored(artefact, address, run, clients)
        return (*evidence, *judged(assertions, lambda assertion: asked(assertion, address, run)))
    finally:
        with suppress(FlexError):  # unreachable now: the sweep drops it
            databases.drop(address, address.database, None)


def _restored(artefact: Artefact, address: Address, run: Run, clients: Clients) -> tuple[Evidence, ...]:
    with session(address, run.application_name, stop=run.stop) as opened:
        try:
            place: Place = look(opened, artefact, address, clients)
        except (NoFittingClient, UnsupportedOperation) as error:
            raise VerificationImpossible(f"Level 3: {error.message}", hint=error.hint) from error
        databases.create(opened, address.database, Charset.recorded(artefact.manifest.options))
    changes = Changes(source_of(artefact), address.database, definers=place.definers)
    stored = again.normal(source_of(artefact))
    try:
        Load(artefact, address, place.program, run, changes, stored).carry_out()
    except ToolFailed as error:
        raise _rehearsal_failed(dump_file(artefact), error) from error
    with session(address, run.application_name, seconds=0, stop=run.stop) as opened:
        found = catalog.objects(
            opened, address.database, lambda done, of: run.progress("counting rows", done, of, "tables")
        )
    over = {("event", shown(name)) for name in changes.ending} - {(item.kind, item.name) for item in found}
    expected = tuple(item for item in artefact.manifest.objects if (item.kind, item.name) not in over)
    evidence = compare(expected, found, level=3, what="a restore brings")
    return (*evidence, *_same_content(artefact, stored, address, place, clients, run))


def _same_content(
    artefact: Artefact, stored: Contents, address: Address, place: Place, clients: Clients, run: Run
) -> tuple[Evidence, ...]:
    """Evidence that every object is what it was; none where programs or servers differ, or definers were left out."""
    program = clients.dumper(place.server.release)
    if not place.definers or not again.comparable(artefact.manifest, place.server, program):
        return ()
    content = str(artefact.manifest.options.get("content", "all"))
    evidence = again.compared(stored, again.dumped_again(address, program, content, run))
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        raise damaged(f"{len(wrong)} object(s) came back otherwise than they are stored; {wrong[0].object}.", *evidence)
    return tuple(evidence)


def _rehearsal_failed(file: StoredFile, error: ToolFailed) -> FlexError:
    """A client that was killed says nothing of the artefact; one that met an error does."""
    words = str(error.details.get("stderr", ""))[-500:]
    if int(error.details.get("exit_code", -1)) < 0 or "ERROR 1114" in words or "ERROR 1021" in words:
        return error
    seen = Evidence(level=3, check="restore", object=file.name, expected="success", found=words, ok=False)
    return damaged(f"The backup cannot be restored into a scratch database: {words}", seen)


def compare(
    expected: tuple[ObjectCount, ...], found: tuple[ObjectCount, ...], *, level: int, what: str
) -> tuple[Evidence, ...]:
    """Evidence per object of the manifest and per object that is there too many; raises `ArtefactDamaged`."""
    there: Mapping[tuple[str, str], ObjectCount] = {(item.name, item.kind): item for item in found}
    evidence = [_compared(item, there.get((item.name, item.kind)), level) for item in expected]
    known = {(item.name, item.kind) for item in expected}
    evidence += [
        Evidence(level=level, check="present", object=item.name, expected="absent", found=item.kind, ok=False)
        for key, item in there.items()
        if key not in known
    ]
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        first = wrong[0]
        raise damaged(
            f"{len(wrong)} object(s) differ from what {what}; {first.object}: "
            f"expected {first.expected}, found {first.found}.",
            *evidence,
        )
    return tuple(evidence)


def _compared(expected: ObjectCount, found: ObjectCount | None, level: int) -> Evidence:
    if found is None:
        return Evidence(
            level=level, check="present", object=expected.name, expected=expected.kind, found="absent", ok=False
        )
    if expected.rows is None:
        return Evidence(level=level, check="present", object=expected.name, expected=expected.kind, found=found.kind)
    same = expected.rows == found.rows
    return Evidence(level=level, check="rows", object=expected.name, expected=expected.rows, found=found.rows, ok=same)

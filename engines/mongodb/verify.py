"""Proving a stored dump: walking all of it, and rehearsing its restore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bson import json_util
from bson.errors import BSONError
from pymongo.errors import OperationFailure

from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import Artefact, damaged, proven
from engines.assertions import Answer, Assertion, judged
from engines.base import Target
from engines.errors import (
    AccessDenied,
    FlexError,
    InvalidAssertion,
    ToolFailed,
    UnsupportedOperation,
    VerificationImpossible,
)
from engines.mongodb import catalog, sessions, stored
from engines.mongodb.address import Address, scratch_name
from engines.mongodb.connection import LONG_SECONDS, Opened, code_of, opened, raw_batches
from engines.mongodb.documents import Fingerprint
from engines.mongodb.dump import structure
from engines.mongodb.load import DUPLICATE_KEY, Loader, wanted_indexes, without_expiry
from engines.mongodb.metadata import BUCKETS, CANONICAL, Collection
from engines.mongodb.stored import Stored, reading
from engines.mongodb.switching import make_time_series
from engines.run import Run

ASKING_SECONDS = 600
BAD_VALUE = frozenset({2, 9, 14, 40, 51, 168, 5107200})


def parse(artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
    """Level 2; raises `ArtefactDamaged` with evidence."""
    with reading(artefact, run, "verifying") as dump:
        items = stored.user_collections(dump.prelude)
        counts = {(item.database, item.name): 0 for item in items}
        for item, block in dump.of(set(counts)):
            counts[(item.database, item.name)] += block.number
    evidence = [
        *proven(dump.file),
        *_counted(artefact, counts, level=2),
        *_structure(artefact, items, dump),
    ]
    _refuse(evidence, "differ from the manifest")
    return tuple(evidence)


def _counted(artefact: Artefact, counts: dict[tuple[str, str], int], level: int) -> list[Evidence]:
    """Documents walked over, against the manifest's counts where it has any."""
    by_name = {name: number for (_, name), number in counts.items()}
    found = []
    for item in artefact.manifest.objects:
        if item.rows is None:
            continue
        number = counts.get((item.database, item.name)) if item.database else by_name.get(item.name)
        same = number == item.rows
        found.append(
            Evidence(level=level, check="rows", object=_shown(item), expected=item.rows, found=number, ok=same)
        )
    return found


def _structure(artefact: Artefact, items: Sequence[Collection], dump: Stored) -> list[Evidence]:
    """Options and indexes, which no checksum of the format covers; adopted dumps have no digest of them."""
    expected = artefact.manifest.options.get("structure_sha256")
    found = structure(items)
    if not isinstance(expected, str):
        return []
    return [
        Evidence(
            level=2,
            check="options and indexes sha256",
            object=dump.file.name,
            expected=expected,
            found=found,
            ok=found == expected,
        )
    ]


def _shown(item: ObjectCount) -> str:
    return f"{item.database}.{item.name}" if item.database else item.name


def _refuse(evidence: Sequence[Evidence], what: str) -> None:
    wrong = [item for item in evidence if not item.ok]
    if wrong:
        first = wrong[0]
        raise damaged(
            f"{len(wrong)} object(s) {what}; {first.object}: {first.check} should be {first.expected}, "
            f"found {first.found}.",
            *evidence,
        )


@dataclass(slots=True)
class Rehearsal:
    """One restore into the scratch database, of each of the dump's databases in turn."""

    artefact: Artefact
    address: Address
    run: Run
    assertions: tuple[Assertion, ...]
    evidence: list[Evidence] = field(default_factory=list)

    def make(self) -> tuple[Evidence, ...]:
        """Raises `ArtefactDamaged`, `AssertionFailed`, `VerificationImpossible`."""
        if self.artefact.manifest.counts != "exact":
            raise VerificationImpossible(
                "Level 3 compares document counts, and this backup was made without them.",
                hint="Back up with counts `exact`, or verify to level 2.",
            )
        with reading(self.artefact, self.run, "looking") as dump:
            names = stored.databases(dump.prelude)
        self.artefact.check(self.run)
        named, stop = self.run.application_name, self.run.stop
        with (
            opened(self.address, named, stop=stop) as found,
            opened(self.address, named, stop=stop, seconds=LONG_SECONDS) as slow,
        ):
            for name in names or ("",):
                self._of_one(found, slow, name, asked=len(names) <= 1)
        return tuple(self.evidence)

    def _of_one(self, found: Opened, slow: Opened, name: str, *, asked: bool) -> None:
        found.client.drop_database(self.address.database)
        try:
            items, walked, raw = self._load(found, slow, name)
            _refuse(self._compare(found, name, items, walked, raw), "differ after a restore")
            if asked and self.assertions:
                self.evidence += judged(self.assertions, lambda one: ask(slow, one))
            elif self.assertions:
                raise VerificationImpossible("Assertions are asked of one database, and this dump holds several.")
        finally:
            with suppress(FlexError):
                sessions.drop_quietly(self.address, self.address.database)

    def _load(
        self, found: Opened, slow: Opened, name: str
    ) -> tuple[list[Collection], dict[str, Fingerprint], set[str]]:
        with reading(self.artefact, self.run, "rehearsing") as dump:
            items = [item for item in stored.user_collections(dump.prelude) if item.database == name]
            walked = {item.name: Fingerprint() for item in items if item.kind != "view"}
            keys = {(item.database, item.name) for item in items if item.kind != "view"}
            collections = [without_expiry(item) for item in items if item.kind == "collection"]
            series = [without_expiry(item) for item in items if item.kind == "time-series"]
            loader = Loader(found, self.run, {key: key[1] for key in keys})
            loader.create(collections)
            for item in series:
                make_time_series(found.database, item)
            loader.load(_into_buckets(dump, keys, loader), lambda item, data: walked[item.name].add(data))
            loader.index(collections, slow)
            for item in items:
                if item.kind == "view":
                    found.database.command({"create": item.name, **item.options})
        return items, walked, dump.raw

    def _compare(
        self, found: Opened, name: str, items: list[Collection], walked: dict[str, Fingerprint], raw: set[str]
    ) -> list[Evidence]:
        manifest = {item.name: item for item in self.artefact.manifest.objects if item.database in {None, name}}
        there = {item.name for item in catalog.listed(found)}
        evidence: list[Evidence] = []
        for number, item in enumerate(items):
            self.run.progress("comparing", number, len(items), "collections")
            told = manifest.pop(item.name, None)
            evidence += self._compared(found, item, told, walked.get(item.name), item.name in there, item.name in raw)
        evidence += [
            Evidence(level=3, check="present", object=one.name, expected=one.kind, found="absent", ok=False)
            for one in manifest.values()
        ]
        self.evidence += evidence
        return evidence

    def _compared(
        self,
        found: Opened,
        item: Collection,
        told: ObjectCount | None,
        walked: Fingerprint | None,
        there: bool,
        raw: bool,
    ) -> Iterable[Evidence]:
        if told is None or not there:
            expected = item.kind if there else "absent"
            yield Evidence(
                level=3,
                check="present",
                object=item.name,
                expected=expected,
                found="absent" if not there else item.kind,
                ok=False,
            )
            return
        if walked is None:
            yield Evidence(level=3, check="present", object=item.name, expected=item.kind, found=item.kind)
            return
        read = _fingerprint(found, BUCKETS + item.name if raw else item.name, self.run)
        rows = told.rows
        yield Evidence(
            level=3, check="rows", object=item.name, expected=rows, found=read.number, ok=rows == read.number
        )
        if item.kind == "collection":  # time-series may come back with their fields in another order
            same = walked.hexdigest() == read.hexdigest()
            if rows == read.number or not same:
                yield Evidence(
                    level=3,
                    check="documents",
                    object=item.name,
                    expected=walked.hexdigest(),
                    found=read.hexdigest(),
                    ok=same,
                )
            yield _indexes(found, item)


def _into_buckets(dump: Stored, keys: set[tuple[str, str]], loader: Loader) -> Iterable[tuple[Collection, Any]]:
    """Time-series that came as buckets go into the buckets."""
    for item, block in dump.of(keys):
        if item.name in dump.raw:
            loader.named = {**loader.named, (item.database, item.name): BUCKETS + item.name}
        yield item, block


def _fingerprint(found: Opened, name: str, run: Run) -> Fingerprint:
    read = Fingerprint()
    for documents in raw_batches(found.database[name]):
        run.stop.check()
        read.add(documents)
    return read


def _indexes(found: Opened, item: Collection) -> Evidence:
    expected = sorted(str(index.get("name")) for index in wanted_indexes(item))
    names = {str(index["name"]) for index in found.database[item.name].list_indexes()}
    missing = [name for name in expected if name not in names]
    seen = f"lacks {missing[0]}" if missing else len(expected)
    return Evidence(level=3, check="indexes", object=item.name, expected=len(expected), found=seen, ok=not missing)


def rehearse(artefact: Artefact, scratch: Target, run: Run, assertions: tuple[Assertion, ...]) -> tuple[Evidence, ...]:
    """Level 3; the scratch database is dropped in every case."""
    address = Address.of(scratch).with_database(scratch_name(run.job_id))
    sessions.end_older(Address.of(scratch), run)
    try:
        return Rehearsal(artefact, address, run, assertions).make()
    except AccessDenied as error:
        raise VerificationImpossible(f"Level 3 needs a scratch database: {error.message}", hint=error.hint) from error
    except ToolFailed as error:
        raise _rehearsal_failed(artefact, error) from error


def _rehearsal_failed(artefact: Artefact, error: ToolFailed) -> FlexError:
    """Whether the artefact is to blame for a failed restore, or the server it was tried on."""
    if error.__cause__ is None or code_of(error.__cause__) != DUPLICATE_KEY:
        return VerificationImpossible(
            f"The scratch server cannot take the backup: {error.message}",
            hint="Name a scratch connection of the server's own kind and version.",
        )
    file = stored.dump_file(artefact)
    seen = Evidence(level=3, check="restore", object=file.name, expected="success", found=error.message[:300], ok=False)
    return damaged(f"The backup cannot be restored into a scratch database: {error.message}", seen)


def ask(found: Opened, assertion: Assertion) -> Answer:
    """How many documents of a collection match a filter, written as Extended JSON."""
    if assertion.collection is None:
        raise UnsupportedOperation(
            f"The assertion {assertion.name!r} is SQL; MongoDB is asked with `collection` and `filter`.",
            hint="Write the assertion with `collection` and `filter`.",
        )
    _refuse_unknown(found, assertion)
    try:
        query = json_util.loads(json_util.dumps(assertion.filter or {}), json_options=CANONICAL)
        with found.session() as session:
            return found.database[assertion.collection].count_documents(
                query, session=session, maxTimeMS=ASKING_SECONDS * 1000
            )
    except OperationFailure as error:
        if error.code in BAD_VALUE:
            words = str((error.details or {}).get("errmsg", error))[:200]
            raise InvalidAssertion(f"MongoDB does not understand the assertion {assertion.name!r}: {words}") from error
        raise
    except (BSONError, ValueError, TypeError) as error:
        raise InvalidAssertion(f"The filter of the assertion {assertion.name!r} is not Extended JSON.") from error


def _refuse_unknown(found: Opened, assertion: Assertion) -> None:
    """Counting what is not there gives 0, which may be just what was hoped for."""
    names = {item.name for item in catalog.listed(found)}
    if assertion.collection not in names:
        raise InvalidAssertion(
            f"The assertion {assertion.name!r} asks about {assertion.collection!r}, which the backup does not hold."
        )

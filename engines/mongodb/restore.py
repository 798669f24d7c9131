"""Restoring a dump into a database: loaded beside what is there, then switched into place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pymongo

from engines.artefacts.manifest import ObjectCount
from engines.artefacts.reading import Artefact
from engines.base import Restored, RestoreOptions, Target, Tool
from engines.errors import TargetNotEmpty
from engines.mongodb import catalog, stored, switching
from engines.mongodb.address import Address
from engines.mongodb.connection import LONG_SECONDS, Opened, opened
from engines.mongodb.load import EXPIRY, Loader, creation, dropping_on_failure
from engines.mongodb.metadata import Collection
from engines.mongodb.stored import reading
from engines.run import Run


@dataclass(slots=True)
class MongoRestore:
    """One restore of one backup."""

    artefact: Artefact
    target: Target
    options: RestoreOptions
    run: Run
    notes: list[str] = field(default_factory=list)

    def make(self) -> Restored:
        address = Address.of(self.target)
        address.user_database()
        self.artefact.check(self.run)
        name, stop = self.run.application_name, self.run.stop
        with opened(address, name, stop=stop) as found, opened(address, name, stop=stop, seconds=LONG_SECONDS) as slow:
            if self._finished_earlier(found, slow):
                return self._restored(slow, None)
            self._refuse_not_empty(found)
            return self._restored(slow, self._load_and_switch(found, slow))

    def _finished_earlier(self, found: Opened, slow: Opened) -> bool:
        """Put away what an earlier attempt left: a switch that was begun is finished, anything else goes."""
        mine = [item for item in switching.own(found.database) if item.job_id == self.run.job_id]
        if any(item.token is None for item in mine) and switching.is_decided(found, self.run.job_id):
            self.run.point_of_no_return()
            switching.finish(slow, self.run.job_id)
            self.notes.append("An earlier attempt had loaded everything; this one put it in place.")
            return True
        for item in mine:
            if item.token is None or item.token < self.run.token:
                found.database.drop_collection(item.name)
        if self.run.attempt > 1 and self.options.mode == "create" and self._is_there(slow):
            self.notes.append("An earlier attempt of this job had restored it.")
            return True
        return False

    def _is_there(self, found: Opened) -> bool:
        """Whether the target holds just what the backup does, by names, kinds and counts."""
        there = count_objects(found, self.run) if catalog.everything(found) else ()
        wanted = catalog.chosen(self._objects(), self.options.include)
        counts, going = {(item.name, item.kind): item.rows for item in there}, _expiring(found)
        return (
            bool(wanted)
            and counts.keys() == {(item.name, item.kind) for item in wanted}
            and all(
                counts[item.name, item.kind] == item.rows
                or (item.name in going and (counts[item.name, item.kind] or 0) < (item.rows or 0))  # too old since
                for item in wanted
            )
        )

    def _objects(self) -> tuple[ObjectCount, ...]:
        return planned(self.artefact, self.target, RestoreOptions())

    def _refuse_not_empty(self, found: Opened) -> None:
        if self.options.mode != "create":
            return
        names = sorted(str(item["name"]) for item in catalog.everything(found))
        if names:
            raise TargetNotEmpty(
                f"Database {found.address.database!r} is not empty: it holds {names[0]!r}"
                + (" and more." if len(names) > 1 else "."),
                details={"objects": names[:10]},
            )

    def _load_and_switch(self, found: Opened, slow: Opened) -> list[Collection]:
        with reading(self.artefact, self.run, "restoring") as dump:
            items = chosen(stored.meant(dump.prelude, self.target.database), self.options.include)
            keys = [(item.database, item.name) for item in items if item.kind != "view"]
            named = {
                key: switching.loading_name(self.run.job_id, self.run.token, number) for number, key in enumerate(keys)
            }
            with dropping_on_failure(lambda: switching.drop_loaded(found, self.run.job_id, named.values())):
                loader = Loader(found, self.run, named, self.options.jobs)
                loader.create(items, plain=True)
                loader.load(dump.of(set(keys)), lambda _item, _documents: None)
                loader.index([item for item in items if item.kind == "collection"], slow)
                self._begin_switch(slow, items, named, dump.raw)
        switching.finish(slow, self.run.job_id)
        self._note(items, loader)
        return items

    def _begin_switch(
        self, found: Opened, items: list[Collection], named: dict[tuple[str, str], str], raw: set[str]
    ) -> None:
        replaces = self.options.mode == "replace"
        names = {item.name for item in items}
        there = {str(item["name"]) for item in catalog.everything(found)}
        drops = sorted(there - names) if replaces and not self.options.include else []
        self.run.progress("switching", 0, len(items), "collections")
        switching.try_definitions(found, items, self._spare_name(len(items)))
        self._refuse_not_empty(found)
        todo = switching.steps(items, named, drops, raw=raw, copied=self._copied(found, items))
        self.run.point_of_no_return()
        switching.begin(found, self.run.job_id, todo, replaces=replaces)

    def _spare_name(self, number: int) -> str:
        return switching.loading_name(self.run.job_id, self.run.token, number)

    def _copied(self, found: Opened, items: list[Collection]) -> set[str]:
        """The collections that lose their options by a rename on this server."""
        with_options = {item.name for item in items if item.kind == "collection" and creation(item)}
        if not with_options:
            return set()
        keeps = switching.rename_keeps_options(found, self._spare_name(len(items)))
        return set() if keeps else with_options

    def _note(self, items: Sequence[Collection], loader: Loader) -> None:
        self.notes += [
            f"{number} document(s) of {name!r} came twice in the backup, which was read while they were written; "
            "the first was kept."
            for name, number in sorted(loader.duplicates.items())
        ]
        if self.options.mode == "replace":
            self.notes.append(
                "Collections were replaced one after the other, each at once; MongoDB cannot switch a whole database."
            )
            if self.options.include:
                self.notes.append("Collections that were not chosen were left as they are.")
        if any(item.kind == "time-series" for item in items):
            self.notes.append(
                "Time-series collections cannot be renamed: they were made anew and filled at the switch."
            )
        if self.artefact.manifest.options.get("users") or self.artefact.manifest.options.get("roles"):
            self.notes.append("Users and roles in the backup were not restored; see restore_by_hand.")

    def _restored(self, found: Opened, items: list[Collection] | None) -> Restored:
        wanted = None if items is None else {item.name for item in items}
        objects = tuple(item for item in count_objects(found, None) if wanted is None or item.name in wanted)
        self.notes += self._differences(objects)
        self.notes += [
            f"The server deletes documents of {name!r} by their age, within a minute and as the index {index!r} says."
            for name, index in sorted(_expiring(found).items())
            if wanted is None or name in wanted
        ][:20]
        return Restored(found.address.database, objects, tuple(self.notes), Tool("pymongo", pymongo.version))

    def _differences(self, objects: tuple[ObjectCount, ...]) -> list[str]:
        """A note, not a failure: the archive was checked by its digests; level 3 is where a difference is damage."""
        expected = {item.name: item.rows for item in self._objects()}
        return [
            f"{item.name} had {expected[item.name]} documents at the backup and has {item.rows} now."
            for item in objects
            if expected.get(item.name) is not None and expected[item.name] != item.rows and item.kind == "collection"
        ][:20]


def _expiring(found: Opened) -> dict[str, str]:
    """Collections whose documents the server deletes for their age, with the index that says when."""
    return {
        item.name: str(index["name"])
        for item in catalog.listed(found)
        if item.kind == "collection"
        for index in found.database[item.name].list_indexes()
        if EXPIRY in index
    }


def chosen(items: Sequence[Collection], include: Sequence[str]) -> list[Collection]:
    """Raises `TargetMissing` for a pattern that means nothing of the backup."""
    objects = tuple(ObjectCount(name=item.name) for item in items)
    kept = {item.name for item in catalog.chosen(objects, include)}
    return [item for item in items if item.name in kept]


def planned(artefact: Artefact, target: Target, options: RestoreOptions) -> tuple[ObjectCount, ...]:
    """What of the manifest a restore into the target's database is about."""
    objects = artefact.manifest.objects
    several = {item.database for item in objects if item.database}
    if len(several) > 1:
        objects = tuple(item for item in objects if item.database == target.database)
    return catalog.chosen(objects, options.include)


def count_objects(found: Opened, run: Run | None) -> tuple[ObjectCount, ...]:
    """Every collection of the database with its documents counted, as the manifest lists them."""
    listed = sorted(_kinds(found))
    counted = []
    for number, (name, kind, data_in) in enumerate(listed):
        if run is not None:
            run.progress("counting documents", number, len(listed), "collections")
        rows = found.database[data_in].count_documents({}) if data_in else None
        counted.append(ObjectCount(name=name, kind=kind, rows=rows))
    return tuple(counted)


def _kinds(found: Opened) -> Iterator[tuple[str, str, str]]:
    for item in catalog.listed(found):
        yield item.name, item.kind, item.data_in

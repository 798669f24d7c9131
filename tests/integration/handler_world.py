"""Handlers called as plain functions: a real store, real engines, a catalogue that is a dictionary."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engines.artefacts.reading import read_manifest
from engines.errors import UnknownBackup
from engines.registry import EngineRegistry
from engines.run import Progress, Run, StopToken
from engines.sample import make_sample_shop
from engines.storage.local import LocalStore
from handlers.base import Outcome, Published, Verified
from handlers.ports import CatalogueEntry
from handlers.registry import build_calculator, build_handlers
from service.connections import NamedConnections, NamedStores
from service.jobs import new_id
from tests.integration.supplied import supplies_of


class DictCatalogue:
    """`handlers.ports.Catalogue` without a ledger."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.entries: dict[str, CatalogueEntry] = {}

    def backup(self, backup_id: str) -> CatalogueEntry:
        try:
            return self.entries[backup_id]
        except KeyError:
            raise UnknownBackup(f"There is no backup {backup_id!r}.") from None

    def find(
        self,
        *,
        connection: str | None,
        labels: Mapping[str, str],
        min_level: int,
        whole: Collection[bool | None],
        limit: int,
    ) -> list[CatalogueEntry]:
        found = [
            entry
            for entry in reversed(self.entries.values())
            if connection in (None, entry.manifest.connection)
            and entry.level >= min_level
            and entry.manifest.whole in whole
            and entry.listed
            and not entry.damaged
            and labels.items() <= entry.manifest.labels.items()
        ]
        return found[:limit]

    def published_by(self, job_id: str, connection: str, store: str | None) -> CatalogueEntry | None:
        for item in self._store.list(f"{connection}/"):
            folder, _, name = item.key.rpartition("/")
            if name == "manifest.json" and f"-{job_id}-" in folder:
                manifest = read_manifest(self._store, folder)
                return CatalogueEntry(manifest, self._store.name, folder, manifest.verification.level)
        return None

    def remove_unpublished(self, job_id: str, connection: str, store: str | None) -> None:
        if self.published_by(job_id, connection, store) is None:
            for item in list(self._store.list(f"{connection}/")):
                if f"-{job_id}-" in item.key:
                    self._store.delete(item.key)

    def hold(self, backup_id: str, job_id: str, token: int) -> None:
        self.backup(backup_id)


class HandlerWorld:
    """Connections `shop` (a sample shop in SQLite) and what else is given."""

    def __init__(self, folder: Path, **urls: str) -> None:
        self.folder = folder
        self.shop = folder / "databases" / "shop.sqlite"
        make_sample_shop(self.shop)
        self.store = LocalStore("default", folder / "storage")
        self.catalogue = DictCatalogue(self.store)
        self.engines = EngineRegistry.default()
        self.connections = NamedConnections({"shop": f"sqlite:///{quote(str(self.shop))}"} | urls, self.engines)
        stores = NamedStores({"default": self.store})
        self.supplies = supplies_of(self.connections, stores, self.catalogue, self.engines)
        self.handlers = build_handlers(self.supplies, build_calculator(self.supplies))
        self.told: list[Progress] = []

    def new_run(self, **changes: Any) -> Run:
        """A run of a job of its own, with a workspace of its own."""
        job_id = changes.pop("job_id", None) or new_id()
        workspace = self.folder / f"work-{job_id}-{changes.get('attempt', 1)}"
        workspace.mkdir(mode=0o700)
        given: dict[str, Any] = {"event_id": f"event of {job_id}", "listener": self.told.append, "stop": StopToken()}
        return Run(job_id, changes.get("attempt", 1), workspace, **(given | changes))

    def ask(self, operation: str, run: Run | None = None, **data: Any) -> Outcome:
        """As the worker would: the request parsed, its faults an assertion, the catalogue told of the outcome."""
        handler = self.handlers[operation]
        request = handler.request_model.model_validate(data)
        faults = handler.faults(request)
        assert not faults, faults
        outcome = handler.run(request, run or self.new_run())
        for change in outcome.changes:
            if isinstance(change, Published):
                self.catalogue.entries[change.entry.manifest.backup_id] = change.entry
            elif isinstance(change, Verified):
                known = self.catalogue.entries[change.backup_id]
                self.catalogue.entries[change.backup_id] = replace(known, level=change.level, damaged=change.damaged)
        return outcome

    def faults(self, operation: str, **data: Any) -> list[str]:
        """Pointers of what is wrong with a request that its model takes."""
        handler = self.handlers[operation]
        return [fault.pointer for fault in handler.faults(handler.request_model.model_validate(data))]

    def backed_up(self, connection: str = "shop", **data: Any) -> str:
        """The id of a new backup."""
        return str(shown(self.ask("backup", connection=connection, **data))["backup_id"])

    def in_shop(self, statement: str, path: Path | None = None) -> list[Any]:
        """Rows of one statement, committed."""
        with closing(sqlite3.connect(path or self.shop)) as connection, connection:
            return connection.execute(statement).fetchall()

    def stored_folders(self) -> set[str]:
        return {item.key.rpartition("/")[0] for item in self.store.list()}

    def damage(self, backup_id: str) -> None:
        """Flip a byte in the middle of the backup's main file."""
        entry = self.catalogue.backup(backup_id)
        path = self.store.local_path(f"{entry.folder}/{entry.manifest.files[0].name}")
        assert path is not None
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def shown(outcome: Outcome) -> dict[str, Any]:
    """The result as an event carries it."""
    return outcome.result.model_dump(mode="json")

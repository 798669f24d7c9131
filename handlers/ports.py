"""What handlers need from above, as protocols; `service.app` passes the real ones in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from engines.artefacts.manifest import Manifest
from engines.base import Target
from engines.storage.base import Store


class Connections(Protocol):
    """Named database URLs."""

    def names(self) -> list[str]:
        """Every configured name, sorted."""
        ...

    def target(self, name: str) -> Target:
        """Raises `UnknownConnection`, or `InvalidTarget` when its URL cannot be used."""
        ...

    def scratch(self, target: Target) -> Target:
        """Where level 3 restores: the connection's named scratch connection, else the same server."""
        ...

    def guard_write(self, target: Target) -> None:
        """Raises `TargetProtected` for FlexDB's own files."""
        ...


class Stores(Protocol):
    """Named stores; None is the default one."""

    def store(self, name: str | None) -> Store:
        """Raises `UnsupportedOperation` for a name that is not configured."""
        ...


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A backup as the catalogue knows it."""

    manifest: Manifest
    store: str
    folder: str
    level: int
    damaged: bool = False
    listed: bool = True


class Catalogue(Protocol):
    """Backups that were published. Calls may block for the ledger; never call them in the event loop."""

    def backup(self, backup_id: str) -> CatalogueEntry:
        """Raises `UnknownBackup`."""
        ...

    def find(
        self,
        *,
        connection: str | None,
        labels: Mapping[str, str],
        min_level: int,
        whole: Collection[bool | None],
        limit: int,
    ) -> list[CatalogueEntry]:
        """Newest first, undamaged, listed ones that match all of it; `whole` has what `Manifest.whole` may be."""
        ...

    def published_by(self, job_id: str, connection: str, store: str | None) -> CatalogueEntry | None:
        """What an earlier attempt of the job published in that store before it could say so, if anything."""
        ...

    def remove_unpublished(self, job_id: str, connection: str, store: str | None) -> None:
        """Remove from that store what earlier attempts of the job left there without a manifest."""
        ...

    def hold(self, backup_id: str, job_id: str, token: int) -> None:
        """Take the shared hold on a backup that was found only now; raises `UnknownBackup` when it went."""
        ...

"""Documents the command line prints without a service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.errors import UnknownBackup
from engines.registry import EngineRegistry
from handlers.ports import CatalogueEntry
from handlers.registry import build_handlers
from service import __version__
from service.connections import NamedConnections, NamedStores
from service.http.openapi import document
from service.http.routes import ROUTES


class EmptyCatalogue:
    """`handlers.ports.Catalogue` with nothing in it: handlers are only asked what they take and give."""

    def backup(self, backup_id: str) -> CatalogueEntry:
        raise UnknownBackup(f"There is no backup {backup_id!r}.")

    def find(
        self, *, connection: str | None, labels: Mapping[str, str], min_level: int, limit: int
    ) -> list[CatalogueEntry]:
        return []

    def published_by(self, job_id: str, connection: str) -> CatalogueEntry | None:
        return None

    def hold(self, backup_id: str, job_id: str, token: int) -> None:
        raise UnknownBackup(f"There is no backup {backup_id!r}.")


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of this version."""
    engines = EngineRegistry.default()
    connections, stores = NamedConnections({}, engines), NamedStores({})
    return document(ROUTES, build_handlers(connections, stores, EmptyCatalogue(), engines, __version__))

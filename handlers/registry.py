"""Every handler, by the operation it understands. Adding yours is one module and one line in each list here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.registry import EngineRegistry
from handlers.adoption import AdoptionHandler
from handlers.backup import BackupHandler
from handlers.base import Handler
from handlers.check import CheckHandler
from handlers.inspection import InspectionHandler
from handlers.ports import Catalogue, Connections, Stores
from handlers.preflight import PreflightHandler
from handlers.removal import RemovalHandler
from handlers.restore import RestoreHandler
from handlers.verification import VerificationHandler

HANDLERS: tuple[type[Handler[Any]], ...] = (
    CheckHandler,
    InspectionHandler,
    PreflightHandler,
    BackupHandler,
    RestoreHandler,
    RemovalHandler,
    VerificationHandler,
    AdoptionHandler,
)


def handler_classes() -> Mapping[str, type[Handler[Any]]]:
    """Operation name to class, for those who only want the models."""
    return {handler.operation: handler for handler in HANDLERS}


def build_handlers(
    connections: Connections, stores: Stores, catalogue: Catalogue, engines: EngineRegistry, version: str
) -> Mapping[str, Handler[Any]]:
    """Operation name to handler."""
    backup = BackupHandler(connections, stores, catalogue, engines, version)
    restore = RestoreHandler(connections, stores, catalogue, engines, version)
    handlers: list[Handler[Any]] = [
        CheckHandler(connections, engines),
        InspectionHandler(connections, engines),
        PreflightHandler(connections, stores, catalogue, engines, backup, restore),
        backup,
        restore,
        RemovalHandler(connections, engines),
        VerificationHandler(connections, stores, catalogue, engines),
        AdoptionHandler(connections, stores, catalogue, engines, version),
    ]
    return {handler.operation: handler for handler in handlers}

"""Every handler, by the operation it understands. Adding yours is one module and one line in each list here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.registry import EngineRegistry
from handlers.backup import BackupHandler
from handlers.base import Handler
from handlers.check import CheckHandler
from handlers.inspection import InspectionHandler
from handlers.ports import Catalogue, Connections, Stores
from handlers.restore import RestoreHandler
from handlers.verification import VerificationHandler

HANDLERS: tuple[type[Handler[Any]], ...] = (
    CheckHandler,
    InspectionHandler,
    BackupHandler,
    RestoreHandler,
    VerificationHandler,
)


def handler_classes() -> Mapping[str, type[Handler[Any]]]:
    """Operation name to class, for those who only want the models."""
    return {handler.operation: handler for handler in HANDLERS}


def build_handlers(
    connections: Connections, stores: Stores, catalogue: Catalogue, engines: EngineRegistry, version: str
) -> Mapping[str, Handler[Any]]:
    """Operation name to handler."""
    handlers: list[Handler[Any]] = [
        CheckHandler(connections, engines),
        InspectionHandler(connections, engines),
        BackupHandler(connections, stores, catalogue, engines, version),
        RestoreHandler(connections, stores, catalogue, engines),
        VerificationHandler(connections, stores, catalogue, engines),
    ]
    return {handler.operation: handler for handler in handlers}

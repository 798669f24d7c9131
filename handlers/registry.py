"""Every handler, by the operation it understands. Adding yours is one module and one line in each list here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.adoption import AdoptionHandler
from handlers.backup import BackupHandler
from handlers.base import Handler
from handlers.calculation.calculator import Calculator
from handlers.calculation.handler import CalculationHandler
from handlers.calculation.history import History
from handlers.check import CheckHandler
from handlers.ingest import IngestHandler
from handlers.inspection import InspectionHandler
from handlers.preflight import PreflightHandler
from handlers.records import RecordsHandler
from handlers.removal import RemovalHandler
from handlers.restore import RestoreHandler
from handlers.supplies import Supplies
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
    IngestHandler,
    RecordsHandler,
    CalculationHandler,
)


def handler_classes() -> Mapping[str, type[Handler[Any]]]:
    """Operation name to class, for those who only want the models."""
    return {handler.operation: handler for handler in HANDLERS}


def build_calculator(supplies: Supplies) -> Calculator:
    """What the events and the plain calls of calculations share."""
    history = History(supplies.connections, supplies.tables, supplies.calculation_history)
    return Calculator(supplies.engines, supplies.stacks, supplies.cache, history, caching=supplies.calculation_cache)


def build_handlers(supplies: Supplies, calculator: Calculator) -> Mapping[str, Handler[Any]]:
    """Operation name to handler."""
    connections, stores, catalogue = supplies.connections, supplies.stores, supplies.catalogue
    engines, version = supplies.engines, supplies.version
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
        IngestHandler(supplies),
        RecordsHandler(connections, engines, supplies.collections, supplies.tables),
        CalculationHandler(calculator, connections),
    ]
    return {handler.operation: handler for handler in handlers}

"""What handlers of requests find in the application, by typed keys; `service.app` fills them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from engines.calculating import Limits
from engines.registry import EngineRegistry
from handlers.calculation.calculator import Calculator
from handlers.collections.repository import Repository
from service.access import Access
from service.collections import NamedCollections
from service.connections import NamedConnections, NamedStores
from service.hub import Hub
from service.intake import Intake
from service.ledger.base import Ledger
from service.outgoing import OutgoingPolicy
from service.tables import OpenTables

if TYPE_CHECKING:
    from service.amqp.dead_letters import DeadLetters  # imported where RabbitMQ is configured

MOST_EXPORTS = 4
"""At once in one process; each holds a connection to its database. Others wait."""


@dataclass(frozen=True, slots=True)
class RecordParts:
    """What the doors of collections and their records use."""

    collections: NamedCollections
    tables: OpenTables
    repository: Repository
    threads: ThreadPoolExecutor
    """Where databases are waited for; not the worker's."""
    exports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_EXPORTS))
    export_wait: float = 30.0
    """Seconds after which who still waits for one of them is sent away."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the doors use, in one place: one look-up per request."""

    ledger: Ledger
    intake: Intake
    access: Access
    hub: Hub
    connections: NamedConnections
    stores: NamedStores
    engines: EngineRegistry
    policy: OutgoingPolicy
    max_body_bytes: int
    cancel_now: Callable[[str], bool]
    not_ready: Callable[[], list[str]]
    """Reasons why the service takes no work now; empty when it does."""
    amqp: Callable[[], dict[str, bool]] = dict
    """Which connections to RabbitMQ stand, `in` and `out`; empty where none is asked for."""
    dead_letters: DeadLetters | None = None
    """None where no RabbitMQ is configured."""
    records: RecordParts | None = None
    """None where nothing keeps records, as in tests of the other doors."""
    calculator: Calculator | None = None
    """None where nothing calculates."""
    calculations: Limits = field(default_factory=Limits)


PARTS = web.AppKey("parts", Parts)


def records_of(request: web.Request) -> RecordParts:
    """Raises `HTTPNotFound` where nothing keeps records."""
    found = request.app[PARTS].records
    if found is None:
        raise web.HTTPNotFound
    return found

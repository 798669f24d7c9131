"""What handlers of requests find in the application, by typed keys; `service.app` fills them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from engines.registry import EngineRegistry
from service.access import Access
from service.amqp.dead_letters import DeadLetters
from service.connections import NamedConnections, NamedStores
from service.hub import Hub
from service.intake import Intake
from service.ledger.base import Ledger
from service.outgoing import OutgoingPolicy


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


PARTS = web.AppKey("parts", Parts)

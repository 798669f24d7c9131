"""What all processes on a ledger go by, whatever each of them was told by its own settings."""

from __future__ import annotations

import structlog

from service.ledger.queries import sql
from service.ledger.transaction import Transaction

log = structlog.get_logger(__name__)

EXCHANGE = "exchange"


def agree_on_exchange(tx: Transaction, *, shared: bool) -> None:
    """Where events go in RabbitMQ: as this process was told, else, on a shared ledger, as another one was.

    The process that ends a job writes its event down, and it may be one that talks to no RabbitMQ itself.
    """
    row = tx.one(sql.agreement, name=EXCHANGE)
    kept, told = (row["value"] if row is not None else None), tx.rules.exchange
    tx.exchange = told or (kept if shared else None)
    if kept is not None and tx.exchange is None:
        tx.run(sql.disagree, name=EXCHANGE)
    elif tx.exchange is not None and tx.exchange != kept:
        tx.run(sql.agree, name=EXCHANGE, value=tx.exchange)
    if shared and kept is not None and told != kept:
        hint = "Give all replicas one FLEXDB_AMQP_URL and FLEXDB_AMQP_NAME." if told else "It goes by the others."
        log.warning("exchange_not_agreed", kept=kept, told=told, used=tx.exchange, hint=hint)

"""What one service's exchanges and queues are called, and where RabbitMQ is: known without its driver."""

from __future__ import annotations

from dataclasses import dataclass

from yarl import URL


@dataclass(frozen=True, slots=True)
class Names:
    """What one service's exchanges and queues are called."""

    requests: str
    """Topic exchange, and the quorum queue bound to it."""
    events: str
    """Topic exchange; routing key is the event's type."""
    dead: str
    """Topic exchange, and the quorum queue bound to it."""

    @classmethod
    def of(cls, name: str) -> Names:
        return cls(requests=f"{name}.requests", events=f"{name}.events", dead=f"{name}.dead")


def address_of(url: str) -> str:
    """Host, port and vhost of a URL, for people. Raises `ValueError`, whose text says what to write."""
    try:
        address = URL(url)
        usable = address.scheme in ("amqp", "amqps") and bool(address.host)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "FLEXDB_AMQP_URL must be amqp://USER:PASSWORD@HOST:PORT/VHOST; "
            "percent-encode what is special in user, password and vhost (/ is %2F)."
        )
    return f"{address.host}:{address.port or (5671 if address.scheme == 'amqps' else 5672)}{address.path}"

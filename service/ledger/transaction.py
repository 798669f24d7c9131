"""What the ledger's operations work with: a session of some database, and one transaction on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.ledger.queries import Query
from service.ledger.records import Change, Rules, Subscription
from service.ledger.rows import Row


class Session(ABC):
    """One connection, used by one thread at a time. Every method may raise the driver's errors."""

    @abstractmethod
    def all(self, query: Query, **values: Any) -> list[Row]:
        """The rows that came back."""

    @abstractmethod
    def run(self, query: Query, **values: Any) -> int:
        """How many rows it touched."""

    @abstractmethod
    def insert(self, query: Query, rows: Sequence[Sequence[Any]]) -> int:
        """Insert many rows by few statements; how many were inserted (`DO NOTHING` may pass over some)."""

    def one(self, query: Query, **values: Any) -> Row | None:
        rows = self.all(query, **values)
        return rows[0] if rows else None

    @abstractmethod
    def now(self) -> float:
        """Seconds since the epoch by the ledger's clock."""

    @abstractmethod
    def begin(self) -> float:
        """Begin a transaction; the time it works with."""

    @abstractmethod
    def commit(self, changes: Sequence[Change]) -> None:
        """Returns when it is on disk. `changes` are made known to other processes, where there are such."""

    @abstractmethod
    def rollback(self) -> None: ...

    @abstractmethod
    def mark(self) -> None:
        """Set the one savepoint that `release` and `undo` end."""

    @abstractmethod
    def release(self) -> None: ...

    @abstractmethod
    def undo(self) -> None:
        """Back to the savepoint."""

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """False also when the database has ended the transaction by itself."""

    @abstractmethod
    def lock(self, names: Sequence[str]) -> None:
        """Wait until no other process has any of these names, and keep them to the transaction's end."""

    @abstractmethod
    def try_lock(self, names: Sequence[str]) -> bool:
        """Take these names without waiting; False when another process has one of them."""

    @abstractmethod
    def tokens(self, number: int) -> Sequence[int]:
        """New fencing tokens, ascending, each greater than any given out before."""

    @abstractmethod
    def close(self) -> None: ...


@dataclass(slots=True)
class Transaction:
    """One transaction. `open_jobs` counts against the queue limit; `tell` notes a hint to give after the commit."""

    session: Session
    rules: Rules
    now: float
    open_jobs: int
    exchange: str | None = None
    """RabbitMQ exchange that every event goes to."""
    changes: dict[Change, None] = field(default_factory=dict)
    subscriptions: list[Subscription] | None = None
    """As last read in this transaction, which asks for them with every event; None after a change."""

    def run(self, query: Query, **values: Any) -> int:
        """How many rows it touched."""
        return self.session.run(query, **values)

    def one(self, query: Query, **values: Any) -> Row | None:
        return self.session.one(query, **values)

    def all(self, query: Query, **values: Any) -> list[Row]:
        return self.session.all(query, **values)

    def insert(self, query: Query, rows: Sequence[Sequence[Any]]) -> int:
        """How many rows were inserted."""
        return self.session.insert(query, rows) if rows else 0

    def tell(self, kind: str, job_id: str | None = None) -> None:
        self.changes[Change(kind, job_id)] = None

"""The rows of the upsert benchmark, made by number, and the table they go into. On the standard library alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

Row = tuple[Any, ...]

NAMES = (
    "customer_id",
    "first_name",
    "last_name",
    "email",
    "phone",
    "address",
    "date_of_birth",
    "account_balance",
    "created_at",
)
COLUMNS = (
    'customer_id varchar(50) COLLATE "C", first_name varchar(100), last_name varchar(100), email varchar(255) NOT NULL,'
    " phone varchar(50), address text, date_of_birth date, account_balance numeric(15,2), created_at timestamptz"
)
FIRST = ("Ada", "Björn", "Chen", "Dana", "Emeka", "Fatima", "Grace", "Hiro", "Ines", "João", "Katarzyna")
LAST = ("Abebe", "Brown", "Cohen", "Díaz", "Eriksson", "Fischer", "García", "Haddad", "Ivanova", "Jones", "Kim", "Lee")
STREETS = ("High Street", "Rua Augusta", "Hauptstraße", "Elm Avenue", "Storgatan", "Via Roma", "Main Street")


def row(number: int, *, moved: bool = False) -> Row:
    """A customer; `moved`: with another address. One in ten has no telephone."""
    first, last = FIRST[number % 11], LAST[number % 12]
    return (
        f"cust{number:08d}",
        first,
        last,
        f"{first}.{last}.{number}@example.com".lower(),
        f"+1-555-{number % 10_000_000:07d}" if number % 10 else None,
        f"{number % 300 + (1000 if moved else 0)} {STREETS[number % 7]}, Springfield",
        date(1940 + number % 65, 1 + number % 12, 1 + number % 28),
        Decimal(number * 7 % 10_000_000).scaleb(-2),
        datetime(2025, 1 + number % 12, 1 + number % 28, number % 24, number % 60, number % 60, tzinfo=UTC),
    )


def rows(count: int, *, moved: bool = False) -> Iterator[Row]:
    return (row(number, moved=moved) for number in range(count))


def text(these: list[Row]) -> bytes:
    """As COPY's text format has them; none holds what must be escaped."""
    lines = ("\t".join(r"\N" if value is None else str(value) for value in one) for one in these)
    return ("\n".join(lines) + "\n").encode()

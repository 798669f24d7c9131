"""Which ledger a URL names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from service.ledger.base import Ledger
from service.ledger.postgres import PostgresLedger
from service.ledger.postgres_address import SCHEMES, InvalidLedgerURL, parameters
from service.ledger.records import Rules
from service.ledger.sqlite import SQLiteLedger


def is_shared(url: str | None) -> bool:
    """Whether several processes can work on the ledger."""
    return url is not None and url.startswith(SCHEMES)


def ledger_file(url: str | None, default: Path) -> Path | None:
    """The SQLite ledger's file, None for a ledger on a server. Raises `InvalidLedgerURL`."""
    if url is None:
        return default
    if is_shared(url):
        parameters(url)
        return None
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and path.strip("/"):
        return Path(unquote(path))
    raise InvalidLedgerURL(
        "FLEXDB_LEDGER_URL must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE; "
        "leave it out for a file in FLEXDB_HOME."
    )


def make_ledger(url: str | None, default: Path, rules: Rules) -> Ledger:
    """The ledger, not yet opened. Raises `InvalidLedgerURL`."""
    path = ledger_file(url, default)
    if path is not None:
        return SQLiteLedger(path, rules)
    assert url is not None  # noqa: S101  for mypy: without a URL the ledger is a file
    return PostgresLedger(url, rules)

"""Which ledger a URL names; the driver of a server's is imported when one is named."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from service.ledger.base import Ledger
from service.ledger.records import InvalidLedgerURL, Rules
from service.ledger.sqlite import SQLiteLedger

SCHEMES = ("postgresql://", "postgres://")


def is_shared(url: str | None) -> bool:
    """Whether several processes can work on the ledger."""
    return url is not None and url.startswith(SCHEMES)


def ledger_file(url: str | None, default: Path) -> Path | None:
    """The SQLite ledger's file, None for a ledger on a server. Raises `InvalidLedgerURL`."""
    if url is None:
        return default
    if is_shared(url):
        from service.ledger.postgres_address import parameters

        parameters(url)  # what cannot be read must show at start, not in every attempt to connect
        return None
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and path.strip("/"):
        return Path(unquote(path))
    raise InvalidLedgerURL(
        "FLEXDB_LEDGER_URL must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE; "
        "leave it out for a file in FLEXDB_HOME."
    )


def ledger_places(url: str | None) -> tuple[str, ...]:
    """A URL for each host of a shared ledger, without user and password; none for a file. Raises `InvalidLedgerURL`."""
    if url is None or not is_shared(url):
        return ()
    from service.ledger.postgres_address import places

    return tuple(places(url))


def make_ledger(url: str | None, default: Path, rules: Rules) -> Ledger:
    """The ledger, not yet opened. Raises `InvalidLedgerURL`."""
    path = ledger_file(url, default)
    if path is not None:
        return SQLiteLedger(path, rules)
    assert url is not None  # noqa: S101  for mypy: without a URL the ledger is a file
    from service.ledger.postgres import PostgresLedger

    return PostgresLedger(url, rules)

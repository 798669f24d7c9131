"""Where a PostgreSQL ledger is, from its URL; no text made here ever holds a part of a password."""

from __future__ import annotations

from urllib.parse import quote

import psycopg2
from psycopg2.extensions import parse_dsn

from service.ledger.records import InvalidLedgerURL


def parameters(url: str) -> dict[str, str]:
    """libpq's parameters, several hosts separated by commas. Raises `InvalidLedgerURL`."""
    try:
        found = parse_dsn(url)
    except (psycopg2.Error, ValueError):  # both quote what they could not read
        found = {}
    if not _makes_sense(found):
        raise InvalidLedgerURL(
            "FLEXDB_LEDGER_URL must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE; "
            "percent-encode what is special in user and password (/ is %2F, # is %23, % is %25)."
        ) from None
    return found


def _makes_sense(found: dict[str, str]) -> bool:
    """Not so what libpq makes of a password that holds / or # unescaped: it takes a part of it for the port."""
    ports = (found.get("port") or "5432").split(",")
    places = found.get("host", "") + found.get("dbname", "")
    return bool(found.get("dbname")) and all(port.isdecimal() or not port for port in ports) and "@" not in places


def places(url: str) -> list[str]:
    """A URL for each host, without user and password. Raises `InvalidLedgerURL`."""
    found = parameters(url)
    database = quote(found["dbname"], safe="")
    return [f"postgresql://{host}:{port}/{database}" for host, port in _hosts(found) if not host.startswith("/")]


def shown(url: str) -> str:
    """Hosts, ports and database, for logs and errors. Raises `InvalidLedgerURL`."""
    found = parameters(url)
    return ",".join(f"{host}:{port}" for host, port in _hosts(found)) + "/" + found["dbname"]


def _hosts(found: dict[str, str]) -> list[tuple[str, str]]:
    hosts = (found.get("host") or "localhost").split(",")
    ports = (found.get("port") or "5432").split(",")
    ports *= len(hosts) if len(ports) == 1 else 1
    return list(zip(hosts, ports, strict=False))

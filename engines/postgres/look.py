"""Looking at a PostgreSQL database: can it be worked with, and what is in it."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.base import CheckReport, Inspection, TableInfo, Target
from engines.errors import FlexError, NoFittingClient
from engines.postgres import catalog
from engines.postgres.catalog import KINDS, QUERIES, Relation, Server
from engines.postgres.clients import Client, Clients
from engines.postgres.connection import Address, rows, session
from engines.run import Run

SMALL_BYTES = 4 << 20
"""Tables up to this size are counted exactly in an inspection, larger ones estimated."""
MOST_COUNTED = 500


def check(target: Target, run: Run, clients: Clients) -> CheckReport:
    began = time.monotonic()
    try:
        address = Address.of(target)
        with session(address, run.application_name, seconds=10, stop=run.stop) as opened:
            server = catalog.server(opened)
    except FlexError as error:
        problem = {"code": error.code, "message": error.message, "hint": error.hint}
        return CheckReport(reachable=False, server_version=None, latency_ms=None, problem=problem)
    latency = round((time.monotonic() - began) * 1000, 1)
    tools, problem_found = _tools(server, address, clients)
    return CheckReport(True, server.version, latency, tools, problem_found)


def _tools(server: Server, address: Address, clients: Clients) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Which programs a backup of this server, and a restore into it, would use."""
    tls = server.tls or address.wants_tls
    try:
        dumping = clients.for_dump(server.major, tls=tls)
        restoring = clients.for_restore(server.major, dumping.major, tls=tls)
    except NoFittingClient as error:
        problem = {"code": error.code, "message": error.message, "hint": error.hint}
        return {"compatible": False, "tools": {}, "hint": error.hint}, problem
    tools = {"pg_dump": _shown(dumping, "pg_dump"), "pg_restore": _shown(restoring, "pg_restore")}
    hint = ""
    if dumping.major > server.major:
        hint = (
            f"Dumps by pg_dump {dumping.major} may not restore into other PostgreSQL {server.major} servers; "
            f"client programs of version {server.major} are better."
        )
    return {"compatible": True, "tools": tools, "hint": hint}, None


def _shown(client: Client, program: str) -> dict[str, str]:
    return {"version": client.version, "path": str(client.path(program))}


def inspect(target: Target, run: Run) -> Inspection:
    address = Address.of(target)
    with session(address, run.application_name, seconds=60, stop=run.stop) as opened:
        server = catalog.server(opened)
        return Inspection(
            server_version=server.version,
            database=address.database,
            size_bytes=server.size,
            databases=tuple(name for (name,) in rows(opened, QUERIES["databases"])),
            tables=_tables(opened, run),
            fingerprint=fingerprint(opened),
        )


def _tables(opened: Connection, run: Run) -> tuple[TableInfo, ...]:
    found = rows(opened, QUERIES["tables"])
    small = [
        Relation(oid, schema, name, kind, size, (), None, False, None)
        for oid, schema, name, kind, _, _, size, readable in found
        if kind in "rm" and readable and size <= SMALL_BYTES
    ]
    counts = _counted(opened, small[:MOST_COUNTED], run)
    return tuple(
        TableInfo(
            name=f"{schema}.{name}",
            kind=KINDS[kind],
            rows=counts.get(oid, estimate if kind in "rm" and estimate >= 0 else None),
            rows_exact=oid in counts,
            bytes=total if kind not in "vf" else None,
        )
        for oid, schema, name, kind, estimate, total, _, _ in found
    )


def _counted(opened: Connection, small: list[Relation], run: Run) -> dict[int, int]:
    counts: dict[int, int] = {}
    for start in range(0, len(small), catalog.COUNTS_PER_QUERY):
        run.progress("counting rows", start, len(small), "tables")
        part = small[start : start + catalog.COUNTS_PER_QUERY]
        counts.update(rows(opened, catalog.count_query([(item.oid, item) for item in part])))
    return counts


def fingerprint(opened: Connection) -> str:
    """SHA-256 over the structure as text lines; equal structures give equal fingerprints on any server."""
    digest = hashlib.sha256()
    for (line,) in rows(opened, QUERIES["structure"]):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()

"""Looking at a MySQL or MariaDB database: can it be worked with, and what is in it."""

from __future__ import annotations

import time
from typing import Any

from engines.base import CheckReport, Inspection, TableInfo, Target
from engines.errors import FlexError, NoFittingClient
from engines.mysql import catalog
from engines.mysql.address import Address
from engines.mysql.catalog import QUERIES, Table
from engines.mysql.clients import Clients, Release
from engines.mysql.databases import PREFIX
from engines.mysql.session import Session, database_session, rows
from engines.run import Run

SMALL_BYTES = 4 << 20
"""Tables up to this size are counted exactly in an inspection, larger ones estimated."""
MOST_COUNTED = 500


def check(target: Target, run: Run, clients: Clients) -> CheckReport:
    began = time.monotonic()
    try:
        address = Address.of(target)
        with database_session(address, run.application_name, seconds=10, stop=run.stop) as opened:
            version = str(rows(opened, "SELECT VERSION()")[0][0])
    except FlexError as error:
        return CheckReport(reachable=False, server_version=None, latency_ms=None, problem=_told(error))
    latency = round((time.monotonic() - began) * 1000, 1)
    tools, problem = _tools(Release.read(version), clients)
    return CheckReport(True, version, latency, tools, problem)


def _told(error: FlexError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _tools(release: Release, clients: Clients) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Which programs a backup of this server, and a restore into it, would use."""
    try:
        used = (clients.dumper(release), clients.shell(release))
    except NoFittingClient as error:
        return {"compatible": False, "tools": {}, "hint": error.hint}, _told(error)
    tools = {program.path.name: {"version": program.version, "path": str(program.path)} for program in used}
    return {"compatible": True, "tools": tools, "hint": ""}, None


def inspect(target: Target, run: Run) -> Inspection:
    address = Address.of(target)
    name = address.database
    with database_session(address, run.application_name, seconds=60, stop=run.stop) as opened:
        server = catalog.server(opened, name)
        return Inspection(
            server_version=server.version,
            database=name,
            size_bytes=max(server.size, catalog.size_on_disk(opened, name)),
            databases=tuple(databases(opened)),
            tables=_tables(opened, name, run),
            fingerprint=catalog.fingerprint(opened, name),
        )


def databases(opened: Session) -> list[str]:
    """The users' own, without what belongs to the server or was made by FlexDB for a job."""
    return [name for (name,) in rows(opened, QUERIES["databases"]) if not PREFIX.match(name)]


def _tables(opened: Session, database: str, run: Run) -> tuple[TableInfo, ...]:
    found = catalog.tables(opened, database)
    small = [item.name for item in found if item.kind == "table" and item.bytes <= SMALL_BYTES][:MOST_COUNTED]
    counts = catalog.count_rows(
        opened, database, small, lambda done, of: run.progress("counting rows", done, of, "tables")
    )
    return tuple(_info(item, counts) for item in found)


def _info(item: Table, counts: dict[str, int]) -> TableInfo:
    estimate = item.estimate if item.kind == "table" else None
    return TableInfo(
        name=item.name,
        kind=item.kind,
        rows=counts.get(item.name, estimate),
        rows_exact=item.name in counts,
        bytes=item.bytes if item.kind == "table" else None,
    )

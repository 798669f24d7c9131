"""The doctor's look at connections: reached with their engines, client tools that fit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engines.base import CheckEngine, CheckReport
from engines.errors import FlexError
from engines.registry import EngineRegistry
from engines.run import Run
from service.cli.doctor.finding import Finding, fails, ok
from service.connections import NamedConnections
from service.jobs import new_id
from service.settings import Settings

AREA = "connections"


def examine_connections(settings: Settings) -> list[Finding]:
    """Two findings per connection at most: the database, and its client tools."""
    if not settings.connections:
        text = "none is configured; the service makes a small SQLite database and serves it as `demo`"
        return [ok(AREA, "demo", f"{text}. Your own: FLEXDB_CONNECTIONS__SHOP=postgresql://…")]
    engines = EngineRegistry.default(settings.tool_path)
    urls = {name: url.get_secret_value() for name, url in settings.connections.items()}
    connections = NamedConnections(urls, engines, scratch=settings.scratch)
    with tempfile.TemporaryDirectory(prefix="flexdb-doctor-") as folder, ThreadPoolExecutor(8) as threads:
        looks = threads.map(lambda name: list(_look(name, connections, engines, Path(folder))), connections.names())
        return [finding for look in looks for finding in look]


def _look(name: str, connections: NamedConnections, engines: EngineRegistry, folder: Path) -> Iterator[Finding]:
    try:
        target = connections.target(name)
        run = Run(job_id=f"doctor{new_id()}", token=0, place=folder)
        report = engines.for_target(target, CheckEngine, "check").check(target, run)
    except FlexError as error:
        yield fails(AREA, name, error.message, error.hint)
        return
    place = f"{target.engine} {target.database}" + (f" on {target.host}:{target.port or ''}" if target.host else "")
    yield _reached(name, place.rstrip(":"), report)
    if report.client_tools:
        yield _tools(name, report.client_tools)


def _reached(name: str, place: str, report: CheckReport) -> Finding:
    problem = report.problem or {}
    if not report.reachable:
        return fails(AREA, name, f"{place}: {problem.get('message', 'cannot be reached')}", problem.get("hint", ""))
    took = f", {report.latency_ms:.0f} ms" if report.latency_ms is not None else ""
    text = f"{place}, version {report.server_version}{took}"
    if problem:
        return fails(AREA, name, f"{text}: {problem.get('message', '')}", problem.get("hint", ""))
    return ok(AREA, name, text)


def _tools(name: str, tools: dict[str, Any]) -> Finding:
    listed = [
        f"{tool} {about.get('version')} ({about.get('path')})" for tool, about in (tools.get("tools") or {}).items()
    ]
    text = "client tools: " + (", ".join(listed) or "none found")
    if tools.get("compatible"):
        return ok(AREA, name, text)
    return fails(AREA, name, text, tools.get("hint") or "Install client programs of the server's major version.")

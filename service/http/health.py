"""Health by HTTP: does the process answer, does it take work, can each connection be reached, its numbers."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from engines.base import CheckEngine
from engines.errors import FlexError
from engines.run import Run, StopReason
from service import __version__
from service.http.keys import PARTS, Parts
from service.ledger.records import LedgerUnavailable

CHECK_SECONDS = 10.0
LEDGER_SECONDS = 5.0


async def livez(_: web.Request) -> web.Response:
    """GET /livez: the process answers."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 200 when events are taken, else 503 with the reasons."""
    parts = request.app[PARTS]
    reasons = parts.not_ready()
    try:
        async with asyncio.timeout(LEDGER_SECONDS):
            await parts.ledger.ping()
    except (LedgerUnavailable, TimeoutError):
        reasons = [*reasons, "the ledger cannot be written"]
    status = 503 if reasons else 200
    return web.json_response({"status": "unavailable" if reasons else "ok", "reasons": reasons}, status=status)


async def health(request: web.Request) -> web.Response:
    """GET /health: every connection; 200 when all can be reached, else 503."""
    parts = request.app[PARTS]
    names = parts.connections.names()
    states = await asyncio.gather(*(_connection(parts, name) for name in names))
    pending = await parts.ledger.pending_deliveries()
    healthy = all(state["reachable"] for state in states) and not parts.not_ready()
    body: dict[str, Any] = {
        "status": "ok" if healthy else "degraded",
        "version": __version__,
        "connections": dict(zip(names, states, strict=True)),
        "jobs": await parts.ledger.counts(),
        "pending_deliveries": sum(pending.values()),
        "deliveries": pending,
    }
    if rabbitmq := parts.amqp():
        body["rabbitmq"] = rabbitmq
    return web.json_response(body, status=200 if healthy else 503)


async def _connection(parts: Parts, name: str) -> dict[str, Any]:
    run = Run(job_id="health", token=0, place=Path(tempfile.gettempdir()))
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await asyncio.to_thread(_check, parts, name, run)
    except TimeoutError:
        run.stop.request(StopReason.DEADLINE)
        return {
            "reachable": False,
            "problem": {"code": "target_unavailable", "message": "No answer in time."},
        }


def _check(parts: Parts, name: str, run: Run) -> dict[str, Any]:
    try:
        target = parts.connections.target(name)
        engine = parts.engines.for_target(target, CheckEngine, "check")
        return {"engine": target.engine} | asdict(engine.check(target, run))
    except FlexError as error:
        return {
            "reachable": False,
            "problem": {"code": error.code, "message": error.message, "hint": error.hint},
        }


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: gauges in the text format of Prometheus."""
    parts = request.app[PARTS]
    counts, pending = await parts.ledger.counts(), await parts.ledger.pending_deliveries()
    lines = ["# HELP flexdb_jobs Jobs in the ledger by status.", "# TYPE flexdb_jobs gauge"]
    lines += [f'flexdb_jobs{{status="{status}"}} {number}' for status, number in sorted(counts.items())]
    lines += [
        "# HELP flexdb_deliveries_pending Deliveries not yet made.",
        "# TYPE flexdb_deliveries_pending gauge",
        *(f'flexdb_deliveries_pending{{transport="{name}"}} {number}' for name, number in sorted(pending.items())),
        *_rabbitmq(parts.amqp()),
        "# HELP flexdb_info The version that runs.",
        "# TYPE flexdb_info gauge",
        f'flexdb_info{{version="{__version__}"}} 1',
    ]
    return web.Response(text="\n".join(lines) + "\n", content_type="text/plain", charset="utf-8")


def _rabbitmq(connected: dict[str, bool]) -> list[str]:
    """Nothing where no RabbitMQ is configured: a gauge of 0 would raise an alarm."""
    if not connected:
        return []
    return [
        "# HELP flexdb_amqp_connected Whether the connection to RabbitMQ stands.",
        "# TYPE flexdb_amqp_connected gauge",
        *(f'flexdb_amqp_connected{{direction="{name}"}} {int(stands)}' for name, stands in sorted(connected.items())),
    ]

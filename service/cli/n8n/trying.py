"""Runs installed workflows by copies of them, and tells how each ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from service.cli.client import segment
from service.cli.doctor.finding import Finding, fails, ok, warning
from service.cli.n8n.api import N8n, N8nAway, N8nRefused
from service.cli.n8n.comparing import kind
from service.cli.n8n.lending import ENDED, LOOK_SECONDS, Lent, lent, why_it_failed
from service.cli.n8n.round_trip import left_over

AREA = "run"
SAFE = frozenset({"check", "inspection", "preflight", "backup", "verification"})
"""What writes to no database: the same operations that FlexDB takes by a signature alone."""
HOOK = re.compile(r"flexdbUrl\s*\}\}/hooks/([a-z]+)$")
TOLD = re.compile(r"^=?\{\{[^{}]*notifyUrl\s*\}\}$")


def by_hand(workflow: Mapping[str, Any]) -> str | None:
    """The name of its Manual Trigger."""
    return next((node["name"] for node in workflow["nodes"] if kind(node) == "manualTrigger"), None)


def is_safe(workflow: Mapping[str, Any]) -> bool:
    """Whether a run by hand only reads, asks for `SAFE` operations, and tells the team."""
    return by_hand(workflow) is not None and all(_writes_nothing(node) for node in workflow["nodes"])


def _writes_nothing(node: Mapping[str, Any]) -> bool:
    if kind(node) in {"rabbitmq", "executeWorkflow"}:
        return False
    if kind(node) != "httpRequest":
        return True
    parameters = node["parameters"]
    if parameters.get("method", "GET") == "GET":
        return True
    url = str(parameters.get("url", "")).strip()
    hook = HOOK.search(url)
    return (hook is not None and hook[1] in SAFE) or TOLD.match(url) is not None


async def try_workflow(n8n: N8n, name: str, installed: Mapping[str, Any], seconds: float) -> list[Finding]:
    """Run what is saved in n8n from its Manual Trigger; the copy leaves no execution behind."""
    trigger = by_hand(installed)
    if trigger is None:
        return [warning(AREA, name, "has no Manual Trigger, so it cannot be run by hand", "")]
    leftovers: list[str] = []
    try:
        async with lent(n8n, installed, trigger, leftovers) as trial:
            found = await _run(trial, name, seconds)
    except (N8nRefused, N8nAway) as error:
        found = fails(AREA, name, f"could not be run: {error.message}", error.hint or "Look at its nodes in n8n.")
    return [found, *left_over(leftovers)]


async def _run(trial: Lent, name: str, seconds: float) -> Finding:
    asked = asyncio.create_task(trial.call(seconds))
    try:
        execution = await _ended(trial, asked, seconds)
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    status = str((execution or {}).get("status", "not started"))
    if execution is not None and status == "success":
        return ok(AREA, name, "ran to its end")
    if execution is not None and status in ENDED:
        return fails(AREA, name, f"ended in {status}, at {why_it_failed(execution)}", "Run it by hand in n8n and look.")
    if execution is not None:
        await trial.n8n.call("POST", f"/executions/{segment(str(execution['id']))}/stop")
    return fails(AREA, name, f"{status} after {seconds:g} s, so it was stopped", "Give more time with --run-seconds.")


async def _ended(trial: Lent, asked: asyncio.Task[tuple[int, bytes]], seconds: float) -> dict[str, Any] | None:
    """The execution when it has ended, or when the time is up; None when it did not start."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    execution = None
    while loop.time() < end:
        await asyncio.sleep(LOOK_SECONDS)
        refused = asked.done() and asked.exception() is None and asked.result()[0] in {403, 404}
        execution = await trial.execution()
        if refused or (execution is not None and execution.get("status") in ENDED):
            break
    return execution

"""A workflow of our own in an n8n for a moment: made, published, called, and removed with its credential."""

from __future__ import annotations

import asyncio
import copy
import secrets
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from service.cli.client import segment
from service.cli.n8n import credentials
from service.cli.n8n.api import N8n, N8nAway, N8nRefused
from service.cli.n8n.comparing import kind, starts_by_itself
from service.cli.n8n.credentials import Key, Known
from service.cli.n8n.workflows import Workflow

TEMPORARY = "Temporary, flexdb n8n check removes it"
TEMPORARY_KEY: Key = ("httpHeaderAuth", TEMPORARY)
LEFT_BEHIND = timedelta(hours=2)
"""No check takes so long, unless `--run-seconds` asks for it."""
HEADER = "X-FlexDB-Check"
ENDED = frozenset({"success", "error", "canceled", "crashed"})
LOOK_SECONDS = 0.5
QUICK_MILLISECONDS = 500
REMOVED_SECONDS = 120.0
"""n8n looks every 15 seconds at what it has still to unpublish, and a busy one needs more than one look."""


@dataclass(frozen=True, slots=True)
class Lent:
    """A published workflow with a webhook that only we can call."""

    n8n: N8n
    id: str
    path: str
    key: str

    async def call(self, seconds: float) -> tuple[int, bytes]:
        """Start it; status and body of what it answers."""
        return await self.n8n.webhook(self.path, {HEADER: self.key}, seconds)

    async def execution(self) -> dict[str, Any] | None:
        """Its newest execution with what every node gave; None while there is none."""
        params = {"workflowId": self.id, "includeData": "true", "limit": 1}
        found = (await self.n8n.call("GET", "/executions", params=params))["data"]
        return found[0] if found else None

    async def ended(self, seconds: float) -> dict[str, Any] | None:
        """Its newest execution once it has ended; as it stands when the time is up, None when it did not start."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            execution = await self.execution()
            if (execution is not None and execution.get("status") in ENDED) or loop.time() > end:
                return execution
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def lent(n8n: N8n, workflow: Mapping[str, Any], trigger: str, leftovers: list[str]) -> AsyncIterator[Lent]:
    """A copy of the workflow that starts by a webhook in the place of its node `trigger`, and by nothing else.

    Names what could not be removed afterwards in `leftovers`. Raises `N8nRefused` when n8n will not have it.
    """
    key, path = secrets.token_urlsafe(24), f"flexdb-check-{secrets.token_hex(8)}"
    made = credential = ""
    try:
        credential = await credentials.create(n8n, TEMPORARY_KEY, {"name": HEADER, "value": key})
        body = startable(workflow, trigger, path, credential)
        made = str((await n8n.call("POST", "/workflows", body))["id"])
        await n8n.call("POST", f"/workflows/{segment(made)}/activate")
        yield Lent(n8n, made, path, key)
    finally:
        if made:
            await _remove(n8n, f"/workflows/{segment(made)}", leftovers)
        if credential:
            await _remove(n8n, f"/credentials/{segment(credential)}", leftovers)


async def clear_away(n8n: N8n, there: list[dict[str, Any]], known: Known, now: datetime) -> tuple[list[str], list[str]]:
    """What checks that were killed left behind: the names of what is removed now, and of what is still there.

    Younger ones may be in use by a check that runs now, so they stay.
    """
    left = [("workflow", row) for row in there if row["name"] == TEMPORARY]
    if known.listed and known.has(TEMPORARY_KEY):
        rows = await n8n.all("/credentials")
        left += [("credential", row) for row in rows if (row.get("type"), row["name"]) == TEMPORARY_KEY]
    removed: list[str] = []
    stay: list[str] = []
    for what, row in left:
        if now - _made(row, now) < LEFT_BEHIND:
            stay.append(f"{what} {row['id']}")
            continue
        before = len(stay)
        await _remove(n8n, f"/{what}s/{segment(str(row['id']))}", stay)
        if len(stay) == before:
            removed.append(f"{what} {row['id']}")
    return removed, stay


def _made(row: Mapping[str, Any], now: datetime) -> datetime:
    """When n8n made it; now, where it does not say."""
    try:
        made = datetime.fromisoformat(str(row.get("createdAt")))
    except ValueError:
        return now
    return made if made.tzinfo else made.replace(tzinfo=UTC)


async def _remove(n8n: N8n, path: str, leftovers: list[str]) -> None:
    try:
        if path.startswith("/workflows"):
            await n8n.call("POST", f"{path}/deactivate")
        await _delete(n8n, path)
    except (N8nAway, N8nRefused):
        leftovers.append(path.removeprefix("/").replace("s/", " ", 1))


async def _delete(n8n: N8n, path: str) -> None:
    """n8n 2.41 answers 409 while it still takes the webhooks of an unpublished workflow away."""
    loop = asyncio.get_running_loop()
    end = loop.time() + REMOVED_SECONDS
    while True:
        try:
            await n8n.call("DELETE", path)
        except N8nRefused as error:
            if error.status != 409 or loop.time() > end:
                raise
            await asyncio.sleep(0.2)
        else:
            return


def startable(workflow: Mapping[str, Any], trigger: str, path: str, credential: str) -> Workflow:
    """For n8n's API: only the webhook `path` starts it, other triggers sleep, and nobody is told of its errors."""
    ready = copy.deepcopy({name: workflow[name] for name in ("nodes", "connections", "settings")})
    answers = any(kind(node) == "respondToWebhook" for node in ready["nodes"])
    for node in ready["nodes"]:
        if "webhookId" in node:
            node["webhookId"] = str(uuid.uuid4())
        if node["name"] == trigger:
            node |= _webhook(path, credential, answers=answers)
        elif starts_by_itself(node):
            node["disabled"] = True
    kept = ("executionOrder", "timezone", "saveDataErrorExecution", "saveDataSuccessExecution", "executionTimeout")
    ready["settings"] = {name: value for name, value in (ready["settings"] or {}).items() if name in kept}
    return {"name": TEMPORARY, **ready}


def _webhook(path: str, credential: str, *, answers: bool) -> dict[str, Any]:
    return {
        "type": "n8n-nodes-base.webhook",
        "typeVersion": 2,
        "webhookId": str(uuid.uuid4()),
        "disabled": False,
        "parameters": {
            "httpMethod": "POST",
            "path": path,
            "authentication": "headerAuth",
            "responseMode": "responseNode" if answers else "onReceived",
            "options": {},
        },
        "credentials": {"httpHeaderAuth": {"id": credential, "name": TEMPORARY}},
    }


def hurried(workflow: Mapping[str, Any]) -> Workflow:
    """A copy that gives up soon where it asks over HTTP."""
    ready: Workflow = copy.deepcopy(dict(workflow))
    for node in ready["nodes"]:
        if "waitBetweenTries" in node:
            node |= {"maxTries": 2, "waitBetweenTries": QUICK_MILLISECONDS}
    return ready


def why_it_failed(execution: Mapping[str, Any]) -> str:
    """Node and message, as n8n keeps them of a failed execution."""
    found = (execution.get("data") or {}).get("resultData") or {}
    error = found.get("error") or {}
    said = " ".join(str(part) for part in (error.get("message"), error.get("description")) if part)
    return f"{found.get('lastNodeExecuted', 'a node')}: {said or 'no message'}"

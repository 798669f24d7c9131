"""One job from n8n to FlexDB and its callback back, told as plain sentences."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from service.cli.client import ServiceClient, find_token, shown_url
from service.cli.doctor.finding import Finding, fails, ok, warning
from service.cli.exits import CommandError
from service.cli.n8n.api import N8n, N8nAway, N8nRefused
from service.cli.n8n.credentials import FLEXDB_KEY, FLEXDB_SECRET, Known
from service.cli.n8n.lending import Lent, hurried, lent, why_it_failed
from service.cli.n8n.workflows import Workflow, with_settings
from service.settings import Settings

AREA = "round trip"
FILE = "check-the-pair"
TRIGGER = "When asked to check"
ANSWERING = "Answer what was found"
ANSWER_SECONDS = 60.0
"""Beside the wait for the callback: tries to reach FlexDB, and the look at the job."""
SECONDS_IN_HOUR = 3600


async def try_round_trip(
    n8n: N8n, shipped: Workflow, known: Known, settings: Settings, flexdb_url: str, seconds: float
) -> list[Finding]:
    """What works between this n8n and the FlexDB at `flexdb_url`, by the user's own credentials."""
    missing = [key[1] for key in (FLEXDB_KEY, FLEXDB_SECRET) if known.listed and not known.has(key)]
    if missing:
        return [fails(AREA, "not tried", f"n8n has no credential {', '.join(missing)}", "flexdb n8n install")]
    values = {"flexdbUrl": flexdb_url, "waitHours": seconds / SECONDS_IN_HOUR}
    workflow = hurried(with_settings(relinked(shipped, known), values))
    leftovers: list[str] = []
    try:
        async with lent(n8n, workflow, TRIGGER, leftovers) as trial:
            found = await _answered(trial, settings, flexdb_url, seconds)
    except (N8nRefused, N8nAway) as error:
        found = [fails(AREA, "not tried", error.message, error.hint or "These workflows want n8n 2.8 or newer.")]
    return found + left_over(leftovers)


def relinked(workflow: Workflow, known: Known) -> Workflow:
    """A copy whose nodes are linked with what n8n has."""
    ready: Workflow = copy.deepcopy(workflow)
    for node in ready["nodes"]:
        for which, credential in (node.get("credentials") or {}).items():
            credential["id"] = known.id_of((which, credential["name"])) or credential.get("id")
    return ready


def left_over(names: list[str]) -> list[Finding]:
    return [warning(AREA, "removal", f"{name} could not be removed", "Remove it in n8n.") for name in names]


async def _answered(trial: Lent, settings: Settings, flexdb_url: str, seconds: float) -> list[Finding]:
    status, body = await trial.call(seconds + ANSWER_SECONDS)
    answer = _read(body)
    execution = None
    if answer is None:  # with a queue n8n answers nothing, and at once, when the workflow begins to wait
        execution = await (trial.execution() if body or status >= 300 else trial.ended(seconds + ANSWER_SECONDS))
        answer = _kept(execution or {})
    if answer is None:
        why = why_it_failed(execution) if execution else f"its webhook answered {status}"
        return [fails(AREA, "workflow", f"the workflow did not end: {why}", "Look at the credentials it names.")]
    findings = told(answer, flexdb_url)
    if answer.get("job_id") and not answer.get("callback_arrived"):
        findings += await _delivery(settings, str(answer["job_id"]))
    return findings


def _read(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "flexdb_reached" in answer else None


def _kept(execution: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the workflow answered, as n8n keeps it of the execution."""
    found = (execution.get("data") or {}).get("resultData") or {}
    for run in (found.get("runData") or {}).get(ANSWERING, ()):
        for item in ((run.get("data") or {}).get("main") or [[]])[0] or ():
            return dict(item["json"])
    return None


def told(answer: Mapping[str, Any], flexdb_url: str) -> list[Finding]:
    """The workflow's answer as findings, up to the first thing that does not work."""
    url = shown_url(flexdb_url)
    steps = (
        ("flexdb_reached", "reach", f"n8n reaches FlexDB at {url}", "Correct flexdbUrl in Settings, or start FlexDB."),
        (
            "token_taken",
            "token",
            "FlexDB takes the token in n8n's credential FlexDB API key",
            "flexdb n8n install --replace-credentials, or put the token of FLEXDB_TOKEN into it.",
        ),
        ("request_taken", "request", "FlexDB takes the request", "Mend what FlexDB names."),
        (
            "callback_arrived",
            "callback",
            "FlexDB's callback reaches n8n",
            "Set WEBHOOK_URL of n8n to an address FlexDB reaches, and FLEXDB_OUTGOING_ALLOW to its host.",
        ),
        (
            "signature_valid",
            "secret",
            "both have the same webhook secret",
            "flexdb n8n install --replace-credentials, or put the first of FLEXDB_WEBHOOK_SECRET into it.",
        ),
    )
    findings: list[Finding] = []
    for field, name, sentence, mend in steps:
        if not answer.get(field):
            problem = str(answer.get("problem") or f"not so: {sentence}")
            return [*findings, fails(AREA, name, problem.replace(flexdb_url, url), mend)]
        findings.append(ok(AREA, name, sentence))
    return findings


async def _delivery(settings: Settings, job_id: str) -> list[Finding]:
    """What FlexDB says of the callback that did not come, if it can be asked from here."""
    try:
        async with ServiceClient(settings.service_url, find_token(settings)) as service:
            deliveries = (await service.call("GET", "/deliveries", params={"job_id": job_id})).body["data"]
    except CommandError:
        return []
    return [
        fails(
            AREA,
            "delivery",
            f"FlexDB tried {delivery['url']} {delivery['attempts']} times: {delivery['last_error']}",
            "flexdb deliveries shows every try.",
        )
        for delivery in deliveries
        if delivery.get("last_error")
    ]

"""`flexdb n8n check`: everything looked at in a running pair, in the order people mend things."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service.cli.client import ServiceClient, find_token, shown_url
from service.cli.doctor.finding import Finding, fails, ok, warning
from service.cli.doctor.running import examine_service
from service.cli.exits import CommandError, Refused
from service.cli.n8n import round_trip
from service.cli.n8n.api import N8n
from service.cli.n8n.comparing import find_installed
from service.cli.n8n.credentials import Known, known_credentials
from service.cli.n8n.installing import choose
from service.cli.n8n.lending import clear_away
from service.cli.n8n.looking import Names, look_at_credentials, look_at_settings, look_at_workflow
from service.cli.n8n.trying import AREA as RUN
from service.cli.n8n.trying import is_safe, try_workflow
from service.cli.n8n.workflows import Workflow, placeholders, read_workflows, settings_of, shipped_folder
from service.settings import Settings

ALL_SAFE = "all-safe"


@dataclass(frozen=True, slots=True)
class Questions:
    """What is to be looked at, and how long things may take."""

    shipped: Mapping[str, Workflow]
    settings: Settings
    flexdb_url: str | None
    run: tuple[str, ...]
    seconds: float
    run_seconds: float


def examine(url: str, api_key: str, questions: Questions) -> list[Finding]:
    """Raises `CommandError` when n8n does not answer or does not take the key."""
    return asyncio.run(_examine(url, api_key, questions))


async def _examine(url: str, api_key: str, questions: Questions) -> list[Finding]:
    chosen = choose(questions.shipped, tuple(word for word in questions.run if word != ALL_SAFE))
    async with N8n(url, api_key) as n8n:
        await n8n.greet()
        there = await n8n.all("/workflows")
        known = await known_credentials(n8n, there)
        found = {file: find_installed(workflow, there) for file, workflow in questions.shipped.items()}
        installed = {file: each[0] for file, each in found.items() if each}
        findings = [ok("n8n", "reached", f"{shown_url(url)} answers and takes the API key")]
        findings += await _left(n8n, there, known)
        findings += await examine_service(questions.settings)
        for file, workflow in questions.shipped.items():
            findings += look_at_workflow(file, workflow, found[file], there)
        findings += look_at_credentials(installed, questions.shipped, known)
        findings += look_at_settings(installed, await _names(questions.settings))
        for flexdb_url in _flexdb_urls(questions, installed):
            findings += await round_trip.try_round_trip(
                n8n, _shipped_check(questions), known, questions.settings, flexdb_url, questions.seconds
            )
        return findings + await _runs(n8n, questions, chosen, installed)


async def _left(n8n: N8n, there: list[dict[str, Any]], known: Known) -> list[Finding]:
    removed, stay = await clear_away(n8n, there, known, datetime.now(UTC))
    told = [ok("n8n", "leftover", f"{name} of a check that was broken off: removed now") for name in removed]
    detail = "is of a check that runs now, or was broken off"
    mend = "A check two hours later removes it, or remove it in n8n."
    return told + [warning("n8n", "leftover", f"{name} {detail}", mend) for name in stay]


def _shipped_check(questions: Questions) -> Workflow:
    return questions.shipped.get(round_trip.FILE) or read_workflows(shipped_folder())[round_trip.FILE]


def _flexdb_urls(questions: Questions, installed: Mapping[str, Any]) -> list[str]:
    """Every address of FlexDB that the installed workflows use."""
    if questions.flexdb_url:
        return [questions.flexdb_url]
    used = {str(settings_of(workflow).get("flexdbUrl", "")).rstrip("/") for workflow in installed.values()}
    return sorted(url for url in used if url and not url.startswith("=")) or [questions.settings.service_url]


async def _names(settings: Settings) -> Names | None:
    """The connections and collections that FlexDB has; None when it cannot be asked from here."""
    try:
        async with ServiceClient(settings.service_url, find_token(settings)) as service:
            try:
                health = (await service.call("GET", "/health")).body
            except Refused as error:
                if error.status != 503:
                    raise
                health = error.problem  # a connection cannot be reached: they are all named nevertheless
            collections = (await service.call("GET", "/collections")).body["data"]
            return Names(frozenset(health["connections"]), frozenset(each["name"] for each in collections))
    except (CommandError, KeyError, TypeError):
        return None


async def _runs(
    n8n: N8n, questions: Questions, chosen: Mapping[str, Workflow], installed: Mapping[str, dict[str, Any]]
) -> list[Finding]:
    named = [word for word in questions.run if word != ALL_SAFE]
    files = list(chosen) if named else []
    findings: list[Finding] = []
    if ALL_SAFE in questions.run:
        for file, workflow in installed.items():
            if file in files:
                continue
            if not is_safe(workflow):
                findings.append(ok(RUN, file, "not run: it may write"))
            elif open_fields := placeholders(workflow):
                why = f"not run: {', '.join(open_fields)} is not set in its Settings"
                findings.append(warning(RUN, file, why, "Set it in n8n, or name the workflow with --run."))
            else:
                files.append(file)
    for file in files:
        if file in installed:
            findings += await try_workflow(n8n, file, installed[file], questions.run_seconds)
        else:
            findings.append(fails(RUN, file, "is not installed", "flexdb n8n install"))
    return findings

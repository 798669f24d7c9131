"""`flexdb doctor`: everything looked at, printed, and summed up in an exit code."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from service.cli.client import load_settings
from service.cli.doctor.configuration import examine_settings, settings_shown
from service.cli.doctor.databases import examine_connections
from service.cli.doctor.finding import Finding, State
from service.cli.doctor.folders import examine_folders
from service.cli.doctor.running import examine_service
from service.cli.doctor.servers import examine_servers
from service.cli.exits import Exit
from service.cli.output import say, write_json, write_table
from service.settings import Settings


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order people mend things."""
    return [
        *examine_settings(settings),
        *examine_folders(settings),
        *examine_servers(settings),
        *examine_connections(settings),
        *asyncio.run(examine_service(settings)),
    ]


def examine_and_show(as_json: bool) -> Exit:
    """`FAILED` when something would fail."""
    settings = load_settings()
    findings = examine(settings)
    failing = sum(finding.state is State.FAILS for finding in findings)
    if as_json:
        shown = [asdict(finding) for finding in findings]
        write_json({"ok": not failing, "settings": settings_shown(settings), "findings": shown})
    else:
        _show(settings, findings)
    return Exit.FAILED if failing else Exit.COMPLETED


def _show(settings: Settings, findings: list[Finding]) -> None:
    marked = [
        (name, value, "" if _is_set(name, settings) else "default") for name, value in settings_shown(settings).items()
    ]
    write_table(("setting", "value", ""), marked, title="settings")
    columns = ("area", "name", "state", "detail", "mend")
    write_table(columns, [[getattr(finding, column) for column in columns] for finding in findings], title="findings")
    count = {state: sum(finding.state is state for finding in findings) for state in State}
    say(f"{count[State.OK]} ok, {count[State.WARNING]} warnings, {count[State.FAILS]} would fail")


def _is_set(variable: str, settings: Settings) -> bool:
    return variable.removeprefix("FLEXDB_").partition("__")[0].lower() in settings.model_fields_set

"""The shipped workflows as files, and a workflow with settings of one's own put into its Settings node."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.cli.exits import CommandError

Workflow = dict[str, Any]
SETTINGS = "Settings"
TAKEN_BY_API = ("name", "nodes", "connections", "settings")
"""All that n8n's public API takes of a workflow; anything else is answered 400."""


def shipped_folder() -> Path:
    """Where the workflows lie that came with this version. Raises `CommandError` when they are not there."""
    folder = Path(__file__).parents[3] / "n8n_workflows"
    if not folder.is_dir():
        raise CommandError("The workflows are not installed.", "Name their folder with --folder.")
    return folder


def read_workflows(folder: Path) -> dict[str, Workflow]:
    """The workflows in a folder, by file name without its ending. Raises `CommandError`."""
    found: dict[str, Workflow] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CommandError(f"{path} cannot be read as JSON ({error}).") from error
        if isinstance(document, dict) and "nodes" in document and "connections" in document:
            if fault := _fault(document):
                raise CommandError(f"{path} is no workflow for n8n: {fault}.", "Take it out of the folder, or mend it.")
            found[path.stem] = document
    if not found:
        raise CommandError(f"There are no workflows in {folder}.")
    return found


def _fault(document: Mapping[str, Any]) -> str:
    """What in it is not as all code after this takes for granted; empty when nothing is."""
    for field, kind in (("id", str), ("name", str), ("nodes", list), ("connections", dict), ("settings", dict)):
        if not isinstance(document.get(field), kind) or (field != "connections" and not document[field]):
            return f"its {field} are missing or of another kind"
    for number, node in enumerate(document["nodes"]):
        fields = (("id", str), ("name", str), ("type", str), ("parameters", dict))
        if not isinstance(node, dict) or not all(isinstance(node.get(field), kind) for field, kind in fields):
            return f"node {number} is not one"
        credentials = (node.get("credentials") or {}) if isinstance(node.get("credentials"), dict | None) else None
        if credentials is None or not all(isinstance(each, dict) and "name" in each for each in credentials.values()):
            return f"the credentials of node {node['name']} are not some"
    return ""


def settings_of(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """The names and values in a workflow's Settings node; empty where it has none."""
    return {row["name"]: row.get("value", "") for row in setting_rows(workflow)}


def with_settings(workflow: Mapping[str, Any], values: Mapping[str, Any]) -> Workflow:
    """A copy in which the Settings node holds `values` where it has fields of these names; others are passed over."""
    changed = copy.deepcopy(dict(workflow))
    for row in setting_rows(changed):
        if row["name"] in values:
            row["value"] = values[row["name"]]
    return changed


def for_api(workflow: Mapping[str, Any]) -> Workflow:
    """What of it n8n's public API takes."""
    return {field: workflow[field] for field in TAKEN_BY_API if field in workflow}


def setting_rows(workflow: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of its Settings node, as n8n keeps them; an empty list where it has none."""
    for node in workflow["nodes"]:
        if node["name"] == SETTINGS:
            rows: list[dict[str, Any]] = node["parameters"].get("assignments", {}).get("assignments", [])
            return rows
    return []


def placeholders(workflow: Mapping[str, Any]) -> list[str]:
    """The fields of Settings that still hold what only stands for an answer."""
    return [
        name
        for name, value in settings_of(workflow).items()
        if isinstance(value, str) and any(word in value for word in ("REPLACE_ME", "example.org", "example.com"))
    ]

"""Whether an installed workflow is the shipped one, by a digest that a mere save in the editor leaves as it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from service.cli.n8n.workflows import SETTINGS, setting_rows

NOTE = "stickyNote"
KEPT: Mapping[str, tuple[str, ...]] = {
    "scheduleTrigger": ("rule",),
    "webhook": ("path",),
    "formTrigger": ("path",),
    "rabbitmqTrigger": ("queue",),
}
"""Parameters of triggers that are the user's: when it runs, and by what name it is called."""
DEFAULTS: Mapping[str, frozenset[Any]] = {
    "authentication": frozenset({"none"}),
    "binaryPropertyName": frozenset({"data"}),
    "contentType": frozenset({"json"}),
    "encoding": frozenset({"hex"}),
    "fieldType": frozenset({"text"}),
    "incomingAuthentication": frozenset({"none"}),
    "includeOtherFields": frozenset({False}),
    "limitType": frozenset({"afterTimeInterval"}),
    "logic": frozenset({"removeItemsWithAlreadySeenKeyValues"}),
    "method": frozenset({"GET"}),
    "mode": frozenset({"manual", "once", "cleanDatabase"}),
    "respondWith": frozenset({"text"}),
    "responseMode": frozenset({"onReceived"}),
    "resume": frozenset({"timeInterval"}),
    "resumeUnit": frozenset({"hours"}),
    "source": frozenset({"database"}),
    "type": frozenset({"SHA256"}),
    "unit": frozenset({"seconds"}),
}
"""What n8n's editor leaves out of nodes when it saves; a test compares all that is shipped with n8n's own rules."""
NOT_BY_ITSELF = frozenset({"manualTrigger", "executeWorkflowTrigger"})
FLAGS = (
    "disabled",
    "retryOnFail",
    "maxTries",
    "waitBetweenTries",
    "onError",
    "executeOnce",
    "alwaysOutputData",
)
_MARK = re.compile(r"FlexDB \S+, \S+, ([0-9a-f]{16})")


class State(StrEnum):
    """An installed workflow beside the shipped one."""

    CURRENT = "up to date"
    OLDER = "older"
    """As an earlier version shipped it."""
    CHANGED = "changed by you"
    """Nodes or connections differ from what was installed; Settings, schedules and credentials do not count."""
    UNKNOWN = "differs"
    """Not the shipped one, and nothing says what it was when it came."""


def kind(node: Mapping[str, Any]) -> str:
    """`webhook` for `n8n-nodes-base.webhook`."""
    return str(node["type"]).rpartition(".")[2]


def starts_by_itself(node: Mapping[str, Any]) -> bool:
    """Whether the node starts its workflow once that is published."""
    which = kind(node)
    return (which.endswith("Trigger") or which == "webhook") and which not in NOT_BY_ITSELF


def triggers(workflow: Mapping[str, Any]) -> list[str]:
    """The names of its nodes that start it by themselves."""
    return [node["name"] for node in workflow["nodes"] if starts_by_itself(node) and not node.get("disabled")]


def is_live(workflow: Mapping[str, Any]) -> bool:
    """Whether what is published is what was saved last. Older versions of n8n know no difference."""
    if not workflow.get("active"):
        return False
    return workflow.get("activeVersionId") in (None, workflow.get("versionId"))


def has_draft(workflow: Mapping[str, Any]) -> bool:
    """Whether it is published and something else was saved since: whatever is written to it now, n8n publishes both.

    Where nodes stand is nothing else, nor are notes. The name and settings of a workflow have no drafts.
    """
    if not workflow.get("active") or is_live(workflow):
        return False
    published = workflow.get("activeVersion")
    return not published or _done_by(published) != _done_by(workflow)


def _done_by(workflow: Mapping[str, Any]) -> Any:
    chosen = {
        (node["name"], name): node.get("parameters", {}).get(name)
        for node in workflow["nodes"]
        for name in KEPT.get(kind(node), ())
    }
    return digest(workflow), chosen, *choices(workflow)


def choices(workflow: Mapping[str, Any]) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """What `digest` leaves out: the values in its Settings node, and which credential each node is linked with."""
    rows = {row["name"]: row.get("value", "") for row in setting_rows(workflow)}
    links = {
        (node["name"], which): credential.get("id")
        for node in workflow["nodes"]
        for which, credential in (node.get("credentials") or {}).items()
    }
    return rows, links


def digest(workflow: Mapping[str, Any]) -> str:
    """Of what the workflow does. Places, notes, ids, credentials and what is the user's to set do not count."""
    nodes = {node["name"]: _essence(node) for node in workflow["nodes"] if kind(node) != NOTE}
    links = {
        f"{source} {way} {number} {link['node']} {link.get('index', 0)}"
        for source, ways in workflow["connections"].items()
        for way, outputs in ways.items()
        for number, output in enumerate(outputs or [])
        for link in output or []
    }
    text = json.dumps([nodes, sorted(links)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _essence(node: Mapping[str, Any]) -> dict[str, Any]:
    which = kind(node)
    left_out = {*KEPT.get(which, ()), *(("assignments",) if node["name"] == SETTINGS else ())}
    parameters = _without_defaults(
        {name: value for name, value in node.get("parameters", {}).items() if name not in left_out}
    )
    flags = {flag: node[flag] for flag in FLAGS if node.get(flag)}
    return {"type": node["type"], "version": node.get("typeVersion", 1), "parameters": parameters, **flags}


def _without_defaults(value: Any) -> Any:
    if isinstance(value, Mapping):
        bare = {name: _without_defaults(each) for name, each in value.items() if not _is_default(name, each)}
        return {name: each for name, each in bare.items() if each not in ({}, [], None, "")}
    return [_without_defaults(each) for each in value] if isinstance(value, list) else value


def _is_default(name: str, value: Any) -> bool:
    return isinstance(value, str | bool) and value in DEFAULTS.get(name, ())


def mark_of(version: str, file: str, shipped: Mapping[str, Any]) -> str:
    """What is noted in the installed workflow: which version of which file it was."""
    return f"FlexDB {version}, {file}, {digest(shipped)}"


def marked_digest(installed: Mapping[str, Any]) -> str | None:
    """The digest noted when it was installed; None when it came another way."""
    found = _MARK.search(str(marked_node(installed).get("notes", "")))
    return found[1] if found else None


def marked_node(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """The node whose notes hold the mark: Settings, or the first one."""
    nodes: list[dict[str, Any]] = workflow["nodes"]
    return next((node for node in nodes if node["name"] == SETTINGS), nodes[0])


def state_of(installed: Mapping[str, Any], shipped: Mapping[str, Any]) -> State:
    now, then, new = digest(installed), marked_digest(installed), digest(shipped)
    if now == new:
        return State.CURRENT if _has_all_settings(installed, shipped) else State.OLDER
    if then is None:
        return State.UNKNOWN
    return State.OLDER if now == then else State.CHANGED


def _has_all_settings(installed: Mapping[str, Any], shipped: Mapping[str, Any]) -> bool:
    there = {row["name"]: row.get("value") for row in setting_rows(installed)}
    return all(
        row["name"] in there and (not is_computed(row) or there[row["name"]] == row["value"])
        for row in setting_rows(shipped)
    )


def is_computed(row: Mapping[str, Any]) -> bool:
    """Whether a field of Settings is worked out (like `startedAt`), so that it is not the user's to set."""
    return isinstance(row.get("value"), str) and row["value"].startswith("=")


def find_installed(shipped: Mapping[str, Any], candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which of n8n's workflows are the shipped one, surest first; more than one where it was copied.

    n8n gives new ids by its API and keeps those of nodes; the editor's import gives new ones to nodes, too.
    """
    alive = [workflow for workflow in candidates if not workflow.get("isArchived") and workflow.get("nodes")]
    by_id = [workflow for workflow in alive if workflow["id"] == shipped["id"]]
    node_id = marked_node(shipped)["id"]
    by_node = [workflow for workflow in alive if any(node.get("id") == node_id for node in workflow["nodes"])]
    by_name = [workflow for workflow in alive if workflow["name"] == shipped["name"] and _alike(workflow, shipped)]
    for found in (by_id, by_node, by_name):
        if found:
            named = [workflow for workflow in found if workflow["name"] == shipped["name"]]
            return named if len(named) == 1 else found
    return []


def _alike(installed: Mapping[str, Any], shipped: Mapping[str, Any]) -> bool:
    def names(workflow: Mapping[str, Any]) -> set[tuple[str, str]]:
        return {(node["name"], node["type"]) for node in workflow["nodes"] if kind(node) != NOTE}

    wanted = names(shipped)
    return 2 * len(wanted & names(installed)) >= len(wanted)

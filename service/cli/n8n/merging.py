"""A shipped workflow as it is to be in one n8n: what the user set there is kept, links lead to what is there."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.cli.n8n.comparing import (
    KEPT,
    NOTE,
    choices,
    digest,
    is_computed,
    kind,
    mark_of,
    marked_node,
)
from service.cli.n8n.credentials import Known
from service.cli.n8n.workflows import SETTINGS, Workflow, setting_rows

SETTABLE = frozenset(
    {
        "executionOrder",
        "timezone",
        "errorWorkflow",
        "saveDataErrorExecution",
        "saveDataSuccessExecution",
        "saveManualExecutions",
        "saveExecutionProgress",
        "executionTimeout",
        "callerPolicy",
        "callerIds",
    }
)
"""Settings of a workflow that n8n's API takes, old or new."""


@dataclass(frozen=True)
class Place:
    """What a workflow finds in an n8n: credentials, the ids of workflows, and the id of each shipped one there."""

    known: Known
    workflow_ids: Collection[str] = ()
    installed_ids: Mapping[str, str] = field(default_factory=dict)
    version: str = ""


def merged(
    file: str,
    shipped: Mapping[str, Any],
    installed: Mapping[str, Any] | None,
    place: Place,
    given: Mapping[str, Any],
) -> Workflow:
    """What n8n's API is to be sent for it. `given` are values for Settings that stand above the user's."""
    ready = copy.deepcopy({name: shipped[name] for name in ("name", "nodes", "connections", "settings")})
    before = {node["name"]: node for node in installed["nodes"]} if installed else {}
    for node in ready["nodes"]:
        there = before.get(node["name"])
        if there is not None and there["type"] == node["type"]:
            _keep_choices(node, there)
        _link(node, there, place.known)
    _keep_settings(ready, installed, given)
    if installed is not None:
        ready["name"] = installed["name"]
        names = {node["name"] for node in ready["nodes"]}
        ready["nodes"] += [node for name, node in before.items() if kind(node) == NOTE and name not in names]
    ready["settings"] = _workflow_settings(shipped, installed, place)
    marked_node(ready)["notes"] = mark_of(place.version, file, shipped)
    return ready


def _keep_choices(node: dict[str, Any], there: Mapping[str, Any]) -> None:
    for name in KEPT.get(kind(node), ()):
        if name in there.get("parameters", {}):
            node["parameters"][name] = there["parameters"][name]
    if "webhookId" in node and there.get("webhookId"):
        node["webhookId"] = there["webhookId"]
    node["position"] = there.get("position", node["position"])


def _link(node: dict[str, Any], there: Mapping[str, Any] | None, known: Known) -> None:
    """By the user's own choice where it exists, else by name; a placeholder stays where there is none."""
    every = {credential_id for ids in known.ids.values() for credential_id in ids}
    for which, credential in (node.get("credentials") or {}).items():
        chosen = ((there or {}).get("credentials") or {}).get(which) or {}
        if chosen.get("id") in every:
            node["credentials"][which] = dict(chosen)
        elif found := known.id_of((which, credential["name"])):
            credential["id"] = found


def _keep_settings(ready: Workflow, installed: Mapping[str, Any] | None, given: Mapping[str, Any]) -> None:
    before = {row["name"]: row for row in setting_rows(installed)} if installed else {}
    rows = setting_rows(ready)
    for row in rows:
        if is_computed(row):
            continue
        if row["name"] in before:
            row["value"] = before[row["name"]].get("value", "")
            row["type"] = before[row["name"]].get("type", row["type"])
        if row["name"] in given:
            row["value"] = given[row["name"]]
    names = {row["name"] for row in rows}
    own = [copy.deepcopy(row) for name, row in before.items() if name not in names]
    for node in ready["nodes"]:
        if node["name"] == SETTINGS and own:
            node["parameters"]["assignments"]["assignments"][-1:-1] = own  # `startedAt` stays the last


def _workflow_settings(shipped: Mapping[str, Any], installed: Mapping[str, Any] | None, place: Place) -> dict[str, Any]:
    there = {name: value for name, value in ((installed or {}).get("settings") or {}).items() if name in SETTABLE}
    ready = {**there, **shipped["settings"]}
    if "timezone" in there:
        ready["timezone"] = there["timezone"]
    ready.pop("errorWorkflow", None)
    ours = place.installed_ids.get(str(shipped["settings"].get("errorWorkflow")))
    chosen = there.get("errorWorkflow")
    if ours is None or chosen in place.workflow_ids:
        ours = chosen  # even one that is gone: n8n keeps what is not sent
    if ours is not None:
        ready["errorWorkflow"] = ours
    return ready


def same(ready: Mapping[str, Any], installed: Mapping[str, Any]) -> bool:
    """Whether sending `ready` would change nothing that counts: where nodes stand does not."""
    return bool(_compared(ready, ready["settings"]) == _compared(installed, ready["settings"]))


def _compared(workflow: Mapping[str, Any], asked: Mapping[str, Any]) -> Any:
    settings = {name: (workflow.get("settings") or {}).get(name) for name in {*asked, "errorWorkflow"}}
    return digest(workflow), choices(workflow), settings, marked_node(workflow).get("notes")


def retouched(
    installed: Mapping[str, Any], shipped: Mapping[str, Any], place: Place, given: Mapping[str, Any]
) -> Workflow:
    """An installed workflow with nodes of the user's own: only its links are mended, and `given` goes into Settings."""
    ready = copy.deepcopy({name: installed[name] for name in ("name", "nodes", "connections")})
    wanted = {node["name"]: node.get("credentials") or {} for node in shipped["nodes"]}
    for node in ready["nodes"]:
        there = copy.deepcopy(node)
        for which, credential in wanted.get(node["name"], {}).items():
            if which in (node.get("credentials") or {}):
                node["credentials"][which] = dict(credential)
        _link(node, there, place.known)
    for row in setting_rows(ready):
        if row["name"] in given:
            row["value"] = given[row["name"]]
    asked = {"settings": {name: value for name, value in shipped["settings"].items() if name == "errorWorkflow"}}
    ready["settings"] = _workflow_settings(asked, installed, place)
    return ready

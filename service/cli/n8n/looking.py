"""What can be told of installed workflows without running anything: state, links, settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.cli.doctor.finding import Finding, fails, ok, warning
from service.cli.n8n.comparing import State, has_draft, kind, state_of, triggers
from service.cli.n8n.credentials import FLEXDB_KEY, FLEXDB_RABBITMQ, FLEXDB_SECRET, FORMS, INCOMING, Known, named
from service.cli.n8n.workflows import Workflow, placeholders, settings_of

WORKFLOWS, CREDENTIALS, SETTINGS = "workflow", "credential", "settings"
INSTALL = "flexdb n8n install"
NEEDED = frozenset({"flexdbUrl", "notifyUrl"})
OPTIONAL = frozenset({"heartbeatUrl", "n8nUrl", "notifyUrlFallback"})
NAMES = frozenset(name for _, name in (FLEXDB_KEY, FLEXDB_SECRET, FLEXDB_RABBITMQ, INCOMING, FORMS))


@dataclass(frozen=True, slots=True)
class Names:
    """What FlexDB has that a Settings node may name."""

    connections: frozenset[str]
    collections: frozenset[str]


def look_at_workflow(
    file: str, shipped: Workflow, found: list[dict[str, Any]], there: list[dict[str, Any]]
) -> list[Finding]:
    """Is it there, once, as shipped, published, and does its error workflow exist."""
    if not found:
        return [warning(WORKFLOWS, file, "not installed", f"{INSTALL} --only {file}")]
    installed = found[0]
    findings = [_state(file, shipped, installed)]
    if len(found) > 1:
        ids = ", ".join(str(each["id"]) for each in found)
        findings.append(warning(WORKFLOWS, file, f"n8n has it {len(found)} times: {ids}", "Remove all but one."))
    if has_draft(installed):
        detail = "what was saved last is not what is published"
        findings.append(warning(WORKFLOWS, file, detail, "Publish it in n8n."))
    return findings + list(_error_workflow(file, shipped, installed, there))


def _state(file: str, shipped: Workflow, installed: Mapping[str, Any]) -> Finding:
    state = state_of(installed, shipped)
    if installed.get("active"):
        live = "published"
    else:
        live = "not published" if triggers(installed) else "run by hand only"
    if state is State.OLDER:
        return warning(WORKFLOWS, file, f"{state}, {live}", INSTALL)
    if state is State.UNKNOWN:
        return warning(WORKFLOWS, file, f"{state} from the shipped one, {live}", f"{INSTALL} --overwrite, or leave it.")
    return ok(WORKFLOWS, file, f"{state}, {live}")


def _error_workflow(
    file: str, shipped: Workflow, installed: Mapping[str, Any], there: list[dict[str, Any]]
) -> Iterator[Finding]:
    if "errorWorkflow" not in shipped["settings"]:
        return
    wanted = (installed.get("settings") or {}).get("errorWorkflow")
    target = next((each for each in there if each["id"] == wanted), None)
    if target is None:
        yield warning(WORKFLOWS, file, "nobody is told when it fails: it has no error workflow", INSTALL)
    elif not any(kind(node) == "errorTrigger" for node in target["nodes"]):
        yield fails(WORKFLOWS, file, f"its error workflow {target['name']} has no Error Trigger", "Choose another.")
    elif installed.get("active") and not target.get("active"):
        yield fails(WORKFLOWS, file, f"its error workflow {target['name']} is not published", "Publish that, too.")


def look_at_credentials(
    installed: Mapping[str, Mapping[str, Any]], shipped: Mapping[str, Workflow], known: Known
) -> list[Finding]:
    """Is each there under its name and type, and linked in every node that wants one."""
    findings: list[Finding] = []
    if not known.listed:
        detail = "n8n does not list credentials to this key: only those in use are known"
        findings.append(
            warning(CREDENTIALS, "list", detail, "Use a key of n8n's owner with the scope credential:list.")
        )
    for key in named(shipped[file] for file in installed):
        count = len(known.ids.get(key, ()))
        wanting = [file for file in installed if key in named([shipped[file]])]
        if count == 1:
            findings.append(ok(CREDENTIALS, key[1], f"is there ({key[0]})"))
        elif count > 1:
            detail = f"n8n has {count} of this name and type"
            findings.append(warning(CREDENTIALS, key[1], detail, "Remove those that are not used."))
        else:
            detail = f"n8n has none of this name and type ({key[0]}), which {', '.join(wanting)} want"
            running = any(installed[file].get("active") for file in wanting)
            needed = running or key[0] != "rabbitmq"
            findings.append((fails if needed else warning)(CREDENTIALS, key[1], detail, INSTALL))
    return findings + [
        each for file, workflow in installed.items() for each in _links(file, shipped[file], workflow, known)
    ]


def _links(file: str, shipped: Workflow, workflow: Mapping[str, Any], known: Known) -> list[Finding]:
    """Nodes whose credential is none that n8n has, and those that have another than the round trip tries."""
    every = {credential_id for ids in known.ids.values() for credential_id in ids}
    wanted = {node["name"]: node.get("credentials") or {} for node in shipped["nodes"]}
    loose: list[str] = []
    others: dict[str, None] = {}
    for node in workflow["nodes"]:
        has = node.get("credentials") or {}
        if node.get("disabled") or (not has and not wanted.get(node["name"])):
            continue
        if not has or any(not _is_linked(which, credential, every, known) for which, credential in has.items()):
            loose.append(node["name"])
        for which, credential in wanted.get(node["name"], {}).items():
            tried = known.id_of((which, credential["name"]))
            link = has.get(which) or {}
            if link.get("id") in every and tried is not None and link["id"] != tried:
                others[f"{link.get('name')} ({link['id']})"] = None
    findings = [fails(CREDENTIALS, file, f"not linked in {', '.join(loose)}", INSTALL)] if loose else []
    if others:
        detail = f"uses {', '.join(others)}, which the round trip does not try"
        findings.append(warning(CREDENTIALS, file, detail, f"Run it: flexdb n8n check --run {file}."))
    return findings


def _is_linked(which: str, credential: Mapping[str, Any], every: set[str], known: Known) -> bool:
    """A missing one that the shipped workflows name is told once for all of them."""
    if credential.get("id") in every:
        return True
    name = str(credential.get("name"))
    return not known.has((which, name)) and (not known.listed or name in NAMES)


def look_at_settings(installed: Mapping[str, Mapping[str, Any]], names: Names | None) -> list[Finding]:
    """Is everything filled in, and does FlexDB have what is named. A fault counts where the workflow is published."""
    findings: list[Finding] = []
    for file, workflow in installed.items():
        tell = fails if workflow.get("active") else warning
        if open_fields := placeholders(workflow):
            detail = f"{', '.join(open_fields)} still only stands for an answer"
            findings.append(tell(SETTINGS, file, detail, "Fill it in in n8n, or give it to flexdb n8n install."))
        if wrong := _no_urls(workflow):
            findings.append(tell(SETTINGS, file, f"{', '.join(wrong)} is not a URL", "Write it like http://host:port."))
        for field, missing, what in _unknown(workflow, names):
            findings.append(
                tell(SETTINGS, file, f"{field} names {missing}: FlexDB has no such {what}", f"Set {field}.")
            )
        if not any(finding.name == file for finding in findings):
            findings.append(
                ok(SETTINGS, file, "filled in" if names else "filled in; FlexDB could not be asked for names")
            )
    return findings


def _no_urls(workflow: Mapping[str, Any]) -> list[str]:
    """Fields that every shipped workflow needs and other URLs that are filled in, when they are none."""
    return [
        name
        for name, value in settings_of(workflow).items()
        if (name in NEEDED or (name in OPTIONAL and value not in ("", None)))
        and not re.match(r"=|https?://[^/\s]", str(value), re.IGNORECASE)
    ]


def _unknown(workflow: Mapping[str, Any], names: Names | None) -> Iterator[tuple[str, str, str]]:
    """Field, name and kind of each thing that FlexDB does not have."""
    for field, value in settings_of(workflow).items():
        if names is None or not isinstance(value, str) or value.startswith("="):
            continue
        for what, have in (("connection", names.connections), ("collection", names.collections)):
            if what in field.lower():
                missing = [name for name in (part.strip() for part in value.split(",")) if name and name not in have]
                if missing:
                    yield field, ", ".join(missing), what

"""Small workflows that ask FlexDB for something and wait for its callback, for tests of callbacks alone.

Each has the triggers `Run by hand` and, where a path is given, `Called`: a webhook that starts it at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Node = dict[str, Any]
Workflow = dict[str, Any]
SETTINGS = "$('Settings').first().json"
RESUME_URL = "$execution.resumeUrl"
KEY = "'probe-' + $workflow.id + '-' + $execution.id"
IN_QUERY, ENCODED, IN_PATH = (
    f"{RESUME_URL} + '/done'",
    f"{RESUME_URL} + '%2Fdone'",
    f"{RESUME_URL}.replace('?', '/done?')",
)
"""How the suffix `done` may stand in the URL to resume by: three ways that n8n knows."""


def node(name: str, kind: str, version: float, parameters: Mapping[str, Any], **more: Any) -> Node:
    kind = f"n8n-nodes-base.{kind}"
    return {"name": name, "type": kind, "typeVersion": version, "parameters": dict(parameters), **more}


def fields(name: str, values: Mapping[str, str], *, keep: bool = False) -> Node:
    """A Set node; every value is an expression or a text."""
    rows = [{"id": key, "name": key, "value": value, "type": "string"} for key, value in values.items()]
    return node(name, "set", 3.4, {"assignments": {"assignments": rows}, "includeOtherFields": keep, "options": {}})


def condition(name: str, left: str, right: str) -> Node:
    """An IF node: are both texts equal?"""
    options = {"caseSensitive": True, "leftValue": "", "typeValidation": "loose", "version": 2}
    one = {"id": name, "leftValue": left, "rightValue": right, "operator": {"type": "string", "operation": "equals"}}
    return node(name, "if", 2.2, {"conditions": {"options": options, "conditions": [one], "combinator": "and"}})


def ask(
    name: str,
    operation: str,
    data: str = "",
    *,
    callback: str = IN_QUERY,
    key: str = KEY,
    headers: Mapping[str, str] | None = None,
    pause: int = 2000,
    timeout: int = 30_000,
) -> Node:
    """POST /hooks/`operation`; `data` is the inside of a JavaScript object, `callback` an expression.

    Tried five times, `pause` milliseconds apart.
    """
    sent = {"Idempotency-Key": f"={{{{ {key} + '-{name}' }}}}", **(headers or {})}
    parameters = {
        "method": "POST",
        "url": f"={{{{ {SETTINGS}.flexdbUrl }}}}/hooks/{operation}",
        "authentication": "genericCredentialType",
        "genericAuthType": "httpHeaderAuth",
        "sendHeaders": True,
        "headerParameters": {"parameters": [{"name": name, "value": value} for name, value in sent.items()]},
        "sendBody": True,
        "specifyBody": "json",
        "jsonBody": f"={{{{ JSON.stringify({{ {data}{', ' if data else ''}callback_url: {callback} }}) }}}}",
        "options": {"timeout": timeout, "response": {"response": {"responseFormat": "json"}}},
    }
    credentials = {"httpHeaderAuth": {"id": "REPLACE_ME", "name": "FlexDB API key"}}
    retrying = {"retryOnFail": True, "maxTries": 5, "waitBetweenTries": pause}
    return node(name, "httpRequest", 4.2, parameters, credentials=credentials, **retrying)


def wait(name: str, suffix: str = "done", *, seconds: float = 3600, **more: Any) -> Node:
    """A Wait node for one POST; `more` are further parameters."""
    options = {"rawBody": True} | ({"webhookSuffix": suffix} if suffix else {})
    parameters = {"resume": "webhook", "httpMethod": "POST", "limitWaitTime": True, "limitType": "afterTimeInterval"}
    parameters |= {"resumeAmount": seconds, "resumeUnit": "seconds", "options": options} | more.pop("parameters", {})
    return node(name, "wait", 1.1, parameters, webhookId=f"probe-{name.replace(' ', '-').lower()}", **more)


def told(name: str, asked: str) -> Node:
    """What came: for which job, against the job that was `asked` for; `nothing` when the wait was over before."""
    came = {
        "asked": f"={{{{ $('{asked}').last().json.job_id ?? $('{asked}').last().json.data.job_id }}}}",
        "came": "={{ $json.headers ? $json.body.data.job_id : 'nothing' }}",
        "type": "={{ $json.headers ? $json.body.type : '' }}",
        "number": "={{ $json.headers ? ($json.body.data.number ?? $json.body.data.result ?? '') : '' }}",
    }
    return fields(name, came)


def genuine(name: str) -> list[Node]:
    """The signature's check: a Crypto node and the IF node `name`."""
    crypto = {"action": "hmac", "binaryData": True, "binaryPropertyName": "data", "type": "SHA256", "encoding": "hex"}
    credentials = {"crypto": {"id": "REPLACE_ME", "name": "FlexDB webhook secret"}}
    computed = node("HMAC", "crypto", 2, crypto | {"dataPropertyName": "computed"}, credentials=credentials)
    shown = "={{ $json.headers['x-flexdb-signature'] ?? '' }}"
    return [computed, condition(name, "={{ 'sha256=' + $json.computed }}", shown)]


def stop(name: str) -> Node:
    return node(name, "stopAndError", 1, {"errorMessage": name})


def workflow(
    name: str, *line: Node, path: str | None = None, otherwise: Mapping[str, Node | str] | None = None
) -> Workflow:
    """`line` is run through from its first node to its last.

    `otherwise` has what follows the second output of an IF: another node, or the name of one of the line.
    """
    triggers = [node("Run by hand", "manualTrigger", 1, {})]
    if path is not None:
        called = {"httpMethod": "POST", "path": path, "responseMode": "onReceived", "options": {}}
        triggers.append(node("Called", "webhook", 2, called, webhookId=path))
    settings = fields("Settings", {"flexdbUrl": "", "notifyUrl": ""}, keep=True)
    aside = otherwise or {}
    return {
        "name": name,
        "nodes": _placed([*triggers, settings, *line, *(one for one in aside.values() if isinstance(one, dict))]),
        "connections": _linked(triggers, [settings, *line], aside),
        "settings": {"executionOrder": "v1", "saveDataSuccessExecution": "all", "saveDataErrorExecution": "all"},
    }


def _placed(nodes: Sequence[Node]) -> list[Node]:
    return [{"id": f"node-{number}", "position": [220 * number, 0], **one} for number, one in enumerate(nodes)]


def _linked(triggers: Sequence[Node], line: Sequence[Node], aside: Mapping[str, Node | str]) -> dict[str, Any]:
    def to(one: Node | str) -> list[dict[str, Any]]:
        return [{"node": one if isinstance(one, str) else one["name"], "type": "main", "index": 0}]

    found = {one["name"]: {"main": [to(line[0])]} for one in triggers}
    for one, following in pairwise(line):
        other = [to(aside[one["name"]])] if one["name"] in aside else []
        found[one["name"]] = {"main": [to(following), *other]}
    return found


def asking(operation: str, data: str = "", *, path: str | None = None, **how: Any) -> Workflow:
    """The simplest: `Ask`, wait for its callback, `Done`. `how` goes to `ask`; `seconds` is how long it waits."""
    waiting = wait("Wait for it", seconds=how.pop("seconds", 3600))
    return workflow(f"Probe: {operation}", ask("Ask", operation, data, **how), waiting, told("Done", "Ask"), path=path)

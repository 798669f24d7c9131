"""What each kind of node gives for what it gets, with all that may come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from handlers.registry import handler_classes
from tests.architecture.flexdb_answers import KNOWN, OPEN, USUAL, answers, ends, known, problem, told
from tests.architecture.workflow_calls import calls_of, messages_of
from tests.architecture.workflow_document import Node, assignments, kind, texts
from tests.architecture.workflow_items import ANY, Item, Outputs, json_or, with_error

if TYPE_CHECKING:
    from tests.architecture.workflow_flow import Flow

Give = Callable[["Flow", Node, list[Item]], Outputs]


def passes(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    """A node that changes nothing, on each output that is wired."""
    wired = {link.output for link in flow.workflow.links if link.source == node["name"]} or {0}
    made = dict.fromkeys(wired, items)
    if node.get("onError") == "continueRegularOutput":
        made[0] = [*items, *map(with_error, items)]
    if node.get("onError") == "continueErrorOutput":
        made[max(1, *wired)] = [with_error(item) for item in items]
    return made


def _sets(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    made, rounds = [], range(max(flow.rounds(node), len(items), 1))
    fails = [any(flow.error(node, row["value"], number) for row in assignments(node)) for number in rounds]
    for number in rounds:
        if fails[number] and not all(fails):
            continue  # n8n gives nothing either
        base = items[number % len(items)] if items and node["parameters"].get("includeOtherFields") else {}
        fields: dict[str, Any] = {KNOWN: True, **base}
        for row in assignments(node):
            value = flow.value(node, row["value"], number)
            if row["type"] in ("array", "object") and isinstance(value, str):
                value = json_or(value)
            _put(fields, row["name"], value)
        if node["parameters"].get("mode") == "raw":
            fields |= json_or(flow.value(node, node["parameters"].get("jsonOutput", "{}"), number)) or {}
        made.append(fields)
    return {0: made}


def _put(fields: dict[str, Any], name: str, value: Any) -> None:
    """`a.b` is b in a, as the node has it."""
    head, _, rest = name.partition(".")
    if not rest:
        fields[head] = value
        return
    inner = fields.get(head)
    fields[head] = dict(inner) if isinstance(inner, dict) else {}
    _put(fields[head], rest, value)


def _http(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    given: list[Item] = []
    for call in calls_of(flow, node):
        flow.calls.append(call)
        if call.operation and isinstance(call.body, dict):
            _remember_callback(flow, call.operation, call.body.get("callback_url"))
        route = call.route
        if route is not None:
            about = {call.operation} if call.operation else flow.operations or {"check"}
            waits = any(name.lower() == "prefer" and "wait=" in value for name, value in call.headers)
            asked = sorted(name for name in about if name in handler_classes())
            given += known(answers(route.method, route.path, asked, waits=waits, at=call.path))
    given = given or [ANY]
    response = node["parameters"].get("options", {}).get("response", {}).get("response", {})
    if response.get("neverError"):
        given += [known(problem())]
    if response.get("fullResponse"):
        given = [{"body": body, "headers": ANY, "statusCode": 200, "statusMessage": "OK"} for body in given]
    elif response.get("responseFormat") == "text":
        given = [{response.get("outputPropertyName", "data"): "text"}]
    given = [one for body in given for one in (body if isinstance(body, list) else [body])]
    return {0: given, 1: [with_error(item) for item in items]}


def _remember_callback(flow: Flow, operation: str, url: Any) -> None:
    if isinstance(url, str):
        flow.asked.setdefault(url.rpartition("/")[2], set()).add(operation)


def _waits(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    if node["parameters"].get("resume") == "form":
        return _form(flow, node, items)
    if node["parameters"].get("resume") != "webhook":
        return {0: items}
    suffix = node["parameters"].get("options", {}).get("webhookSuffix", "")
    operations = flow.asked.get(suffix, set()) & set(handler_classes())
    came = [_called(event) for name in sorted(operations) for event in ends(name)] or [_called(ANY)]
    return {0: [*came, *items]}


def _called(body: Any) -> Item:
    headers = {"x-flexdb-signature": "sha256=" + "0" * 64, "webhook-id": "1", "content-type": "application/json"}
    called = {"headers": {**headers, OPEN: "anything"}, "params": ANY, "query": ANY, "body": known(body)}
    return {KNOWN: True, **called}


def _webhook(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    """FlexDB's events, where the example is one; else whatever comes."""
    if _takes_events(flow, node):
        return {0: [_called(event) for name in sorted(handler_classes()) for event in told(name)]}
    examples = [item for name in _beside(flow, node) for item in flow.outputs.get(name, {}).get(0, [])]
    bodies = [item["body"] for item in examples if isinstance(item, dict) and "body" in item]
    return {0: [_called({**body, **ANY} if isinstance(body, dict) else body) for body in [*bodies, ANY]]}


def _message(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    options = node["parameters"].get("options", {})
    only = options.get("onlyContent")
    events = _takes_events(flow, node)
    bodies: list[Any] = [event for name in sorted(handler_classes()) for event in told(name)] if events else [ANY]
    if not options.get("jsonParseBody"):
        bodies = [json.dumps(known(body)) for body in bodies]
    return {
        0: bodies
        if only
        else [{"content": known(body), "fields": ANY, "properties": {"headers": ANY, **ANY}} for body in bodies]
    }


def _takes_events(flow: Flow, node: Node) -> bool:
    """Whether the example beside a trigger looks like an event of FlexDB."""
    found = [text for name in _beside(flow, node) for text in texts(flow.workflow.named[name]["parameters"])]
    return any("specversion" in text for text in found)


def _beside(flow: Flow, node: Node) -> list[str]:
    """The examples that lead to where a trigger leads."""
    targets = {link.target for link in flow.workflow.links if link.source == node["name"]}
    beside = {link.source for link in flow.workflow.links if link.target in targets} - {node["name"]}
    return sorted(name for name in beside if name.startswith("Example"))


def _splits(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    parameters = node["parameters"]
    made: list[Item] = []
    for item in items:
        if not isinstance(item, dict):
            continue
        for name in str(parameters["fieldToSplitOut"]).split(","):
            found = _inside(item, name.strip())
            kept: dict[str, Any] = item if parameters.get("include") == "allOtherFields" else {}
            at = parameters.get("options", {}).get("destinationFieldName") or name.strip().rpartition(".")[2]
            for one in found if isinstance(found, list) else ([ANY] if OPEN in item else [found] if found else []):
                made.append({**kept, **one} if isinstance(one, dict) and not kept else {**kept, at: one})
    return {0: made or [ANY]}


def _inside(item: Item, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(item, dict):
            return None
        item = item.get(part, ANY if OPEN in item else None)
    return item


def _aggregates(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    parameters = node["parameters"]
    if parameters.get("aggregate") == "aggregateAllItemData":
        return {0: [{parameters.get("destinationFieldName") or "data": items}]}
    rows = parameters.get("fieldsToAggregate", {}).get("fieldToAggregate", [])
    made = {}
    for row in rows:
        name = row.get("outputFieldName") if row.get("renameField") else row["fieldToAggregate"].rpartition(".")[2]
        made[name] = [value for item in items if (value := _inside(item, row["fieldToAggregate"])) is not None]
    return {0: [made]}


def _merges(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    if node["parameters"].get("mode", "append") == "append":
        return {0: items}
    ports = {link.target_input for link in flow.workflow.links if link.target == node["name"]}
    columns = [flow.input_of(node["name"], port) for port in sorted(ports)]
    longest = max((len(column) for column in columns), default=0)
    made = []
    for number in range(longest):
        one: dict[str, Any] = {}
        for column in columns:
            if column and isinstance(found := column[number % len(column)], dict):
                one |= found
        made.append(one)
    return {0: [*made, *items]}


def _compares(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    one, other = flow.input_of(node["name"], 0), flow.input_of(node["name"], 1)
    different = {"keys": ANY, "same": ANY, "different": ANY, "skip": ANY}
    return {0: one, 1: one, 2: [different, *one], 3: other}


def _form(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    if node["parameters"].get("operation") == "completion":
        return {0: items}
    came = [_filled(node["parameters"].get("formFields", {}).get("values", []), number) for number in range(3)]
    return {0: [*came, *items] if kind(node) != "formTrigger" else came}


def _filled(fields: list[dict[str, Any]], number: int) -> Item:
    """A form as somebody may have filled it in: each choice is made once."""
    made: dict[str, Any] = {KNOWN: True, "submittedAt": "2026-11-22T03:00:00.000Z", "formMode": "production"}
    for row in fields:
        options = [option["option"] for option in row.get("fieldOptions", {}).get("values", [])]
        name = row.get("fieldName") or row.get("fieldLabel", "")
        text = options[number % len(options)] if options else USUAL.get(name, "shop")
        plain: dict[str, Any] = {"number": 3, "checkbox": options, "date": "2026-11-22", "file": ANY}
        made[name] = plain.get(row.get("fieldType", "text"), text)
    return made


def _crypto(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    name = node["parameters"].get("dataPropertyName", "data")
    return {0: [{**item, name: "0" * 64} if isinstance(item, dict) else item for item in items]}


def _error(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    error = {"message": "it failed", "name": "NodeOperationError", "stack": "", "description": "", **ANY}
    execution = {"id": "231", "url": "https://n8n.example.org/1", "error": error, "mode": "trigger"}
    execution |= {"lastNodeExecuted": "Ask", "retryOf": "230"}
    by_trigger = {"trigger": {"error": error, "mode": "trigger"}, "workflow": {"id": "w", "name": "n"}}
    return {0: [{"execution": execution, "workflow": {"id": "w", "name": "n"}}, by_trigger]}


def _starts(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    return {0: [ANY] if kind(node) == "scheduleTrigger" else [{}]}


def _handed_over(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    """What the workflow hands over to itself."""
    return {0: [item for one in flow.workflow.of("executeWorkflow") for item in flow.input_of(one["name"])] or [ANY]}


def _hands_over(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    return {0: [ANY]}


def _publishes(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    for call in messages_of(flow, node):
        flow.calls.append(call)
        if call.operation and isinstance(call.body, dict):
            _remember_callback(flow, call.operation, call.body.get("callback_url"))
    return {0: [{**ANY, "success": True}]}


def _ends(flow: Flow, node: Node, items: list[Item]) -> Outputs:
    return {}


GIVES: dict[str, Give] = {
    "set": _sets,
    "httpRequest": _http,
    "wait": _waits,
    "webhook": _webhook,
    "rabbitmqTrigger": _message,
    "rabbitmq": _publishes,
    "splitOut": _splits,
    "aggregate": _aggregates,
    "merge": _merges,
    "compareDatasets": _compares,
    "form": _form,
    "formTrigger": _form,
    "crypto": _crypto,
    "errorTrigger": _error,
    "manualTrigger": _starts,
    "scheduleTrigger": _starts,
    "stopAndError": _ends,
    "executeWorkflow": _hands_over,
    "executeWorkflowTrigger": _handed_over,
}

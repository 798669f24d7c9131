"""What workflows ask of FlexDB, held to the service's own models, routes and documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types
from pydantic import ValidationError

from handlers.backup import BackupRequest
from handlers.base import Request
from handlers.preflight import PreflightRequest
from handlers.registry import handler_classes
from handlers.restore import RestoreRequest
from service.access import Access
from service.amqp.messages import Message, read
from service.cloudevents import from_structured
from service.http.paging import wished_limit
from service.http.routes import Route
from service.http.schedules import ScheduleBody
from service.intake import Refused
from tests.architecture.flexdb_answers import DOCUMENT
from tests.architecture.workflow_calls import Call
from tests.architecture.workflow_flow import Flow

NOBODY = Access("token-of-the-tests", {})
LARGEST_KEY = 255


def faults(call: Call) -> list[str]:
    """Why FlexDB would refuse such a call, or not know what is meant; empty when it takes it."""
    if call.fault:
        return [f"it cannot be written: {call.fault}"]
    if call.method == "AMQP":
        return _of_message(call)
    if call.route is None:
        return [f"there is no route {call.method} {call.path}"]
    key = next((value for name, value in call.headers if name.lower() == "idempotency-key"), None)
    long = [f"its Idempotency-Key is {key!r}"] if key is not None and not 8 <= len(key) <= LARGEST_KEY else []
    return [*long, *_of_query(call, call.route), *_of_body(call, call.route)]


def _of_query(call: Call, route: Route) -> Iterator[str]:
    named = {name for name, _ in route.query}
    for name, _ in call.query:
        if name not in named and not ("FIELD" in named and re.fullmatch(r"\w+(\[\w+\])?", name)):
            yield f"{route.method} {route.path} knows no query parameter {name!r}"
    if "limit" in named:
        try:
            wished_limit(dict(call.query))
        except Refused as refused:
            yield refused.detail


def _of_body(call: Call, route: Route) -> Iterator[str]:
    if route.path == "/hooks/{operation}":
        yield from of_data(call.operation or "", {} if call.body is None else call.body)
    elif route.path == "/events":
        yield from _of_event(call.body)
    elif route.path == "/api/ingest" and call.content_type == "application/json" and isinstance(call.body, dict):
        yield from of_data("ingest", {"collection": "customers", **call.body})
    elif route.path == "/schedules/{name}" and route.method == "PUT":
        try:
            schedule = ScheduleBody.model_validate(call.body)
        except ValidationError as error:
            yield from _said(error)
        else:
            yield from of_data(schedule.operation, schedule.data)
    else:
        yield from _of_document(call, route)


def of_data(operation: str, data: Any) -> Iterator[str]:
    """`data` held to the model of the operation."""
    handler = handler_classes().get(operation)
    if handler is None:
        yield f"there is no operation {operation!r}"
        return
    model: type[Request] = handler.request_model
    try:
        request = model.model_validate(data)
        if isinstance(request, PreflightRequest):  # it takes anything; what it looks at does not
            inner = RestoreRequest if request.about == "restore" else BackupRequest
            inner.model_validate(request.data())
    except ValidationError as error:
        yield from _said(error)


def _said(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_context=False):
        place = "".join(f"/{part}" for part in item["loc"]) or "the body"
        yield f"{place}: {item['msg']} (it is {str(item['input'])[:80]!r})"


def _of_event(body: Any) -> Iterator[str]:
    try:
        event = from_structured(body)
    except Refused as refused:
        yield refused.detail
    else:
        yield from of_data(event.operation, event.data)


def _of_document(call: Call, route: Route) -> Iterator[str]:
    """By the schema that the OpenAPI document has for the request."""
    described = DOCUMENT["paths"][route.path][route.method.lower()].get("requestBody")
    if described is None:
        if call.body is not None:
            yield f"{route.method} {route.path} takes no body"
        return
    if call.body is None:
        if described.get("required"):
            yield f"{route.method} {route.path} wants a body"
        return
    content = described["content"].get(call.content_type) or described["content"].get("application/json")
    if not content or "schema" not in content or "contentMediaType" in content["schema"]:
        return
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    for error in Draft202012Validator(schema).iter_errors(call.body):
        yield f"{error.json_path}: {error.message[:200]}"


def _of_message(call: Call) -> list[str]:
    """Read as the service reads what comes from RabbitMQ."""
    properties = dict(call.query)
    message = Message(
        body=_bytes(call.body),
        headers=dict(call.headers),
        content_type=properties.get("contentType"),
        type=properties.get("type"),
        message_id=properties.get("messageId"),
        correlation_id=properties.get("correlationId"),
        reply_to=properties.get("replyTo"),
        routing_key=properties.get("routing_key", ""),
    )
    try:
        event = read(message, NOBODY, trust_broker=True, max_body_bytes=1 << 20).event
    except Refused as refused:
        return [refused.detail]
    found = list(of_data(event.operation, event.data))
    if not (message.message_id or message.header("idempotency-key") or "idempotency_key" in (call.body or {})):
        found.append("it has no id: set messageId, so that a message that comes twice is one job")
    if properties.get("persistent") != "true":
        found.append("set the property persistent to `true`, or a restart of the broker loses it")
    return found


def _bytes(body: Any) -> bytes:
    return json.dumps(body).encode()


def refused_calls(flow: Flow) -> list[str]:
    """Nodes that ask for something FlexDB would refuse whatever came before them."""
    by_node: dict[str, list[list[str]]] = {}
    for call in flow.calls:
        by_node.setdefault(call.node, []).append([f"{call.method} {call.path}: {fault}" for fault in faults(call)])
    found = []
    for node, tries in by_node.items():
        if all(tries):
            fewest = min(tries, key=lambda told: len(told))
            found.append(f"node {node!r}: {'; '.join(fewest)}")
    return found


def unknown_fields(flow: Flow) -> list[str]:
    """Fields that expressions read and that nothing which may come there has."""
    found = []
    for (node, text), seen in flow.seen.items():
        for path in sorted(seen.misses - seen.hits):
            if not any(hit.startswith(f"{path}.") for hit in seen.hits):
                found.append(f"node {node!r}: nothing that comes there has {path}, in {text[:120]!r}")
    return found


def broken_expressions(flow: Flow) -> list[str]:
    """Expressions that no data could make work: wrongly written, or with a name that there is not."""
    found = []
    for (node, text), seen in flow.seen.items():
        errors = {outcome["error"] for outcome in seen.outcomes if "error" in outcome}
        for error in sorted(errors):
            if error.startswith(("SyntaxError", "ReferenceError")):
                found.append(f"node {node!r}: {error}, in {text[:120]!r}")
    return found


def asked_for(flow: Flow) -> set[str]:
    """Operations that the workflow asks for in a way that FlexDB takes."""
    return {call.operation for call in flow.calls if call.operation and not faults(call)}

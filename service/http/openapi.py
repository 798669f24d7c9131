"""The interface described from its own models and route table: OpenAPI 3.1 and AsyncAPI 3.0."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel

from handlers.base import Handler
from service import __version__
from service.http import openapi_calculator, openapi_records
from service.http.dead_letters import RedriveBody
from service.http.openapi_records import SCHEMAS
from service.http.problems import all_codes
from service.http.schedules import ScheduleBody
from service.jobs import STAGE


class RouteLike(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def access(self) -> str: ...
    @property
    def query(self) -> Sequence[tuple[str, str]]: ...


Document = dict[str, Any]
Operations = Mapping[str, Handler[Any] | type[Handler[Any]]]
"""Handlers by operation, made or not: only their models matter here."""
PROBLEM = {"$ref": "#/components/responses/Problem"}
ACCEPTED = {
    "description": "Accepted: it is on disk.",
    "headers": {"Location": {"schema": {"type": "string"}, "description": "The job."}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Acceptance"}}},
}
TERMINAL = {
    "description": "With Prefer: wait, the terminal event, whatever the outcome.",
    "content": {"application/cloudevents+json": {"schema": {"$ref": "#/components/schemas/CompletionEvent"}}},
}
TERMINAL_OR_BATCH = {
    "description": "To a batch, an answer per event in its order. " + str(TERMINAL["description"]),
    "content": {
        "application/cloudevents+json": {"schema": {"$ref": "#/components/schemas/CompletionEvent"}},
        "application/json": {
            "schema": {
                "type": "array",
                "items": {
                    "oneOf": [{"$ref": "#/components/schemas/Acceptance"}, {"$ref": "#/components/schemas/Problem"}]
                },
            }
        },
    },
}
_TEXT: Document = {"type": "string"}
_OPEN: Document = {"type": "object", "additionalProperties": True}
REDRIVE = RedriveBody.model_json_schema()


def _object(required: Sequence[str], **properties: Document) -> Document:
    return {"type": "object", "required": list(required), "properties": properties}


_FIXED: Document = {
    "Acceptance": _object(
        ("job_id", "event_id", "operation", "status", "duplicate", "links"),
        job_id=_TEXT,
        event_id=_TEXT,
        operation=_TEXT,
        status={"$ref": "#/components/schemas/Status"},
        duplicate={"type": "boolean"},
        links={"type": "object", "additionalProperties": _TEXT},
    ),
    "Status": {"type": "string", "enum": ["queued", "running", "succeeded", "failed", "canceled"]},
    "Problem": _object(
        ("type", "title", "status", "code", "detail"),
        type=_TEXT,
        title=_TEXT,
        status={"type": "integer"},
        code=_TEXT,
        detail=_TEXT,
        errors={"type": "array", "items": _object(("pointer", "detail"), pointer=_TEXT, detail=_TEXT)},
    ),
    "Job": _object(
        ("job_id", "event_id", "source", "operation", "status", "attempts", "created_at", "links"),
        **dict.fromkeys(("job_id", "event_id", "source", "operation"), _TEXT),
        connection={"type": ["string", "null"]},
        status={"$ref": "#/components/schemas/Status"},
        attempts={"type": "integer"},
        created_at={"type": "string", "format": "date-time"},
        started_at={"type": ["string", "null"], "format": "date-time"},
        ended_at={"type": ["string", "null"], "format": "date-time"},
        progress={"type": ["object", "null"]},
        result={"type": ["object", "null"]},
        error={"type": ["object", "null"]},
        links={"type": "object", "additionalProperties": _TEXT},
    ),
    "Schedule": _object(
        ("name", "cron", "timezone", "operation", "data", "enabled", "created_at", "updated_at"),
        **dict.fromkeys(("name", "cron", "timezone", "operation"), _TEXT),
        data=_OPEN,
        enabled={"type": "boolean"},
        next_at={"type": ["string", "null"], "format": "date-time"},
        last_at={"type": ["string", "null"], "format": "date-time"},
        last_job_id={"type": ["string", "null"]},
        last_refusal={"type": ["object", "null"], "properties": dict.fromkeys(("at", "code", "detail"), _TEXT)},
        created_at={"type": "string", "format": "date-time"},
        updated_at={"type": "string", "format": "date-time"},
    ),
    "Uploaded": _object(
        ("path", "bytes", "sha256", "storage"),
        **dict.fromkeys(("path", "sha256", "storage"), _TEXT),
        bytes={"type": "integer"},
    ),
    "Page": _object(
        ("data", "next_cursor"),
        data={"type": "array", "items": _OPEN},
        next_cursor={"type": ["string", "null"]},
    ),
    "Event": _object(
        ("specversion", "id", "source", "type"),
        specversion={"const": "1.0"},
        id=_TEXT,
        source={"type": "string", "format": "uri-reference"},
        type={"type": "string", "description": "<operation>.requested"},
        time={"type": "string", "format": "date-time"},
        expirytime={"type": "string", "format": "date-time"},
        datacontenttype=_TEXT,
        data=_OPEN,
    ),
    "CompletionEvent": _object(
        ("specversion", "id", "source", "type", "time", "datacontenttype", "jobid", "causationid", "data"),
        specversion={"const": "1.0"},
        **dict.fromkeys(("id", "source", "type", "subject", "time", "datacontenttype", "jobid", "causationid"), _TEXT),
        data=_OPEN,
    ),
}

_PUT_BODIES: dict[str, Document] = {
    "/subscriptions/{name}": _object(("url",), url=_TEXT, types={"type": "array", "items": _TEXT}),
    "/schedules/{name}": ScheduleBody.model_json_schema(),
}


def document(routes: Sequence[RouteLike], handlers: Operations) -> Document:
    """OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0)."""
    schemas = _FIXED | SCHEMAS
    for name, handler in handlers.items():
        schemas |= _schemas(f"{name.capitalize()}Request", handler.request_model)
        schemas |= _schemas(f"{name.capitalize()}Result", handler.result_model)
    paths: Document = {}
    for route in routes:
        for path, operation in _operations(route, handlers):
            paths.setdefault(path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FlexDB",
            "version": __version__,
            "description": "Database work on request; a backup is completed only after it was proven.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Problem": {
                    "description": "A problem (RFC 9457). Codes: " + ", ".join(sorted(all_codes())),
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "webhook-signature",
                    "description": "Standard Webhooks, with webhook-id and webhook-timestamp.",
                },
            },
        },
    }


def _schemas(name: str, model: type[BaseModel]) -> Document:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: Document = schema.pop("$defs", {})
    return {name: schema, **inner}


def _operations(route: RouteLike, handlers: Operations) -> list[tuple[str, Document]]:
    if route.path != "/hooks/{operation}":
        return [(route.path, _operation(route, route.path))]
    return [
        (
            f"/hooks/{name}",
            _operation(route, f"/hooks/{name}", schema=f"{name.capitalize()}Request", summary=handler.__doc__),
        )
        for name, handler in handlers.items()
    ]


def _operation(route: RouteLike, path: str, *, schema: str | None = None, summary: str | None = None) -> Document:
    takes_events = route.path in ("/events", "/hooks/{operation}")
    operation: Document = {
        "operationId": _operation_id(route.method, path),
        "summary": f"Ask for {path.rpartition('/')[2]}." if schema else route.summary,
        "security": _security(route.access),
        "responses": {"default": PROBLEM} | _answers(route, takes_events=takes_events),
    }
    if parameters := _parameters(route, path):
        operation["parameters"] = parameters
    if takes_events:
        operation["parameters"] = [
            {"name": "Prefer", "in": "header", "schema": _TEXT, "description": "wait=SECONDS, 0 to 300"},
            *([{"name": "Idempotency-Key", "in": "header", "schema": _TEXT}] if schema else []),
        ]
        operation["requestBody"] = {"required": True, "content": _body(schema)}
    elif route.path == "/dead-letters/redrive":
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": REDRIVE}}}
    elif route.path == "/incoming/{name}" and route.method == "PUT":
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    elif route.path in _PUT_BODIES and route.method == "PUT":
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _PUT_BODIES[route.path]}},
        }
    known = openapi_records.described(route.method, route.path)
    return _completed(operation, known or openapi_calculator.described(route.method, route.path))


def _completed(operation: Document, known: Document) -> Document:
    """With what a description of its own says of it."""
    if "headers" in known:
        operation["parameters"] = [*operation.get("parameters", ()), *known["headers"]]
    if "requestBody" in known:
        operation["requestBody"] = known["requestBody"]
    if "responses" in known:
        operation["responses"] = {"default": PROBLEM} | known["responses"]
    return operation


def _parameters(route: RouteLike, path: str) -> list[Document]:
    in_path = re.findall(r"\{(\w+)\}", path)
    return [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in in_path] + [
        {"name": name, "in": "query", "schema": _TEXT, "description": meaning} for name, meaning in route.query
    ]


def _body(schema: str | None) -> Document:
    if schema:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    event = {"$ref": "#/components/schemas/Event"}
    return {
        "application/cloudevents+json": {"schema": event},
        "application/cloudevents-batch+json": {"schema": {"type": "array", "items": event}},
        "application/json": {"schema": _OPEN},
    }


def _security(access: str) -> list[Document]:
    token: list[Document] = [{"bearer": []}, {"apiKey": []}]
    if access == "open":
        return []
    return [*token, {"signature": []}] if access == "signed" else token


def _answers(route: RouteLike, *, takes_events: bool) -> Document:
    if takes_events:
        return {"202": ACCEPTED, "200": TERMINAL_OR_BATCH if route.path == "/events" else TERMINAL}
    kinds = {
        "/jobs": "Page",
        "/jobs/{id}": "Job",
        "/jobs/{id}/rejected": "Page",
        "/backups": "Page",
        "/deliveries": "Page",
        "/subscriptions": "Page",
        "/incoming": "Page",
        "/incoming/{name}": "Uploaded",
        "/schedules": "Page",
        "/collections": "Page",
        "/schedules/{name}": "Schedule",
    }
    if route.method == "DELETE":
        return {"204": {"description": "Removed."}}
    if route.path.endswith(("/cancel", "/redeliver")):
        return {"202": {"description": "Accepted."}}
    if route.path.endswith("/retry"):
        return {"202": ACCEPTED}
    known = kinds.get(route.path)
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{known}"}}} if known else None
    body = {"content": content} if content else {}
    if route.method == "PUT":
        return {"200": {"description": "Replaced."} | body, "201": {"description": "Made."} | body}
    return {"200": {"description": "Found."} | body}


def _operation_id(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"[a-z]+", path)])


def asyncapi_document(handlers: Operations) -> Document:
    """AsyncAPI 3.0 (https://www.asyncapi.com/docs/reference/specification/v3.0.0): events in and out."""
    messages: Document = {}
    schemas: Document = {}
    for name, handler in handlers.items():
        schemas |= _schemas(f"{name.capitalize()}Request", handler.request_model)
        request = {"$ref": f"#/components/schemas/{name.capitalize()}Request"}
        messages[f"{name}.requested"] = {"name": f"{name}.requested", "payload": _event_schema(request)}
        for stage in ("started", *STAGE.values()):
            messages[f"{name}.{stage}"] = {"name": f"{name}.{stage}", "payload": _event_schema(_OPEN)}
    requested = {key: value for key, value in messages.items() if key.endswith(".requested")}
    told = {key: value for key, value in messages.items() if key not in requested}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "FlexDB events", "version": __version__},
        "channels": {
            "requests": {"address": "/events", "messages": requested},
            "completions": {"address": None, "messages": told},
            "requestsExchange": _exchange("flexdb.requests", requested),
            "eventsExchange": _exchange("flexdb.events", told),
        },
        "operations": {
            "takeEvent": {"action": "receive", "channel": {"$ref": "#/channels/requests"}},
            "tellOutcome": {"action": "send", "channel": {"$ref": "#/channels/completions"}},
            "takeMessage": {"action": "receive", "channel": {"$ref": "#/channels/requestsExchange"}},
            "publishOutcome": {"action": "send", "channel": {"$ref": "#/channels/eventsExchange"}},
        },
        "components": {"schemas": schemas},
    }


def _exchange(name: str, messages: Document) -> Document:
    """A topic exchange in RabbitMQ (https://github.com/asyncapi/bindings/tree/master/amqp)."""
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False}
    return {
        "address": name,
        "description": "Names begin with FLEXDB_AMQP_NAME; the routing key is the event's type.",
        "messages": messages,
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0"}},
    }


def _event_schema(data: Document) -> Document:
    event: Document = _FIXED["Event"]
    properties: Document = {**event["properties"], "data": data}
    return {**event, "properties": properties}

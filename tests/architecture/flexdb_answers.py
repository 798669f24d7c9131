"""What FlexDB answers, made by its own models and functions: a field renamed there is another one here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from engines.base import CheckReport
from engines.storage.base import StoredObject
from handlers.base import Result
from handlers.ports import CatalogueEntry
from handlers.registry import handler_classes
from service.amqp.letters import DeadLetter
from service.amqp.redrives import Left, Redrive
from service.event import Event, OutEvent, started_event, terminal_event
from service.http import backups, dead_letters, deliveries, events, incoming, schedules, subscriptions
from service.http.openapi import document
from service.http.routes import ROUTES
from service.jobs import Job, Problem, Status
from service.ledger.records import Accepted, Delivery, Schedule, Subscription

OPEN = "*"
"""A key that says: this object may have any field."""
KNOWN = "#"
"""A key that says: all fields of this object are known."""
JOB_ID = "01kwa2b3c4d5e6f7g8h9j0k1m2"
AT = 1_795_316_400.0
DOCUMENT = document(ROUTES, handler_classes())

USUAL: dict[str, Any] = {
    "job_id": JOB_ID,
    "event_id": "n8n-1",
    "backup_id": f"shop-20261122T030000Z-{JOB_ID}",
    "connection": "shop",
    "target_connection": "shop",
    "database": "flexdb_kept_01kwa2b3c4",
    "engine": "postgres",
    "sha256": "0123456789abcdef" * 4,
    "level": 2,
    "path": "shop.sql.gz",
    "collection": "customers",
    "name": "orders",
    "id": "4f1c2d3e4a5b6c7d",
    "reason": "unknown_connection",
    "url": "https://example.org/hook",
    "cron": "0 3 * * *",
    "timezone": "Etc/UTC",
    "operation": "backup",
    "drops_at": "2026-11-23T03:00:00.000Z",
    "next_cursor": "next",
    "source": "https://example.org/api/customers",
    "routing_key": "backup.requested",
    "exchange": "flexdb.requests",
    "result": 3,
}
"""Values that FlexDB would take back; all others are made from their type."""

DETAILS: dict[str, Any] = {
    "reason": "division_by_zero",
    "host": "example.org",
    "http_status": 404,
    "tool": "pg_dump",
    "exit_code": 1,
    "stderr": "",
    "sqlstate": "42501",
}
"""What is told of a failure beside `error`; nothing that a result has too, as it would hide a field renamed there."""

T = TypeVar("T")


def sample(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str = "") -> Any:
    """A value of a JSON Schema."""
    if "$ref" in schema:
        return sample(definitions[schema["$ref"].rpartition("/")[2]], definitions, name)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            kinds = [one for one in schema[several] if one.get("type") != "null"]
            return _usual(name, kinds) or sample(kinds[0], definitions, name)
    kind = schema.get("type", "object")
    kind = next(one for one in kind if one != "null") if isinstance(kind, list) else kind
    if kind == "object":
        made = {key: sample(inner, definitions, key) for key, inner in schema.get("properties", {}).items()}
        return made if made and not schema.get("additionalProperties") else made | {OPEN: "anything"}
    if kind == "array":
        inner: Any = schema.get("items") or next(iter(schema.get("prefixItems", [])), {})
        return [sample(inner, definitions, name)]
    plain = {"integer": 3, "number": 3.5, "boolean": True, "null": None}
    if kind in plain:
        return _usual(name, [schema]) or plain[kind]
    if schema.get("format") == "date-time":
        return "2026-11-22T03:00:00.000Z"
    return _usual(name, [schema]) or "anything"


def _usual(name: str, kinds: list[Any]) -> Any:
    value = USUAL.get(name)
    wanted: dict[str, Any] = {"string": str, "integer": int, "number": (int, float)}
    types = [kind.get("type") for kind in kinds]
    names = [one for several in types for one in (several if isinstance(several, list) else [several])]
    return value if any(isinstance(value, wanted.get(one, ())) for one in names) else None


def made(model: type[T], **fields: Any) -> T:
    """An object of the service's own class, filled by its types."""
    adapter: TypeAdapter[T] = TypeAdapter(model)
    schema = adapter.json_schema()
    return adapter.validate_python(sample(schema, schema.get("$defs", {})) | fields)


def result(operation: str) -> dict[str, Any]:
    """What a completed job of the operation carries."""
    model: type[Result] = handler_classes()[operation].result_model
    return made(model).model_dump(mode="json")


def job(operation: str, status: Status) -> Job:
    ended = status in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)
    return Job(
        job_id=JOB_ID,
        source="/flexdb/admin",
        event_id="n8n-1",
        operation=operation,
        connection="shop",
        data={},
        status=status,
        attempts=1,
        crashes=0,
        max_attempts=3,
        created_at=AT,
        due_at=AT,
        started_at=AT,
        ended_at=AT if ended else None,
        deadline_at=None,
        expires_at=None,
        cancel_requested=False,
        fencing_token=1,
        result=result(operation) if status is Status.SUCCEEDED else None,
        error=_problem().as_json() if status in (Status.FAILED, Status.CANCELED) else None,
    )


def _problem() -> Problem:
    return Problem("target_unavailable", "No answer.", retryable=True, hint="Start it.", details=DETAILS)


def _said(event: OutEvent) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(event.body)
    return said


@cache
def _ends(operation: str) -> str:
    """All ways a job can end, as JSON."""
    done = terminal_event(job(operation, Status.RUNNING), Status.SUCCEEDED, AT, result(operation))
    ends = [
        terminal_event(job(operation, Status.RUNNING), status, AT, problem=_problem())
        for status in (Status.FAILED, Status.CANCELED)
    ]
    return json.dumps([_said(event) for event in (done, *ends)])


def ends(operation: str) -> list[Any]:
    """The terminal events of an operation: completed, failed, canceled."""
    found: list[Any] = json.loads(_ends(operation))
    return found


def told(operation: str) -> list[Any]:
    """What a subscription gets of a job."""
    return [*ends(operation), _said(started_event(job(operation, Status.RUNNING), AT))]


def acceptance(operation: str) -> dict[str, Any]:
    return events.acceptance(Event("n8n-1", "/flexdb/admin", operation, {}), Accepted(JOB_ID, Status.QUEUED))


def _page(item: Any) -> dict[str, Any]:
    return {"data": [item], "next_cursor": "next"}


def _of_jobs(method: str, path: str, asked: list[str]) -> list[Any]:
    jobs = [job(name, status).as_json() for name in asked for status in Status]
    if path == "/jobs":
        return [{"data": jobs, "next_cursor": "next"}]
    if path.endswith("/rejected"):
        reasons = [{"pointer": "/email", "detail": "This field is required."}]
        return [_page({"page": 1, "position": 2, "record": {OPEN: True}, "reasons": reasons})]
    return [acceptance(name) for name in asked] if path.endswith("/retry") else jobs


def _of_backups(method: str, path: str, asked: list[str]) -> list[Any]:
    entries = [made(CatalogueEntry, level=level, damaged=level == 0) for level in (3, 0)]
    if path == "/backups":
        return [{"data": [backups.shown(entry) for entry in entries], "next_cursor": "next"}]
    return [backups.shown(entry) | {"manifest": entry.manifest.model_dump(mode="json")} for entry in entries]


def _of_deliveries(method: str, path: str, asked: list[str]) -> list[Any]:
    shown = deliveries.shown(made(Delivery))
    return [_page(shown)] if path == "/deliveries" else [shown]


def _of_dead_letters(method: str, path: str, asked: list[str]) -> list[Any]:
    letter = made(DeadLetter)
    if path == "/dead-letters/redrive":
        left = [Left(letter, "unroutable")]
        done = [Redrive(applied, [letter], left, ["0"], more=True) for applied in (True, False)]
        return [dead_letters.told(one) for one in done]
    shown = dead_letters.shown(letter)
    return [{"data": [shown], "more": True}] if path == "/dead-letters" else [shown]


def _of_schedules(method: str, path: str, asked: list[str]) -> list[Any]:
    shown = schedules.shown(made(Schedule))
    shown["last_refusal"] = {"at": "2026-11-22T03:00:00.000Z", "code": "unknown_connection", "detail": "none"}
    return [_page(shown)] if path == "/schedules" else [shown]


def _of_subscriptions(method: str, path: str, asked: list[str]) -> list[Any]:
    shown = subscriptions.shown(made(Subscription))
    return [_page(shown)] if path == "/subscriptions" else [shown]


def _of_collections(method: str, path: str, asked: list[str]) -> list[Any]:
    schemas = DOCUMENT["components"]["schemas"]
    one = sample(schemas["CollectionDocument"], schemas) | sample(schemas["Collection"], schemas)
    listed = [{**one, "name": name} for name in ("customers", "courses")]
    return [{"data": listed, "next_cursor": None}] if path == "/collections" else listed


def _of_incoming(method: str, path: str, asked: list[str]) -> list[Any]:
    store: Any = SimpleNamespace(name="default")
    listed = incoming._shown(store, made(StoredObject, key=f"_incoming/{USUAL['path']}"))
    return [_page(listed)] if path == "/incoming" else [sample(DOCUMENT["components"]["schemas"]["Uploaded"], {})]


def _of_health(method: str, path: str, asked: list[str]) -> list[Any]:
    if path != "/health":
        return [{"status": "ok", "reasons": ["draining"]}]
    state = {"engine": "postgres"} | TypeAdapter(CheckReport).dump_python(made(CheckReport))
    answer: dict[str, Any] = {"status": "ok", "version": "0.1.0", "jobs": {status.value: 1 for status in Status}}
    answer |= {"pending_deliveries": 0, "deliveries": {OPEN: True}, "rabbitmq": {OPEN: True}}
    return [answer | {"connections": {"shop": state, OPEN: True}}]


_BY_HAND: dict[str, Callable[[str, str, list[str]], list[Any]]] = {
    "jobs": _of_jobs,
    "backups": _of_backups,
    "deliveries": _of_deliveries,
    "dead-letters": _of_dead_letters,
    "schedules": _of_schedules,
    "subscriptions": _of_subscriptions,
    "collections": _of_collections,
    "incoming": _of_incoming,
    "health": _of_health,
    "livez": _of_health,
    "readyz": _of_health,
}
"""Answers that the OpenAPI document does not describe to the last field, by the path's first word."""


def known(value: Any) -> Any:
    """Marked, with all objects in it, as an object that has no other fields."""
    if isinstance(value, dict):
        return {KNOWN: True, **{key: known(inner) for key, inner in value.items()}}
    return [known(inner) for inner in value] if isinstance(value, list) else value


def answers(method: str, path: str, asked: list[str], *, waits: bool = False, at: str = "") -> list[Any]:
    """What a route of the table may answer, one of each kind.

    `asked` are the operations that it may be about, `at` the path of the call: records differ from path to path.
    """
    found: list[Any] = json.loads(_answers(method, path, tuple(asked), waits, at if "{collection}" in path else ""))
    return found


@cache
def _answers(method: str, path: str, asked: tuple[str, ...], waits: bool, at: str) -> str:
    return json.dumps(_made_answers(method, path, list(asked), waits, at))


def _made_answers(method: str, path: str, asked: list[str], waits: bool, at: str) -> list[Any]:
    if path in ("/hooks/{operation}", "/events"):
        accepted: list[Any] = [acceptance(name) for name in asked]
        return [event for name in asked for event in ends(name)] + accepted if waits else accepted
    first = path.split("/")[1]
    if first in _BY_HAND and method != "DELETE":
        return _BY_HAND[first](method, path, asked)
    responses = DOCUMENT["paths"][path][method.lower()]["responses"]
    found: list[Any] = []
    for status, response in responses.items():
        schema = response.get("content", {}).get("application/json", {}).get("schema")
        if status.startswith("2") and schema:
            found.append(sample(schema, DOCUMENT["components"]["schemas"]))
    if path == "/api/{collection}" and method == "GET":
        found[0]["data"] = [{**found[0]["data"][0], "id": at}]
    return found or [{OPEN: "anything"}]


def problem() -> dict[str, Any]:
    """An answer that refuses (RFC 9457)."""
    found: dict[str, Any] = sample(DOCUMENT["components"]["schemas"]["Problem"], DOCUMENT["components"]["schemas"])
    return found | {"job_id": JOB_ID}

"""The requests of a workflow to FlexDB, as its HTTP and RabbitMQ nodes would send them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from service.http.routes import ROUTES, Route
from tests.architecture.workflow_document import Node
from tests.architecture.workflow_items import closed, json_or

if TYPE_CHECKING:
    from tests.architecture.workflow_flow import Flow


@dataclass(frozen=True)
class Call:
    """A request to FlexDB as a node would send it: by HTTP, or as a message to its exchange."""

    node: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    fault: str = ""
    """Why it cannot even be written."""

    @property
    def route(self) -> Route | None:
        return find_route(self.method, self.path)

    @property
    def operation(self) -> str | None:
        """What it asks for, where that is a job."""
        if self.path == "/api/ingest":
            return "ingest"
        if self.path == "/events" and isinstance(self.body, dict):
            return str(self.body.get("type", "")).removesuffix(".requested") or None
        return self.path.removeprefix("/hooks/") if self.path.startswith("/hooks/") else None


@cache
def find_route(method: str, path: str) -> Route | None:
    """The first route of the table that takes such a call."""
    for route in ROUTES:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
        if route.method == method and re.fullmatch(pattern, path):
            return route
    return None


def calls_of(flow: Flow, node: Node) -> Iterator[Call]:
    """What an HTTP node sends to FlexDB, once for each of its inputs."""
    base = str(flow.workflow.settings.get("flexdbUrl", "\0"))
    parameters = node["parameters"]
    for number in range(flow.rounds(node)):
        url = flow.value(node, parameters["url"], number)
        if url is None and "flexdbUrl" in parameters["url"]:
            yield Call(node["name"], "", "", fault=flow.error(node, parameters["url"], number))
        if not isinstance(url, str) or not url.startswith(base):
            continue
        split = urlsplit(url.removeprefix(base))
        query = [*parse_qsl(split.query, keep_blank_values=True), *_rows(flow, node, "queryParameters", number)]
        headers = tuple(_rows(flow, node, "headerParameters", number))
        body, fault = _body(flow, node, number)
        yield Call(
            node["name"],
            str(flow.value(node, parameters.get("method", "GET"), number)),
            unquote(split.path) if "%2F" not in split.path else split.path,
            tuple(query),
            closed(body),
            headers,
            _content_type(flow, node, number),
            fault,
        )


def _rows(flow: Flow, node: Node, group: str, number: int) -> list[tuple[str, str]]:
    switch = {"queryParameters": "sendQuery", "headerParameters": "sendHeaders", "bodyParameters": "sendBody"}[group]
    if not node["parameters"].get(switch):
        return []
    rows = node["parameters"].get(group, {}).get("parameters", [])
    return [(row["name"], str(value)) for row in rows if (value := flow.value(node, row["value"], number)) is not None]


def _content_type(flow: Flow, node: Node, number: int) -> str:
    parameters = node["parameters"]
    if parameters.get("contentType") == "raw":
        return str(flow.value(node, parameters.get("rawContentType", ""), number))
    if parameters.get("contentType") == "binaryData":
        return "application/octet-stream"
    return "application/json"


def _body(flow: Flow, node: Node, number: int) -> tuple[Any, str]:
    """The body and why there is none."""
    parameters = node["parameters"]
    if not parameters.get("sendBody"):
        return None, ""
    if parameters.get("contentType") in ("raw", "binaryData"):
        text = flow.value(node, parameters.get("body", ""), number)
        return json_or(text), flow.error(node, parameters.get("body", ""), number)
    if parameters.get("specifyBody") != "json":
        return dict(_rows(flow, node, "bodyParameters", number)), ""
    return _written(flow, node, parameters.get("jsonBody"), number)


def _written(flow: Flow, node: Node, parameter: Any, number: int) -> tuple[Any, str]:
    if fault := flow.error(node, parameter, number):
        return None, fault
    value = flow.value(node, parameter, number)
    if not isinstance(value, str):
        return value, ""
    try:
        return json.loads(value), ""
    except ValueError as error:
        return None, f"it is no JSON: {error}"


def messages_of(flow: Flow, node: Node) -> Iterator[Call]:
    """What a RabbitMQ node publishes to FlexDB, as the hook that would be asked for the same."""
    parameters, options = node["parameters"], node["parameters"].get("options", {})
    for number in range(flow.rounds(node)):
        exchange = flow.value(node, parameters.get("exchange", ""), number)
        if exchange != "flexdb.requests":
            fault = "" if str(exchange).startswith("flexdb.") is False else f"nothing is published to {exchange}"
            if fault:
                yield Call(node["name"], "", "", fault=fault)
            continue
        rows = options.get("arguments", {}).get("argument", [])
        properties = {row["key"]: flow.value(node, row["value"], number) for row in rows}
        rows = options.get("headers", {}).get("header", [])
        headers = {row["key"]: flow.value(node, row["value"], number) for row in rows}
        body, fault = _written(flow, node, parameters.get("message"), number)
        routing = str(flow.value(node, parameters.get("routingKey", ""), number))
        yield Call(
            node["name"],
            "AMQP",
            f"/hooks/{str(properties.get('type') or headers.get('type') or routing).removesuffix('.requested')}",
            tuple((key, str(value)) for key, value in {**properties, "routing_key": routing}.items()),
            closed(body),
            tuple((key, str(value)) for key, value in headers.items()),
            str(properties.get("contentType", "")),
            fault,
        )

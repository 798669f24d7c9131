"""The interface as documents: OpenAPI and AsyncAPI as JSON, and a page to read."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from aiohttp import web

from service import __version__
from service.http.problems import all_codes

Make = Callable[[], dict[str, Any]]


class Documents:
    """Each is made when it is first asked for: that is work for a tenth of a second, and few services are asked."""

    def __init__(self, make_openapi: Make, make_asyncapi: Make) -> None:
        self._make_openapi = make_openapi
        self._make_asyncapi = make_asyncapi

    @cached_property
    def openapi(self) -> dict[str, Any]:
        return self._make_openapi()

    @cached_property
    def asyncapi(self) -> dict[str, Any]:
        return self._make_asyncapi()


DOCUMENTS = web.AppKey("documents", Documents)

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2563eb; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h3 { margin: 1.8rem 0 .3rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
code { font: .9em ui-monospace, monospace; background: var(--soft); padding: .1em .3em;
border-radius: .25em; overflow-wrap: anywhere; } .method { font-weight: 700; color: var(--accent); }
nav a { margin-right: 1rem; } .wide { overflow-x: auto; }
"""


async def openapi(request: web.Request) -> web.Response:
    """GET /openapi.json."""
    return web.json_response(await _openapi(request))


async def asyncapi(request: web.Request) -> web.Response:
    """GET /asyncapi.json."""
    documents = request.app[DOCUMENTS]
    return web.json_response(await asyncio.to_thread(lambda: documents.asyncapi))


async def page(request: web.Request) -> web.Response:
    """GET /docs: made from the OpenAPI document, nothing fetched from elsewhere."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    text = render(await _openapi(request))
    return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)


async def _openapi(request: web.Request) -> dict[str, Any]:
    documents = request.app[DOCUMENTS]
    return await asyncio.to_thread(lambda: documents.openapi)  # the first time other requests need not wait for it


def render(document: dict[str, Any]) -> str:
    schemas = document["components"]["schemas"]
    operations = [path.rpartition("/")[2] for path in document["paths"] if path.startswith("/hooks/")]
    operations_text = "".join(_operation(name, schemas) for name in operations)
    parts = (
        HEAD.format(version=__version__, style=STYLE),
        f"<h1>FlexDB</h1><p>{html.escape(document['info']['description'])} Version {__version__}.</p>",
        NAVIGATION,
        "<h2 id=calls>Calls</h2>" + _table(("Call", "What it does"), _calls(document)),
        "<h2 id=operations>Operations</h2>" + operations_text,
        "<h2 id=events>Completion events</h2>" + EVENTS,
        "<h2 id=errors>Errors</h2>" + _table(("Code", "Meaning"), _errors()),
        "</body></html>",
    )
    return "\n".join(parts)


HEAD = """<!doctype html><html lang=en><head><meta charset=utf-8>
<meta name=viewport content="width=device-width"><title>FlexDB {version}</title><style>{style}</style></head><body>"""

NAVIGATION = """<nav><a href="#calls">Calls</a><a href="#operations">Operations</a>
<a href="#events">Completion events</a><a href="#errors">Errors</a><a href="/openapi.json">openapi.json</a>
<a href="/asyncapi.json">asyncapi.json</a></nav>"""

EVENTS = """<p>Exactly one of <code>.completed</code>, <code>.failed</code>, <code>.canceled</code> ends a job.
It is sent to the request's <code>callback_url</code> and to subscriptions as a CloudEvent, signed in
<code>webhook-signature</code> (Standard Webhooks) and <code>x-flexdb-signature</code> (hex HMAC-SHA256 of the body),
the same bytes and <code>webhook-id</code> on every try.</p>"""


def _calls(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"<span class=method>{method.upper()}</span> <code>{html.escape(path)}</code>",
            html.escape(operation["summary"]),
        )
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _operation(name: str, schemas: dict[str, Any]) -> str:
    request = schemas[f"{name.capitalize()}Request"]
    required = set(request.get("required", ()))
    rows = [
        (
            f"<code>{html.escape(field)}</code>" + (" *" if field in required else ""),
            f"<code>{html.escape(_type(schema))}</code>",
            html.escape(json.dumps(schema["default"])) if "default" in schema else "",
            html.escape(schema.get("description", "")),
        )
        for field, schema in request["properties"].items()
    ]
    result = ", ".join(
        f"<code>{html.escape(field)}</code>" for field in schemas[f"{name.capitalize()}Result"]["properties"]
    )
    return (
        f"<h3 id='{name}'>{name}</h3>"
        + _table(("Field", "Type", "Default", ""), rows)
        + f"<p>Completes with {result}.</p>"
    )


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"[{_type(schema['items'])}]" if "items" in schema else "array"
    return str(schema.get("type", "any"))


def _errors() -> list[tuple[str, str]]:
    return [
        (f"<code id='{html.escape(code)}'>{html.escape(code)}</code>", html.escape(meaning))
        for code, meaning in all_codes().items()
    ]


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"

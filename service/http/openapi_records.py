"""What OpenAPI says of collections, records and ingest, which the route table alone does not tell."""

from __future__ import annotations

from typing import Any

from handlers.collections import CollectionDocument

Document = dict[str, Any]

_TEXT: Document = {"type": "string"}
_COUNT: Document = {"type": "integer"}
_RECORD: Document = {
    "type": "object",
    "additionalProperties": True,
    "description": "The fields that the collection's schema names; see GET /collections/{name}.",
}


def _object(required: tuple[str, ...], **properties: Document) -> Document:
    return {"type": "object", "required": list(required), "properties": properties}


SCHEMAS: dict[str, Document] = {
    "Record": _RECORD,
    "RecordsPage": _object(
        ("data", "total", "page", "limit"),
        data={"type": "array", "items": {"$ref": "#/components/schemas/Record"}},
        **dict.fromkeys(("total", "page", "limit"), _COUNT),
    ),
    "Ingested": _object(
        ("status", "records_processed"), status={"const": "success"}, records_processed={"type": "integer"}
    ),
    "CollectionDocument": CollectionDocument.model_json_schema(by_alias=True),
    "Collection": _object(
        ("name", "origin", "connection", "table", "key", "schema", "links"),
        **dict.fromkeys(("name", "connection", "table", "key"), _TEXT),
        origin={"enum": ["file", "caller", "ready"]},
        schema={"type": "object"},
        source={"type": ["object", "null"]},
        prepared=_object(
            ("created", "added", "notes"),
            created={"type": "boolean"},
            added={"type": "array", "items": _TEXT},
            notes={"type": "array", "items": _TEXT},
        ),
        links={"type": "object", "additionalProperties": _TEXT},
    ),
}


def _json(schema: str) -> Document:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _takes(schema: str) -> Document:
    return {"required": True, "content": _json(schema)}


_ETAG: Document = {"ETag": {"schema": _TEXT, "description": "Another one after every change of the record."}}
_PLACE: Document = {"Location": {"schema": _TEXT}}
_FILE: Document = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_PAGE: Document = {
    "description": "A page; with `format` or `Accept` everything that matches, as a file.",
    "headers": {"Link": {"schema": _TEXT, "description": "rel=next and rel=prev."}},
    "content": {
        **_json("RecordsPage"),
        "text/csv": _FILE,
        "application/x-ndjson": _FILE,
        "application/vnd.apache.parquet": _FILE,
    },
}
_FOUND: Document = {"description": "The record.", "headers": _ETAG, "content": _json("Record")}
_MADE: Document = {"description": "The new record.", "headers": {**_ETAG, **_PLACE}, "content": _json("Record")}
_GONE: Document = {"description": "Removed."}
_ONE: dict[str, Document] = {
    "GET": {"responses": {"200": _FOUND, "304": {"description": "The record is the one If-None-Match names."}}},
    "PUT": {"requestBody": _takes("Record"), "responses": {"200": _FOUND, "201": _MADE}},
    "PATCH": {
        "requestBody": {
            "required": True,
            "content": {"application/merge-patch+json": {"schema": {"type": "object"}}, **_json("Record")},
        },
        "responses": {"200": _FOUND},
    },
    "DELETE": {"responses": {"204": _GONE}},
}
_ALL: dict[str, Document] = {
    "GET": {"responses": {"200": _PAGE}},
    "POST": {"requestBody": _takes("Record"), "responses": {"201": _MADE}},
}
_CONDITIONS: dict[str, str] = {
    "If-Match": "The ETag that the record must have.",
    "If-None-Match": "*: there must be no such record. GET: answered 304 when the record has this ETag.",
}
_PREFER: Document = {
    "name": "Prefer",
    "in": "header",
    "schema": _TEXT,
    "description": "wait=SECONDS, 0 to 300; 300 when left out.",
}
_INGEST: Document = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"$ref": "#/components/schemas/IngestRequest"},
                        {"type": "array", "items": {"$ref": "#/components/schemas/Record"}},
                    ]
                }
            },
            "text/csv": _FILE,
            "application/x-ndjson": _FILE,
        },
    },
    "responses": {
        "200": {"description": "It is done.", "headers": _PLACE, "content": _json("Ingested")},
        "202": {"description": "It goes on.", "headers": _PLACE, "content": _json("Acceptance")},
    },
    "headers": [_PREFER, {"name": "Idempotency-Key", "in": "header", "schema": _TEXT}],
}
_COLLECTION: dict[str, Document] = {
    "GET": {"responses": {"200": {"description": "Found.", "content": _json("Collection")}}},
    "PUT": {
        "requestBody": _takes("CollectionDocument"),
        "responses": {
            "200": {"description": "Replaced, or only looked at.", "content": _json("Collection")},
            "201": {"description": "Declared.", "content": _json("Collection")},
        },
    },
    "DELETE": {"responses": {"204": _GONE}},
}
_DESCRIBED: dict[str, dict[str, Document]] = {
    "/collections/{name}": _COLLECTION,
    "/api/ingest": {"POST": _INGEST},
    "/api/{collection}": _ALL,
    "/api/{collection}/{key}": _ONE,
    "/courses": _ALL,
    "/courses/{id}": _ONE,
}


def described(method: str, path: str) -> Document:
    """`requestBody`, `responses` and header parameters (as `headers`) of an operation; empty for all others."""
    found = dict(_DESCRIBED.get(path, {}).get(method, {}))
    if path in ("/api/{collection}/{key}", "/courses/{id}"):
        found["headers"] = [
            {"name": name, "in": "header", "schema": _TEXT, "description": meaning}
            for name, meaning in _CONDITIONS.items()
        ]
    return found

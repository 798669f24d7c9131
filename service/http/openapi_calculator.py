"""The calculator's calls in the OpenAPI document: bodies and answers."""

from __future__ import annotations

from typing import Any

from service.http.calculator import CalculateBody, OperateBody, PushBody

Document = dict[str, Any]
_NUMBER: Document = {
    "type": ["integer", "string"],
    "description": "A number up to 2**53 - 1 either way, else decimal text.",
}
_TEXT: Document = {"type": "string"}
_ERROR: Document = {
    "description": "It cannot be calculated.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["errorMessage"], "properties": {"errorMessage": _TEXT}}
        }
    },
}
_BODIES = {
    ("POST", "/calculator/independent/calculate"): CalculateBody.model_json_schema(),
    ("POST", "/calculator/stack/operate"): OperateBody.model_json_schema(),
    ("PUT", "/calculator/stack/arguments"): PushBody.model_json_schema(),
}
_ENTRY: Document = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("flavor", "operation", "id"), _TEXT),
        "arguments": {"type": "array", "items": _NUMBER},
        "result": _NUMBER,
        "exact": {"type": "boolean"},
        "stack": {"type": ["string", "null"]},
        "created_at": {"type": "string", "format": "date-time"},
    },
}


def described(method: str, path: str) -> Document:
    """What is to be said of a call; empty for calls of others."""
    if not path.startswith("/calculator/"):
        return {}
    result: Document = _NUMBER
    if path == "/calculator/history":
        result = {"type": "array", "items": _ENTRY}
    schema = {"type": "object", "required": ["result"], "properties": {"result": result}}
    found: Document = {
        "responses": {
            "200": {"description": "The result.", "content": {"application/json": {"schema": schema}}},
            "409": _ERROR,
        }
    }
    if (method, path) in _BODIES:
        content = {"application/json": {"schema": _BODIES[method, path]}}
        found["requestBody"] = {"required": method == "PUT", "content": content}
    return found

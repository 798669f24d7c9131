"""Documents the command line prints without a service."""

from __future__ import annotations

from typing import Any

from handlers.registry import handler_classes
from service.http.openapi import document
from service.http.routes import ROUTES


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of this version."""
    return document(ROUTES, handler_classes())

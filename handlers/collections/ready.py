"""The collections that come with the product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MONEY_15 = {"type": ["number", "null"], "precision": 15, "scale": 2}

READY: Mapping[str, Mapping[str, Any]] = {
    "customers": {
        "description": "Customers, as a customer API tells them.",
        "key": "customer_id",
        "schema": {
            "type": "object",
            "properties": {
                "customer_id": {"type": "string", "maxLength": 50},
                "first_name": {"type": "string", "maxLength": 100},
                "last_name": {"type": "string", "maxLength": 100},
                "email": {"type": "string", "maxLength": 255},
                "phone": {"type": ["string", "null"], "maxLength": 20},
                "address": {"type": ["string", "null"]},
                "date_of_birth": {"type": ["string", "null"], "format": "date"},
                "account_balance": _MONEY_15,
                "created_at": {"type": "string", "format": "date-time", "default": "now"},
            },
            "required": ["customer_id", "first_name", "last_name", "email"],
            "additionalProperties": False,
        },
    },
    "courses": {
        "description": "Courses, each with an id that the database gives.",
        "key": "id",
        "generated": True,
        "schema": {
            "type": "object",
            "properties": {
                "id": {"type": "integer", "minimum": 1},
                "title": {"type": "string", "minLength": 1, "maxLength": 200},
                "description": {"type": ["string", "null"]},
                "instructor": {"type": ["string", "null"], "maxLength": 200},
                "category": {"type": ["string", "null"], "maxLength": 100},
                "duration_hours": {"type": ["integer", "null"], "minimum": 0},
                "credits": {"type": ["integer", "null"], "minimum": 0},
                "price": {"type": ["number", "null"], "precision": 10, "scale": 2, "minimum": 0},
                "start_date": {"type": ["string", "null"], "format": "date"},
                "published": {"type": "boolean", "default": False},
                "created_at": {"type": "string", "format": "date-time", "default": "now"},
            },
            "required": ["title"],
            "additionalProperties": False,
        },
    },
}
"""Name to declaration, without the connection."""

"""Prints `.env.example` from the settings themselves; `make docs` writes it, a test compares."""

from __future__ import annotations

import sys

from pydantic_core import PydanticUndefined

from service.settings import Settings

NAMED = {
    "connections": ("SHOP", "postgresql://user:password@127.0.0.1:5432/shop"),
    "stores": ("ARCHIVE", "s3://bucket/prefix"),
    "scratch": ("SHOP", "staging"),
    "feeds": ("CUSTOMERS", "http://127.0.0.1:5000/api/customers"),
    "sources": ("GITEA", "standard:whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
}


def shown(value: object) -> str:
    """A default as one writes it in the environment."""
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" if isinstance(part, float | int) else str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def document() -> str:
    lines = ["# Every setting, with its default. Copy to .env and change what you need; empty means unset.", ""]
    for name, field in Settings.model_fields.items():
        lines.append(f"# {field.description}")
        if name in NAMED:
            example, value = NAMED[name]
            lines.append(f"#FLEXDB_{name.upper()}__{example}={value}")
        else:
            lines.append(f"FLEXDB_{name.upper()}={shown(field.default)}")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(document())

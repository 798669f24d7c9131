"""The documents list what exists, and nothing that does not."""

from __future__ import annotations

import re
from pathlib import Path

from handlers.registry import handler_classes
from service.http.problems import all_codes
from service.http.routes import ROUTES
from service.settings import Settings
from tools.env_example import document

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MANUAL = (ROOT / "docs" / "user-manual.md").read_text()


def table_rows(text: str, heading: str) -> list[str]:
    """First cells of the first table below a heading, back-ticks removed."""
    after = text.split(heading, 1)[1]
    table = re.search(r"\n\|.*?\n\|[-| :]+\n((?:\|.*\n)+)", after)
    assert table, f"no table below {heading!r}"
    return [row.split("|")[1].strip().strip("`") for row in table.group(1).splitlines()]


def test_env_example_is_what_the_settings_say() -> None:
    assert (ROOT / ".env.example").read_text() == document()


def test_readme_lists_every_setting() -> None:
    named = {"connections", "stores", "scratch", "sources", "feeds"}
    expected = {f"FLEXDB_{name.upper()}" + ("__NAME" if name in named else "") for name in Settings.model_fields}
    assert set(table_rows(README, "## Settings")) == expected


def test_readme_lists_every_operation() -> None:
    assert set(table_rows(README, "## Operations")) == set(handler_classes())


def test_manual_lists_every_route() -> None:
    assert set(table_rows(MANUAL, "## Every call")) == {f"{route.method} {route.path}" for route in ROUTES}


def test_manual_lists_every_error_code() -> None:
    assert set(table_rows(MANUAL, "## Error codes")) == set(all_codes())

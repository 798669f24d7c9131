"""One thing the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, but somebody should know."""
    FAILS = "fails"
    """Something asked of FlexDB would fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` says what to do unless all is well. Neither text ever holds a secret."""

    area: str
    name: str
    state: State
    detail: str
    mend: str = ""


def ok(area: str, name: str, detail: str) -> Finding:
    return Finding(area, name, State.OK, detail)


def warning(area: str, name: str, detail: str, mend: str) -> Finding:
    return Finding(area, name, State.WARNING, detail, mend)


def fails(area: str, name: str, detail: str, mend: str) -> Finding:
    return Finding(area, name, State.FAILS, detail, mend)

"""Parameters in a query string, each of them once."""

from __future__ import annotations

from collections.abc import Container

from aiohttp import web

from handlers.base import Fault
from service.intake import Refused


def refused(name: str, detail: str) -> Refused:
    """What a wrong parameter is answered with (422)."""
    return Refused(422, "invalid_request", detail, (Fault(f"/{name}", detail),))


def flag(request: web.Request, name: str) -> bool:
    """A parameter that is true or false, false when it is not given. Raises `Refused` (422)."""
    text = request.query.get(name, "false")
    if text not in {"true", "false"}:
        raise refused(name, f"{name} is true or false.")
    return text == "true"


def given_once(request: web.Request) -> dict[str, str]:
    """All parameters. Raises `Refused` (422) for one that is given several times: nobody knows which is meant."""
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name in found:
            raise refused(name, f"{name} is given twice; give it once.")
        found[name] = value
    return found


def refuse_others(request: web.Request, known: Container[str]) -> None:
    """Raises `Refused` (422) for a parameter that means nothing here."""
    for name in request.query:
        if name not in known:
            raise refused(name, f"There is no parameter {name!r} here.")

"""Finding the target a request names, and saying what is wrong with the name."""

from __future__ import annotations

from engines.base import Target
from engines.errors import FlexError
from engines.registry import EngineRegistry
from handlers.base import Fault
from handlers.ports import Connections


def connection_faults(connections: Connections, **named: str | None) -> list[Fault]:
    """A fault for every field of `named` (field name to connection name) that no usable connection has."""
    faults = []
    for field, name in named.items():
        if name is None:
            continue
        try:
            connections.target(name)
        except FlexError as error:
            faults.append(Fault(f"/{field}", f"{error.message} {error.hint}"))
    return faults


def written_target(connections: Connections, engines: EngineRegistry, connection: str, into: str | None) -> Target:
    """The database a request writes to. Raises `InvalidTarget` or `TargetProtected`."""
    target = connections.target(connection)
    if into is not None:
        target = engines.by_kind(target.engine).into(target, into)
    connections.guard_write(target)
    return target

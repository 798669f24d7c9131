"""Every engine there is: the only module that names concrete ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from engines.base import Engine, Target
from engines.errors import InvalidTarget, UnsupportedOperation
from engines.mongodb import MongoEngine
from engines.mysql import MySQLEngine
from engines.postgres import PostgresEngine
from engines.sqlite import SQLiteEngine

E = TypeVar("E", bound=Engine)


class EngineRegistry:
    """Finds the engine for a URL or a target. Adding an engine is its package and a line in `default`."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._by_kind = {engine.kind: engine for engine in engines}
        self._by_scheme = {scheme: engine for engine in self._by_kind.values() for scheme in engine.schemes}

    @classmethod
    def default(cls, tool_path: Any = None) -> EngineRegistry:
        """All engines; `tool_path` says where to look for client programs before anywhere else."""
        return cls([PostgresEngine(tool_path), MySQLEngine(tool_path), SQLiteEngine(), MongoEngine()])

    def kinds(self) -> list[str]:
        return sorted(self._by_kind)

    def by_kind(self, kind: str) -> Engine:
        """Raises `UnsupportedOperation` for a kind this version does not have."""
        try:
            return self._by_kind[kind]
        except KeyError:
            raise UnsupportedOperation(
                f"There is no engine {kind!r}.", hint=f"This version has: {', '.join(self.kinds())}."
            ) from None

    def by_scheme(self, url: str) -> Engine:
        """The engine that reads such URLs; raises `InvalidTarget` without quoting the URL."""
        engine = self._by_scheme.get(url.partition(":")[0].lower())
        if engine is None:
            known = ", ".join(f"{scheme}://" for scheme in sorted(self._by_scheme))
            raise InvalidTarget("No engine reads URLs of this scheme.", hint=f"Begin the URL with one of: {known}.")
        return engine

    def for_target(self, target: Target, capability: Callable[..., E], operation: str) -> E:
        """The target's engine as what `capability` (a class of `engines.base`) promises.

        Raises `UnsupportedOperation` when it lacks it.
        """
        engine = self.by_kind(target.engine)
        promised: Any = capability  # a class; as `type[E]` it could not be an abstract one
        if not isinstance(engine, promised):
            raise UnsupportedOperation(f"The engine {engine.kind!r} has no {operation}.")
        return cast("E", engine)

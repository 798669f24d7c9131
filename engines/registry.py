"""Every engine there is: the only module that names concrete ones, and imports one when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from engines.base import Engine, Target
from engines.calculating import CalculationEngine, Limits
from engines.errors import InvalidTarget, UnsupportedOperation

E = TypeVar("E", bound=Engine)


@dataclass(frozen=True, slots=True)
class OnDemand:
    """An engine that is not imported yet: drivers are dear, and most services need one or two of them."""

    kind: str
    schemes: tuple[str, ...]
    make: Callable[[], Engine]


class EngineRegistry:
    """Finds the engine for a URL or a target. Adding an engine is its package and a line in `default`."""

    def __init__(
        self,
        engines: Iterable[Engine] = (),
        on_demand: Sequence[OnDemand] = (),
        arithmetic: Callable[[], CalculationEngine] | None = None,
    ) -> None:
        self._make_arithmetic = arithmetic
        self._arithmetic: CalculationEngine | None = None
        self._made = {engine.kind: engine for engine in engines}
        self._on_demand = {one.kind: one for one in on_demand}
        known: list[Engine | OnDemand] = [*self._made.values(), *on_demand]
        self._kinds = {scheme: one.kind for one in known for scheme in one.schemes}
        self._making = threading.Lock()

    @classmethod
    def default(cls, tool_path: Any = None, limits: Limits | None = None) -> EngineRegistry:
        """All engines; `tool_path` says where to look for client programs before anywhere else, `limits` what one
        calculation may take."""
        return cls(on_demand=_all(tool_path), arithmetic=lambda: _arithmetic(limits))

    @property
    def arithmetic(self) -> CalculationEngine:
        """The engine that calculates, the same one at every call."""
        with self._making:
            if self._arithmetic is None:
                if self._make_arithmetic is None:
                    raise UnsupportedOperation("There is no engine that calculates.")
                self._arithmetic = self._make_arithmetic()
            return self._arithmetic

    def close(self) -> None:
        """End what engines have started: the processes that calculate."""
        with self._making:
            if self._arithmetic is not None:
                self._arithmetic.close()

    def kinds(self) -> list[str]:
        return sorted(self._made.keys() | self._on_demand.keys())

    def by_kind(self, kind: str) -> Engine:
        """Raises `UnsupportedOperation` for a kind this version does not have."""
        with self._making:
            if kind not in self._made and kind in self._on_demand:
                self._made[kind] = self._on_demand[kind].make()
        if kind not in self._made:
            raise UnsupportedOperation(
                f"There is no engine {kind!r}.", hint=f"This version has: {', '.join(self.kinds())}."
            )
        return self._made[kind]

    def by_scheme(self, url: str) -> Engine:
        """The engine that reads such URLs; raises `InvalidTarget` without quoting the URL."""
        kind = self._kinds.get(url.partition(":")[0].lower())
        if kind is None:
            known = ", ".join(f"{scheme}://" for scheme in sorted(self._kinds))
            raise InvalidTarget("No engine reads URLs of this scheme.", hint=f"Begin the URL with one of: {known}.")
        return self.by_kind(kind)

    def for_target(self, target: Target, capability: Callable[..., E], operation: str) -> E:
        """The target's engine as what `capability` (a class of `engines.base`) promises.

        Raises `UnsupportedOperation` when it lacks it.
        """
        engine = self.by_kind(target.engine)
        promised: Any = capability  # a class; as `type[E]` it could not be an abstract one
        if not isinstance(engine, promised):
            raise UnsupportedOperation(f"The engine {engine.kind!r} has no {operation}.")
        return cast("E", engine)


def _all(tool_path: Any) -> tuple[OnDemand, ...]:
    def postgres() -> Engine:
        from engines.postgres import PostgresEngine

        return PostgresEngine(tool_path)

    def mysql() -> Engine:
        from engines.mysql import MySQLEngine

        return MySQLEngine(tool_path)

    def sqlite() -> Engine:
        from engines.sqlite import SQLiteEngine

        return SQLiteEngine()

    def mongodb() -> Engine:
        from engines.mongodb import MongoEngine

        return MongoEngine()

    return (
        OnDemand("postgres", ("postgresql", "postgres"), postgres),
        OnDemand("mysql", ("mysql", "mariadb"), mysql),
        OnDemand("sqlite", ("sqlite",), sqlite),
        OnDemand("mongodb", ("mongodb", "mongodb+srv"), mongodb),
    )


def _arithmetic(limits: Limits | None) -> CalculationEngine:
    from engines.arithmetic import ArithmeticEngine

    return ArithmeticEngine(limits)

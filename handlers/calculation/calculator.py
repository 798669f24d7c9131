"""Calculating for callers: single sums and stacks, with what is dear cached and what was answered kept in histories."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from engines.calculating import Calculated, Calculation, CalculationEngine
from engines.errors import CalculationRefused
from engines.registry import EngineRegistry
from engines.run import StopToken
from handlers.calculation.flights import Flights
from handlers.calculation.history import Entry, Flavor, History
from handlers.supplies import ResultCache, Stacks

LARGEST_NUMBER = 2**53 - 1
"""Beyond it, many who read JSON would round."""
CACHED_FROM_SECONDS = 8e-5
"""From this cost on, that of 3,000! or so, asking Redis is quicker than calculating again."""
_PACKED = re.compile(r"[=~]-?[0-9]+(\.[0-9]+)?(E[+-][0-9]{1,20})?")
_LOCKS = 64


def shown(text: str) -> int | str:
    """A result as JSON has it: a number when it is an integer up to 2**53 - 1, else decimal text."""
    if len(text) > 17 or not text.removeprefix("-").isdigit():
        return text
    return int(text) if abs(int(text)) <= LARGEST_NUMBER else text


def _at_once() -> None:
    return


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks for a calculation, and how."""

    id: str
    """Its name in histories; sorts by time. The same once more is the same calculation again."""
    at: datetime
    history: tuple[str, ...] = ()
    """Connections that keep it."""
    cache: bool = True
    stop: StopToken = field(default_factory=StopToken)
    again: bool = False
    """An earlier attempt at the same one may have left an entry in a history."""
    patient: bool = True
    """False: rather refused than to wait behind many others."""
    confirm: Callable[[], None] = _at_once
    """Called before anything is changed; what it raises ends it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of it. `text` is None where arguments were only pushed."""

    text: str | None
    exact: bool = True
    cached: bool = False
    """It was not worked out for this caller."""
    size: int | None = None
    """Of the stack afterwards."""
    history: tuple[str, ...] = ()


class Calculator:
    """Plain and synchronous; safe in any thread. It may block for a process, the ledger, a database.

    Refusals are `CalculationRefused`; others are those of the engines. A failing operation leaves its stack as it was
    and no entry in a history.
    """

    def __init__(
        self,
        engines: EngineRegistry,
        stacks: Stacks,
        cache: ResultCache,
        history: History,
        *,
        caching: bool = True,
    ) -> None:
        self._engines = engines
        self._stacks = stacks
        self._cache = cache
        self._caching = caching
        self.history = history
        self._flights: Flights[tuple[Calculated, bool]] = Flights()
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    @property
    def _engine(self) -> CalculationEngine:
        return self._engines.arithmetic

    # -- independent

    def calculate(self, operation: str, arguments: Sequence[Any], asking: Asking) -> Answer:
        """One operation with its arguments, the first one first."""
        with self._leaving_nothing(asking):
            calculation = self._engine.prepare(operation, arguments)
            found, cached = self._worked_out(calculation, asking)
            asking.confirm()
            with self._kept("INDEPENDENT", calculation, found, asking):
                return Answer(found.text, found.exact, cached, history=asking.history)

    # -- stacks

    def size(self, stack: str) -> int:
        return self._stacks.size(stack)

    def push(self, stack: str, arguments: Sequence[Any], *, step: str | None = None) -> int:
        """All of them or, when one is no number, none; the last one becomes topmost. The new size."""
        values = [self._engine.canonical(value) for value in arguments]
        if not values:
            return self._stacks.size(stack)
        return self._stacks.push(stack, values, step=step and f"{step}/push")

    def remove(self, stack: str, count: int) -> int:
        """The topmost ones, all of them or none. The new size."""
        while True:
            taken = self._stacks.top(stack, 0)
            if count > taken.size:
                why = f"cannot remove {count} from the stack. It has only {taken.size} arguments"
                raise CalculationRefused("too_few_arguments", why, hint="Remove fewer.")
            if count == 0 or self._stacks.pop(stack, count, taken.revision):
                return taken.size - count

    def operate(
        self, stack: str, operation: str, asking: Asking, arguments: Sequence[Any] = (), *, step: str | None = None
    ) -> Answer:
        """Take the operation's arguments from the stack, topmost first: minus is topmost - next. The result does not
        go back on the stack.

        `arguments` are pushed before, as one change with the rest. With a `step`, a name of this very operation, the
        second call changes nothing and answers what the first did.
        """
        pushed = [self._engine.canonical(value) for value in arguments]
        arity = self._engine.arity(operation)
        with self._alone(stack, asking.stop), self._leaving_nothing(asking):
            if step is not None and (kept := self._stacks.step(f"{step}/pop")) is not None:
                return self._answered_before(stack, json.loads(kept), asking)
            while True:
                answer = self._try(stack, operation, arity, pushed, asking, step)
                if answer is not None:
                    return answer

    def _try(
        self, stack: str, operation: str, arity: int, pushed: list[str], asking: Asking, step: str | None
    ) -> Answer | None:
        """One go at it; None when somebody else changed the stack meanwhile."""
        wanted = max(arity - len(pushed), 0)
        taken = self._stacks.top(stack, wanted)
        operands = [*reversed(pushed), *taken.values][:arity]
        if len(operands) < arity:
            why = f"It requires {arity} arguments and the stack has only {len(operands)} arguments"
            raise CalculationRefused(
                "too_few_arguments", f"cannot implement operation {operation}. {why}", hint="Push more arguments first."
            )
        calculation = self._engine.prepare(operation, operands)
        found, cached = self._worked_out(calculation, asking)
        asking.confirm()
        with self._kept("STACK", calculation, found, asking, stack):
            answer = Answer(found.text, found.exact, cached, history=asking.history)
            if left := pushed[: max(len(pushed) - arity, 0)]:
                return replace(answer, size=self._stacks.push(stack, left, step=step and f"{step}/push"))
            if not wanted:
                return replace(answer, size=taken.size)
            answer = replace(answer, size=taken.size - wanted)
            outcome = _outcome(calculation, answer) if step is not None else ""
            done = self._stacks.pop(stack, wanted, taken.revision, step=step and f"{step}/pop", outcome=outcome)
            if done:
                return answer
        self.history.forget(asking.id, asking.history)
        return None

    def _answered_before(self, stack: str, kept: dict[str, Any], asking: Asking) -> Answer:
        calculation = Calculation(kept["operation"], tuple(kept["arguments"]), 0.0)
        found = Calculated(kept["text"], kept["exact"])
        self.history.write(_entry("STACK", calculation, found, asking, stack), asking.history)
        return Answer(found.text, found.exact, kept["cached"], kept["size"], asking.history)

    @contextmanager
    def _alone(self, stack: str, stop: StopToken) -> Iterator[None]:
        """One operation at a time on a stack in this process: it spares what would have to be calculated again.

        Other replicas are told apart by the stack's revision.
        """
        lock = self._locks[hash(stack) % _LOCKS]
        while not lock.acquire(timeout=0.2):
            stop.check()
        try:
            yield
        finally:
            lock.release()

    # -- both

    def _worked_out(self, calculation: Calculation, asking: Asking) -> tuple[Calculated, bool]:
        """The result, and whether somebody worked it out before."""
        if not (self._caching and asking.cache and calculation.seconds >= CACHED_FROM_SECONDS):
            return self._engine.calculate(calculation, asking.stop, patient=asking.patient), False

        def work() -> tuple[Calculated, bool]:
            known = _unpacked(self._cache.get(calculation.key))
            if known is not None:
                return known, True
            found = self._engine.calculate(calculation, asking.stop, patient=asking.patient)
            self._cache.put(calculation.key, f"{'=' if found.exact else '~'}{found.text}")
            return found, False

        (found, cached), mine = self._flights.once(calculation.key, work, asking.stop)
        return found, cached or not mine

    @contextmanager
    def _leaving_nothing(self, asking: Asking) -> Iterator[None]:
        """What is refused now may have been answered, and written down, by an attempt that died before it counted."""
        try:
            yield
        except CalculationRefused:
            if asking.again:
                self.history.forget(asking.id, asking.history)
            raise

    @contextmanager
    def _kept(
        self, flavor: Flavor, calculation: Calculation, found: Calculated, asking: Asking, stack: str | None = None
    ) -> Iterator[None]:
        """Written to its histories before it counts; taken out again when it does not come to that."""
        if asking.history:
            self.history.write(_entry(flavor, calculation, found, asking, stack), asking.history)
        try:
            yield
        except BaseException:
            self.history.forget(asking.id, asking.history)
            raise


def _entry(flavor: Flavor, calculation: Calculation, found: Calculated, asking: Asking, stack: str | None) -> Entry:
    return Entry(
        *(asking.id, flavor, calculation.operation, calculation.arguments),
        *(found.text, found.exact, stack, asking.at),
    )


def _outcome(calculation: Calculation, answer: Answer) -> str:
    """What a second call needs to answer as the first."""
    return json.dumps(
        {
            "operation": calculation.operation,
            "arguments": calculation.arguments,
            "text": answer.text,
            "exact": answer.exact,
            "cached": answer.cached,
            "size": answer.size,
        }
    )


def _unpacked(kept: str | None) -> Calculated | None:
    """What the cache holds, if it is a result: others may write there, too."""
    if not kept or not _PACKED.fullmatch(kept):
        return None
    return Calculated(kept[1:], kept[0] == "=")

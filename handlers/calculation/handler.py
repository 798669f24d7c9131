"""Calculation: one operation with its arguments, or on a named stack."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from engines.run import Run
from handlers.base import Claim, ConnectionName, Fault, Handler, Outcome, Request, Result
from handlers.calculation.calculator import Answer, Asking, Calculator, shown
from handlers.connections import connection_faults
from handlers.ports import Connections

Argument = StrictInt | StrictFloat | StrictStr
"""A number, or decimal text: 12, "0.1", "1e30". A number with a point is what its shortest text says."""
StackName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Name of a stack.")]
DEFAULT_STACK = "default"
LONG = 15
"""Digits beyond which a result tells how many it has."""


class CalculationRequest(Request):
    mode: Literal["independent", "stack"] = Field(
        default="independent", description="stack: the operation takes its arguments from a stack, topmost first."
    )
    operation: str | None = Field(
        default=None,
        max_length=100,
        description="plus, minus, times, divide, pow, abs, fact or fibonacci; without one a stack is only pushed.",
    )
    arguments: tuple[Argument, ...] = Field(
        default=(), description="In stack mode they are pushed first, the last one becomes topmost."
    )
    stack: StackName = DEFAULT_STACK
    history: tuple[ConnectionName, ...] | None = Field(
        default=None, description="Connections that keep it; those configured when left out, nowhere when empty."
    )
    cache: bool = Field(default=True, description="Whether a result that was worked out before will do.")


class CalculationResult(Result):
    result: int | str | None
    """A number up to 2**53 - 1, else decimal text; None where arguments were only pushed."""
    exact: bool
    """False: rounded to 50 significant digits."""
    digits: int | None
    """How many, when there are many."""
    cached: bool
    stack: str | None
    size: int | None
    """Of the stack afterwards."""
    history: tuple[str, ...]
    """Connections it was written to."""


class CalculationHandler(Handler[CalculationRequest]):
    operation = "calculation"
    request_model = CalculationRequest
    result_model = CalculationResult
    writes = True

    def __init__(self, calculator: Calculator, connections: Connections) -> None:
        self.calculator = calculator
        self._connections = connections

    def faults(self, request: CalculationRequest) -> list[Fault]:
        faults = []
        for number, name in enumerate(request.history or ()):
            found = connection_faults(self._connections, history=name)
            faults += [Fault(f"/history/{number}", fault.detail) for fault in found]
        if request.operation is None and (request.mode == "independent" or not request.arguments):
            faults.append(Fault("/operation", "Say what is to be done, plus for example."))
        return faults

    def connection(self, request: CalculationRequest) -> str | None:
        return None

    def claims(self, request: CalculationRequest) -> tuple[Claim, ...]:
        return (Claim(f"stack:{request.stack}", "exclusive"),) if request.mode == "stack" else ()

    def run(self, request: CalculationRequest, run: Run) -> Outcome:
        run.progress("calculating", 0, 1, unit="calculations")
        history = self.calculator.history.names(request.history) if request.operation is not None else ()
        asking = Asking(
            run.job_id,
            run.now(),
            history,
            request.cache,
            stop=run.stop,
            confirm=run.point_of_no_return,
            again=run.attempt > 1,
        )
        stack = request.stack if request.mode == "stack" else None
        return Outcome(_result(self._answer(request, asking, run), stack))

    def _answer(self, request: CalculationRequest, asking: Asking, run: Run) -> Answer:
        if request.operation is None:
            run.point_of_no_return()
            return Answer(None, size=self.calculator.push(request.stack, request.arguments, step=run.job_id))
        if request.mode == "independent":
            return self.calculator.calculate(request.operation, request.arguments, asking)
        return self.calculator.operate(request.stack, request.operation, asking, request.arguments, step=run.job_id)


def _result(answer: Answer, stack: str | None) -> CalculationResult:
    digits = sum(map(str.isdigit, answer.text.partition("E")[0])) if answer.text and len(answer.text) > LONG else None
    return CalculationResult(
        result=shown(answer.text) if answer.text is not None else None,
        exact=answer.exact,
        digits=digits,
        cached=answer.cached,
        stack=stack,
        size=answer.size,
        history=answer.history,
    )
